"""Images with the outlines of masks."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.measure import find_contours
from torch import Tensor

from medseg.checks import as_label_map, as_spacing
from medseg.plots._style import CLASS_COLOURS, PRED_COLOUR, TRUTH_COLOUR

Image = ArrayLike | Tensor


def overlay(
    ax: Axes,
    image: Image,
    truth: Image | None = None,
    pred: Image | None = None,
    *,
    spacing: Sequence[float] | None = None,
    window: tuple[float, float] | None = None,
    title: str | None = None,
    names: Sequence[str] = (),
    legend: bool = True,
) -> None:
    """Draw an image with the outlines of the truth and of a prediction.

    Args:
        ax: Where to draw.
        image: Grey ``(H, W)``, colour ``(H, W, 3)``, or channels first ``(1, H, W)``
            or ``(3, H, W)``: 8-bit, or floating point with colours in 0..1. Grey
            values are stretched from the smallest to the largest; 8-bit ones from 0 to
            255.
        truth: Label map ``(H, W)``, integers or booleans, or ``(1, H, W)`` of 0 and 1:
            each class or instance gets its own outline. None for none.
        pred: As ``truth``.
        spacing: Size of a pixel in mm along H and W: pixels get their true shape, and
            a scale bar is drawn.
        window: Width and level in HU, (400, 40) for the abdomen: what lies beyond is
            black or white.
        title: Above the image.
        names: Names of the classes 0, 1, ...: outlines are coloured by class and
            named in the legend, and the prediction's are dashed.
        legend: Say which line is which.

    Raises:
        TypeError: A label map does not hold integers.
        ValueError: Shapes do not belong together, or the window's width is not
            positive.
    """
    pixels = _as_picture(image)
    height, width = pixels.shape[:2]
    step = as_spacing(spacing, 2) if spacing is not None else (1.0, 1.0)
    if window is not None:
        if pixels.ndim != 2:
            raise ValueError(f"window needs a grey image, got shape {pixels.shape}.")
        if not window[0] > 0:
            raise ValueError(
                f"window is (width, level) with a positive width, got {window}."
            )
        low, high = window[1] - window[0] / 2, window[1] + window[0] / 2
    elif pixels.dtype == np.uint8:
        low, high = 0, 255
    else:
        low, high = float(pixels.min()), float(pixels.max())
    ax.imshow(pixels, cmap="gray", vmin=low, vmax=high, aspect=step[0] / step[1])
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    if title is not None:
        ax.set_title(title)

    drawn: list[LineCollection] = []
    for labels, colour, line, wide, who in (
        (truth, TRUTH_COLOUR, "-", 2.2, "truth"),
        (pred, PRED_COLOUR, "--" if names else "-", 1.2, "prediction"),
    ):
        if labels is None:
            continue
        label_map = _as_labels(labels, (height, width), who)
        for numbers, shade, name in _groups(label_map, names, colour, who):
            lines = _outlines(label_map, numbers)
            drawn.append(
                LineCollection(lines, colors=shade, linewidths=wide, linestyles=line)
            )
            drawn[-1].set_label(name)
            ax.add_collection(drawn[-1], autolim=False)
    # Contours at the edge must not enlarge the axes.
    ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    if legend and drawn:
        ax.legend(
            handles=drawn,
            loc="upper center",
            bbox_to_anchor=(0.5, 0),
            ncols=min(len(drawn), 3),
            borderaxespad=0.2,
            handlelength=1.5,
            columnspacing=1.0,
        )
    if spacing is not None:
        _scale_bar(ax, (height, width), step[1])


def panel(
    images: Sequence[Image],
    titles: Sequence[str] | None = None,
    *,
    truths: Sequence[Image | None] | None = None,
    preds: Sequence[Image | None] | None = None,
    columns: int = 4,
    spacing: Sequence[float] | None = None,
    window: tuple[float, float] | None = None,
    names: Sequence[str] = (),
    width: float = 2.6,
) -> Figure:
    """Draw images side by side, with outlines and one legend for all.

    In a notebook keep the result (``figure = panel(...)``) or end the line with a
    semicolon; otherwise the figure is shown twice.

    Args:
        images: Each as for :func:`overlay`.
        titles: One for each image.
        truths: One label map, or None, for each image.
        preds: One label map, or None, for each image.
        columns: At most so many images in a row.
        spacing: As for :func:`overlay`, for all images.
        window: As for :func:`overlay`, for all images.
        names: As for :func:`overlay`.
        width: Of one image, in inches.

    Raises:
        ValueError: There is no image, ``columns`` is below 1, or a list has another
            length than ``images``; besides what :func:`overlay` raises.
    """
    if len(images) == 0:
        raise ValueError("images is empty: there is nothing to draw.")
    if columns < 1:
        raise ValueError(f"columns must be 1 or more, got {columns}.")
    given = {"titles": titles, "truths": truths, "preds": preds}
    lists: dict[str, Sequence[Any]] = {}
    for name, values in given.items():
        lists[name] = [None] * len(images) if values is None else values
        if len(lists[name]) != len(images):
            raise ValueError(
                f"{name} has {len(lists[name])} entries for {len(images)} images; give "
                "one for each."
            )
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    shape = _as_picture(images[0]).shape
    step = as_spacing(spacing, 2) if spacing is not None else (1.0, 1.0)
    tall = width * shape[0] * step[0] / (shape[1] * step[1])
    extra = 0.3 * (titles is not None)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width * columns, (tall + extra) * rows + 0.3),
        squeeze=False,
        layout="constrained",
    )
    handles: dict[str, Any] = {}
    for ax in axes.flat[len(images) :]:
        ax.set_axis_off()
    for ax, image, label, truth, pred in zip(
        axes.flat, images, *lists.values(), strict=False
    ):
        overlay(
            ax,
            image,
            truth,
            pred,
            spacing=spacing,
            window=window,
            title=label,
            names=names,
            legend=False,
        )
        for lines in ax.collections:
            handles.setdefault(str(lines.get_label()), lines)
    if handles:
        figure.legend(
            handles=list(handles.values()),
            loc="outside lower center",
            ncols=min(len(handles), 2 * columns),
        )
    return figure


def _as_picture(image: Image) -> NDArray[Any]:
    """Return ``(H, W)`` or ``(H, W, 3)``."""
    pixels = np.asarray(image.detach().cpu() if isinstance(image, Tensor) else image)
    if (
        pixels.ndim == 3
        and pixels.shape[0] in (1, 3)
        and pixels.shape[-1] not in (1, 3)
    ):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if (
        pixels.ndim not in (2, 3)
        or pixels.shape[2:] not in ((), (3,))
        or not pixels.size
    ):
        raise ValueError(
            f"image has shape {pixels.shape}; expected (H, W), (H, W, 3), (1, H, W) or "
            "(3, H, W). Take one image of a batch: images[0]."
        )
    return pixels


def _as_labels(labels: Image, shape: tuple[int, int], name: str) -> NDArray[np.int64]:
    array = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    if array.ndim == 3 and array.shape[0] == 1:  # a mask as the data sets yield it
        array = array[0]
        if array.dtype.kind == "f" and np.isin(array, (0, 1)).all():
            array = array.astype(bool)
    if array.shape != shape:
        raise ValueError(
            f"{name} has shape {array.shape}, but the image has {shape} pixels."
        )
    return as_label_map(array, name)


def _groups(
    labels: NDArray[np.int64], names: Sequence[str], colour: str, who: str
) -> list[tuple[list[int], str, str]]:
    """Which labels are drawn in which colour, and what the legend calls them."""
    numbers = [int(n) for n in np.unique(labels) if n]
    if not names:
        return [(numbers, colour, who)]
    shades = dict(zip(range(1, len(names)), cycle(CLASS_COLOURS), strict=False))
    if numbers and numbers[-1] >= len(names):
        raise ValueError(
            f"{who} holds label {numbers[-1]}, but there are {len(names)} names; give "
            "one for each class, the background first."
        )
    tail = "" if who == "truth" else f" ({who})"
    return [([n], shades[n], names[n] + tail) for n in numbers]


def _outlines(labels: NDArray[np.int64], numbers: list[int]) -> list[NDArray[Any]]:
    """Outlines of labels as lines of (x, y), each half a pixel outside its pixels."""
    boxes = ndimage.find_objects(labels)
    lines = []
    for number in numbers:
        box = boxes[number - 1]
        # A frame of zeros closes outlines at the image's edge.
        piece = np.pad(labels[box] == number, 1).astype(float)
        corner = np.array([box[1].start - 1, box[0].start - 1])
        lines += [line[:, ::-1] + corner for line in find_contours(piece, 0.5)]
    return lines


def _scale_bar(ax: Axes, shape: tuple[int, int], mm_per_pixel: float) -> None:
    """A bar of 1, 2 or 5 units, about a quarter of the image's width."""
    room = 0.3 * shape[1] * mm_per_pixel
    power = 10.0 ** np.floor(np.log10(room))
    length = float(max(n * power for n in (1, 2, 5) if n * power <= room))
    units = (("cm", 10), ("mm", 1), ("µm", 1e-3), ("nm", 1e-6))
    unit, size = next(((u, s) for u, s in units if length >= s), units[-1])
    x, y = 0.04 * shape[1], 0.95 * shape[0]
    outline = [withStroke(linewidth=4, foreground="black")]
    bar = length / mm_per_pixel
    ax.plot([x, x + bar], [y, y], color="white", lw=2.5, path_effects=outline)
    ax.annotate(
        f"{length / size:g} {unit}",
        (x + bar / 2, y),
        (0, 3),
        textcoords="offset points",
        ha="center",
        color="white",
        fontsize=9,
        path_effects=[withStroke(linewidth=2, foreground="black")],
    )
