"""Curves: of training, of calibration, of lesions found against false alarms."""

from collections.abc import Sequence
from typing import Protocol

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from medseg.plots._style import OKABE_ITO


class _Record(Protocol):
    """What ``training_curves`` needs of a ``training.EpochRecord``."""

    @property
    def epoch(self) -> int: ...
    @property
    def train_loss(self) -> float: ...
    @property
    def val_loss(self) -> float: ...
    @property
    def val_dice(self) -> float: ...


def training_curves(records: Sequence[_Record]) -> Figure:
    """Loss and validation Dice against the epoch, with the best epoch marked.

    In a notebook keep the result (``figure = training_curves(...)``) or end the line
    with a semicolon; otherwise the figure is shown twice.

    Args:
        records: What ``training.train`` returns.

    Raises:
        ValueError: There is no record.
    """
    if len(records) == 0:
        raise ValueError("records is empty: train for one epoch at least.")
    epochs = [record.epoch for record in records]
    dice = np.array([record.val_dice for record in records], float)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 3.2), layout="constrained", sharex=True
    )
    mark = "o" if len(records) < 30 else ""
    left.plot(
        epochs, [r.train_loss for r in records], marker=mark, ms=4, label="training"
    )
    left.plot(
        epochs, [r.val_loss for r in records], marker=mark, ms=4, label="validation"
    )
    left.set(xlabel="epoch", ylabel="loss")
    left.legend()
    right.plot(epochs, dice, marker=mark, ms=4, color=OKABE_ITO[2])
    right.set(xlabel="epoch", ylabel="validation Dice")
    right.xaxis.get_major_locator().set_params(integer=True)
    if not np.isnan(dice).all():
        best = int(np.nanargmax(dice))
        right.plot(epochs[best], dice[best], "*", ms=13, color=OKABE_ITO[3])
        right.set_title(f"best: {dice[best]:.3f} after epoch {epochs[best]}")
    return figure


def reliability_diagram(
    ax: Axes,
    confidence: ArrayLike,
    frequency: ArrayLike,
    counts: ArrayLike,
    *,
    of: str = "pixels",
) -> float:
    r"""Draw how often something is so against how probable the network called it.

    On the dashed diagonal, of the pixels called foreground with a probability of 0.8,
    8 of 10 are. Below it the network is too sure of itself. The grey bars show how many
    pixels lie in each bin, on a logarithmic scale to the right: a point far off the
    line matters little where the bar is short. The three columns come from
    :func:`medseg.metrics.reliability_table`.

    Args:
        ax: Where to draw.
        confidence: Mean probability in each bin, ``(bins,)``, in [0, 1]; nan in a bin
            without pixels.
        frequency: Share of the pixels of each bin for which it is so, ``(bins,)``.
        counts: Pixels in each bin, ``(bins,)``.
        of: What is counted.

    Returns:
        The expected calibration error that stands in the title,
        :math:`\sum_i n_i |f_i - c_i| / \sum_i n_i`.

    Raises:
        ValueError: Lengths differ, there are no pixels, or a value is out of range.

    Source:
        guo2017calibration.
    """
    columns = [np.asarray(c, float) for c in (confidence, frequency, counts)]
    if columns[0].ndim != 1 or len({column.shape for column in columns}) > 1:
        raise ValueError(
            "confidence, frequency and counts must each be one value for each bin, "
            f"got shapes {[column.shape for column in columns]}."
        )
    number = columns[2]
    if not ((number >= 0).all() and number.sum() > 0):
        raise ValueError("counts must be 0 or more, and some of them above 0.")
    filled = number > 0
    mean, share, number = (column[filled] for column in columns)
    for name, values in (("confidence", mean), ("frequency", share)):
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(
                f"{name} must lie in [0, 1] in every bin with counts, got {values}."
            )
    error = float((number * np.abs(share - mean)).sum() / number.sum())
    bars = ax.twinx()
    bars.bar(mean, number, width=0.6 / columns[0].size, color="0.88")
    bars.set_yscale("log")
    top = float(np.log10(2 * number.max()))
    bars.set_ylim(0.5, 0.5 * 10 ** (3 * top))  # the bars fill the lowest third
    bars.set_yticks(10.0 ** np.arange(0, top, max(1, top // 3)))
    bars.set_yticks([], minor=True)
    bars.set_ylabel(of, color="0.45", loc="bottom")
    bars.tick_params(axis="y", colors="0.45")
    bars.spines["right"].set_visible(True)
    bars.spines["right"].set_color("0.75")
    ax.set_zorder(bars.get_zorder() + 1)  # the line lies above the bars
    ax.patch.set_visible(False)
    bars.patch.set_visible(True)
    ax.plot([0, 1], [0, 1], "--", color="0.4", lw=1.2, label="perfect")
    ax.plot(mean, share, "o-", color=OKABE_ITO[0], ms=5, label="observed")
    ax.set(
        xlabel="predicted probability",
        ylabel="observed share",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        title=f"expected calibration error {error:.3f}",
    )
    ax.legend(loc="upper left")
    return error


def froc_curve(
    ax: Axes,
    false_positives: ArrayLike,
    sensitivity: ArrayLike,
    *,
    label: str | None = None,
    limits: tuple[float, float] = (0.125, 8),
) -> None:
    """Draw the share of lesions found against the false alarms in each image.

    Call it once for each model, on the same ``ax``. The curve is drawn in steps:
    between two thresholds nothing more is found than at the stricter one. Both columns
    come from :func:`medseg.metrics.froc`.

    Args:
        ax: Where to draw.
        false_positives: False positives per image, ``(thresholds,)``, from the
            strictest threshold on, or in any order.
        sensitivity: Share of the lesions that is found, ``(thresholds,)``, in [0, 1].
        label: Of the curve, for the legend.
        limits: Of the logarithmic axis of false positives. What lies left of it, such
            as 0, enters as the height at which the curve begins.

    Raises:
        ValueError: Lengths differ, there is no value, or one is out of range.
    """
    alarms, found = np.asarray(false_positives, float), np.asarray(sensitivity, float)
    if alarms.ndim != 1 or alarms.size == 0 or alarms.shape != found.shape:
        raise ValueError(
            "false_positives and sensitivity must each be one value for each "
            f"threshold, got shapes {alarms.shape} and {found.shape}."
        )
    if not (np.isfinite(alarms).all() and (alarms >= 0).all()):
        raise ValueError("false_positives must be finite and 0 or more.")
    if not ((found >= 0) & (found <= 1)).all():
        raise ValueError("sensitivity must lie in [0, 1], as a share, and not be nan.")
    if not 0 < limits[0] < limits[1]:
        raise ValueError(f"limits must be positive and in ascending order, {limits}.")
    order = np.lexsort((found, alarms))
    alarms, best = alarms[order], np.maximum.accumulate(found[order])
    start = best[alarms <= limits[0]].max(initial=0)
    inside = (alarms > limits[0]) & (alarms < limits[1])
    end = best[alarms <= limits[1]].max(initial=0)
    ax.step(
        [limits[0], *alarms[inside], limits[1]],
        [start, *best[inside], end],
        where="post",
        label=label,
    )
    ax.set_xscale("log", base=2)
    ticks = 2.0 ** np.arange(
        np.ceil(np.log2(limits[0])), np.floor(np.log2(limits[1])) + 1
    )
    ax.set_xticks(ticks, [_as_fraction(tick) for tick in ticks])
    ax.set(
        xlabel="false positives per image",
        ylabel="share of lesions found",
        xlim=limits,
        ylim=(0, 1.02),
    )
    ax.grid(axis="y", color="0.9", lw=0.8)
    ax.set_axisbelow(True)
    if label is not None:
        ax.legend(loc="lower right")


def _as_fraction(power_of_two: float) -> str:
    if power_of_two >= 1:
        return f"{power_of_two:g}"
    return f"1/{1 / power_of_two:g}"
