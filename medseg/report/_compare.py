"""Two models on the same cases."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medseg.checks import check_choice
from medseg.plots import paired_differences
from medseg.report._cases import METRICS
from medseg.report._report import MEAN, Report, describe, shorten
from medseg.report._tables import Section, Tabular, number, plain
from medseg.statistics import (
    Interval,
    adjust_p_values,
    difference_interval,
    permutation_test,
    wilcoxon_test,
)


class ComparedScore(NamedTuple):
    """One score of one class, of two models."""

    class_name: str
    metric: str
    a: float  # means over the cases for which both have a score
    b: float
    difference: Interval  # a - b
    better: int  # cases in which a is better
    equal: int
    worse: int
    unpaired: int  # cases for which one model alone has a score; left out
    p_value: float
    p_adjusted: float


@dataclass(frozen=True, eq=False)
class Comparison(Tabular):
    """Differences of two reports. Made by :func:`compare`."""

    names: tuple[str, str]
    scores: tuple[ComparedScore, ...]
    differences: dict[str, dict[str, NDArray[np.float64]]]  # (N,) by metric and class
    cases: tuple[str, ...]
    patients: tuple[str, ...]  # of each case
    test: str
    correction: str
    level: float
    rules: tuple[str, ...]  # that the scores follow, in words

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each metric and class."""
        return [
            {
                "class": line.class_name,
                "metric": line.metric,
                "a": line.a,
                "b": line.b,
                "difference": line.difference.mean,
                "low": line.difference.low,
                "high": line.difference.high,
                "n": line.difference.n,
                "better": line.better,
                "equal": line.equal,
                "worse": line.worse,
                "unpaired": line.unpaired,
                "p_value": line.p_value,
                "p_adjusted": line.p_adjusted,
            }
            for line in self.scores
        ]

    def summary(self) -> dict[str, Any]:
        """Return all results as plain dicts; undefined numbers are None."""
        by_class: dict[str, dict[str, Any]] = {}
        for row in self.rows():
            rest = {key: row[key] for key in row if key not in ("class", "metric")}
            by_class.setdefault(row["class"], {})[row["metric"]] = rest
        return plain(
            {
                "a": self.names[0],
                "b": self.names[1],
                "cases": len(self.cases),
                "patients": len(set(self.patients)),
                "test": self.test,
                "correction": self.correction,
                "level": self.level,
                "rules": self.rules,
                "scores": by_class,
            }
        )

    def plot(self, metric: str) -> Figure:
        """Draw the differences of one metric, a row for each class.

        Raises:
            ValueError: The metric was not compared.
        """
        check_choice(metric, "metric", tuple(self.differences))
        by_class = self.differences[metric]
        about = METRICS[metric]
        figure, ax = plt.subplots(
            figsize=(7, 1.6 + 0.75 * len(by_class)), layout="constrained"
        )
        a, b = self.names
        unit = f" [{about.unit}]" if about.unit else ""
        low, high = (b, a) if about.higher_is_better else (a, b)
        paired_differences(
            ax,
            by_class,
            self.patients,
            label=f"{about.title}, {a} − {b}{unit}",
            sides=(f"{low} better", f"{high} better"),
            level=self.level,
        )
        return figure

    def _remarks(self) -> tuple[list[str], list[str]]:
        a, b = self.names
        first = [
            f"a = {a}, b = {b}, on the same {len(self.cases)} cases of "
            f"{len(set(self.patients))} patients. Difference a - b,",
            f"{100 * self.level:g} % bootstrap interval and {self.test} test over "
            f"patients; p adjusted for {len(self.scores)} tests "
            f"({self.correction}).",
        ]
        last = list(self.rules)
        if any(line.unpaired for line in self.scores):
            last.append(
                "Unpaired cases have a score in one model alone: the structure is "
                "absent, and that model invented it. Count them, or compare reports "
                'made with absent="perfect".'
            )
        return first, last

    def _sections(self) -> list[Section]:
        sections = []
        for metric in self.differences:
            about = METRICS[metric]
            head = [about.label, "a", "b", "a - b", "interval", "a better/equal/worse"]
            rows = [
                _line(line, about.unit) for line in self.scores if line.metric == metric
            ]
            sections.append(Section([*head, "n", "unpaired", "p", "p adjusted"], rows))
        return sections


def compare(
    a: Report,
    b: Report,
    *,
    names: tuple[str, str] = ("a", "b"),
    metrics: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    test: Literal["permutation", "wilcoxon"] = "permutation",
    correction: Literal["holm", "benjamini-hochberg"] = "holm",
) -> Comparison:
    """Compare two models on the same cases, matched by name.

    Each metric of each class is tested over patients, and the p-values are corrected
    for the number of tests. Fewer questions, chosen before looking, leave more power:
    ``classes=["mean"], metrics=["dice"]`` is a single one.

    A small p-value says that *these two trained networks* differ on patients like
    these; another seed of the same method may well differ as much.

    Args:
        a: One report.
        b: The other, on the same cases (in any order), classes and rules.
        names: Of the two models.
        metrics: Of those that both reports hold; None for all.
        classes: Of the reports' classes, or ``"mean"`` for the mean over classes; None
            for all classes, without the mean.
        test: ``"permutation"``, of the mean difference that is shown, or
            ``"wilcoxon"``, of the ranks.
        correction: ``"holm"`` or ``"benjamini-hochberg"``.

    Returns:
        A :class:`Comparison`. Differences are ``a - b``. A case for which one of the
        two scores is undefined is left out of that score, and counted.

    Raises:
        TypeError: ``a`` or ``b`` is no report.
        ValueError: Cases, patients, classes, rules or references differ, or an option
            is unknown.

    Example:
        >>> from medseg.report import report
        >>> truth, half = [[1, 1]], [[1, 0]]
        >>> good = report([(f"{i}", truth, truth, (1, 1)) for i in range(5)], 2)
        >>> poor = report([(f"{i}", half, truth, (1, 1)) for i in range(5)], 2)
        >>> result = compare(good, poor, metrics=["sensitivity"])
        >>> result.scores[0].difference.mean, result.scores[0].p_adjusted
        (0.5, 0.0625)
    """
    for given in (a, b):
        if not isinstance(given, Report):
            raise TypeError(
                f"compare takes two reports, got {type(given).__name__}. Make one with "
                "report(), or read one with load_report()."
            )
    check_choice(test, "test", ("permutation", "wilcoxon"))
    check_choice(correction, "correction", ("holm", "benjamini-hochberg"))
    if len(names) != 2 or names[0] == names[1]:
        raise ValueError(f"names must be two different names, got {names!r}.")
    order = _match(a, b)
    common = [name for name in a.metrics if name in b.metrics]
    chosen = _choose(metrics, "metrics", common) if metrics is not None else common
    if not chosen:
        raise ValueError(
            f"the reports have no metric in common: {a.metrics} and {b.metrics}."
        )
    wanted = list(a.classes)
    if classes is not None:
        wanted = _choose(classes, "classes", [*a.classes, MEAN])
    differences: dict[str, dict[str, NDArray[np.float64]]] = {}
    lines = []
    for metric in chosen:
        differences[metric] = {}
        for name in wanted:
            ours, theirs = a.values(metric, name), b.values(metric, name)[order]
            differences[metric][name] = ours - theirs
            lines.append(_compared(a, metric, name, ours, theirs, test))
    adjusted = adjust_p_values([line.p_value for line in lines], method=correction)
    return Comparison(
        (str(names[0]), str(names[1])),
        tuple(
            line._replace(p_adjusted=float(p))
            for line, p in zip(lines, adjusted, strict=True)
        ),
        differences,
        a.cases,
        a.patients,
        test,
        correction,
        a.settings.level,
        tuple(describe(a)),
    )


def _compared(
    report: Report,
    metric: str,
    name: str,
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    test: str,
) -> ComparedScore:
    settings = report.settings
    run = permutation_test if test == "permutation" else wilcoxon_test
    both = ~np.isnan(ours) & ~np.isnan(theirs)
    gain = (ours - theirs)[both]
    gain = gain if METRICS[metric].higher_is_better else -gain
    return ComparedScore(
        name,
        metric,
        float(ours[both].mean()) if both.any() else np.nan,
        float(theirs[both].mean()) if both.any() else np.nan,
        difference_interval(
            ours,
            theirs,
            report.patients,
            level=settings.level,
            resamples=settings.resamples,
            seed=settings.seed,
            method=settings.method,
        ),
        int((gain > 0).sum()),
        int((gain == 0).sum()),
        int((gain < 0).sum()),
        int((np.isnan(ours) != np.isnan(theirs)).sum()),
        run(ours, theirs, report.patients).p_value,
        np.nan,
    )


def _match(a: Report, b: Report) -> list[int]:
    """Where each case of ``a`` stands in ``b``, if the two can be compared."""
    strange = [
        f"only in {which}: {shorten(names)}"
        for which, names in (
            ("a", [name for name in a.cases if name not in set(b.cases)]),
            ("b", [name for name in b.cases if name not in set(a.cases)]),
        )
        if names
    ]
    if strange:
        raise ValueError(
            f"the reports are on different cases; {'; '.join(strange)}. Report on both "
            "models with the same cases, under the same names."
        )
    if a.classes != b.classes:
        raise ValueError(
            f"the reports have different classes: {a.classes} and {b.classes}."
        )
    for rule in ("missed", "absent", "tolerance", "definition"):
        one, other = getattr(a.settings, rule), getattr(b.settings, rule)
        if one != other:
            raise ValueError(
                f"the reports follow different rules: {rule} is {one!r} in a and "
                f"{other!r} in b."
            )
    place = {name: i for i, name in enumerate(b.cases)}
    order = [place[name] for name in a.cases]
    references = [r.counts.tp + r.counts.fn for r in (a, b)]  # (N, M)
    for i, (name, j) in enumerate(zip(a.cases, order, strict=True)):
        if a.patients[i] != b.patients[j]:
            raise ValueError(
                f"case {name!r} is of patient {a.patients[i]!r} in a and of "
                f"{b.patients[j]!r} in b."
            )
        if a.spacings[i] != b.spacings[j] or not np.array_equal(
            references[0][i], references[1][j]
        ):
            raise ValueError(
                f"case {name!r} has another reference in a than in b: the spacings or "
                "the sizes of its structures differ."
            )
    return order


def _choose(given: Sequence[str], what: str, known: Sequence[str]) -> list[str]:
    if isinstance(given, str) or not given:
        raise ValueError(f"{what} must be a list of names, got {given!r}.")
    for name in given:
        check_choice(name, f"each of {what}", known)
    return list(dict.fromkeys(given))


def _line(line: ComparedScore, unit: str) -> list[str]:
    mean, low, high, n, _ = line.difference
    limits = "-" if np.isnan(low) else f"[{number(low, unit)}, {number(high, unit)}]"
    return [
        line.class_name,
        number(line.a, unit),
        number(line.b, unit),
        number(mean, unit),
        limits,
        f"{line.better}/{line.equal}/{line.worse}",
        str(n),
        str(line.unpaired),
        _p(line.p_value),
        _p(line.p_adjusted),
    ]


def _p(value: float) -> str:
    if np.isnan(value):
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
