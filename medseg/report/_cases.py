"""One case: its check at the door, and the scores of each of its classes."""

from collections.abc import Sequence
from math import inf, nan
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from torch import Tensor

from medseg.checks import as_mask, as_spacing
from medseg.metrics import reliability_table, surface_distances

Definition = Literal["directed_max", "pooled", "area_weighted"]


class Case(NamedTuple):
    """A prediction and its reference.

    >>> Case("scan 1", pred=[[0, 1]], truth=[[1, 1]], spacing=(0.5, 0.5)).patient
    """

    name: str  # unlike all others
    pred: ArrayLike | Tensor  # labels (H, W) or (D, H, W), integers in [0, K)
    truth: ArrayLike | Tensor  # the same shape
    spacing: Sequence[float] | None  # mm along each axis; None: no distances, no ml
    patient: str | None = None  # None: a patient of its own
    probability: ArrayLike | Tensor | None = None  # (K, *spatial); K <= 2: (*spatial)


class Metric(NamedTuple):
    """How a score is called and read."""

    title: str
    unit: str  # "" for a share
    higher_is_better: bool

    @property
    def label(self) -> str:
        """Title and unit, for the axis of a figure."""
        return f"{self.title} [{self.unit}]" if self.unit else self.title


#: What `report` can be asked for, by name.
METRICS = {
    "dice": Metric("Dice", "", True),
    "iou": Metric("IoU", "", True),
    "sensitivity": Metric("sensitivity", "", True),
    "specificity": Metric("specificity", "", True),
    "precision": Metric("precision", "", True),
    "volume_similarity": Metric("volume similarity", "", True),
    "hd": Metric("HD", "mm", False),
    "hd95": Metric("HD95", "mm", False),
    "assd": Metric("ASSD", "mm", False),
    "surface_dice": Metric("surface Dice", "", True),
}
FROM_COUNTS = tuple(METRICS)[:6]
FROM_SURFACES = tuple(METRICS)[6:]


class Counts(NamedTuple):
    """Pixels by prediction and reference; each an array of integers, one a class."""

    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    fn: NDArray[np.int64]
    tn: NDArray[np.int64]


class ScoredCase(NamedTuple):
    """What is kept of a case; M foreground classes."""

    counts: Counts  # (M,) each
    surfaces: dict[str, NDArray[np.float64]]  # (M,); nan empty in both, inf in one
    ndim: int
    spacing: tuple[float, ...] | None
    diagonal: float  # of the image, in mm; nan without a spacing
    bins: NDArray[np.float64] | None  # (3, bins): pixels, sum of probability, of hits


def score_case(
    case: Case,
    num_classes: int,
    metrics: Sequence[str],
    tolerances: Sequence[float] | None,
    definition: Definition,
) -> ScoredCase:
    """Check and score one case."""
    pred = _as_labels(case.pred, "pred", num_classes)
    truth = _as_labels(case.truth, "truth", num_classes)
    if pred.shape != truth.shape:
        raise ValueError(
            f"pred has shape {pred.shape} and truth {truth.shape}. Resample the "
            "prediction to the grid of the reference, with nearest neighbours."
        )
    wanted = [name for name in metrics if name in FROM_SURFACES]
    spacing = _as_spacing_or_none(case.spacing, pred.ndim, wanted)
    sizes, surfaces = [], []
    for k, box in enumerate(_class_boxes(pred, truth, num_classes), start=1):
        ours, theirs = pred[box] == k, truth[box] == k
        both = np.count_nonzero(ours & theirs)
        fp, fn = np.count_nonzero(ours) - both, np.count_nonzero(theirs) - both
        sizes.append((both, fp, fn, truth.size - both - fp - fn))
        near = nan if tolerances is None else tolerances[k - 1]
        surfaces.append(
            _surface_scores(ours, theirs, spacing or (), wanted, near, definition)
        )
    bins = None
    if case.probability is not None:
        bins = _calibration_bins(case.probability, truth, num_classes)
    extent = np.array(truth.shape) * (nan if spacing is None else spacing)
    return ScoredCase(
        Counts(*np.array(sizes, np.int64).T),
        dict(zip(wanted, np.array(surfaces).T, strict=True)),
        pred.ndim,
        spacing,
        float(np.sqrt((extent**2).sum())),
        bins,
    )


def overlap(name: str, counts: Counts) -> NDArray[np.float64]:
    """Score from counts of any shape, with the rule for empty masks.

    Empty in both is nan; missed or invented is 0, save where the formula does not
    look at what is empty: nothing can be said of sensitivity without a reference.
    """
    tp, fp, fn, tn = (np.asarray(count, float) for count in counts)
    below: NDArray[np.float64]
    if name == "dice":
        above, below = 2 * tp, 2 * tp + fp + fn
    elif name == "iou":
        above, below = tp, tp + fp + fn
    elif name == "sensitivity":
        above, below = tp, tp + fn
    elif name == "specificity":
        above, below = tn, tn + fp
    elif name == "precision":
        # A missed structure is 0/0 by the formula, and 0 by the rule.
        above, below = tp, np.where((tp + fp == 0) & (fn > 0), 1, tp + fp)
    else:
        below = 2 * tp + fp + fn
        above = below - np.abs(fp - fn)
    scores = np.full(below.shape, nan)
    np.divide(above, below, out=scores, where=below > 0)
    return scores


def _as_labels(
    given: ArrayLike | Tensor, name: str, num_classes: int
) -> NDArray[np.integer[Any]]:
    """Return labels in [0, K), in the type they came in: a copy would cost memory."""
    labels = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
    if labels.ndim not in (2, 3) or labels.size == 0:
        raise ValueError(
            f"{name} must be a label map (H, W) or (D, H, W), got shape "
            f"{labels.shape}. Score the images of a batch one by one."
        )
    if labels.dtype.kind == "f" and num_classes <= 2:
        labels = as_mask(labels, name)
    if labels.dtype == np.bool_:
        return labels.view(np.uint8)
    if labels.dtype.kind not in "ui":
        raise TypeError(
            f"{name} must be class indices (an integer dtype), got {labels.dtype}. "
            "Take the argmax of probabilities; convert integers that were read as "
            "floating point with .round().astype(np.uint8)."
        )
    low, high, top = labels.min(), labels.max(), max(num_classes, 2) - 1
    if low < 0 or high > top:
        raise ValueError(
            f"{name} must hold labels in 0..{top} for num_classes={num_classes}, got "
            f"{low}..{high}. Count the background as a class; binarise 8-bit masks "
            "with (mask > 127)."
        )
    return labels


def _as_spacing_or_none(
    given: Sequence[float] | None, ndim: int, wanted: Sequence[str]
) -> tuple[float, ...] | None:
    if given is None:
        if wanted:
            raise ValueError(
                f"{wanted[0]} needs the spacing, in mm for each axis. Without one, ask "
                "for metrics=['dice', 'iou'] and other scores that are no distances."
            )
        return None
    if np.ndim(given) != 1:
        raise ValueError(
            "spacing must be the size of a voxel in mm along each axis, such as "
            f"(3.0, 0.8, 0.8), got {given!r}."
        )
    return as_spacing(given, ndim)


def _class_boxes(
    pred: NDArray[np.integer[Any]], truth: NDArray[np.integer[Any]], num_classes: int
) -> list[tuple[slice, ...]]:
    """Box around each foreground class in both maps; empty for one in neither."""
    either = (pred != 0) | (truth != 0)
    plane = either.any(axis=0)
    taken = [either.reshape(len(either), -1).any(axis=1)]
    for axis in range(plane.ndim):
        taken.append(plane.any(axis=tuple(a for a in range(plane.ndim) if a != axis)))
    ends = [np.flatnonzero(along) for along in taken]
    nowhere = (slice(0, 0),) * pred.ndim
    if not ends[0].size:
        return [nowhere] * (max(num_classes, 2) - 1)
    whole = tuple(slice(int(end[0]), int(end[-1]) + 1) for end in ends)
    if num_classes <= 2:
        return [whole]
    # Within the box of all, which is mostly far smaller than the image.
    found = (ndimage.find_objects(m[whole], num_classes - 1) for m in (pred, truth))
    boxes = []
    for pair in zip(*found, strict=True):
        parts = [box for box in pair if box is not None]
        boxes.append(
            tuple(
                slice(
                    outer.start + min(box[axis].start for box in parts),
                    outer.start + max(box[axis].stop for box in parts),
                )
                for axis, outer in enumerate(whole)
            )
            if parts
            else nowhere
        )
    return boxes


def _surface_scores(
    pred: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    spacing: tuple[float, ...],
    wanted: Sequence[str],
    tolerance: float,
    definition: Definition,
) -> list[float]:
    """Score the surfaces of two masks: nan empty in both, inf or 0 in one."""
    found, there = pred.any(), truth.any()
    if not wanted or not (found or there):
        return [nan] * len(wanted)
    if not (found and there):
        return [0.0 if name == "surface_dice" else inf for name in wanted]
    if definition == "area_weighted":
        distances = surface_distances(pred, truth, spacing, surface="area_weighted")
        largest: Literal["directed_max", "pooled"] = "directed_max"
    else:
        distances = surface_distances(pred, truth, spacing)
        largest = definition
    scores = []
    for name in wanted:
        if name in ("hd", "hd95"):
            scores.append(distances.hausdorff(100 if name == "hd" else 95, largest))
        elif name == "assd":
            scores.append(distances.average())
        else:
            scores.append(distances.surface_dice(tolerance))
    return scores


def _calibration_bins(
    given: ArrayLike | Tensor, truth: NDArray[np.integer[Any]], num_classes: int
) -> NDArray[np.float64]:
    """Pixels, sum of probability, and number of hits in each bin, ``(3, bins)``.

    For K <= 2 the probability of the foreground; for more classes that of the one
    predicted, which is the largest. Sums can be added up over cases.
    """
    probability = np.asarray(
        given.detach().float().cpu() if isinstance(given, Tensor) else given
    )
    expected = truth.shape if num_classes <= 2 else (num_classes, *truth.shape)
    if probability.shape != expected:
        raise ValueError(
            f"probability must have shape {expected} for num_classes={num_classes}, "
            f"got {probability.shape}."
            + (" Give that of the foreground." if num_classes <= 2 else "")
        )
    if probability.dtype.kind != "f":
        raise TypeError(
            f"probability must hold floating point numbers, got {probability.dtype}."
        )
    if num_classes <= 2:
        table = reliability_table(probability[None, None], truth[None], class_index=1)
    else:
        table = reliability_table(probability[None], truth[None])
    means = np.nan_to_num([table.confidence, table.frequency])  # 0 in empty bins
    return np.stack([table.counts, *(table.counts * means)])
