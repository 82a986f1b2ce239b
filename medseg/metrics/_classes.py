"""Scores of label maps, from one confusion matrix."""

from math import nan
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from medseg.checks import as_label_map


def confusion_matrix(
    pred: ArrayLike | Tensor, truth: ArrayLike | Tensor, num_classes: int
) -> NDArray[np.int64]:
    """Count pixels by reference class (row) and predicted class (column).

    Args:
        pred: Predicted labels, ``(*spatial)``, integers in ``[0, num_classes)``.
        truth: Reference labels, same shape and range.
        num_classes: Classes K, with the background.

    Returns:
        Integers ``(K, K)``; their sum is the number of pixels. A class without pixels
        has a row of zeros.

    Raises:
        TypeError: The labels are not integers.
        ValueError: The shapes differ, or a label is out of range.

    Example:
        >>> confusion_matrix([0, 1, 2, 2], [0, 1, 1, 2], num_classes=3)
        array([[1, 0, 0],
               [0, 1, 1],
               [0, 0, 1]])
    """
    pred_labels, truth_labels = as_label_pair(pred, truth)
    check_label_pair(pred_labels, truth_labels, num_classes)
    pairs = num_classes * truth_labels.ravel() + pred_labels.ravel()
    counts = np.bincount(pairs, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def dice_per_class(
    pred: ArrayLike | Tensor, truth: ArrayLike | Tensor, num_classes: int
) -> NDArray[np.float64]:
    """Dice coefficient of each class of two label maps.

    Args:
        pred: Predicted labels, ``(*spatial)``, integers in ``[0, num_classes)``.
        truth: Reference labels, same shape and range.
        num_classes: Classes K, with the background.

    Returns:
        Numbers in ``[0, 1]``, ``(K,)``; 0.0 for a class in one map only, nan for a
        class in neither. Average with ``np.nanmean``, and say how many were nan.

    Raises:
        TypeError: The labels are not integers.
        ValueError: The shapes differ, or a label is out of range.

    Source:
        dice1945measures.

    Example:
        >>> dice_per_class([0, 0, 1, 1], [0, 1, 1, 1], num_classes=3).round(3)
        array([0.667, 0.8  ,   nan])
    """
    counts = confusion_matrix(pred, truth, num_classes)
    sizes = counts.sum(axis=0) + counts.sum(axis=1)  # (K,)
    scores = np.full(num_classes, nan)
    np.divide(2 * counts.diagonal(), sizes, out=scores, where=sizes > 0)
    return scores


def iou_per_class(
    pred: ArrayLike | Tensor, truth: ArrayLike | Tensor, num_classes: int
) -> NDArray[np.float64]:
    """Intersection over union of each class of two label maps.

    Args:
        pred: Predicted labels, ``(*spatial)``, integers in ``[0, num_classes)``.
        truth: Reference labels, same shape and range.
        num_classes: Classes K, with the background.

    Returns:
        Numbers in ``[0, 1]``, ``(K,)``; 0.0 for a class in one map only, nan for a
        class in neither.

    Raises:
        TypeError: The labels are not integers.
        ValueError: The shapes differ, or a label is out of range.

    Source:
        jaccard1912distribution.

    Example:
        >>> iou_per_class([0, 0, 1, 1], [0, 1, 1, 1], num_classes=3).round(3)
        array([0.5  , 0.667,   nan])
    """
    return _iou_of_counts(confusion_matrix(pred, truth, num_classes))


class PooledScores(NamedTuple):
    """The four scores of FCN, over all pixels of all images together."""

    pixel_accuracy: float  # share of the pixels that are right
    mean_accuracy: float  # of the classes in the reference, share of their pixels found
    mean_iou: float  # over the classes in reference or prediction
    frequency_weighted_iou: float  # each class by its share of the reference's pixels


def pooled_scores(counts: ArrayLike | Tensor) -> PooledScores:
    r"""Pixel accuracy, mean accuracy, mean IoU and frequency-weighted IoU.

    With :math:`n_{ij}` pixels of class i predicted as class j, and
    :math:`t_i = \sum_j n_{ij}`:

    .. math:: \frac{\sum_i n_{ii}}{\sum_i t_i}, \quad
        \operatorname{mean}_i \frac{n_{ii}}{t_i}, \quad
        \operatorname{mean}_i \frac{n_{ii}}{t_i + \sum_j n_{ji} - n_{ii}}, \quad
        \sum_i \frac{t_i}{\sum_k t_k}
        \frac{n_{ii}}{t_i + \sum_j n_{ji} - n_{ii}}

    Pooled means that the matrices of all images are added up first, so that large
    structures and large images weigh more; one figure for a whole test set, with
    nothing to take an interval over. For patients, average scores per image.

    Args:
        counts: Sum of the `confusion_matrix` of all images, ``(K, K)``, reference
            classes in rows.

    Returns:
        Four numbers in ``[0, 1]``. A class that is neither in the reference nor
        predicted is left out of the means; one that is only predicted has an IoU of
        0.0, and no accuracy. All are nan without a pixel.

    Raises:
        TypeError: The counts are not integers.
        ValueError: The matrix is not square, or a count is negative.

    Source:
        long2015fcn, section 5.

    Example:
        >>> counts = confusion_matrix([0, 0, 1, 1], [0, 1, 1, 1], num_classes=2)
        >>> scores = pooled_scores(counts)
        >>> scores.pixel_accuracy, scores.frequency_weighted_iou  # 1/4 1/2 + 3/4 2/3
        (0.75, 0.625)
    """
    matrix = np.asarray(counts.cpu() if isinstance(counts, Tensor) else counts)
    if matrix.dtype.kind not in "ui":
        raise TypeError(f"counts must be integers, got {matrix.dtype}.")
    if matrix.size and matrix.min() < 0:
        raise ValueError(f"counts must not be negative, got {matrix.min()}.")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"counts must be a matrix (K, K), got shape {matrix.shape}. Add up what "
            "confusion_matrix returns for each image."
        )
    matrix = matrix.astype(np.int64)
    total, right, in_truth = matrix.sum(), matrix.diagonal(), matrix.sum(axis=1)
    if not total:
        return PooledScores(nan, nan, nan, nan)
    occurs = in_truth > 0
    iou = _iou_of_counts(matrix)
    return PooledScores(
        pixel_accuracy=float(right.sum() / total),
        mean_accuracy=float((right[occurs] / in_truth[occurs]).mean()),
        mean_iou=float(np.nanmean(iou)),
        frequency_weighted_iou=float((in_truth * iou)[occurs].sum() / total),
    )


def _iou_of_counts(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    unions = counts.sum(axis=0) + counts.sum(axis=1) - counts.diagonal()
    scores = np.full(len(counts), nan)
    np.divide(counts.diagonal(), unions, out=scores, where=unions > 0)
    return scores


def as_label_pair(
    pred: ArrayLike | Tensor, truth: ArrayLike | Tensor
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return two label maps of one shape as int64."""
    pred_labels, truth_labels = as_label_map(pred, "pred"), as_label_map(truth, "truth")
    check_label_pair(pred_labels, truth_labels)
    return pred_labels, truth_labels


def check_label_pair(
    pred: NDArray[Any], truth: NDArray[Any], num_classes: int | None = None
) -> None:
    """Accept label maps of one shape, with labels below ``num_classes``."""
    if pred.shape != truth.shape:
        raise ValueError(
            f"label maps differ in shape: pred {pred.shape} and truth {truth.shape}. "
            "Resize the prediction to the reference, with nearest neighbours."
        )
    if num_classes is None:
        return
    top = int(max(pred.max(), truth.max()))
    if top >= num_classes:
        raise ValueError(
            f"labels must lie in 0..{num_classes - 1} for num_classes={num_classes}, "
            f"got {top}. Count the background as a class."
        )
