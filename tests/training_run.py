"""A run with all that has a state, for tests that kill it: ``python training_run.py``.

Shuffling, augmentation from every global generator, dropout, momentum, a schedule, an
average of the weights, accumulation, a scaler that is not in use.
"""

import json
import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset

from medseg.schedules import cosine
from medseg.training import train


class Noisy(Dataset):
    """Eleven images with noise from every global generator, as in augmentation."""

    def __init__(self):
        generator = torch.Generator().manual_seed(2)
        self.images = torch.randn(11, 1, 8, 8, generator=generator)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        noise = torch.rand(1) + np.random.rand() + random.random()  # noqa: NPY002
        image = self.images[index]
        return image + noise.float() / 9, (image > 0).float()


def network():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Conv2d(4, 1, 1),
    )


def run(
    folder,
    *,
    seed=0,
    workers=0,
    kill_at=None,
    crash_at=None,
    own_generator=True,
    **more,
):
    """Train for three epochs of six batches; die when loss ``kill_at`` is computed."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    model = network()
    optimizer = optim.Adam(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(seed + 3) if own_generator else None
    loader = DataLoader(
        Noisy(),
        batch_size=2,
        shuffle=True,
        generator=generator,
        num_workers=workers,
        # A thread of a progress bar or of autograd makes fork complain.
        multiprocessing_context="fork" if workers else None,
    )
    losses = 0

    def criterion(logits, targets):
        nonlocal losses
        losses += 1
        if losses == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if losses == crash_at:
            raise RuntimeError("a crash")
        return nn.functional.binary_cross_entropy_with_logits(logits, targets)

    options = {
        "precision": "float32",
        "scheduler": cosine(optimizer, 9, warm_up=2),
        "scheduler_interval": "step",
        "accumulate": 2,
        "clip_norm": 1.0,
        "ema_decay": 0.5,
        "progress": False,
        "log": None,
    }
    records = train(
        model,
        loader,
        DataLoader(Noisy(), batch_size=4),
        criterion,
        optimizer,
        num_epochs=3,
        device="cpu",
        checkpoint=Path(folder) / "best.pth",
        **(options | more),
    )
    return model, records


if __name__ == "__main__":
    run(sys.argv[1], **json.loads(sys.argv[2]))
