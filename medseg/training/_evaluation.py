"""One pass over images with a reference: loss and scores."""

from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.checks import as_labels
from medseg.inference import evaluation_mode, to_labels, to_probabilities
from medseg.metrics import dice_score
from medseg.training._checks import (
    Batches,
    Criterion,
    check_finite_loss,
    check_not_empty,
    check_pair,
    check_scalar,
    ignored_label,
    memory_advice,
)
from medseg.training._precision import autocast_for

Metric = Callable[[NDArray[np.bool_], NDArray[np.bool_]], float]
# Of a batch: the sum of the losses, and for each metric a table (images, classes).
BatchResult = tuple[float, list[NDArray[np.float64]]]


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
    scores: Mapping[str, float] = {}  # of other metrics, averaged as Dice is


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Batches,
    criterion: Criterion,
    device: torch.device | str,
    *,
    precision: str = "float32",
    metrics: Mapping[str, Metric] | None = None,
    gather: Callable[[list[BatchResult]], list[list[BatchResult]]] | None = None,
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
        metrics: Others beside Dice, by name: functions of two masks ``(*spatial)``,
            prediction and reference, such as ``metrics.iou_score``; where they need
            more, ``functools.partial`` gives it. nan is left out of the means.
        gather: Collects the results of several processes, as in
            ``medseg.distributed``; each takes its own batches.

    Raises:
        TypeError: The network returns no tensor, or targets are no labels.
        ValueError: There is no batch, logits and targets do not belong together, or
            the loss is NaN or infinite.
        MemoryError: The batch does not fit; the message says what to change.
    """
    functions = {"dice": dice_score, **(metrics or {})}
    results: list[BatchResult] = []
    with evaluation_mode(model):
        for step, (images, targets) in enumerate(loader, start=1):
            where = f"validation, step {step}"
            with memory_advice(images, where):
                with autocast_for(device, precision):
                    logits = model(images.to(device, non_blocking=True))
                check_pair(logits, targets, criterion)
                targets = targets.to(device, non_blocking=True)
                loss = criterion(logits.float(), targets)
                check_scalar(loss)
            check_finite_loss(loss.item(), images, where)
            tables = _tables(logits, targets, ignored_label(criterion), functions)
            results.append((loss.item() * len(images), tables))
    if gather is not None:  # the batches were dealt out in turn
        rounds = zip_longest(*gather(results))
        results = [result for row in rounds for result in row if result is not None]
    check_not_empty(len(results), "validation")
    columns = zip(*(tables for _, tables in results), strict=True)
    table, *others = (np.concatenate(column) for column in columns)
    per_image = _mean_of_defined(table, axis=1)
    return Evaluation(
        loss=sum(loss_sum for loss_sum, _ in results) / len(table),
        dice=float(_mean_of_defined(per_image, axis=0)),
        dice_per_image=per_image,
        dice_per_class=_mean_of_defined(table, axis=0),
        undefined=int(np.isnan(table).sum()),
        scores={
            name: float(_mean_of_defined(_mean_of_defined(other, axis=1), axis=0))
            for name, other in zip(metrics or {}, others, strict=True)
        },
    )


def _tables(
    logits: Tensor,
    targets: Tensor,
    ignore_index: int | None,
    functions: Mapping[str, Metric],
) -> list[NDArray[np.float64]]:
    """Of each metric a table: images (rows), classes but the background (columns)."""
    labels = as_labels(logits, targets, ignore_index)
    pred = to_labels(to_probabilities(logits))
    if ignore_index is not None:
        void = labels == ignore_index
        labels, pred = labels.masked_fill(void, 0), pred.masked_fill(void, 0)
    pairs = list(zip(pred.cpu().numpy(), labels.cpu().numpy(), strict=True))
    classes = range(1, max(logits.shape[1], 2))
    return [
        np.array([[function(a == k, b == k) for k in classes] for a, b in pairs])
        for function in functions.values()
    ]


def _mean_of_defined(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Mean along an axis without the nan; nan where there is nothing else.

    Example:
        >>> _mean_of_defined(np.array([[1.0, np.nan], [0.5, np.nan]]), axis=0)
        array([0.75,  nan])
    """
    with np.errstate(invalid="ignore"):
        return np.nansum(values, axis) / (~np.isnan(values)).sum(axis)
