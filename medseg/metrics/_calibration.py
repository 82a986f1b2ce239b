"""Calibration: whether a probability of 0.8 is right in eight cases of ten."""

from math import nan
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from medseg.checks import as_label_map


class ReliabilityTable(NamedTuple):
    """Confidence against the share that is right, in bins of confidence."""

    edges: NDArray[np.float64]  # (bins + 1,) from 0 to 1
    counts: NDArray[np.int64]  # (bins,) pixels
    confidence: NDArray[np.float64]  # (bins,) mean probability, nan in an empty bin
    frequency: NDArray[np.float64]  # (bins,) share that is right, nan in an empty bin


def reliability_table(
    probabilities: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    *,
    bins: int = 15,
    class_index: int | None = None,
    ignore_index: int | None = None,
) -> ReliabilityTable:
    """Table behind a reliability diagram.

    By default it asks of each pixel how sure the network is of the class it chooses,
    and whether that class is right. As most pixels of a medical image are background
    far from everything, easy and right, ``class_index`` tells more: how probable that
    one class is said to be, and how often it is there.

    Args:
        probabilities: ``(B, K, *spatial)`` in [0, 1], summing to 1 over K; with K = 1,
            of the foreground.
        labels: ``(B, *spatial)``, integers in ``[0, K)``; for K = 1, 0 and 1.
        bins: Number of bins of equal width; each holds its right edge.
        class_index: The class whose probability is looked at; None for the most
            probable class of each pixel.
        ignore_index: A label whose pixels are left out.

    Returns:
        `ReliabilityTable`; bins without a pixel have a count of 0, and nan.

    Raises:
        TypeError: Probabilities are not numbers, or labels not integers.
        ValueError: The shapes do not belong together, or a value is out of range.

    Source:
        guo2017calibration, section 2.

    Example:
        Four pixels; 0.9 twice, both right, and 0.6 twice, one right:

        >>> table = reliability_table([[[0.9, 0.9, 0.6, 0.6]]], [[1, 1, 1, 0]], bins=2)
        >>> table.counts, table.confidence, table.frequency
        (array([0, 4]), array([ nan, 0.75]), array([ nan, 0.75]))
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}.")
    table, truth = _as_rows(probabilities, labels, ignore_index)
    if class_index is None:
        chosen = table.argmax(axis=1)
        sure, right = table.max(axis=1, initial=0), chosen == truth
    elif 0 <= class_index < table.shape[1]:
        sure, right = table[:, class_index], truth == class_index
    else:
        raise ValueError(
            f"class_index must lie in 0..{table.shape[1] - 1}, got {class_index}."
        )
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    means = [
        np.divide(
            np.bincount(place, weights=values, minlength=bins),
            counts,
            out=np.full(bins, nan),
            where=counts > 0,
        )
        for values in (sure, right)
    ]
    return ReliabilityTable(edges, counts.astype(np.int64), *means)


def calibration_error(
    probabilities: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    *,
    bins: int = 15,
    class_index: int | None = None,
    ignore_index: int | None = None,
) -> float:
    r"""Expected calibration error (ECE), from a `reliability_table`.

    .. math:: \sum_b \frac{n_b}{n}\, |\text{frequency}_b - \text{confidence}_b|

    Depends on the number of bins, and on how much easy background is in the image.

    Args:
        probabilities: ``(B, K, *spatial)`` in [0, 1], as for `reliability_table`.
        labels: ``(B, *spatial)``, integers.
        bins: Number of bins of equal width.
        class_index: The class whose probability is looked at; None for the most
            probable class of each pixel.
        ignore_index: A label whose pixels are left out.

    Returns:
        A number in ``[0, 1]``, 0 for perfect calibration; nan when no pixel counts.

    Raises:
        TypeError: Probabilities are not numbers, or labels not integers.
        ValueError: The shapes do not belong together, or a value is out of range.

    Source:
        naeini2015calibration; guo2017calibration, section 2.

    Example:
        >>> round(calibration_error([[[0.9, 0.9]]], [[1, 0]]), 6)  # sure 0.9, right 0.5
        0.4
    """
    table = reliability_table(
        probabilities,
        labels,
        bins=bins,
        class_index=class_index,
        ignore_index=ignore_index,
    )
    total = table.counts.sum()
    if not total:
        return nan
    gaps = np.abs(table.frequency - table.confidence)
    return float(np.nansum(table.counts * gaps) / total)


def brier_score(
    probabilities: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    *,
    ignore_index: int | None = None,
) -> float:
    r"""Brier score: the mean squared error of the probabilities.

    .. math:: \frac{1}{n} \sum_i \sum_k (p_{ik} - [y_i = k])^2

    For K = 1 it is the mean of :math:`(p - y)^2`, half of what the same two classes
    give as K = 2. Lower is better; it falls with better ranking as well as with better
    calibration.

    Args:
        probabilities: ``(B, K, *spatial)`` in [0, 1], as for `reliability_table`.
        labels: ``(B, *spatial)``, integers.
        ignore_index: A label whose pixels are left out.

    Returns:
        A number in ``[0, 2]``, for K = 1 in ``[0, 1]``; nan when no pixel counts.

    Raises:
        TypeError: Probabilities are not numbers, or labels not integers.
        ValueError: The shapes do not belong together, or a value is out of range.

    Source:
        brier1950verification.

    Example:
        >>> round(brier_score([[[0.8, 0.5]]], [[1, 0]]), 6)  # (0.2^2 + 0.5^2) / 2
        0.145
    """
    table, truth = _as_rows(probabilities, labels, ignore_index)
    if not truth.size:
        return nan
    wrong = table.copy()
    wrong[np.arange(truth.size), truth] -= 1
    per_pixel = (wrong**2).sum(axis=1)
    binary = np.shape(probabilities)[1] == 1
    return float(per_pixel.mean() / (2 if binary else 1))


def negative_log_likelihood(
    probabilities: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    *,
    ignore_index: int | None = None,
) -> float:
    r"""Mean of :math:`-\log p` of the true class, in nats: the cross entropy.

    Args:
        probabilities: ``(B, K, *spatial)`` in [0, 1], as for `reliability_table`.
        labels: ``(B, *spatial)``, integers.
        ignore_index: A label whose pixels are left out.

    Returns:
        A number from 0 upwards; inf when a true class has a probability of 0, nan when
        no pixel counts.

    Raises:
        TypeError: Probabilities are not numbers, or labels not integers.
        ValueError: The shapes do not belong together, or a value is out of range.

    Example:
        >>> round(negative_log_likelihood([[[0.8, 0.5]]], [[1, 0]]), 4)
        0.4581
    """
    table, truth = _as_rows(probabilities, labels, ignore_index)
    if not truth.size:
        return nan
    with np.errstate(divide="ignore"):
        return float(-np.log(table[np.arange(truth.size), truth]).mean())


def _as_rows(
    probabilities: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    ignore_index: int | None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return probabilities ``(pixels, K)``, K at least 2, and labels ``(pixels,)``."""
    if isinstance(probabilities, Tensor):  # bfloat16 is unknown to NumPy
        probabilities = probabilities.detach().double().cpu()
    values = np.asarray(probabilities)
    if values.dtype.kind not in "buif":
        raise TypeError(f"probabilities must hold numbers, got {values.dtype}.")
    if values.ndim < 3:
        raise ValueError(
            f"probabilities must have shape (B, K, *spatial), got {values.shape}."
        )
    truth = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    expected = (values.shape[0], *values.shape[2:])
    if truth.shape != expected:
        raise ValueError(
            f"labels have shape {truth.shape}, but probabilities {values.shape} need "
            f"labels of shape {expected}: one class index per pixel, no channel axis."
        )
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"probabilities must lie in [0, 1], got values from {values.min()} to "
            f"{values.max()}. Put logits through softmax, or sigmoid for K = 1."
        )
    counted = (
        np.ones(truth.shape, bool) if ignore_index is None else truth != ignore_index
    )
    table = np.moveaxis(values, 1, -1)[counted].astype(np.float64)
    if values.shape[1] == 1:
        table = np.concatenate([1 - table, table], axis=1)
    elif np.abs(table.sum(axis=1) - 1).max(initial=0) > 0.01:
        raise ValueError(
            "probabilities must sum to 1 over the K classes, to within 0.01. Put "
            "logits through softmax; score classes that overlap one by one, as K = 1."
        )
    kept = truth[counted]
    if not kept.size:
        return table, np.zeros(0, dtype=np.int64)
    kept = as_label_map(kept)
    if kept.max() >= table.shape[1]:
        raise ValueError(
            f"labels must lie in 0..{table.shape[1] - 1} for probabilities with K = "
            f"{values.shape[1]}, got {kept.max()}. A void label is given as "
            "ignore_index."
        )
    return table, kept
