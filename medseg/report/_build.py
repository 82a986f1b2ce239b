"""Scoring cases into a report."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from medseg.checks import check_choice
from medseg.report._cases import (
    FROM_COUNTS,
    METRICS,
    Case,
    Counts,
    Definition,
    ScoredCase,
    overlap,
    score_case,
)
from medseg.report._report import MEAN, Report, Settings, shorten
from medseg.statistics import bootstrap_interval


def report(
    cases: Iterable[Case],
    num_classes: int,
    *,
    names: Sequence[str] = (),
    metrics: Sequence[str] | None = None,
    tolerance: float | Sequence[float] | None = None,
    definition: Definition = "directed_max",
    missed: float | Literal["diagonal"] = "diagonal",
    absent: Literal["undefined", "perfect"] = "undefined",
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    method: Literal["percentile", "bca"] = "percentile",
    progress: bool = True,
) -> Report:
    """Score all cases, and say how sure the means are and what was missed.

    Cases are taken one after the other and not kept: a generator that reads each from
    its files needs memory for one.

    A structure that is in one mask alone is never dropped: its overlap is 0, and its
    distance, which has no value, is what ``missed`` says. By default that is the
    diagonal of the image in mm, which no true distance exceeds; it depends on the field
    of view, so give mm where fields differ. The report states the rule.

    Args:
        cases: :class:`Case` records, or tuples in its order; each name occurs once.
        num_classes: Classes K, with the background, which is not scored. 1, like 2, for
            masks of 0 and 1.
        names: Of the classes, the background first, K of them (two for K = 1).
        metrics: Keys of ``METRICS``. None for Dice, IoU, sensitivity, precision, HD95,
            ASSD and, where there is a tolerance, surface Dice.
        tolerance: In mm, for surface Dice: one, or one for each foreground class. It
            has no default: 1 mm is strict in CT of the abdomen, and lax in microscopy.
        definition: Of the Hausdorff distances: ``"directed_max"``, ``"pooled"``, or
            ``"area_weighted"``, which measures all distances on surface elements; see
            :func:`medseg.metrics.hausdorff_distance`.
        missed: Distance of a structure that is missed or invented: ``"diagonal"``, or a
            number of mm.
        absent: Score of a structure that is in neither mask. ``"undefined"``: nan,
            left out of means and counted. ``"perfect"``: overlap 1 and distance 0, as
            some challenges have it.
        level: As for :func:`medseg.statistics.bootstrap_interval`, like the next three.
        resamples: How often patients are drawn.
        seed: Of the draws.
        method: ``"percentile"`` or ``"bca"``.
        progress: Show a bar when it takes more than a second.

    Returns:
        A :class:`Report`. Means are over cases; the interval draws whole patients.

    Raises:
        TypeError: A record is no case, or its labels are no integers. Like all errors
            in a case, it names the case.
        ValueError: There are no cases, a name occurs twice, some cases name a patient
            and others do not, shapes or numbers of axes differ, a label is outside
            ``[0, K)``, a spacing has another length or is not positive, or an option is
            out of range.

    Example:
        Three pixels found of four, then a miss: a mean Dice of (6 / 7 + 0) / 2.

        >>> mask, nothing = [[1, 1, 1, 1]], [[0, 0, 0, 0]]
        >>> found = report(
        ...     [
        ...         Case("a", [[1, 1, 1, 0]], mask, spacing=(1, 1)),
        ...         Case("b", nothing, mask, spacing=(1, 1)),
        ...     ],
        ...     num_classes=2, names=("background", "vessel"), metrics=["dice", "hd"],
        ... )
        >>> print(found)
        2 cases of 2 patients. Mean over cases, 95 % bootstrap interval over
        patients; pooled: all pixels of all cases counted together.
        <BLANKLINE>
        Dice     mean        interval  median  pooled  n  undefined  worst case
        vessel  0.429  [0.000, 0.857]   0.429   0.545  2          0           b
        <BLANKLINE>
        HD [mm]  mean      interval  median  n  undefined  worst case
        vessel   2.56  [1.00, 4.12]    2.56  2          0           b
        <BLANKLINE>
        structures  both  missed  invented  absent
        vessel         1       1         0       0
        <BLANKLINE>
        Missed or invented: overlap 0, distance the diagonal of the image.
        ...
    """
    classes = _class_names(num_classes, names)
    tolerances = _as_tolerances(tolerance, len(classes))
    chosen = _as_metrics(metrics, tolerances)
    check_choice(definition, "definition", get_args(Definition))
    check_choice(absent, "absent", ("undefined", "perfect"))
    check_choice(method, "method", ("percentile", "bca"))
    if missed != "diagonal" and not (
        isinstance(missed, int | float) and 0 < missed < np.inf
    ):
        raise ValueError(
            f"missed must be 'diagonal' or a positive number of mm, got {missed!r}."
        )
    settings = Settings(
        num_classes,
        missed,
        absent,
        tolerances,
        definition,
        level,
        resamples,
        seed,
        method,
    )
    bootstrap_interval([0.0], level=level, resamples=resamples)  # checks both
    patients: dict[str, str | None] = {}  # by the name of the case
    scored: list[ScoredCase] = []
    bar = tqdm(cases, desc="scoring", delay=1, leave=False, disable=not progress)
    for given in bar:
        case = _as_case(given, patients)
        try:
            one = score_case(case, num_classes, chosen, tolerances, definition)
            _check_same_kind(one, scored)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"case {case.name!r}: {error}") from error
        scored.append(one)
        patients[case.name] = case.patient
    if not scored:
        raise ValueError("cases is empty: give at least one case to report on.")
    return Report(
        tuple(patients),
        _as_patients(patients),
        classes,
        chosen,
        _scores(scored, chosen, missed, absent),
        _stack(scored),
        tuple(one.spacing for one in scored),
        settings,
        _sum_bins(scored),
    )


# The door.


def _class_names(num_classes: int, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(num_classes, bool) or not isinstance(num_classes, int | np.integer):
        raise TypeError(
            f"num_classes must be an integer, got {type(num_classes).__name__}."
        )
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
    total = max(num_classes, 2)
    if not names:
        return tuple(f"class {k}" for k in range(1, total))
    if isinstance(names, str) or len(names) != total:
        raise ValueError(
            f"names must be {total} names, the background first, got {names!r}."
        )
    chosen = tuple(str(name) for name in names[1:])
    if len(set(chosen)) < len(chosen) or MEAN in chosen:
        raise ValueError(
            f"names must differ from each other and from {MEAN!r}, got {names!r}."
        )
    return chosen


def _as_tolerances(
    tolerance: float | Sequence[float] | None, classes: int
) -> tuple[float, ...] | None:
    if tolerance is None:
        return None
    given = np.asarray(tolerance, dtype=float)
    if given.shape not in ((), (classes,)) or not (
        np.isfinite(given).all() and (given >= 0).all()
    ):
        raise ValueError(
            "tolerance must be one number of mm, 0 or more, or one for each of the "
            f"{classes} foreground class(es), got {tolerance!r}."
        )
    return tuple(np.broadcast_to(given, classes).tolist())


def _as_metrics(
    metrics: Sequence[str] | None, tolerances: tuple[float, ...] | None
) -> tuple[str, ...]:
    usual = ("dice", "iou", "sensitivity", "precision", "hd95", "assd")
    if metrics is None:
        return usual if tolerances is None else (*usual, "surface_dice")
    if isinstance(metrics, str) or not metrics:
        raise ValueError(f"metrics must be a list of names, got {metrics!r}.")
    for name in metrics:
        check_choice(name, "each of metrics", tuple(METRICS))
    if "surface_dice" in metrics and tolerances is None:
        raise ValueError(
            "surface_dice needs a tolerance in mm: what the border's own uncertainty "
            "is, such as the distance between two experts."
        )
    return tuple(dict.fromkeys(metrics))


def _as_case(given: Any, before: Mapping[str, str | None]) -> Case:
    number = len(before)
    if not isinstance(given, Case):
        if not isinstance(given, tuple | list) or not 4 <= len(given) <= 6:
            raise TypeError(
                f"cases[{number}] must be a Case(name, pred, truth, spacing), got "
                f"{type(given).__name__}."
            )
        given = Case(*given)
    if not isinstance(given.name, str) or not given.name:
        raise TypeError(
            f"cases[{number}] must have a name, a string, got {given.name!r}."
        )
    if given.name in before:
        raise ValueError(
            f"case {given.name!r} occurs twice: names tell cases apart. Join patient "
            "and scan, such as 'patient 7, scan 2'."
        )
    if given.patient is not None and (
        not isinstance(given.patient, str) or not given.patient
    ):
        raise TypeError(
            f"case {given.name!r}: patient must be a name, a string, or None, got "
            f"{given.patient!r}."
        )
    return given


def _check_same_kind(one: ScoredCase, before: Sequence[ScoredCase]) -> None:
    if before and one.ndim != before[0].ndim:
        raise ValueError(
            f"it has {one.ndim} axes, and the cases before it {before[0].ndim}. Report "
            "on images and volumes apart."
        )
    if before and (one.spacing is None) != (before[0].spacing is None):
        raise ValueError(
            "spacing is given for some cases and not for others. Give all or none."
        )
    if before and (one.bins is None) != (before[0].bins is None):
        raise ValueError(
            "probability is given for some cases and not for others: calibration "
            "would be that of a part. Give all or none."
        )


def _as_patients(patients: Mapping[str, str | None]) -> tuple[str, ...]:
    missing = [name for name, patient in patients.items() if patient is None]
    if missing and len(missing) < len(patients):
        raise ValueError(
            f"{len(missing)} of {len(patients)} cases name no patient: "
            f"{shorten(missing)}. Name the patient of all cases, or of none where each "
            "is a patient of its own."
        )
    return tuple(patient or name for name, patient in patients.items())


# From cases to arrays.


def _stack(scored: Sequence[ScoredCase]) -> Counts:
    return Counts(*(np.stack(c) for c in zip(*(s.counts for s in scored), strict=True)))


def _scores(
    scored: Sequence[ScoredCase],
    metrics: Sequence[str],
    missed: float | str,
    absent: str,
) -> dict[str, NDArray[np.float64]]:
    """Scores ``(N, M)`` of each metric, with the rules for missed and absent."""
    counts = _stack(scored)
    nowhere = counts.tp + counts.fp + counts.fn == 0  # (N, M)
    worst = np.array([s.diagonal if missed == "diagonal" else missed for s in scored])
    scores = {}
    for metric in metrics:
        if metric in FROM_COUNTS:
            values = overlap(metric, counts)
        else:
            values = np.stack([one.surfaces[metric] for one in scored])
            values = np.where(np.isinf(values), worst[:, None].astype(float), values)
        if absent == "perfect":
            best = 1.0 if METRICS[metric].higher_is_better else 0.0
            values = np.where(nowhere, best, values)
        scores[metric] = values
    return scores


def _sum_bins(scored: Sequence[ScoredCase]) -> NDArray[np.float64] | None:
    bins = [one.bins for one in scored if one.bins is not None]
    return np.sum(bins, axis=0) if bins else None
