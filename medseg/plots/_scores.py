"""Scores of many patients: by class, of two models, and of two measurements."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray
from scipy import special

from medseg.plots._style import OKABE_ITO
from medseg.statistics import (
    Agreement,
    Interval,
    bootstrap_interval,
    limits_of_agreement,
)


def score_boxes(
    ax: Axes,
    scores: Mapping[str, ArrayLike | Mapping[str, ArrayLike]],
    *,
    label: str,
    limits: tuple[float, float] | None = None,
) -> None:
    """Draw scores by class: each patient as a dot, and a box for the middle half.

    The line in the box is the median; whiskers reach to the last dot within 1.5 box
    lengths. Every dot is drawn, for the ones far out are the patients to look at.

    Args:
        ax: Where to draw.
        scores: For each class its scores, ``(n,)``; nan is left out, and the number
            of the others stands below the name. For several models, a dict of such
            dicts, ``{"U-Net": {"liver": ...}, "FCN": {"liver": ...}}``: they stand
            side by side, in colours that the legend names.
        label: Of the axis, with its unit, such as ``"HD95 [mm]"``.
        limits: Of the axis, such as (0, 1).

    Raises:
        TypeError: Scores are not numbers.
        ValueError: There is no class, the models differ in their classes, scores are
            not of shape ``(n,)``, or one is infinite.
    """
    models = _as_models(scores)
    classes = list(next(iter(models.values())))
    width = 0.7 / len(models)
    counts: dict[str, set[int]] = {name: set() for name in classes}
    for m, (model, columns) in enumerate(models.items()):
        colour = OKABE_ITO[m % len(OKABE_ITO)]
        for k, name in enumerate(classes):
            values = columns[name]
            centre = k + (m - (len(models) - 1) / 2) * width
            counts[name].add(values.size)
            if values.size == 0:
                continue
            ax.boxplot(
                [values],
                positions=[centre],
                widths=0.8 * width,
                showfliers=False,
                manage_ticks=False,
                patch_artist=True,
                boxprops={"facecolor": colour, "alpha": 0.25, "edgecolor": colour},
                medianprops={"color": "black", "lw": 1.6},
                whiskerprops={"color": colour},
                capprops={"color": colour},
            )
            ax.plot(
                centre + 0.6 * width * _spread(values),
                values,
                "o",
                color=colour,
                ms=3.5,
                alpha=0.7,
                mew=0,
                clip_on=False,  # a score of 0 lies on the edge
                label=model if k == 0 else None,
            )
    crowded = sum(max(len(name), 6) for name in classes) > 60
    names = [
        f"{name}{' ' if crowded else chr(10)}(n = {', '.join(map(str, sorted(found)))})"
        for name, found in counts.items()
    ]
    ax.set_xticks(
        range(len(classes)),
        names,
        rotation=60 if crowded else 0,
        ha="right" if crowded else "center",
        rotation_mode="anchor" if crowded else "default",
    )
    ax.set(xlim=(-0.6, len(classes) - 0.4), ylabel=label)
    if limits is not None:
        ax.set_ylim(limits)
    ax.grid(axis="y", color="0.9", lw=0.8)
    ax.set_axisbelow(True)
    if len(models) > 1:
        ax.legend(
            loc="lower center",
            bbox_to_anchor=(0.5, 1),
            ncols=len(models),
            markerscale=2,
        )


def paired_differences(
    ax: Axes,
    differences: Mapping[str, ArrayLike],
    groups: Sequence[object] | NDArray[np.generic] | None = None,
    *,
    label: str,
    sides: tuple[str, str] | None = None,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Draw two models' differences: each patient as a dot, and the mean's interval.

    Args:
        ax: Where to draw, a row for each class.
        differences: For each class the scores of one model less those of the other,
            image by image, ``(n,)``; nan where one of them is undefined.
        groups: The patient of each image, ``(n,)``, for the interval.
        label: Of the axis, with its unit, such as ``"difference in Dice"``.
        sides: What it means to lie left and right of 0, such as
            ``("FCN better", "U-Net better")``.
        level: Of the interval of :func:`medseg.statistics.bootstrap_interval`.

    Returns:
        The intervals that are drawn, by class.

    Raises:
        TypeError: Differences are not numbers.
        ValueError: There is no class, or what
            :func:`medseg.statistics.bootstrap_interval` raises.
    """
    if not differences:
        raise ValueError("differences is empty: give at least one class.")
    intervals = {}
    for row, (name, given) in enumerate(differences.items()):
        interval = bootstrap_interval(given, groups, level=level)
        intervals[name] = interval
        values = np.asarray(given, float)
        values = values[~np.isnan(values)]
        ax.plot(
            values,
            row + 0.14 + 0.5 * _spread(values),
            "o",
            color=OKABE_ITO[4],
            ms=4,
            alpha=0.75,
            mew=0,
            label="one image" if row == 0 else None,
        )
        # Above the dots, and black: the mean is what the eye should find.
        ax.plot([interval.low, interval.high], [row - 0.18] * 2, color="black", lw=2.5)
        ax.plot(
            interval.mean,
            row - 0.18,
            "D",
            color="black",
            ms=6,
            label=f"mean, {100 * level:g} % interval" if row == 0 else None,
        )
    ax.axvline(0, color="0.4", lw=1.2, ls="--", zorder=0)
    names = [f"{name}\n(n = {intervals[name].n})" for name in differences]
    ax.set_yticks(range(len(names)), names)
    ax.set(ylim=(len(names) - 0.4, -0.6), xlabel=label)
    if sides is not None:
        for side, x, align in (
            (f"← {sides[0]}", 0.0, "left"),
            (f"{sides[1]} →", 1.0, "right"),
        ):
            ax.text(x, 1.01, side, transform=ax.transAxes, ha=align, va="bottom")
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, borderaxespad=1.0
    )
    return intervals


def bland_altman(
    ax: Axes,
    pred: ArrayLike,
    truth: ArrayLike,
    *,
    label: str,
    unit: str,
    level: float = 0.95,
) -> Agreement:
    """Draw the difference of two measurements against their mean.

    A line marks the bias and two the limits of agreement, between which most new
    patients will lie; the bands are their intervals. A slope or a funnel in the dots
    says that one pair of limits does not fit the whole range.

    Args:
        ax: Where to draw.
        pred: Measured in the prediction, ``(n,)``, one for each patient.
        truth: Measured in the reference, in the same order.
        label: What was measured, such as ``"volume"``.
        unit: Its unit, such as ``"ml"``.
        level: As for :func:`medseg.statistics.limits_of_agreement`.

    Returns:
        Bias and limits, as drawn.

    Raises:
        TypeError: The values are not numbers.
        ValueError: What :func:`medseg.statistics.limits_of_agreement` raises.

    Source:
        bland1986agreement.
    """
    agreement = limits_of_agreement(pred, truth, level=level)
    one, other = np.asarray(pred, float), np.asarray(truth, float)
    ax.plot(
        (one + other) / 2, one - other, "o", color=OKABE_ITO[0], ms=5, alpha=0.75, mew=0
    )
    ax.axhline(0, color="0.75", lw=1, zorder=0)
    z = f"{special.ndtri((1 + level) / 2):.2f}"
    for name, line, colour, dash in (
        (f"+{z} SD", agreement.upper, OKABE_ITO[3], "--"),
        ("bias", agreement.bias, "black", "-"),
        (f"−{z} SD", agreement.lower, OKABE_ITO[3], "--"),
    ):
        if np.isnan(line.mean):
            continue
        ax.axhline(line.mean, color=colour, lw=1.4, ls=dash)
        if not np.isnan(line.low):
            ax.axhspan(line.low, line.high, color=colour, alpha=0.1, lw=0)
        ax.annotate(
            f"{name}\n{line.mean:+.3g} {unit}".replace("-", "−"),
            (1.01, line.mean),
            xycoords=("axes fraction", "data"),
            va="center",
            color=colour,
            fontsize=9,
            annotation_clip=False,
        )
    ax.margins(x=0.08, y=0.12)
    ax.set(
        xlabel=f"{label}, mean of prediction and reference [{unit}]",
        ylabel=f"{label}, prediction − reference [{unit}]",
    )
    return agreement


def _as_models(
    scores: Mapping[str, ArrayLike | Mapping[str, ArrayLike]],
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return defined scores by model and class."""
    several = any(isinstance(value, Mapping) for value in scores.values())
    models: Mapping[str, Any] = scores if several else {"": scores}
    found: dict[str, dict[str, NDArray[np.float64]]] = {}
    for model, columns in models.items():
        if not isinstance(columns, Mapping) or not columns:
            raise ValueError(
                "scores must hold scores by class, {'liver': [...]}, or by model and "
                "class, {'U-Net': {'liver': [...]}}, with one class at least."
            )
        found[model] = {name: _defined(name, each) for name, each in columns.items()}
    classes = [list(columns) for columns in found.values()]
    if any(names != classes[0] for names in classes):
        raise ValueError(f"the models differ in their classes: {classes}.")
    return found


def _defined(name: str, given: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(given)
    if values.dtype.kind not in "buif":
        raise TypeError(f"scores of {name!r} must be numbers, got {values.dtype}.")
    if values.ndim != 1:
        raise ValueError(
            f"scores of {name!r} must be of shape (n,), got {values.shape}."
        )
    values = values.astype(float)
    if np.isinf(values).any():
        raise ValueError(
            f"scores of {name!r} hold an infinite value, which cannot be drawn: give "
            "missed structures a finite worst score."
        )
    return values[~np.isnan(values)]


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Offsets in [-0.5, 0.5] that keep dots of nearly equal value apart.

    The more dots lie within a fortieth of the range, the further they are spread; the
    order is fixed, so that a figure repeats.
    """
    offsets = np.zeros(values.size)
    if values.size < 2:
        return offsets
    near = np.ptp(values) / 40 + 1e-12
    bins = np.floor((values - values.min()) / near).astype(int)
    for number in np.unique(bins):
        inside = np.flatnonzero(bins == number)
        count = inside.size
        reach = min(1.0, count / 8) / 2
        # From the middle outwards, left and right in turns.
        steps = np.arange(count) - (count - 1) / 2
        offsets[inside] = reach * steps / max(count / 2, 1)
    return offsets
