"""The report on one model."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import nan
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medseg.checks import check_choice
from medseg.plots import bland_altman, reliability_diagram, score_boxes
from medseg.report._cases import (
    FROM_COUNTS,
    FROM_SURFACES,
    METRICS,
    Counts,
    Definition,
    overlap,
)
from medseg.report._tables import Section, Tabular, number, plain
from medseg.statistics import Agreement, Interval, bootstrap_interval

OUTCOMES = ("both", "missed", "invented", "absent")
MEAN = "mean"  # the row over all classes
SIZES = {"ml": "volume", "mm2": "area", "pixels": "size"}


class Settings(NamedTuple):
    """All that the scores depend on beside the masks."""

    num_classes: int
    missed: str | float  # "diagonal", or mm
    absent: str  # "undefined" or "perfect"
    tolerance: tuple[float, ...] | None  # mm, for each class
    definition: Definition
    level: float
    resamples: int
    seed: int
    method: str


class ScoreSummary(NamedTuple):
    """One score of one class, over all cases."""

    class_name: str
    metric: str
    interval: Interval  # mean over cases, drawn by patient
    median: float
    pooled: float  # all pixels of all cases counted together; nan for distances
    worst: str  # name of the case with the worst score


@dataclass(frozen=True, eq=False)
class Report(Tabular):
    """Scores of all cases. Made by :func:`report`; N cases, M foreground classes."""

    cases: tuple[str, ...]
    patients: tuple[str, ...]  # of each case
    classes: tuple[str, ...]
    metrics: tuple[str, ...]
    scores: dict[str, NDArray[np.float64]]  # (N, M) by metric; nan where undefined
    counts: Counts  # of pixels, (N, M) each
    spacings: tuple[tuple[float, ...] | None, ...]  # of each case, in mm
    settings: Settings
    bins: NDArray[np.float64] | None = None  # (3, bins), of the calibration

    @property
    def size_unit(self) -> str:
        """``"ml"`` for volumes, ``"mm2"`` for images, ``"pixels"`` without spacing."""
        if self.spacings[0] is None:
            return "pixels"
        return "ml" if len(self.spacings[0]) == 3 else "mm2"

    @property
    def sizes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Size of prediction and reference, ``(N, M)`` each, in ``size_unit``."""
        tp, fp, fn, _ = self.counts
        each = [np.prod(spacing or 1.0) for spacing in self.spacings]
        voxels = np.array(each).reshape(-1, 1)
        scale = voxels / 1000 if self.size_unit == "ml" else voxels
        return (tp + fp) * scale, (tp + fn) * scale

    @property
    def outcomes(self) -> NDArray[np.str_]:
        """For each case and class, where it is, ``(N, M)``.

        ``both``, ``missed`` (in the reference alone), ``invented`` (in the prediction
        alone) or ``absent`` (in neither).
        """
        tp, fp, fn, _ = self.counts
        found, there = tp + fp > 0, tp + fn > 0
        return np.array(OUTCOMES)[2 * ~there + ~found]

    @property
    def calibration_error(self) -> float:
        """Expected calibration error over all pixels; nan without probabilities."""
        if self.bins is None:
            return nan
        pixels, expected, hits = self.bins
        return float(np.abs(hits - expected).sum() / pixels.sum())

    def values(self, metric: str, class_name: str) -> NDArray[np.float64]:
        """Return one score of all cases, ``(N,)``.

        ``class_name="mean"`` gives the mean over the classes that are defined in each
        case.

        Raises:
            ValueError: There is no such metric or class in the report.
        """
        check_choice(metric, "metric", self.metrics)
        check_choice(class_name, "class_name", [*self.classes, MEAN])
        if class_name != MEAN:
            return self.scores[metric][:, self.classes.index(class_name)]
        return _mean_of_defined(self.scores[metric])

    @cached_property
    def summaries(self) -> list[ScoreSummary]:
        """Every metric of every class, and of their mean where there are several."""
        names = [*self.classes, MEAN] if len(self.classes) > 1 else self.classes
        return [
            self._summarise(metric, name) for metric in self.metrics for name in names
        ]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each case and class.

        Its outcome, scores, the sizes of both masks, and counts of pixels.
        """
        outcomes, (pred, truth) = self.outcomes, self.sizes
        what = SIZES[self.size_unit]
        return [
            {
                "case": case,
                "patient": self.patients[i],
                "class": name,
                "outcome": str(outcomes[i, k]),
                **{metric: float(self.scores[metric][i, k]) for metric in self.metrics},
                f"{what}_pred_{self.size_unit}": float(pred[i, k]),
                f"{what}_truth_{self.size_unit}": float(truth[i, k]),
                **{
                    count: int(column[i, k])
                    for count, column in self.counts._asdict().items()
                },
            }
            for i, case in enumerate(self.cases)
            for k, name in enumerate(self.classes)
        ]

    def summary(self) -> dict[str, Any]:
        """Return means, intervals, pooled scores and counts as plain dicts.

        ``scores`` holds them by class and metric, ``structures`` what was missed and
        invented; undefined numbers are None.
        """
        by_class: dict[str, dict[str, Any]] = {}
        for line in self.summaries:
            by_class.setdefault(line.class_name, {})[line.metric] = {
                **line.interval._asdict(),
                "median": line.median,
                "pooled": line.pooled,
                "worst": line.worst,
            }
        calibration = None
        if self.bins is not None:
            calibration = {"error": self.calibration_error, "bins": self.bins.tolist()}
        content = {
            "cases": len(self.cases),
            "patients": len(set(self.patients)),
            "classes": list(self.classes),
            "metrics": list(self.metrics),
            "settings": self.settings._asdict(),
            "spacings": dict(zip(self.cases, self.spacings, strict=True)),
            "scores": by_class,
            "structures": {
                name: {what: int((column == what).sum()) for what in OUTCOMES}
                for name, column in zip(self.classes, self.outcomes.T, strict=True)
            },
            "calibration": calibration,
        }
        return plain(content)

    def plot_scores(self, metrics: Sequence[str] | None = None) -> Figure:
        """Draw a row of boxes for each metric, with a dot for each case."""
        chosen = self.metrics if metrics is None else tuple(metrics)
        columns = {
            metric: {name: self.values(metric, name) for name in self.classes}
            for metric in chosen
        }
        figure, axes = plt.subplots(
            len(chosen),
            1,
            figsize=(np.clip(1.2 * len(self.classes), 4.5, 14), 2.8 * len(chosen)),
            squeeze=False,
            layout="constrained",
        )
        for ax, (metric, by_class) in zip(axes.flat, columns.items(), strict=True):
            share = METRICS[metric].unit == ""
            limits = (0.0, 1.02) if share else None
            score_boxes(ax, by_class, label=METRICS[metric].label, limits=limits)
        return figure

    def plot_sizes(self, class_name: str) -> tuple[Figure, Agreement]:
        """Draw the Bland-Altman plot of a structure's volume, one dot a patient.

        Cases of one patient are averaged. Where the structure is absent in both there
        is nothing to compare.

        Returns:
            The figure, and what :func:`medseg.plots.bland_altman` gives.

        Raises:
            ValueError: There is no such class, or it is absent in all cases.
        """
        check_choice(class_name, "class_name", self.classes)
        k = self.classes.index(class_name)
        there = self.outcomes[:, k] != "absent"
        patients = np.array(self.patients)[there]
        if not there.any():
            raise ValueError(f"{class_name!r} is absent in all cases.")
        pred, truth = (
            [
                float(size[there, k][patients == one].mean())
                for one in np.unique(patients)
            ]
            for size in self.sizes
        )
        figure, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
        unit = self.size_unit.replace("mm2", "mm²")
        label = f"{class_name} {SIZES[self.size_unit]}"
        return figure, bland_altman(
            ax, pred, truth, label=label, unit=unit, level=self.settings.level
        )

    def plot_calibration(self) -> Figure:
        """Draw the reliability diagram over all pixels.

        Raises:
            ValueError: The cases came without probabilities.
        """
        if self.bins is None:
            raise ValueError(
                "the cases have no probabilities: give them as Case(probability=...)."
            )
        figure, ax = plt.subplots(figsize=(5, 4), layout="constrained")
        pixels, expected, hits = self.bins
        filled = pixels > 0
        mean, share = np.full((2, pixels.size), nan)
        mean[filled], share[filled] = (
            column[filled] / pixels[filled] for column in (expected, hits)
        )
        reliability_diagram(ax, mean, share, pixels)
        return figure

    def interval(self, values: NDArray[np.float64]) -> Interval:
        """Mean of one value for each case and its interval over patients."""
        return bootstrap_interval(
            values,
            self.patients,
            level=self.settings.level,
            resamples=self.settings.resamples,
            seed=self.settings.seed,
            method=self.settings.method,
        )

    def _summarise(self, metric: str, name: str) -> ScoreSummary:
        values = self.values(metric, name)
        pooled = nan
        if metric in FROM_COUNTS:
            totals = Counts(*(count.sum(axis=0) for count in self.counts))
            by_class = overlap(metric, totals)
            if name == MEAN:
                pooled = float(_mean_of_defined(by_class[None])[0])
            else:
                pooled = float(by_class[self.classes.index(name)])
        median, worst = nan, ""
        if not np.isnan(values).all():
            median = float(np.nanmedian(values))
            higher = METRICS[metric].higher_is_better
            worst = self.cases[int((np.nanargmin if higher else np.nanargmax)(values))]
        return ScoreSummary(name, metric, self.interval(values), median, pooled, worst)

    def _remarks(self) -> tuple[list[str], list[str]]:
        patients = len(set(self.patients))
        first = [
            f"{_count(len(self.cases), 'case')} of {_count(patients, 'patient')}. Mean "
            f"over cases, {100 * self.settings.level:g} % bootstrap interval over",
            "patients; pooled: all pixels of all cases counted together.",
        ]
        last = describe(self)
        if self.bins is not None:
            error = f"{self.calibration_error:.3f}"
            last.append(f"Expected calibration error {error}, over all pixels.")
        return first, last

    def _sections(self) -> list[Section]:
        sections = []
        names = [*self.classes, MEAN] if len(self.classes) > 1 else self.classes
        for start in range(0, len(self.summaries), len(names)):
            lines = self.summaries[start : start + len(names)]
            sections.append(_section(lines))
        counts = [
            [name, *(str(int((column == what).sum())) for what in OUTCOMES)]
            for name, column in zip(self.classes, self.outcomes.T, strict=True)
        ]
        return [*sections, Section(["structures", *OUTCOMES], counts)]


def load_report(path: str | os.PathLike[str]) -> Report:
    """Read a report that ``Report.to_json`` has written.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not such a report.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no report {path}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        about, rows = content["summary"], content["rows"]
        classes, metrics = tuple(about["classes"]), tuple(about["metrics"])
        cases = tuple(about["spacings"])
        shape = len(cases), len(classes)
        keys = [(row["case"], row["class"]) for row in rows]
        if keys != [(case, name) for case in cases for name in classes]:
            raise ValueError("its rows are not one for each case and class")

        def column(key: str, dtype: type) -> NDArray[Any]:
            return np.array([row[key] for row in rows], dtype).reshape(shape)

        settings = about["settings"]
        tolerance = settings["tolerance"]
        calibration = about["calibration"]
        return Report(
            cases,
            tuple(row["patient"] for row in rows[:: len(classes)]),
            classes,
            metrics,
            {metric: column(metric, float) for metric in metrics},
            Counts(*(column(key, np.int64) for key in Counts._fields)),
            tuple(each and tuple(each) for each in about["spacings"].values()),
            Settings(
                **settings
                | {"tolerance": None if tolerance is None else tuple(tolerance)}
            ),
            None if calibration is None else np.array(calibration["bins"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a report that Report.to_json has written: {error!r}."
        ) from error


def describe(found: Report) -> list[str]:
    """State the rules that a report's scores follow."""
    settings = found.settings
    distance = (
        "the diagonal of the image"
        if settings.missed == "diagonal"
        else f"{settings.missed:g} mm"
    )
    absent = (
        "undefined, left out and counted"
        if settings.absent == "undefined"
        else "overlap 1 and distance 0"
    )
    measured = [name for name in found.metrics if name in FROM_SURFACES]
    if not measured:
        return ["Missed or invented: 0.", f"Absent in both: {absent}."]
    lines = [f"Missed or invented: overlap 0, distance {distance}."]
    lines.append(f"Absent in both: {absent}.")
    surface = {
        "directed_max": "voxel edges; Hausdorff the larger of the two directions",
        "pooled": "voxel edges; Hausdorff over both directions together",
        "area_weighted": "surface elements, weighted by area; Hausdorff the larger of "
        "the two directions",
    }
    lines.append(f"Surfaces: {surface[settings.definition]} ({settings.definition}).")
    if "surface_dice" in measured and settings.tolerance:
        several = len(set(settings.tolerance)) > 1
        near = ", ".join(
            f"{name} {mm:g}"
            for name, mm in zip(found.classes, settings.tolerance, strict=True)
        )
        lines.append(
            f"Surface Dice at {near if several else f'{settings.tolerance[0]:g}'} mm."
        )
    return lines


def shorten(names: Sequence[str]) -> str:
    """List a few names, and say how many more there are."""
    shown = ", ".join(repr(name) for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def _mean_of_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis without nan; nan where there is nothing else."""
    defined = ~np.isnan(values)
    counts = defined.sum(axis=-1)
    sums = np.where(defined, values, 0).sum(axis=-1)
    means = np.full(counts.shape, nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


def _section(lines: Sequence[ScoreSummary]) -> Section:
    """Part of the table for one metric; what cannot be pooled has no such column."""
    metric = METRICS[lines[0].metric]
    can_pool = lines[0].metric in FROM_COUNTS
    head = [metric.label, "mean", "interval", "median", *["pooled"] * can_pool]
    rows = []
    for line in lines:
        mean, low, high, n, undefined = line.interval
        numbers = [mean, low, high, line.median, line.pooled]
        mid, low_text, high_text, median, pooled = (
            number(value, metric.unit) for value in numbers
        )
        limits = "-" if np.isnan(low) else f"[{low_text}, {high_text}]"
        scores = [mid, limits, median, *[pooled] * can_pool]
        rows.append([line.class_name, *scores, str(n), str(undefined), line.worst])
    return Section([*head, "n", "undefined", "worst case"], rows)


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
