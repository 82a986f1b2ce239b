"""Scores of label maps, from one confusion matrix."""

from math import nan
from typing import Any

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
