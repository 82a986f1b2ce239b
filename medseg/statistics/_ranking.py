"""Ranking models, with how safe each rank is."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg.statistics._intervals import (
    Groups,
    as_groups,
    as_scores,
    check_level,
    group_sums,
)


class RankedModel(NamedTuple):
    """One line of a ranking."""

    name: str
    mean: float  # over the images that all models have a score for
    rank: float  # 1 is best; models with the same mean share their mean rank
    low: float  # the rank's interval over drawn patients
    high: float
    first: float  # share of the drawn sets of patients in which it is (or shares) first


def rank_models(
    scores: Mapping[str, ArrayLike],
    groups: Groups | None = None,
    *,
    higher_is_better: bool = True,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> list[RankedModel]:
    """Rank models by their mean score, and see how the ranks hold for other patients.

    The ranks of a challenge often change with a few other test cases. So patients are
    drawn with replacement, as in :func:`bootstrap_interval`, the same for all models,
    and the models are ranked anew each time. A winner who is first in 0.6 of the draws
    is not much of a winner.

    Args:
        scores: For each model its scores on the same images, ``(n,)``. Missed
            structures should have a score; an image without a score (nan) for one
            model is left out for all.
        groups: The patient of each image; None if each is a patient of its own.
        higher_is_better: False for distances and errors.
        level: Coverage of the interval of a rank.
        resamples: How often patients are drawn.
        seed: The same seed gives the same ranking.

    Returns:
        The models, best first. Intervals and shares are nan with fewer than two
        patients.

    Raises:
        TypeError: Scores are not numbers.
        ValueError: There is no model, lengths differ, no image has a score from all
            models, or an option is out of range.

    Source:
        maierhein2018rankings shows how unstable ranks are.

    Example:
        A is better on each of three patients, so it is first whoever is drawn:

        >>> rank_models({"A": [0.9, 0.8, 0.9], "B": [0.7, 0.6, 0.8]})[0][2:]
        (1.0, 1.0, 1.0, 1.0)
    """
    if not scores:
        raise ValueError("scores is empty: give at least one model.")
    check_level(level)
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}.")
    columns = {name: as_scores(values, f"{name!r}") for name, values in scores.items()}
    lengths = {name: column.size for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"the models have different numbers of scores, {lengths}: give all of them "
            "the same images, in the same order."
        )
    table = np.stack(list(columns.values()), axis=1)  # (n, models)
    names = as_groups(groups, len(table))
    defined = ~np.isnan(table).any(axis=1)
    if not defined.any():
        raise ValueError("no image has a score from every model: nothing to rank.")
    table, names = table[defined], names[defined]
    means = table.mean(axis=0)
    ranks, _ = _ranks(means, higher_is_better)
    per_model = [group_sums(column, names) for column in table.T]
    sums = np.stack([total for total, _ in per_model])  # (models, groups)
    counts = per_model[0][1]  # (groups,)
    n = counts.size
    low, high, first = np.full((3, len(columns)), np.nan)
    if n > 1:
        rng = np.random.default_rng(seed)
        # How often each patient is drawn, in place of who is: (resamples, groups).
        weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples)
        drawn = (weights @ sums.T) / (weights @ counts)[:, None]  # (resamples, models)
        drawn_ranks, best = _ranks(drawn, higher_is_better)
        low, high = np.quantile(drawn_ranks, [(1 - level) / 2, (1 + level) / 2], axis=0)
        first = best.mean(axis=0)
    lines = zip(columns, means, ranks, low, high, first, strict=True)
    ranked = [RankedModel(name, *map(float, rest)) for name, *rest in lines]
    return sorted(ranked, key=lambda line: line.rank)


def _ranks(
    means: NDArray[np.float64], higher_is_better: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Ranks along the last axis, shared by equal means, and who is first."""
    means = means.round(12)  # equal but for rounding
    one, other = means[..., :, None], means[..., None, :]
    ahead = (other > one if higher_is_better else other < one).sum(axis=-1)
    equal = (other == one).sum(axis=-1)  # itself among them
    return 1 + ahead + (equal - 1) / 2, ahead == 0
