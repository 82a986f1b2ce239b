"""From maps of cells and of their borders or distances to one number for each cell."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed
from torch import Tensor


def instances_from_border(
    foreground: ArrayLike | Tensor,
    border: ArrayLike | Tensor,
    *,
    threshold: float = 0.5,
    marker_threshold: float = 0.5,
    min_marker: int = 1,
) -> NDArray[np.int32]:
    """Tell touching cells apart with the predicted probability of their borders.

    Where the foreground without the border is above ``marker_threshold``, each
    connected component is the marker of one cell. From the markers a watershed floods
    the foreground, over the border last, so that two cells meet on its ridge.

    Args:
        foreground: Probability that a pixel belongs to a cell, **its border
            included**, ``(H, W)`` or ``(D, H, W)``, in ``[0, 1]``. Of a network with
            the classes background, inside and border it is ``1 - p[0]``.
        border: Probability that it belongs to a border, of the same shape.
        threshold: Above it is foreground.
        marker_threshold: Above it is ``foreground - border`` of a marker; higher
            separates more, and loses small cells.
        min_marker: Pixels of a marker, at least; smaller ones are noise.

    Returns:
        Numbers ``(*spatial)``, int32: 0 for the background, cells from 1 in the order
        of the array. A connected piece of foreground without any marker is a cell of
        its own, so that none is lost. All 0 where there is no foreground.

    Raises:
        TypeError: A map does not hold numbers.
        ValueError: The shapes differ, or have other axes; a value is NaN or outside
            ``[0, 1]``; or a threshold is, or ``min_marker`` is below 1.

    Source:
        caicedo2019nucleus (the three classes); beucher1979watersheds.

    Example:
        >>> foreground = np.array([[0.9, 0.9, 0.9, 0.9, 0.9, 0.1]])
        >>> border = np.array([[0.1, 0.1, 0.8, 0.1, 0.1, 0.1]])
        >>> instances_from_border(foreground, border)
        array([[1, 1, 2, 2, 2, 0]], dtype=int32)
    """
    cells = _as_map(foreground, "foreground")
    ridge = _as_map(border, "border")
    if cells.shape != ridge.shape:
        raise ValueError(
            f"foreground has shape {cells.shape} and border {ridge.shape}; give both "
            "for the same pixels."
        )
    for name, probabilities in (("foreground", cells), ("border", ridge)):
        if probabilities.min() < 0 or probabilities.max() > 1:
            raise ValueError(
                f"{name} must hold probabilities in [0, 1], got "
                f"{probabilities.min():g}..{probabilities.max():g}."
            )
    if not (0 <= threshold <= 1 and 0 <= marker_threshold <= 1):
        raise ValueError(
            "threshold and marker_threshold must lie in [0, 1], got "
            f"{threshold} and {marker_threshold}."
        )
    if min_marker < 1:
        raise ValueError(f"min_marker must be at least 1 pixel, got {min_marker}.")
    mask = cells > threshold
    inside = mask & (cells - ridge > marker_threshold)
    return _flood(ridge, _markers(inside, min_marker), mask)


def instances_from_distance(
    distance: ArrayLike | Tensor,
    *,
    threshold: float = 0.5,
    min_depth: float = 1.0,
) -> NDArray[np.int32]:
    """Tell touching cells apart with the predicted distance to the background.

    Each hill of the distance map that rises by ``min_depth`` above the saddle to a
    higher one is a cell; a watershed from their tops divides them along the saddles.

    Args:
        distance: Distance of each pixel of a cell to the nearest one outside that
            cell, 0 outside of all, ``(H, W)`` or ``(D, H, W)``; in any unit, for
            example pixels.
        threshold: Above it is foreground, in that unit.
        min_depth: Above 0, in that unit; higher merges more.

    Returns:
        Numbers ``(*spatial)``, int32: 0 for the background, cells from 1 in the order
        of the array. All 0 where there is no foreground.

    Raises:
        TypeError: The map does not hold numbers.
        ValueError: The map has other axes, NaN, or ``min_depth`` is not positive.

    Source:
        beucher1979watersheds.

    Example:
        >>> distance = np.array([[1.0, 2.0, 1.0, 2.0, 1.0, 0.0]])
        >>> instances_from_distance(distance, min_depth=0.5)
        array([[1, 1, 1, 2, 2, 0]], dtype=int32)
        >>> instances_from_distance(distance, min_depth=1.5)
        array([[1, 1, 1, 1, 1, 0]], dtype=int32)
    """
    hills = _as_map(distance, "distance")
    if not min_depth > 0 or not np.isfinite(min_depth):
        raise ValueError(f"min_depth must be positive, got {min_depth}.")
    if not np.isfinite(threshold):
        raise ValueError(f"threshold must be finite, got {threshold}.")
    mask = hills > threshold
    if not mask.any():
        return np.zeros(mask.shape, dtype=np.int32)
    # Lower all tops until hills that rise less than this have merged with a higher
    # one. Two tops of one height merge too, which h_maxima would leave apart.
    faces = ndimage.generate_binary_structure(hills.ndim, 1)
    merged = reconstruction(hills - min_depth, hills, footprint=faces)
    tops = local_maxima(merged, connectivity=1) & mask
    return _flood(-hills, _markers(tops, 1), mask)


def _as_map(values: Any, name: str) -> NDArray[np.float64]:
    """One finite map ``(H, W)`` or ``(D, H, W)``, float64."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "buif":
        raise TypeError(f"{name} must hold numbers, got {array.dtype}.")
    array = array.astype(np.float64)
    if array.ndim not in (2, 3) or array.size == 0:
        raise ValueError(
            f"{name} must be a map of one image, (H, W) or (D, H, W), with at least "
            f"one pixel, got shape {array.shape}."
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinite values.")
    return array


def _markers(inside: NDArray[np.bool_], least: int) -> NDArray[np.int32]:
    """Connected components (by faces) with at least so many pixels, numbered."""
    markers: NDArray[np.int32] = ndimage.label(inside)[0]
    sizes = np.bincount(markers.ravel())
    markers[sizes[markers] < least] = 0
    return markers


def _flood(
    relief: NDArray[np.float64], markers: NDArray[np.int32], mask: NDArray[np.bool_]
) -> NDArray[np.int32]:
    """Watershed from the markers; pieces of the mask without one get one each."""
    pieces, count = ndimage.label(mask)
    marked = np.zeros(count + 1, dtype=bool)
    marked[pieces[markers > 0]] = True
    alone = ~marked[pieces] & mask
    markers = np.where(alone, pieces + markers.max(), markers)
    flooded = watershed(relief, markers, mask=mask)
    # Numbers without gaps, in the order in which the cells come in the array.
    numbers, first = np.unique(flooded, return_index=True)
    cells = numbers[numbers > 0][np.argsort(first[numbers > 0])]
    renumber = np.zeros(int(flooded.max()) + 1, dtype=np.int32)
    renumber[cells] = np.arange(1, len(cells) + 1)
    return renumber[flooded]
