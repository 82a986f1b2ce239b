"""Lesions found and false alarms: scores of connected components."""

from collections.abc import Sequence
from math import nan
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from torch import Tensor

from medseg.checks import as_mask, as_mask_pair, check_choice
from medseg.metrics._instances import count_matches, object_overlaps
from medseg.metrics._overlap import ratio

Connectivity = Literal["corners", "faces"]

#: False positives per scan at which a FROC curve is read.
FROC_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


class LesionScores(NamedTuple):
    """Lesions of one case: what was found, missed and invented."""

    num_lesions: int  # components of the reference
    found: int  # of them
    num_predicted: int  # components of the prediction
    false_positives: int  # of them
    sensitivity: float  # found / num_lesions
    precision: float  # right / num_predicted


def lesion_scores(
    pred: ArrayLike | Tensor,
    truth: ArrayLike | Tensor,
    *,
    rule: Literal["any_voxel", "share", "iou"] = "any_voxel",
    minimum: float = 0.5,
    connectivity: Connectivity = "corners",
) -> LesionScores:
    """Lesion-wise sensitivity, and false positives, by connected components.

    Every component of the reference is a lesion, however small, and counts the same.
    When one is found, there are three rules; name the one that you used:

    - ``any_voxel``: one of its voxels is predicted. A predicted component is a false
      positive when it touches no lesion.
    - ``share``: at least the share ``minimum`` of its voxels are predicted. A predicted
      component is a false positive when less than that share of it lies in lesions.
    - ``iou``: it is paired with a predicted component at an IoU of at least
      ``minimum``, each in one pair only. What is not paired is a false positive.

    Args:
        pred: Predicted mask, ``(H, W)`` or ``(D, H, W)``: booleans, or 0 and 1.
        truth: Reference mask, same shape.
        rule: One of the three above.
        minimum: For ``share`` and ``iou``, in (0, 1].
        connectivity: ``corners``: voxels that touch at a corner are one component, 8
            neighbours in 2D and 26 in 3D. ``faces``: 4 and 6.

    Returns:
        `LesionScores`. Sensitivity is nan without a lesion in the reference. Precision
        is 0.0 when lesions were missed and nothing is predicted, nan when there are
        neither.

    Raises:
        TypeError: The values are not numbers.
        ValueError: The shapes differ, there are values other than 0 and 1, or an option
            is none of those above.

    Example:
        >>> scores = lesion_scores([[0, 1, 0, 0, 0, 1]], [[1, 1, 0, 1, 0, 0]])
        >>> scores.found, scores.false_positives, scores.sensitivity
        (1, 1, 0.5)
    """
    check_choice(rule, "rule", ["any_voxel", "share", "iou"])
    if not 0 < minimum <= 1:
        raise ValueError(f"minimum must lie in (0, 1], got {minimum}.")
    pred, truth = as_mask_pair(pred, truth)
    predicted, num_predicted = _components(pred, connectivity)
    lesions, num_lesions = _components(truth, connectivity)
    if rule == "iou":
        found = right = count_matches(
            object_overlaps(predicted, lesions), minimum, or_equal=True
        )
    else:
        share = minimum if rule == "share" else 0.0
        found = _count_covered(lesions, num_lesions, pred, share)
        right = _count_covered(predicted, num_predicted, truth, share)
    if num_predicted == 0:
        precision = 0.0 if num_lesions else nan
    else:
        precision = right / num_predicted
    return LesionScores(
        num_lesions=num_lesions,
        found=found,
        num_predicted=num_predicted,
        false_positives=num_predicted - right,
        sensitivity=ratio(found, num_lesions),
        precision=precision,
    )


class Candidates(NamedTuple):
    """Detections in one scan, as a FROC curve needs them."""

    lesion_scores: NDArray[np.float64]  # (lesions,) best score that hits it, or -inf
    false_scores: NDArray[np.float64]  # (false candidates,) score of each


def lesion_candidates(
    probability: ArrayLike | Tensor,
    truth: ArrayLike | Tensor,
    *,
    threshold: float = 0.5,
    connectivity: Connectivity = "corners",
) -> Candidates:
    """Take the components of a probability map as candidates, for `froc`.

    A candidate is a component of ``probability > threshold``, and its score the largest
    probability in it. It hits each lesion that it shares a voxel with; one that hits
    none is false. With a low threshold components run together, and with a high one
    faint lesions have no candidate: choose it on the validation set.

    Args:
        probability: Of the lesion class, in [0, 1], ``(H, W)`` or ``(D, H, W)``.
        truth: Reference mask, same shape: booleans, or 0 and 1.
        threshold: In [0, 1).
        connectivity: ``corners`` or ``faces``, as in `lesion_scores`.

    Returns:
        `Candidates`; a lesion without a candidate has the score -inf.

    Raises:
        TypeError: The values are not numbers.
        ValueError: The shapes differ, or a value is out of range.

    Example:
        >>> lesion_candidates([[0.9, 0.7, 0.0, 0.6]], [[0, 1, 0, 0]])
        Candidates(lesion_scores=array([0.9]), false_scores=array([0.6]))
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must lie in [0, 1), got {threshold}.")
    mask = as_mask(truth, "truth")
    scores = as_probability_map(probability, mask.shape)
    found, num_found = _components(scores > threshold, connectivity)
    lesions, num_lesions = _components(mask, connectivity)
    best = np.full(num_found + 1, -np.inf)
    np.maximum.at(best, found.ravel(), scores.ravel())
    both = (found > 0) & mask
    per_lesion = np.full(num_lesions + 1, -np.inf)
    np.maximum.at(per_lesion, lesions[both], best[found[both]])
    hits = np.zeros(num_found + 1, dtype=bool)
    hits[found[both]] = True
    return Candidates(per_lesion[1:], best[1:][~hits[1:]])


class Froc(NamedTuple):
    """A free-response curve: sensitivity against false positives per scan."""

    average: float  # mean of at_rates
    at_rates: NDArray[np.float64]  # (rates,) sensitivity
    thresholds: NDArray[np.float64]  # (n,) of the score, falling
    false_positives: NDArray[np.float64]  # (n,) per scan, rising
    sensitivity: NDArray[np.float64]  # (n,) rising


def froc(cases: Sequence[Candidates], *, rates: Sequence[float] = FROC_RATES) -> Froc:
    """FROC curve over scans, and its average sensitivity at rates of false positives.

    At each score, the candidates with at least that score count: sensitivity is the
    share of all lesions of all scans that are hit, and false positives are counted per
    scan, those without a lesion among them. The sensitivity at a rate is the largest
    on the curve with no more false positives than that; the script of LUNA16
    interpolates between the points of the curve instead.

    Args:
        cases: The `lesion_candidates` of each scan.
        rates: False positives per scan at which the curve is read.

    Returns:
        `Froc`. Sensitivities are nan when no scan has a lesion; 0.0 at a rate that the
        highest score already exceeds.

    Raises:
        ValueError: There is no scan, or a rate is negative.

    Source:
        setio2017luna.

    Example:
        Two scans and three lesions, one of them without a candidate:

        >>> scans = [Candidates(np.array([0.9, -np.inf]), np.array([0.7])),
        ...          Candidates(np.array([0.6]), np.array([]))]
        >>> froc(scans, rates=[0.25, 0.5]).at_rates.round(3)
        array([0.333, 0.667])
    """
    if not cases:
        raise ValueError("froc needs the candidates of at least one scan, got none.")
    cuts = np.asarray(rates, dtype=np.float64)
    if cuts.ndim != 1 or not cuts.size or not (cuts >= 0).all():
        raise ValueError(
            "rates must be one or more false positives per scan, not negative, got "
            f"{cuts.tolist()}."
        )
    hits = np.sort(np.concatenate([case.lesion_scores for case in cases]))
    alarms = np.sort(np.concatenate([case.false_scores for case in cases]))
    thresholds = np.unique(np.concatenate([hits, alarms]))[::-1]
    thresholds = thresholds[thresholds > -np.inf]
    false = (alarms.size - np.searchsorted(alarms, thresholds)) / len(cases)
    if not hits.size:
        undefined = np.full(thresholds.size, nan)
        return Froc(nan, np.full(cuts.size, nan), thresholds, false, undefined)
    found = (hits.size - np.searchsorted(hits, thresholds)) / hits.size
    allowed = np.searchsorted(false, cuts, side="right")  # points of the curve
    at_rates = np.concatenate([[0.0], found])[allowed]
    return Froc(float(at_rates.mean()), at_rates, thresholds, false, found)


def as_probability_map(
    probability: ArrayLike | Tensor, shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Return probabilities of a shape as float64."""
    if isinstance(probability, Tensor):  # bfloat16 is unknown to NumPy
        probability = probability.detach().double().cpu()
    values = np.asarray(probability)
    if values.dtype.kind not in "buif":
        raise TypeError(f"probability must hold numbers, got {values.dtype}.")
    if values.shape != shape:
        raise ValueError(
            f"probability has shape {values.shape}, and truth {shape}. Take the "
            "channel of one class, and one image."
        )
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"probability must lie in [0, 1], got values from {values.min()} to "
            f"{values.max()}. Put logits through a sigmoid."
        )
    return values.astype(np.float64)


def _components(
    mask: NDArray[np.bool_], connectivity: str
) -> tuple[NDArray[np.int64], int]:
    check_choice(connectivity, "connectivity", ["corners", "faces"])
    rank = mask.ndim if connectivity == "corners" else 1
    structure = ndimage.generate_binary_structure(mask.ndim, rank)
    labels, count = ndimage.label(mask, structure)
    return labels.astype(np.int64), int(count)


def _count_covered(
    components: NDArray[np.int64],
    count: int,
    mask: NDArray[np.bool_],
    share: float,
) -> int:
    """Count components with a voxel, and at least this share, in the mask."""
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
    inside = np.bincount(components[mask], minlength=count + 1)[1:]
    return int(((inside > 0) & (inside >= share * sizes)).sum())
