"""Tests of two models on the same patients, and the correction for many of them."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from medseg.checks import check_choice
from medseg.statistics._intervals import (
    Groups,
    as_groups,
    as_score_pair,
    group_sums,
)

ALTERNATIVES = ("two-sided", "greater", "less")
_EXACT_FLIPS = 16  # up to 2**16 ways of flipping, all of them are counted
_EXACT_RANKS = 200  # beyond, the normal curve is as good, and quicker


class PairedTest(NamedTuple):
    """What a test of two models gives."""

    statistic: float  # mean difference, or sum of the positive ranks
    p_value: float
    patients: int  # that were compared
    undefined: int  # pairs of images with a nan, left out
    method: str  # "exact", "20000 random flips" or "normal approximation"


def permutation_test(
    a: ArrayLike,
    b: ArrayLike,
    groups: Groups | None = None,
    *,
    alternative: str = "two-sided",
    resamples: int = 20_000,
    seed: int = 0,
) -> PairedTest:
    """Sign-flip test of the mean difference of two models, over patients.

    If the models were alike, swapping their names on a patient would change nothing
    but the sign of that patient's differences. So each patient's sign is flipped or
    kept, all images of the patient together, and the p-value is the share of these
    outcomes with a mean difference at least as large as the one seen. With at most 16
    patients all outcomes are counted; with more, ``resamples`` are drawn at random, and
    the one seen counts as one of them, so that p is never 0.

    It tests the very number that is reported, the mean difference over images, and
    assumes nothing of its distribution but that symmetry. With 5 patients the least
    two-sided p-value is 2 / 32: no result can be below 0.05.

    Args:
        a: Scores of one model, ``(n,)``; nan where undefined.
        b: Scores of the other on the same images, in the same order.
        groups: The patient of each image; None if each is a patient of its own.
        alternative: ``"two-sided"``; ``"greater"`` or ``"less"`` to ask whether ``a``
            is larger or smaller, decided before looking.
        resamples: Random outcomes where there are too many to count.
        seed: The same seed draws the same ones.

    Returns:
        Statistic is the mean of ``a - b``. Pairs with a nan are left out and counted;
        statistic and p-value are nan when none is left. p is 1 for equal scores.

    Raises:
        TypeError: The scores are not numbers.
        ValueError: Lengths differ, a score is infinite, or an option is out of range.

    Source:
        fisher1935design, section 21.

    Example:
        Better on each of five patients: of the 32 outcomes, this and its mirror image.

        >>> permutation_test([8, 9, 7, 9, 8], [7, 7, 6, 5, 7]).p_value
        0.0625
    """
    check_choice(alternative, "alternative", ALTERNATIVES)
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}.")
    difference, names, undefined = _pairs(a, b, groups)
    if difference.size == 0:
        return PairedTest(np.nan, np.nan, 0, undefined, "no pair")
    sums, _ = group_sums(difference, names)
    observed, slack = sums.sum(), 1e-12 * np.abs(sums).sum()  # for rounding
    n = sums.size
    exact = n <= _EXACT_FLIPS
    outcomes = 2**n if exact else resamples
    rng = np.random.default_rng(seed)
    block = 1 + 2_000_000 // n  # rows at a time, to bound the memory
    extreme = 0 if exact else 1
    for start in range(0, outcomes, block):
        rows = np.arange(start, min(start + block, outcomes))
        flips: NDArray[Any]
        if exact:
            flips = (rows[:, None] >> np.arange(n)) & 1
        else:
            drawn = rng.integers(256, size=(rows.size, -(-n // 8)), dtype=np.uint8)
            flips = np.unpackbits(drawn, axis=1, count=n)  # eight from each byte
        totals = observed - 2 * (flips @ sums)
        if alternative == "two-sided":
            extreme += int((np.abs(totals) >= abs(observed) - slack).sum())
        elif alternative == "greater":
            extreme += int((totals >= observed - slack).sum())
        else:
            extreme += int((totals <= observed + slack).sum())
    return PairedTest(
        float(difference.mean()),
        extreme / (outcomes if exact else outcomes + 1),
        n,
        undefined,
        "exact" if exact else f"{resamples} random flips",
    )


def wilcoxon_test(
    a: ArrayLike,
    b: ArrayLike,
    groups: Groups | None = None,
    *,
    alternative: str = "two-sided",
) -> PairedTest:
    """Wilcoxon's signed-rank test of two models on the same patients.

    The differences, averaged over the images of each patient, are ranked by size; the
    statistic is the sum of the ranks of the positive ones. A single disaster counts no
    more than the largest rank: the test asks whether one model is *usually* better,
    while :func:`permutation_test` asks about the mean.

    Up to 200 patients the p-value is exact, with ties too: tied sizes share their mean
    rank, and all ways of giving signs to these ranks are counted. Beyond that it comes
    from the normal curve with the mean and the variance of these ways. Patients with a
    difference of 0 are left out, as Wilcoxon did.

    Args:
        a: Scores of one model, ``(n,)``; nan where undefined.
        b: Scores of the other on the same images, in the same order.
        groups: The patient of each image; None if each is a patient of its own.
        alternative: ``"two-sided"``; ``"greater"`` or ``"less"`` to ask whether ``a``
            is larger or smaller, decided before looking.

    Returns:
        Pairs with a nan are left out and counted; statistic and p-value are nan when
        none is left. p is 1 when all differences are 0.

    Raises:
        TypeError: The scores are not numbers.
        ValueError: Lengths differ, a score is infinite, or an option is unknown.

    Source:
        wilcoxon1945individual.

    Example:
        Differences of 3, -1 and 2: the positive ranks, 3 and 2, sum to 5. Of the 8 ways
        to give signs, those with sums of 0, 1, 5 and 6 are as far from the middle.

        >>> wilcoxon_test([8, 4, 7], [5, 5, 5])[:2]
        (5.0, 0.5)
    """
    check_choice(alternative, "alternative", ALTERNATIVES)
    difference, names, undefined = _pairs(a, b, groups)
    if difference.size == 0:
        return PairedTest(np.nan, np.nan, 0, undefined, "no pair")
    sums, counts = group_sums(difference, names)
    means = sums / counts
    # Sizes that differ by rounding alone, as 0.9 - 0.8 and 0.8 - 0.7 do, are ties.
    means = (means / (np.abs(means).max() or 1.0)).round(12)
    means = means[means != 0]
    if means.size == 0:
        return PairedTest(0.0, 1.0, counts.size, undefined, "exact")
    ranks = _mean_ranks(np.abs(means))
    positive = float(ranks[means > 0].sum())
    if means.size <= _EXACT_RANKS:
        p_value, method = _signed_rank_p(ranks, positive, alternative), "exact"
    else:
        z = (positive - ranks.sum() / 2) / (0.5 * np.sqrt((ranks**2).sum()))
        tail = {"two-sided": -abs(z), "greater": -z, "less": z}[alternative]
        p_value = float(special.ndtr(tail)) * (2 if alternative == "two-sided" else 1)
        method = "normal approximation"
    return PairedTest(positive, p_value, counts.size, undefined, method)


def adjust_p_values(
    p_values: ArrayLike, *, method: str = "holm"
) -> NDArray[np.float64]:
    r"""Correct p-values for the number of tests.

    Of 20 tests where there is nothing to find, one is below 0.05 on average. With the
    p-values in ascending order, :math:`p_{(1)} \le \dots \le p_{(m)}`, the adjusted
    ones are

    .. math:: \text{Holm: } \max_{j \le i}\, (m - j + 1)\, p_{(j)}, \qquad
        \text{Benjamini-Hochberg: } \min_{j \ge i}\, \frac{m}{j}\, p_{(j)}

    and at most 1. Below 0.05 after Holm: the chance of even one false claim is at most
    0.05, however the tests depend on each other. After Benjamini and Hochberg: of the
    claims made, at most 5 % are false on average, for tests that are independent or
    depend on each other positively, as the scores of one set of patients mostly do.

    Args:
        p_values: Of any shape; nan for tests that could not be done, which do not
            count.
        method: ``"holm"`` or ``"benjamini-hochberg"``.

    Returns:
        Adjusted p-values in the same order and shape; nan where there was nan.

    Raises:
        TypeError: ``p_values`` are not numbers.
        ValueError: A p-value is not in [0, 1], or the method is unknown.

    Source:
        holm1979simple, benjamini1995controlling.

    Example:
        >>> adjust_p_values([0.01, 0.04, 0.03])  # 3 * 0.01, then 2 * 0.03, then 0.06
        array([0.03, 0.06, 0.06])
        >>> adjust_p_values([0.01, 0.04, 0.03], method="benjamini-hochberg")
        array([0.03, 0.04, 0.04])
    """
    check_choice(method, "method", ("holm", "benjamini-hochberg"))
    given = np.asarray(p_values)
    if given.dtype.kind not in "buif":
        raise TypeError(f"p_values must be numbers, got {given.dtype}.")
    adjusted = given.astype(np.float64)
    done = ~np.isnan(adjusted)
    values = adjusted[done]
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"p_values must lie in [0, 1], got values from {values.min()} to "
            f"{values.max()}."
        )
    m = values.size
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    if method == "holm":
        ordered = np.maximum.accumulate((m - np.arange(m)) * ordered)
    else:
        scaled = m / np.arange(1, m + 1) * ordered
        ordered = np.minimum.accumulate(scaled[::-1])[::-1]
    values[order] = np.minimum(ordered, 1)
    adjusted[done] = values
    return adjusted


def _pairs(
    a: ArrayLike, b: ArrayLike, groups: Groups | None
) -> tuple[NDArray[np.float64], NDArray[np.generic], int]:
    """Defined differences, the patient of each, and the number of undefined ones."""
    first, second = as_score_pair(a, b)
    names = as_groups(groups, first.size)
    difference = first - second
    defined = ~np.isnan(difference)
    return difference[defined], names[defined], int((~defined).sum())


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def _signed_rank_p(
    ranks: NDArray[np.float64], positive: float, alternative: str
) -> float:
    """Share of all ways to give signs whose positive ranks are as extreme.

    Twice a mean rank is an integer, so the sums of chosen ranks can be counted one
    rank after the other: with this rank, or without.
    """
    doubled = np.round(2 * ranks).astype(int)
    chance = np.ones(1)  # chance[s]: that the ranks so far sum to s
    for rank in doubled:
        without, chosen = np.pad(chance, (0, rank)), np.pad(chance, (rank, 0))
        chance = (without + chosen) / 2
    sums, seen = np.arange(chance.size), round(2 * positive)
    if alternative == "greater":
        extreme = sums >= seen
    elif alternative == "less":
        extreme = sums <= seen
    else:
        middle = (chance.size - 1) / 2
        extreme = np.abs(sums - middle) >= abs(seen - middle)
    return min(1.0, float(chance[extreme].sum()))
