"""The loop over epochs: validation, files, resuming."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from operator import length_hint
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from medseg import distributed
from medseg.checkpoints import (
    data_hash,
    generators_of,
    random_state,
    restore,
    save_checkpoint,
    set_random_state,
    snapshot,
)
from medseg.training._checks import (
    Batches,
    Criterion,
    check_folder,
    check_not_empty,
    check_settings,
    name_of,
)
from medseg.training._epoch import Tally, train_one_epoch
from medseg.training._evaluation import Metric, evaluate
from medseg.training._interrupts import deferred_interrupts, stops_after
from medseg.training._precision import channels_last as lay_out
from medseg.training._precision import pick_dtype, scaler_for

Log = Callable[[Any], object]


class EpochRecord(NamedTuple):
    """What one epoch yielded."""

    epoch: int  # from 1
    train_loss: float  # mean over images, while the weights move
    val_loss: float
    val_dice: float
    seconds: float  # training and validation
    learning_rate: float  # of the first group of parameters, as the epoch begins
    dice_per_class: tuple[float, ...] = ()  # validation; classes 1..K-1
    scores: Mapping[str, float] = {}  # validation; of other metrics, by name

    def __str__(self) -> str:
        return (
            f"epoch {self.epoch:3d}   train loss {self.train_loss:.4f}   "
            f"val loss {self.val_loss:.4f}   val Dice {self.val_dice:.4f}   "
            + "".join(f"{name} {score:.4g}   " for name, score in self.scores.items())
            + f"{self.seconds:.1f} s"
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
    checkpoint_every: int | None = None,
    config: Mapping[str, object] | None = None,
    scheduler: LRScheduler | None = None,
    scheduler_interval: str = "epoch",
    precision: str = "auto",
    channels_last: bool | None = None,
    clip_norm: float | None = None,
    accumulate: int = 1,
    ema_decay: float | None = None,
    sync_batch_norm: bool = False,
    patience: int | None = None,
    metrics: Mapping[str, Metric] | None = None,
    progress: bool | None = None,
    log: Log | Sequence[Log] | None = print,
) -> list[EpochRecord]:
    """Train, validate after each epoch, and keep the best weights in a file.

    The best epoch is that with the highest validation Dice; of equal ones, that with
    the lowest validation loss. Two files are written, each under a temporary name
    first, so that an interruption leaves the former one:

    - ``checkpoint``: the weights of the best epoch, a plain ``state_dict``;
    - beside it ``<stem>.last.pth``, ``best_model.last.pth`` say, after every epoch:
      all that ``resume`` needs to continue as if there had been no break.

    Ctrl-C, or SIGTERM from a cluster, lets the step under way end, writes the second
    file, and raises ``KeyboardInterrupt`` (or ``SystemExit``): ``resume=True`` goes on
    with the next step. A second Ctrl-C stops at once. After a crash or SIGKILL it goes
    on from the last epoch, or from the last ``checkpoint_every`` steps.

    Under ``torchrun`` the same call trains on several GPUs or machines: each process
    takes its part of every batch, gradients are averaged, validation batches are dealt
    out, and the first process alone writes and logs. ``batch_size`` stays the joint
    one, so the steps are those of one process. The processes get no Ctrl-C.

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
        resume: Continue with ``<stem>.last.pth``; start from the beginning if there is
            no such file. Weights, learning rate and schedule come from the file. Data
            and settings must be those of the file, ``num_epochs`` and what only
            reports excepted. Exact on a CPU if the loader's randomness comes from its
            own generator or from a global one of PyTorch, NumPy or Python, as in the
            data sets of this package, with any number of workers, but not with
            ``persistent_workers``. Within an epoch the batches seen before are loaded
            again, and passed over.
        checkpoint_every: Write ``<stem>.last.pth`` after so many steps too, for long
            epochs. None: after each epoch.
        config: More settings to be kept with the checkpoint, numbers and text by name:
            a resumed run must have the same.
        scheduler: Of the learning rate, such as ``schedules.cosine``.
        scheduler_interval: When it takes a step, after each ``"epoch"`` or ``"step"``.
        precision: Of the network's computation: see ``autocast_for``.
        channels_last: Lay out 2D convolutions with the channels innermost. None: in
            half precision, where it is faster.
        clip_norm: Gradients whose norm is larger are scaled down to it.
        accumulate: Batches that make one step together: see ``train_one_epoch``.
        ema_decay: Validate and save an exponential moving average of the weights
            with this decay per step, such as 0.99, in place of the weights.
        sync_batch_norm: On several GPUs: batch norm over all of them together.
        patience: Stop when so many epochs have brought no better one. None: never.
        metrics: Others beside Dice, for each epoch's record: see ``evaluate``.
        progress: Show a bar for each epoch. None: where stderr is a terminal.
        log: Called with each epoch's record: one function or several, such as those
            of ``medseg.logs``; None for silence.

    Returns:
        One record for each epoch, from the first.

    Raises:
        TypeError: The network returns no tensor, or targets are no labels.
        ValueError: ``num_epochs`` or another setting is out of range; a loader is
            empty; logits and targets do not belong together; the loss is NaN or
            infinite; or the checkpoint is damaged or of another run.
        MemoryError: A batch does not fit; the message says what to change.
        OSError: The files cannot be written, for want of space or permission.
    """
    check_settings(num_epochs, scheduler_interval, checkpoint_every, patience)
    check_not_empty(length_hint(train_loader, 1), "training")
    check_not_empty(length_hint(val_loader, 1), "validation")
    best_path = Path(checkpoint)
    last_path = best_path.with_name(f"{best_path.stem}.last.pth")
    check_folder(best_path.parent, model)

    device = distributed.join_group(device)
    with deferred_interrupts() as interrupts:
        first = distributed.rank() == 0
        model.to(device)
        if channels_last is None:
            # In half precision, convolutions are faster with the channels innermost.
            channels_last = pick_dtype(device, precision) != torch.float32
        if channels_last:
            lay_out(model)
        scaler = scaler_for(device, precision)
        average = _ema_of(model, ema_decay)
        network = distributed.wrap(model, device, sync_batch_norm=sync_batch_norm)
        distributed.seed_apart()
        batches = distributed.share_batches(train_loader)
        val_batches = distributed.share_loader(val_loader)
        generators = generators_of(train_loader, val_loader)
        parts = {
            "model": model,
            "average": average,
            "optimizer": optimizer,
            "scheduler": scheduler,
            "scaler": scaler,
        }
        settings = {
            "criterion": name_of(criterion),
            "optimizer": type(optimizer).__name__,
            "scheduler": type(scheduler).__name__ if scheduler else None,
            "scheduler_interval": scheduler_interval,
            "precision": precision,
            "clip_norm": clip_norm,
            "accumulate": accumulate,
            "ema_decay": ema_decay,
            "training data": _about(train_loader),
            "validation data": _about(val_loader),
            **(config or {}),
        }
        records: list[EpochRecord] = []
        under_way: dict[str, Any] | None = None  # an epoch that was broken off
        if resume:
            known, processes = restore(last_path, parts, settings)
            records = [EpochRecord(**record) for record in known]
            under_way = _own_state(processes, generators)

        def save(
            begun: dict[str, Any] | None = None, tally: Tally | None = None
        ) -> None:
            """Write what resuming needs; within an epoch, with how far it is."""
            own = {
                "random": random_state(generators),
                "begun": begun,
                "tally": asdict(tally) if tally else None,
            }
            processes = distributed.gather(own)
            if first:
                known = [record._asdict() for record in records]
                save_checkpoint(snapshot(parts, known, processes, settings), last_path)

        hidden = None if progress is None else not progress  # None: on a terminal
        bar = partial(tqdm, leave=False, disable=hidden if first else True)
        logs = [log] if callable(log) else log or []
        for epoch in range(len(records) + 1, num_epochs + 1):
            if patience is not None and _epochs_since_best(records) >= patience:
                break
            start = time.perf_counter()
            distributed.set_epoch(batches, epoch - 1)
            if under_way is None:
                rate = float(optimizer.param_groups[0]["lr"])
                begun: dict[str, Any] = {
                    "random": random_state(generators),
                    "learning_rate": rate,
                }
                todo, tally = batches, Tally()
            else:
                begun, tally = under_way["begun"], Tally(**under_way["tally"])
                todo = _rest(batches, tally.batches, under_way, generators)
                under_way = None

            def after_step(tally: Tally, begun: Any = begun) -> None:
                stops_after(interrupts, lambda: save(begun, tally), last_path)
                if checkpoint_every and tally.steps % checkpoint_every == 0:
                    save(begun, tally)

            total = length_hint(train_loader) or None
            train_loss = train_one_epoch(
                network,
                bar(todo, desc=f"epoch {epoch}", initial=tally.batches, total=total),
                criterion,
                optimizer,
                device,
                epoch=epoch,
                precision=precision,
                scaler=scaler,
                clip_norm=clip_norm,
                accumulate=accumulate,
                scheduler=scheduler if scheduler_interval == "step" else None,
                average=average,
                tally=tally,
                after_step=after_step,
            )
            judged = model if average is None else average.module
            distributed.share_buffers(judged)
            result = evaluate(
                judged,
                bar(val_batches, desc="validation"),
                criterion,
                device,
                precision=precision,
                metrics=metrics,
                gather=distributed.gather,
            )
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(result.loss)
            elif scheduler is not None and scheduler_interval == "epoch":
                scheduler.step()
            scores = (train_loss, result.loss, result.dice)
            per_class = tuple(result.dice_per_class.tolist())
            seconds = time.perf_counter() - start
            records.append(
                EpochRecord(
                    epoch,
                    *scores,
                    seconds,
                    begun["learning_rate"],
                    per_class,
                    dict(result.scores),
                )
            )
            if first and _epochs_since_best(records) == 0:
                save_checkpoint(judged.state_dict(), best_path)
            save()
            for write in logs if first else []:
                write(records[-1])
            stops_after(interrupts, lambda: None, last_path)
    return records


def _rank(record: EpochRecord) -> tuple[float, float]:
    """Order epochs by validation Dice, equal ones by loss; undefined comes last."""
    undefined = np.isnan(record.val_dice)
    return (-1.0 if undefined else record.val_dice, -record.val_loss)


def _epochs_since_best(records: list[EpochRecord]) -> int:
    """0 if the last epoch is the best, or if there is none."""
    if not records:
        return 0
    return len(records) - 1 - records.index(max(records, key=_rank))


def _own_state(
    processes: list[dict[str, Any]], generators: list[torch.Generator]
) -> dict[str, Any] | None:
    """Put back this process's random numbers; return its epoch under way, if any.

    A run may go on with more processes than before: those draw numbers of their own.
    """
    if not processes:
        return None
    own = processes[distributed.rank() % len(processes)]
    set_random_state(own["random"], generators)
    if distributed.rank() >= len(processes):
        distributed.seed_apart()
    return own if own["tally"] is not None else None


def _rest(
    loader: Batches,
    seen: int,
    under_way: dict[str, Any],
    generators: list[torch.Generator],
) -> Iterator[Any]:
    """The batches of an epoch from number ``seen`` on, as if it had not been broken.

    Those before are drawn and loaded again: so samplers and workers, whose own random
    numbers no checkpoint can hold, come to where they were.
    """
    set_random_state(under_way["begun"]["random"], generators)
    batches = iter(loader)
    for _ in range(seen):
        next(batches)
    set_random_state(under_way["random"], generators)
    yield from batches


def _about(loader: Any) -> dict[str, object]:
    """What a resumed run must find unchanged in a loader."""
    dataset: Any = getattr(loader, "dataset", None)
    return {
        "images": len(dataset) if hasattr(dataset, "__len__") else None,
        "batch_size": getattr(loader, "batch_size", None),
        "batches": len(loader) if hasattr(loader, "__len__") else None,
        "hash": data_hash(dataset),
    }


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
