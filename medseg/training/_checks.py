"""What training says to settings, loaders, masks and losses that do not fit."""

import errno
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from medseg.checks import check_choice

Batches = Iterable[tuple[Tensor, Tensor]]
Criterion = Callable[[Tensor, Tensor], Tensor]


def as_float32(logits: Any) -> Any:
    """Logits, or each of a list of them, for a loss: float32 whatever autocast left."""
    if isinstance(logits, list):
        return [one.float() for one in logits]
    return logits.float()


def ignored_label(criterion: Criterion) -> int | None:
    """Label that a criterion, or the ``partial`` of one, names as ``ignore_index``."""
    given = getattr(criterion, "keywords", {}).get("ignore_index")
    return getattr(criterion, "ignore_index", given)


def name_of(criterion: Criterion) -> str:
    """Name of a criterion, for messages and for the settings of a run."""
    function = getattr(criterion, "func", criterion)  # of a partial
    return getattr(function, "__name__", type(function).__name__)


def check_not_empty(count: int, name: str) -> None:
    """Accept a loader that has something in it.

    Raises:
        ValueError: It has nothing.
    """
    if count == 0:
        raise ValueError(
            f"the {name} loader yields no batch. Look at len(dataset); with "
            "drop_last=True it must be at least batch_size. An iterator or generator "
            "can be used up only once: pass a DataLoader or a list."
        )


def check_pair(logits: Any, targets: Tensor, criterion: Criterion) -> None:
    """Accept logits ``(B, K, *spatial)`` with targets that a criterion can take.

    Targets are labels ``(B, *spatial)``, or have the shape of the logits. Of a list of
    logits, for deep supervision, the first is the one at the targets' resolution.

    Raises:
        TypeError: The logits are no tensor.
        ValueError: The shapes do not suit each other or the criterion, or a label has
            no class in the logits.
    """
    if isinstance(logits, list) and logits:
        logits = logits[0]
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the network returned a {type(logits).__name__}, expected a tensor of "
            "logits (B, K, *spatial), or in training a list of them. Wrap it in a "
            "module whose forward returns that, such as output['out'] of "
            "torchvision's networks."
        )
    num_classes, per_class = logits.shape[1], targets.shape == logits.shape
    if (
        not (per_class or targets.shape == logits[:, 0].shape)
        or (isinstance(criterion, nn.BCEWithLogitsLoss) and not per_class)
        # Over a single class it would be 0 whatever the logits are.
        or (isinstance(criterion, nn.CrossEntropyLoss) and num_classes == 1)
    ):
        raise ValueError(
            f"{name_of(criterion)} cannot compare logits {tuple(logits.shape)} with "
            f"masks {tuple(targets.shape)}. For one class, build the data set with "
            "num_classes=1 and the network with out_channels=1, and take "
            "nn.BCEWithLogitsLoss(); for K classes, the background included, "
            "num_classes=K, out_channels=K and nn.CrossEntropyLoss(). Height and "
            "width must agree: resize images and masks together."
        )
    if per_class or targets.is_floating_point() or not targets.numel():
        return
    low, high = _range(targets)
    if low < 0 or high >= max(num_classes, 2):
        kept = targets[targets != ignored_label(criterion)]
        low, high = _range(kept) if kept.numel() else (0, 0)
    if low < 0 or high >= max(num_classes, 2):
        raise ValueError(
            f"the masks hold labels from {low} to {high}, but the network "
            f"has out_channels={num_classes}. Build it with "
            f"out_channels={high + 1}, or correct the masks: 8-bit masks of 0 and "
            "255 are binarised with mask > 127."
        )


def _range(labels: Tensor) -> tuple[int, int]:
    low, high = labels.aminmax()
    return int(low), int(high)


def check_scalar(loss: Tensor) -> None:
    """Accept a loss without axes.

    Raises:
        ValueError: It has axes.
    """
    if loss.ndim:
        raise ValueError(
            f"the criterion returned a tensor of shape {tuple(loss.shape)}, expected "
            "a scalar. Average over the pixels: reduction='mean'."
        )


def check_finite_loss(
    value: float, images: Tensor, where: str, optimizer: Optimizer | None = None
) -> None:
    """Accept a loss that is a number.

    Args:
        value: The loss.
        images: The batch it comes from.
        where: Epoch and step, for the message.
        optimizer: In training: it knows the learning rate.

    Raises:
        ValueError: It is NaN or infinite.
    """
    if math.isfinite(value):
        return
    rate = f" (it is {optimizer.param_groups[0]['lr']:g})" if optimizer else ""
    cause = (
        f"The images are finite: lower the learning rate{rate}, pass clip_norm=1.0, or "
        "try precision='float32'; if it is the first step, look at the masks."
        if torch.isfinite(images).all()
        else "The images hold NaN or infinity: correct them, or the transform."
    )
    raise ValueError(f"{where}: the loss is {value}. {cause}")


@contextmanager
def memory_advice(images: Tensor, where: str) -> Iterator[None]:
    """Say what to change when a step finds no memory.

    Raises:
        MemoryError: In place of what PyTorch raises, which differs by device.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        size = len(images)
        smaller = (
            f"halve the batch size to {size // 2} and pass accumulate=2, which takes "
            "the same steps; "
            if size > 1
            else "train on smaller crops; "
        )
        raise MemoryError(
            f"{where}: out of memory with images {tuple(images.shape)}. In this "
            f"order: {smaller}pass precision='auto', which halves the activations "
            "where the device has half precision; take a network with fewer channels. "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch or Python says that memory has run out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return any(
        words in text
        for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


def check_settings(
    num_epochs: int,
    scheduler_interval: str,
    checkpoint_every: int | None,
    patience: int | None,
) -> None:
    """Accept settings of ``train`` that are in their ranges.

    Raises:
        ValueError: One is not.
    """
    check_choice(scheduler_interval, "scheduler_interval", ("epoch", "step"))
    counts = {
        "num_epochs": num_epochs,
        "checkpoint_every": checkpoint_every,
        "patience": patience,
    }
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}.")


def check_folder(folder: Path, model: nn.Module) -> None:
    """Make the folder, and see now rather than hours later that files fit in it.

    Raises:
        PermissionError: It may not be written to.
        OSError: There is too little space.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(
            errno.EACCES,
            f"{folder.absolute()} may not be written to. Give checkpoint= a path in a "
            "folder of your own",
        )
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    # Two files, each once more while it is replaced. Moments of the optimizer and an
    # average come on top, if there are any.
    needed, free = 4 * weights, shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{folder.absolute()} has {free / 1e6:.0f} MB left, but checkpoints of "
            f"this network take {needed / 1e6:.0f} MB or more. Free some space, or "
            "give checkpoint= a path on another disk",
        )
