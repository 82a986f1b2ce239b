"""Training: one epoch, one evaluation, and the loop around both.

    train_one_epoch   every image once, with a step after each batch   chapter 01
    evaluate          loss and Dice on images that are not trained on  chapter 01
    train             epochs, the best weights in a file, resuming     chapter 01

A loader yields pairs of images ``(B, C, *spatial)`` and targets: float masks
``(B, 1, *spatial)`` for one class, integer labels ``(B, *spatial)`` for more. A
criterion is any function of logits ``(B, K, *spatial)`` and targets that returns a
scalar: ``nn.BCEWithLogitsLoss()``, ``nn.CrossEntropyLoss()``, ``losses.dice_loss``.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import length_hint
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from medseg.checkpoints import generators_of, restore, save_checkpoint, snapshot
from medseg.checks import as_labels, check_choice
from medseg.inference import evaluation_mode, to_labels, to_probabilities
from medseg.metrics import dice_score

Batches = Iterable[tuple[Tensor, Tensor]]
Criterion = Callable[[Tensor, Tensor], Tensor]
PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Evaluation(NamedTuple):
    """What one pass over images with a reference yielded.

    A structure that the reference holds and the prediction misses has Dice 0; one
    that neither holds is undefined: nan, counted, and left out of the means.
    """

    loss: float  # mean over images
    dice: float  # mean over images; nan if it is undefined in all of them
    dice_per_image: NDArray[np.float64]  # (images,), mean over foreground classes
    dice_per_class: NDArray[np.float64]  # (classes 1..K-1,), mean over images
    undefined: int  # pairs of image and class that neither mask holds


class EpochRecord(NamedTuple):
    """What one epoch yielded."""

    epoch: int  # from 1
    train_loss: float  # mean over images, while the weights move
    val_loss: float
    val_dice: float
    seconds: float  # training and validation
    learning_rate: float  # of the first group of parameters, during the epoch

    def __str__(self) -> str:
        return (
            f"epoch {self.epoch:3d}   train loss {self.train_loss:.4f}   "
            f"val loss {self.val_loss:.4f}   val Dice {self.val_dice:.4f}   "
            f"{self.seconds:.1f} s"
        )


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
    average: AveragedModel | None = None,
) -> float:
    """Show every image to the network once, with one step after each batch.

    Args:
        model: Maps images to logits ``(B, K, *spatial)``; on ``device``.
        loader: Pairs of images and targets. For a progress bar pass ``tqdm(loader)``.
        criterion: Loss of logits and targets, a scalar.
        optimizer: Holds the network's parameters.
        device: Where to compute.
        epoch: Its number, for error messages.
        precision: Of the network's computation: see ``autocast_for``. The loss is
            float32 always.
        scaler: Keeps small gradients from vanishing; needed for float16 alone.
        clip_norm: Gradients whose norm is larger are scaled down to it.
        average: A moving average of the weights, updated after each step.

    Returns:
        The mean loss per image.

    Raises:
        TypeError: The network returns no tensor.
        ValueError: There is no batch, logits and targets do not belong together, or
            the loss is NaN or infinite.
    """
    if scaler is None:
        scaler = _scaler_for(device, precision)
    model.train()
    loss_sum, num_images = 0.0, 0
    for step, (images, targets) in enumerate(loader, start=1):
        images, targets = images.to(device), targets.to(device)
        with autocast_for(device, precision):
            logits = model(images)
        _check_pair(logits, targets, criterion)
        loss = criterion(logits.float(), targets)
        _check_loss(loss, images, f"epoch {epoch}, step {step}")
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        if clip_norm is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        scaler.step(optimizer)
        scaler.update()
        if average is not None:
            average.update_parameters(model)
        loss_sum += loss.item() * len(images)
        num_images += len(images)
    _check_not_empty(num_images, "training")
    return loss_sum / num_images


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Batches,
    criterion: Criterion,
    device: torch.device | str,
    *,
    precision: str = "float32",
) -> Evaluation:
    """Loss and Dice on images that the network is not trained on.

    The prediction is foreground where the probability is above 0.5 (K = 1), else the
    most probable class. Dice is computed for each image and each class but the
    background, then averaged over the classes of an image, then over the images.

    Args:
        model: Maps images to logits ``(B, K, *spatial)``; on ``device``. It runs in
            evaluation mode and is put back.
        loader: Pairs of images and targets.
        criterion: Loss of logits and targets, a scalar. A label that it names as its
            ``ignore_index`` counts in no score.
        device: Where to compute.
        precision: See ``autocast_for``. Report scores computed in float32.

    Raises:
        TypeError: The network returns no tensor, or targets are no labels.
        ValueError: There is no batch, logits and targets do not belong together, or
            the loss is NaN or infinite.
    """
    loss_sum, scores = 0.0, list[list[float]]()
    with evaluation_mode(model):
        for step, (images, targets) in enumerate(loader, start=1):
            images, targets = images.to(device), targets.to(device)
            with autocast_for(device, precision):
                logits = model(images)
            _check_pair(logits, targets, criterion)
            loss = criterion(logits.float(), targets)
            _check_loss(loss, images, f"validation, step {step}")
            loss_sum += loss.item() * len(images)
            scores += _dice_table(logits, targets, _ignored_label(criterion))
    _check_not_empty(len(scores), "validation")
    table = np.array(scores)  # (images, foreground classes)
    per_image = _mean_of_defined(table, axis=1)
    return Evaluation(
        loss=loss_sum / len(scores),
        dice=float(_mean_of_defined(per_image, axis=0)),
        dice_per_image=per_image,
        dice_per_class=_mean_of_defined(table, axis=0),
        undefined=int(np.isnan(table).sum()),
    )


def train(
    model: nn.Module,
    train_loader: Batches,
    val_loader: Batches,
    criterion: Criterion,
    optimizer: Optimizer,
    num_epochs: int,
    device: torch.device | str,
    *,
    checkpoint: str | os.PathLike[str] = "best_model.pth",
    resume: bool = False,
    scheduler: LRScheduler | None = None,
    precision: str = "auto",
    clip_norm: float | None = None,
    ema_decay: float | None = None,
    progress: bool = True,
    log: Callable[[object], object] | None = print,
) -> list[EpochRecord]:
    """Train, validate after each epoch, and keep the best weights in a file.

    The best epoch is that with the highest validation Dice; of equal ones, that with
    the lowest validation loss. Two files are written, each under a temporary name
    first, so that an interruption leaves the former one:

    - ``checkpoint``: the weights of the best epoch, a plain ``state_dict``;
    - beside it ``<stem>.last.pth``, ``best_model.last.pth`` say, after every epoch:
      all that ``resume`` needs to continue as if there had been no break.

    Ctrl-C ends training with ``KeyboardInterrupt``, as everywhere in Python: the
    epoch under way is lost, both files stay, and ``resume=True`` goes on from there.

    Args:
        model: Trained in place; moved to ``device``. At the end it holds the weights
            of the last epoch, not of the best.
        train_loader: Pairs of images and targets to learn from.
        val_loader: Pairs to choose the best epoch by.
        criterion: Loss of logits and targets, a scalar.
        optimizer: Holds the network's parameters.
        num_epochs: Epochs in all, those before a resumption included.
        device: Where to compute.
        checkpoint: File for the best weights. Missing folders are made.
        resume: Continue after the last epoch of ``<stem>.last.pth``; start from the
            beginning if there is no such file. Weights, learning rate and schedule
            come from the file. Exact on a CPU if the loader's randomness comes from
            its own generator or from a global one of PyTorch, NumPy or Python, as in
            the data sets of this package.
        scheduler: Of the learning rate; takes one step after each epoch.
        precision: Of the network's computation: see ``autocast_for``.
        clip_norm: Gradients whose norm is larger are scaled down to it.
        ema_decay: Validate and save an exponential moving average of the weights
            with this decay per step, such as 0.99, in place of the weights.
        progress: Show a bar for each epoch.
        log: Called with each epoch's record; None for silence.

    Returns:
        One record for each epoch, from the first.

    Raises:
        TypeError: The network returns no tensor, or targets are no labels.
        ValueError: ``num_epochs`` or another setting is out of range; a loader is
            empty; logits and targets do not belong together; the loss is NaN or
            infinite; or the checkpoint is damaged or of another network.
    """
    if num_epochs < 1:
        raise ValueError(f"num_epochs must be at least 1, got {num_epochs}.")
    _check_not_empty(length_hint(train_loader, 1), "training")
    _check_not_empty(length_hint(val_loader, 1), "validation")
    best_path = Path(checkpoint)
    last_path = best_path.with_name(f"{best_path.stem}.last.pth")
    best_path.parent.mkdir(parents=True, exist_ok=True)

    model.to(device)
    if _pick_dtype(device, precision) != torch.float32:
        # In half precision, convolutions are faster with the channels innermost.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    scaler = _scaler_for(device, precision)
    average = _ema_of(model, ema_decay)
    parts = {
        "model": model,
        "average": average,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "scaler": scaler,
    }
    generators = generators_of(train_loader, val_loader)
    known = restore(last_path, parts, generators) if resume else []
    records = [EpochRecord(**record) for record in known]
    bar = partial(tqdm, leave=False, disable=not progress)

    for epoch in range(len(records) + 1, num_epochs + 1):
        start = time.perf_counter()
        learning_rate = float(optimizer.param_groups[0]["lr"])
        train_loss = train_one_epoch(
            model,
            bar(train_loader, desc=f"epoch {epoch}"),
            criterion,
            optimizer,
            device,
            epoch=epoch,
            precision=precision,
            scaler=scaler,
            clip_norm=clip_norm,
            average=average,
        )
        judged = model if average is None else average.module
        batches = bar(val_loader, desc="validation")
        result = evaluate(judged, batches, criterion, device, precision=precision)
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(result.loss)
        elif scheduler is not None:
            scheduler.step()
        scores = (train_loss, result.loss, result.dice)
        seconds = time.perf_counter() - start
        records.append(EpochRecord(epoch, *scores, seconds, learning_rate))
        if max(records, key=_rank) is records[-1]:
            save_checkpoint(judged.state_dict(), best_path)
        known = [record._asdict() for record in records]
        save_checkpoint(snapshot(parts, generators, known), last_path)
        if log is not None:
            log(records[-1])
    return records


def _rank(record: EpochRecord) -> tuple[float, float]:
    """Order epochs by validation Dice, equal ones by loss; undefined comes last."""
    undefined = np.isnan(record.val_dice)
    return (-1.0 if undefined else record.val_dice, -record.val_loss)


def autocast_for(device: torch.device | str, precision: str) -> torch.autocast:
    """Context in which a network computes in a number format.

    Args:
        device: Where it computes.
        precision: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"``: half
            precision where the device has units for it. That is bfloat16 on a CPU
            with AMX or AVX-512 units for it and on a GPU from Ampere on, float16 on
            an older GPU, float32 elsewhere.

    Raises:
        ValueError: ``precision`` is none of these.

    Example:
        >>> with autocast_for("cpu", "bfloat16"):
        ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
        torch.bfloat16
    """
    dtype = _pick_dtype(device, precision)
    kind = torch.device(device).type
    return torch.autocast(kind, dtype, enabled=dtype != torch.float32)


def _pick_dtype(device: torch.device | str, precision: str) -> torch.dtype:
    check_choice(precision, "precision", ("auto", *PRECISIONS))
    if precision != "auto":
        return PRECISIONS[precision]
    kind = torch.device(device).type
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    # Without such units bfloat16 is emulated, and slower than float32. Old versions
    # of PyTorch cannot tell.
    units: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    has_bfloat16 = units.get("amx_bf16") or units.get("avx512_bf16")
    return torch.bfloat16 if kind == "cpu" and has_bfloat16 else torch.float32


def _scaler_for(device: torch.device | str, precision: str) -> torch.amp.GradScaler:
    """Scaler of the loss; it does nothing unless the precision is float16."""
    enabled = _pick_dtype(device, precision) == torch.float16
    return torch.amp.GradScaler(torch.device(device).type, enabled=enabled)


def _ema_of(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """Exponential moving average of weights and buffers; None for no decay."""
    if decay is None:
        return None
    if not 0 < decay < 1:
        raise ValueError(
            f"ema_decay must lie between 0 and 1, got {decay}; 0.99 averages over some "
            "100 steps."
        )
    average = get_ema_multi_avg_fn(decay)
    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


def _dice_table(
    logits: Tensor, targets: Tensor, ignore_index: int | None
) -> list[list[float]]:
    """Dice of each image (row) and each class but the background (column)."""
    labels = as_labels(logits, targets, ignore_index)
    pred = to_labels(to_probabilities(logits))
    if ignore_index is not None:
        void = labels == ignore_index
        labels, pred = labels.masked_fill(void, 0), pred.masked_fill(void, 0)
    classes = range(1, max(logits.shape[1], 2))
    return [
        [dice_score(a == k, b == k) for k in classes]
        for a, b in zip(pred.cpu(), labels.cpu(), strict=True)
    ]


def _mean_of_defined(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Mean along an axis without the nan; nan where there is nothing else.

    Example:
        >>> _mean_of_defined(np.array([[1.0, np.nan], [0.5, np.nan]]), axis=0)
        array([0.75,  nan])
    """
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis) / (~np.isnan(values)).sum(axis)


def _ignored_label(criterion: Criterion) -> int | None:
    """Label that a criterion, or the ``partial`` of one, names as ``ignore_index``."""
    given = getattr(criterion, "keywords", {}).get("ignore_index")
    return getattr(criterion, "ignore_index", given)


def _check_not_empty(count: int, name: str) -> None:
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


def _check_pair(logits: Any, targets: Tensor, criterion: Criterion) -> None:
    """Accept logits ``(B, K, *spatial)`` with targets that a criterion can take.

    Targets are labels ``(B, *spatial)``, or have the shape of the logits.

    Raises:
        TypeError: The logits are no tensor.
        ValueError: The shapes do not suit each other or the criterion, or a label has
            no class in the logits.
    """
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the network returned a {type(logits).__name__}, expected a tensor of "
            "logits (B, K, *spatial). Wrap it in a module whose forward returns that "
            "tensor alone, such as output['out'] of torchvision's networks."
        )
    num_classes, per_class = logits.shape[1], targets.shape == logits.shape
    if (
        not (per_class or targets.shape == logits[:, 0].shape)
        or (isinstance(criterion, nn.BCEWithLogitsLoss) and not per_class)
        # Over a single class it would be 0 whatever the logits are.
        or (isinstance(criterion, nn.CrossEntropyLoss) and num_classes == 1)
    ):
        name = getattr(criterion, "__name__", type(criterion).__name__)
        raise ValueError(
            f"{name} cannot compare logits {tuple(logits.shape)} with masks "
            f"{tuple(targets.shape)}. For one class, build the data set with "
            "num_classes=1 and the network with out_channels=1, and take "
            "nn.BCEWithLogitsLoss(); for K classes, the background included, "
            "num_classes=K, out_channels=K and nn.CrossEntropyLoss(). Height and "
            "width must agree: resize images and masks together."
        )
    if per_class or targets.is_floating_point():
        return
    labels = targets[targets != _ignored_label(criterion)]
    low, high = labels.aminmax() if labels.numel() else (0, 0)
    if low < 0 or high >= max(num_classes, 2):
        raise ValueError(
            f"the masks hold labels from {int(low)} to {int(high)}, but the network "
            f"has out_channels={num_classes}. Build it with "
            f"out_channels={int(high) + 1}, or correct the masks: 8-bit masks of 0 and "
            "255 are binarised with mask > 127."
        )


def _check_loss(loss: Tensor, images: Tensor, where: str) -> None:
    """Accept a finite scalar.

    Raises:
        ValueError: The loss has axes, or is NaN or infinite.
    """
    if loss.ndim:
        raise ValueError(
            f"the criterion returned a tensor of shape {tuple(loss.shape)}, expected "
            "a scalar. Average over the pixels: reduction='mean'."
        )
    if not torch.isfinite(loss):
        cause = (
            "The images are finite: lower the learning rate, pass clip_norm=1.0, or "
            "try precision='float32'; if it is the first step, look at the masks."
            if torch.isfinite(images).all()
            else "The images hold NaN or infinity: correct them, or the transform."
        )
        raise ValueError(f"{where}: the loss is {loss.item()}. {cause}")
