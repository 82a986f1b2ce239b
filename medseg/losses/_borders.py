"""Weights of pixels and classes, as in the U-Net paper."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from torch import Tensor

from medseg.checks import as_label_map, as_spacing
from medseg.losses._door import check_number

NEGLIGIBLE = 1e-7  # of w0; what is less is 0. The step of float32 at 1 is 1.2e-7.


def border_weights(
    instances: ArrayLike | Tensor,
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    spacing: Sequence[float] | None = None,
    class_weights: Sequence[float] = (1.0, 1.0),
) -> NDArray[np.float32]:
    r"""U-Net's weight map: pixels between two cells that nearly touch count most.

    .. math:: w = w_c + w_0 \exp\!\left(-\frac{(d_1 + d_2)^2}{2 \sigma^2}\right)

    On the background, d1 and d2 are the distances to the nearest and the second
    nearest cell, between centres of pixels: 1 beside a cell. In the cells the second
    term is 0. Cells that touch have no background between them: see
    `separate_touching`.

    The distances are exact. Where d1 + d2 is above 5.7 sigma, and the term below
    1e-7 w0, it is 0: so each cell needs to be looked at in its surroundings only.

    Args:
        instances: One image or volume, ``(*spatial)``: 0 for background, and another
            integer for each cell. From a mask of well separated cells
            ``scipy.ndimage.label`` makes it.
        w0: Largest weight of a border, at least 0.
        sigma: Width in pixels; in mm where a spacing is given. Above 0.
        spacing: Size of a pixel along each axis in mm. By default distances are in
            pixels, as in the paper.
        class_weights: w_c of background and cells. The paper's balance the two: see
            `class_balance_weights`.

    Returns:
        Weights ``(*spatial)`` for `cross_entropy`'s ``pixel_weights``. With fewer than
        two cells there is no border, and they are w_c.

    Raises:
        TypeError: The instances are booleans or not integers.
        ValueError: A label is negative, there is no pixel, or a setting is out of
            range.

    Source:
        ronneberger2015unet, section 3, equation 2, with w0 = 10 and sigma = 5 pixels.

    Example:
        Two cells, one pixel between them: d1 = d2 = 1, 1 + 10 exp(-4/50).

        >>> border_weights(np.array([[1, 0, 2]])).round(3)
        array([[ 1.   , 10.231,  1.   ]], dtype=float32)
    """
    check_number(w0, "w0", 0, above=False)
    check_number(sigma, "sigma", 0)
    if len(class_weights) != 2:
        raise ValueError(
            "class_weights must hold two numbers, for background and cells, got "
            f"{class_weights}."
        )
    for weight in class_weights:
        check_number(float(weight), "class_weights", 0, above=False)
    cells = _as_instances(instances)
    sampling = as_spacing((1,) * cells.ndim if spacing is None else spacing, cells.ndim)

    reach = sigma * math.sqrt(-2 * math.log(NEGLIGIBLE))  # d1 + d2 is at most this
    margin = [math.ceil(reach / step) for step in sampling]
    nearest = np.full(cells.shape, np.inf)
    second = np.full(cells.shape, np.inf)
    for label, box in enumerate(ndimage.find_objects(cells), start=1):
        box = tuple(
            slice(max(side.start - more, 0), side.stop + more)
            for side, more in zip(box, margin, strict=True)
        )
        around = cells[box] != label
        if not cells[box][around].any():
            continue  # no other cell within reach
        distance = ndimage.distance_transform_edt(around, sampling)
        second[box] = np.minimum(second[box], np.maximum(nearest[box], distance))
        nearest[box] = np.minimum(nearest[box], distance)
    total = np.where(cells == 0, nearest + second, np.inf)
    total[total > reach] = np.inf
    of_class = np.where(cells == 0, float(class_weights[0]), float(class_weights[1]))
    return (of_class + w0 * np.exp(-(total**2) / (2 * sigma**2))).astype(np.float32)


def separate_touching(instances: ArrayLike | Tensor) -> NDArray[np.int64]:
    """Put a line of background between cells that touch.

    A pixel becomes background if one of its neighbours, those across corners included,
    belongs to a cell with a greater number. No two cells touch afterwards, and the
    line is one pixel wide.

    Args:
        instances: One image or volume, ``(*spatial)``: 0 for background, and another
            integer for each cell.

    Returns:
        The same labels with 0 on the lines. A cell that lay on lines only is gone.

    Raises:
        TypeError: The instances are booleans or not integers.
        ValueError: A label is negative, or there is no pixel.

    Source:
        ronneberger2015unet, section 3: "the separation border is computed using
        morphological operations".

    Example:
        >>> separate_touching(np.array([[1, 1, 2, 2]]))
        array([[1, 0, 2, 2]])
    """
    cells = as_label_map(_not_bool(instances), "instances")
    greatest = ndimage.maximum_filter(cells, size=3, mode="constant")
    return np.where(greatest > cells, 0, cells)


def class_balance_weights(labels: ArrayLike | Tensor, num_classes: int) -> Tensor:
    r"""Weights that let every class that occurs count the same in `cross_entropy`.

    .. math:: w_k = \frac{N}{P \, n_k}

    with N pixels, n_k of class k, and P classes that occur: a mean weight of 1. Take
    them over all training labels at once, rather than image by image.

    Args:
        labels: Class indices in ``[0, K)``, of any shape.
        num_classes: K; 2 or 1 for background and foreground, which need two weights.

    Returns:
        ``(K,)``, float32; two for K = 1. A class that does not occur has weight 1.

    Raises:
        TypeError: The labels are not integers (or booleans).
        ValueError: A label is out of range, or there is no pixel.

    Source:
        ronneberger2015unet, section 3: w_c "to balance the class frequencies".

    Example:
        >>> class_balance_weights(np.array([0, 0, 0, 1]), 2)  # 4 / (2 * 3), 4 / 2
        tensor([0.6667, 2.0000])
    """
    array = as_label_map(labels)
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
    count = max(num_classes, 2)
    if array.max() >= count:
        raise ValueError(
            f"labels must lie in 0..{count - 1} for {num_classes} classes, got "
            f"{array.max()}. Leave void pixels out: labels[labels != 255]."
        )
    pixels = np.bincount(array.ravel(), minlength=count)
    occurs = pixels > 0
    weights = np.where(occurs, array.size / (occurs.sum() * np.maximum(pixels, 1)), 1)
    return torch.from_numpy(weights).float()


def _as_instances(instances: ArrayLike | Tensor) -> NDArray[np.int64]:
    """Check, and number the cells 1, 2, ... without a gap."""
    cells = as_label_map(_not_bool(instances), "instances")
    present = (
        np.flatnonzero(np.bincount(cells.ravel()))
        if (cells.max() <= cells.size)
        else np.unique(cells)
    )
    present = present[present > 0]
    if present.size == 0 or present[-1] == present.size:
        return cells
    return np.where(cells > 0, np.searchsorted(present, cells) + 1, 0)


def _not_bool(instances: ArrayLike | Tensor) -> NDArray[np.generic]:
    """Refuse a mask, in which all cells would be one.

    Raises:
        TypeError: The values are booleans.
    """
    if isinstance(instances, Tensor):
        instances = instances.detach().cpu()
    array = np.asarray(instances)
    if array.dtype == np.bool_:
        raise TypeError(
            "instances must number the cells, got booleans, in which all cells are "
            "one. Number them: scipy.ndimage.label(mask)[0]."
        )
    return array
