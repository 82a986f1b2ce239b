"""Scores of objects: cells, nuclei, each with a number of its own in a label map."""

from collections.abc import Sequence
from math import nan
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from medseg.metrics._classes import as_label_pair

#: IoU thresholds of the Data Science Bowl 2018: 0.5, 0.55, ..., 0.95.
IOU_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


class Overlaps(NamedTuple):
    """Which objects share pixels, one row for each such pair, and all sizes."""

    pred: NDArray[np.int64]  # (pairs,) index into pred_sizes
    truth: NDArray[np.int64]  # (pairs,) index into truth_sizes
    shared: NDArray[np.int64]  # (pairs,) pixels
    pred_sizes: NDArray[np.int64]  # (predicted objects,) pixels
    truth_sizes: NDArray[np.int64]  # (reference objects,)

    @property
    def unions(self) -> NDArray[np.int64]:
        """Pixels in one or both of each pair."""
        sizes = self.pred_sizes[self.pred] + self.truth_sizes[self.truth]
        return sizes - self.shared

    @property
    def ious(self) -> NDArray[np.float64]:
        """Intersection over union of each pair."""
        return self.shared / self.unions


class AveragePrecision(NamedTuple):
    """Share of objects that are right, on average and at each IoU threshold."""

    mean: float
    per_threshold: NDArray[np.float64]  # (thresholds,)


def average_precision(
    pred_labels: ArrayLike | Tensor,
    truth_labels: ArrayLike | Tensor,
    *,
    thresholds: Sequence[float] = IOU_THRESHOLDS,
) -> AveragePrecision:
    r"""Share of objects that are right, TP / (TP + FP + FN), over IoU thresholds.

    A predicted and a reference object make a true positive when their IoU exceeds the
    threshold; each is used once (below 0.5, so that there are as many as possible).
    This is the score of the Data Science Bowl 2018 for one image. Elsewhere *average
    precision* means the area under a precision-recall curve, which needs a confidence
    for each object.

    Args:
        pred_labels: Numbers of the predicted objects, ``(*spatial)``, integers, 0 for
            background. Pieces with one number are one object: number components first.
        truth_labels: Numbers of the reference objects, same shape.
        thresholds: Of IoU, in [0, 1).

    Returns:
        `AveragePrecision`, numbers in ``[0, 1]``; 0.0 when one map has no object, nan
        when neither has.

    Raises:
        TypeError: The labels are not integers.
        ValueError: The shapes differ, a label is negative, or a threshold is out of
            range.

    Source:
        caicedo2019nucleus.

    Example:
        One object has an IoU of 3/4, the other is missed: 1/2 below that, then 0.

        >>> average_precision([1, 1, 1, 0, 0], [1, 1, 1, 1, 2], thresholds=[0.7, 0.8])
        AveragePrecision(mean=0.25, per_threshold=array([0.5, 0. ]))
    """
    cuts = np.asarray(thresholds, dtype=np.float64)
    if cuts.ndim != 1 or not cuts.size or not ((cuts >= 0) & (cuts < 1)).all():
        raise ValueError(
            f"thresholds must be one or more numbers in [0, 1), got {cuts.tolist()}."
        )
    overlaps = object_overlaps(pred_labels, truth_labels)
    num_pred, num_truth = overlaps.pred_sizes.size, overlaps.truth_sizes.size
    if num_pred + num_truth == 0:
        return AveragePrecision(nan, np.full(cuts.size, nan))
    right = np.array([count_matches(overlaps, cut) for cut in cuts])
    scores = right / (num_pred + num_truth - right)
    return AveragePrecision(float(scores.mean()), scores)


class PanopticQuality(NamedTuple):
    """Panoptic quality, which is the product of its two parts."""

    quality: float  # PQ
    segmentation: float  # SQ: mean IoU of the objects that were found
    recognition: float  # RQ: F1 score of finding them


def panoptic_quality(
    pred_labels: ArrayLike | Tensor, truth_labels: ArrayLike | Tensor
) -> PanopticQuality:
    r"""Panoptic quality of one class of objects, with its two parts.

    .. math:: \mathrm{PQ} = \underbrace{\frac{\sum_{(p, t) \in \mathrm{TP}}
        \mathrm{IoU}(p, t)}{\mathrm{TP}}}_{\mathrm{SQ}} \cdot
        \underbrace{\frac{\mathrm{TP}}{\mathrm{TP} + \frac{1}{2}\mathrm{FP} +
        \frac{1}{2}\mathrm{FN}}}_{\mathrm{RQ}}

    True positives are pairs with an IoU above 0.5, of which an object can have but one.

    Args:
        pred_labels: Numbers of the predicted objects, ``(*spatial)``, integers, 0 for
            background.
        truth_labels: Numbers of the reference objects, same shape.

    Returns:
        Three numbers in ``[0, 1]``. When one map has no object, or none is found, PQ
        and RQ are 0.0 and SQ is nan; all are nan when neither map has one.

    Raises:
        TypeError: The labels are not integers.
        ValueError: The shapes differ, or a label is negative.

    Source:
        kirillov2019panoptic.

    Example:
        One object of two is found, with an IoU of 3/4: PQ = 3/4 * 1 / (1 + 1/2).

        >>> panoptic_quality([1, 1, 1, 0, 0], [1, 1, 1, 1, 2])
        PanopticQuality(quality=0.5, segmentation=0.75, recognition=0.6666666666666666)
    """
    overlaps = object_overlaps(pred_labels, truth_labels)
    objects = overlaps.pred_sizes.size + overlaps.truth_sizes.size
    if objects == 0:
        return PanopticQuality(nan, nan, nan)
    found = overlaps.ious[overlaps.ious > 0.5]
    recognition = 2 * found.size / objects
    if not found.size:
        return PanopticQuality(0.0, nan, 0.0)
    segmentation = float(found.mean())
    return PanopticQuality(segmentation * recognition, segmentation, recognition)


def aggregated_jaccard(
    pred_labels: ArrayLike | Tensor, truth_labels: ArrayLike | Tensor
) -> float:
    r"""Aggregated Jaccard index (AJI): one IoU for all objects of an image.

    Each reference object is paired with the predicted one of the largest IoU; their
    shared pixels are added up, and divided by their unions with the pixels of predicted
    objects that were never paired. As in its paper, a predicted object may serve
    several reference objects, and so a merger is punished twice.

    Args:
        pred_labels: Numbers of the predicted objects, ``(*spatial)``, integers, 0 for
            background.
        truth_labels: Numbers of the reference objects, same shape.

    Returns:
        A number in ``[0, 1]``; 0.0 when one map has no object, nan when neither has.

    Raises:
        TypeError: The labels are not integers.
        ValueError: The shapes differ, or a label is negative.

    Source:
        kumar2017dataset.

    Example:
        Three pixels shared; a union of 4, one missed and two that nobody wanted:

        >>> aggregated_jaccard([1, 1, 1, 0, 0, 2, 2], [1, 1, 1, 1, 2, 0, 0])  # 3 / 7
        0.42857142857142855
    """
    overlaps = object_overlaps(pred_labels, truth_labels)
    if overlaps.pred_sizes.size + overlaps.truth_sizes.size == 0:
        return nan
    # The best pair of each reference object: the last of its rows, ordered by IoU.
    order = np.lexsort((overlaps.ious, overlaps.truth))
    last = np.flatnonzero(np.diff(overlaps.truth[order], append=-1))
    best = order[last]
    sizes = overlaps.truth_sizes
    missed = sizes.sum() - sizes[overlaps.truth[best]].sum()
    used = np.zeros(overlaps.pred_sizes.size, dtype=bool)
    used[overlaps.pred[best]] = True
    unions = overlaps.unions[best].sum() + missed + overlaps.pred_sizes[~used].sum()
    return float(overlaps.shared[best].sum() / unions)


def object_overlaps(
    pred_labels: ArrayLike | Tensor, truth_labels: ArrayLike | Tensor
) -> Overlaps:
    """Count the pixels that objects of two label maps share."""
    pred, truth = as_label_pair(pred_labels, truth_labels)
    pred_names, pred_sizes = np.unique(pred[pred > 0], return_counts=True)
    truth_names, truth_sizes = np.unique(truth[truth > 0], return_counts=True)
    both = (pred > 0) & (truth > 0)
    pred_index = np.searchsorted(pred_names, pred[both])
    truth_index = np.searchsorted(truth_names, truth[both])
    columns = max(truth_names.size, 1)
    pairs, shared = np.unique(pred_index * columns + truth_index, return_counts=True)
    return Overlaps(pairs // columns, pairs % columns, shared, pred_sizes, truth_sizes)


def count_matches(
    overlaps: Overlaps, threshold: float, *, or_equal: bool = False
) -> int:
    """Return the largest number of pairs above the threshold, each object in one."""
    good = overlaps.ious > threshold
    if or_equal:
        good |= overlaps.ious == threshold
    pred, pred_index = np.unique(overlaps.pred[good], return_inverse=True)
    truth, truth_index = np.unique(overlaps.truth[good], return_inverse=True)
    if pred.size == truth.size == np.count_nonzero(good):
        return int(pred.size)  # none has a choice; above 0.5 none ever has
    table = np.zeros((pred.size, truth.size))
    table[pred_index, truth_index] = 1
    rows, columns = linear_sum_assignment(table, maximize=True)
    return int(table[rows, columns].sum())
