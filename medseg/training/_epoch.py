"""One pass over the training data."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from medseg.distributed import joint_count, joint_sums, unwrapped
from medseg.training._checks import (
    Batches,
    Criterion,
    as_float32,
    check_finite_loss,
    check_not_empty,
    check_pair,
    check_scalar,
    memory_advice,
)
from medseg.training._precision import autocast_for, scaler_for


@dataclass
class Tally:
    """How far an epoch is."""

    steps: int = 0  # of the optimizer
    batches: int = 0  # taken from the loader
    images: int = 0
    loss_sum: float = 0.0  # over images

    def add(self, loss: float, images: int) -> None:
        """Count a batch and its mean loss."""
        self.batches += 1
        self.images += images
        self.loss_sum += loss * images


def train_one_epoch(
    model: nn.Module,
    loader: Batches,
    criterion: Criterion,
    optimizer: Optimizer,
    device: torch.device | str,
    *,
    epoch: int = 1,
    precision: str = "float32",
    scaler: torch.amp.GradScaler | None = None,
    clip_norm: float | None = None,
    accumulate: int = 1,
    scheduler: LRScheduler | None = None,
    average: AveragedModel | None = None,
    tally: Tally | None = None,
    after_step: Callable[[Tally], object] | None = None,
) -> float:
    """Show every image to the network once, with one step after each batch.

    Args:
        model: Maps images to logits ``(B, K, *spatial)``, or in training to a list of
            them for ``losses.deep_supervision_loss``; on ``device``.
        loader: Pairs of images and targets. For a progress bar pass ``tqdm(loader)``.
        criterion: Loss of logits and targets, a scalar.
        optimizer: Holds the network's parameters.
        device: Where to compute.
        epoch: Its number, for error messages.
        precision: Of the network's computation: see ``autocast_for``. The loss is
            float32 always.
        scaler: Keeps small gradients from vanishing; needed for float16 alone.
        clip_norm: Gradients whose norm is larger are scaled down to it.
        accumulate: Batches that make one step together. Each counts by its number of
            images, the last short one too, so the gradients are those of the joint
            batch, if the loss is a mean over images and the network has no batch
            norm, which sees each batch by itself.
        scheduler: Of the learning rate, if it steps after each step.
        average: A moving average of the weights, updated after each step.
        tally: Where to count; of an epoch that goes on, what it had counted.
        after_step: Called with the tally after each step.

    Returns:
        The mean loss per image.

    Raises:
        TypeError: The network returns neither a tensor nor a list of tensors.
        ValueError: There is no batch, logits and targets do not belong together, or
            the loss is NaN or infinite: then the weights are those before the step.
        MemoryError: The batch does not fit; the message says what to change.
    """
    if accumulate < 1:
        raise ValueError(f"accumulate must be at least 1, got {accumulate}.")
    if scaler is None:
        scaler = scaler_for(device, precision)
    if tally is None:
        tally = Tally()
    model.train()
    for batches in _groups(loader, accumulate):
        where = f"epoch {epoch}, step {tally.steps + 1}"
        num_images = joint_count(sum(len(x) for x, _ in batches), model, device)
        with memory_advice(batches[0][0], where):
            optimizer.zero_grad()
            for number, (images, targets) in enumerate(batches, start=1):
                with _exchange(model, last=number == len(batches)):
                    with autocast_for(device, precision):
                        logits = model(images.to(device, non_blocking=True))
                    check_pair(logits, targets, criterion)
                    targets = targets.to(device, non_blocking=True)
                    loss = criterion(as_float32(logits), targets)
                    check_scalar(loss)
                    scaler.scale(loss * (len(images) / num_images)).backward()
                value = loss.item()  # not earlier: it waits for the device
                check_finite_loss(value, images, where, optimizer)
                tally.add(value, len(images))
            if clip_norm is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            scaler.step(optimizer)
            scaler.update()
        if average is not None:
            average.update_parameters(unwrapped(model))
        if scheduler is not None:
            scheduler.step()
        tally.steps += 1
        if after_step is not None:
            after_step(tally)
    check_not_empty(tally.images, "training")
    loss_sum, num_images = joint_sums([tally.loss_sum, tally.images], model)
    return float(loss_sum / num_images)


def _groups(loader: Batches, size: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Batches that make one step together; the last group may be shorter."""
    batches = iter(loader)
    while group := list(islice(batches, size)):
        yield [(images, targets) for images, targets in group]


def _exchange(model: nn.Module, last: bool) -> AbstractContextManager[object]:
    """Processes exchange gradients with the last batch of a step alone."""
    if last or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return model.no_sync()
