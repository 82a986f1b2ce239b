"""What each of several processes does in ``test_distributed.py``.

Started with the variables that ``torchrun`` sets: ``python distributed_run.py FOLDER``.
"""

import json
import sys
from pathlib import Path

import torch
from torch import nn, optim
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from medseg import distributed
from medseg.training import train


def data(count=11):
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(count, 1, 8, 8, generator=generator)
    return TensorDataset(images, (images > 0).float())


def network():
    """Without batch norm, which would see each process's images by themselves."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Conv2d(4, 1, 1),
    )


def run(folder, *, dropout=0.0, crash_at=None, log=None, sampler=False, **options):
    """Two epochs over 11 images, 4 a batch: the last batch has 3."""
    torch.manual_seed(1)
    model = nn.Sequential(network(), nn.Dropout(dropout))
    shuffle = torch.Generator().manual_seed(3)
    how = {"shuffle": True, "generator": shuffle, "batch_size": 4}
    if sampler:
        how = {"sampler": DistributedSampler(data(), seed=5), "batch_size": 2}
    losses = 0

    def criterion(logits, targets):
        nonlocal losses
        losses += logits.requires_grad  # of training: all processes have as many
        if losses == crash_at:
            raise RuntimeError("a crash")
        return nn.functional.binary_cross_entropy_with_logits(logits, targets)

    records = train(
        model,
        DataLoader(data(), **how),
        DataLoader(data(7), batch_size=3),
        criterion,
        optim.SGD(model.parameters(), lr=0.5, momentum=0.5),
        num_epochs=2,
        device="cpu",
        precision="float32",
        checkpoint=Path(folder) / "best.pth",
        metrics={"share": lambda pred, truth: float(pred.mean())},
        log=log,
        progress=False,
        **options,
    )
    return model, [tuple(record._replace(seconds=0)) for record in records]


def main(folder):
    folder = Path(folder)
    found = {}

    lines = []
    model, records = run(folder / "plain", log=lines.append)  # joins
    weights = [value.tolist() for value in model.state_dict().values()]
    found["plain"] = {"records": records, "lines": len(lines), "weights": weights}
    found["group"] = torch.distributed.is_initialized()

    rank = distributed.rank()
    model, _ = run(folder / "joined", accumulate=2, clip_norm=0.5)
    found["joined"] = [value.tolist() for value in model.state_dict().values()]

    torch.manual_seed(0)
    distributed.seed_apart()
    found["random"] = torch.rand(1).item()

    options = {"dropout": 0.3, "checkpoint_every": 1}
    run(folder / "straight", **options)
    try:
        run(folder / "broken", crash_at=5, **options)
    except RuntimeError as error:
        found["crash"] = str(error)
    torch.distributed.barrier()  # the file is there when all go on
    torch.manual_seed(77)
    model, _ = run(folder / "broken", resume=True, **options)
    found["resumed"] = [value.tolist() for value in model.state_dict().values()]

    _, records = run(folder / "sampler", sampler=True)
    found["sampler"] = records

    few = DataLoader(data(3), batch_size=3)
    found["parts"] = [len(x) for x, _ in distributed.share_batches(few)]
    one = DataLoader(data(3), batch_size=1)
    found["filled"] = [x.sum().item() for x, _ in distributed.share_batches(one)]
    found["whole"] = len(list(distributed.share_loader(few)))
    try:
        distributed.share_batches([data(2)[:]])
    except TypeError as error:
        found["list"] = str(error)
    torch.distributed.barrier()
    (folder / f"found_{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
