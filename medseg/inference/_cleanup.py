"""Clean-up of label maps by what is known beforehand: how many pieces, how large."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medseg.checks import as_label_map, as_spacing

Labels = TypeVar("Labels", Tensor, NDArray[Any])
Mask = NDArray[np.bool_]


def keep_largest(
    labels: Labels, *, classes: Iterable[int] | None = None, connectivity: int = 1
) -> Labels:
    """Keep the largest connected component of each class; the others become 0.

    For organs that a patient has once. What is taken away is not always an error: a
    tumour has metastases, and a field of view may cut an organ in two.

    Args:
        labels: Labels of one image or volume, ``(H, W)`` or ``(D, H, W)``, integers
            or booleans; 0 is the background.
        classes: Which to clean; None for all but 0. Those that do not occur are
            passed over.
        connectivity: Voxels belong together that differ along at most so many axes:
            1 shares a face, 2 an edge, 3 a corner.

    Returns:
        Labels of the same kind, shape and dtype. Of two components of one size the
        one that comes first in the array is kept.

    Raises:
        TypeError: Labels are not integers.
        ValueError: They are negative, have other axes or no voxels; a class is below
            1, or ``connectivity`` lies outside 1 and the number of axes.

    Example:
        >>> keep_largest(np.array([[1, 0, 1, 1, 0, 2]]))
        array([[0, 0, 1, 1, 0, 2]])
    """

    def clean(mask: Mask) -> Mask:
        components, sizes = _components(mask, connectivity)
        return components == 1 + int(np.argmax(sizes))

    return _per_class(labels, classes, connectivity, clean)


def remove_small(
    labels: Labels,
    min_volume: float,
    spacing: Sequence[float],
    *,
    classes: Iterable[int] | None = None,
    connectivity: int = 1,
) -> Labels:
    """Remove the connected components below a volume; they become 0.

    Args:
        labels: Labels of one image or volume, ``(H, W)`` or ``(D, H, W)``, integers
            or booleans; 0 is the background.
        min_volume: What stays has at least this many mm^3, in 2D mm^2; from 0.
        spacing: Size of the voxels in mm, one number for each axis.
        classes: Which to clean; None for all but 0.
        connectivity: As in ``keep_largest``.

    Returns:
        Labels of the same kind, shape and dtype.

    Raises:
        TypeError: Labels are not integers.
        ValueError: As for ``keep_largest``; or ``min_volume`` is negative or NaN, or
            the spacing does not fit the axes.

    Example:
        >>> remove_small(np.array([[1, 0, 1, 1]]), min_volume=3.0, spacing=(2.0, 1.0))
        array([[0, 0, 1, 1]])
    """
    if not min_volume >= 0:
        raise ValueError(f"min_volume must be at least 0 mm^3, got {min_volume}.")
    voxel = float(np.prod(as_spacing(spacing, _as_array(labels).ndim)))

    def clean(mask: Mask) -> Mask:
        components, sizes = _components(mask, connectivity)
        # A whisker of tolerance: 3 voxels of 0.1 mm^3 are 0.3 mm^3.
        stays = sizes * voxel >= min_volume * (1 - 1e-9)
        return np.concatenate([[False], stays])[components]

    return _per_class(labels, classes, connectivity, clean)


def fill_holes(
    labels: Labels, *, classes: Iterable[int] | None = None, connectivity: int = 1
) -> Labels:
    """Fill background that one class encloses on all sides with that class.

    In a volume a hole is enclosed in 3D: a tunnel that reaches the outside is none.
    Only background is filled; another class inside, as a tumour in the liver, stays,
    and counts as a part of the wall.

    Args:
        labels: Labels of one image or volume, ``(H, W)`` or ``(D, H, W)``, integers
            or booleans; 0 is the background.
        classes: Which to fill, in this order; None for all but 0, from the lowest.
        connectivity: How **background** belongs together: 1 lets a hole leak through
            faces only, a higher number through edges and corners of the wall too.

    Returns:
        Labels of the same kind, shape and dtype.

    Raises:
        TypeError: Labels are not integers.
        ValueError: As for ``keep_largest``.

    Example:
        >>> ring = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]])
        >>> fill_holes(ring).sum(), fill_holes(ring[:2]).sum()
        (np.int64(9), np.int64(5))
    """
    array = _as_array(labels)
    structure = _structure(array.ndim, connectivity)
    filled = array.copy()
    for label in _chosen(array, classes):
        box = _box(filled == label)
        if box is None:
            continue
        part = filled[box]
        # Background that the class encloses lies in the class's own box. What else
        # is inside is no way out; at the side of the box it is outside.
        outside = ndimage.binary_fill_holes(part == label, structure=structure)
        part[outside & (part == 0)] = label
    return _like(filled, labels)


def _per_class(
    labels: Labels,
    classes: Iterable[int] | None,
    connectivity: int,
    clean: Callable[[Mask], Mask],
) -> Labels:
    """Replace each class by what ``clean`` leaves of it, within its bounding box."""
    array = _as_array(labels)
    _structure(array.ndim, connectivity)  # checks it, even if nothing is to clean
    cleaned = array.copy()
    for label in _chosen(array, classes):
        box = _box(array == label)
        if box is None:
            continue
        mask = array[box] == label
        cleaned[box][mask & ~clean(mask)] = 0
    return _like(cleaned, labels)


def _components(
    mask: Mask, connectivity: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Connected components, numbered from 1, and the number of voxels of each."""
    components, count = ndimage.label(mask, _structure(mask.ndim, connectivity))
    return components, np.bincount(components.ravel(), minlength=count + 1)[1:]


def _structure(ndim: int, connectivity: int) -> Mask:
    if connectivity not in range(1, ndim + 1):
        raise ValueError(
            f"connectivity must lie in 1..{ndim} for labels with {ndim} axes, got "
            f"{connectivity}."
        )
    structure: Mask = ndimage.generate_binary_structure(ndim, connectivity)
    return structure


def _box(mask: Mask) -> tuple[slice, ...] | None:
    """The smallest box around a mask; None if it is empty."""
    found: list[tuple[slice, ...]] = ndimage.find_objects(mask.astype(np.uint8))
    return found[0] if found else None


def _as_array(labels: Tensor | NDArray[Any]) -> NDArray[Any]:
    """Labels ``(H, W)`` or ``(D, H, W)`` as an array of their own dtype."""
    if np.ndim(labels) not in (2, 3):
        raise ValueError(
            "labels must be those of one image, (H, W) or (D, H, W), got shape "
            f"{tuple(np.shape(labels))}. Take the images of a batch one by one."
        )
    checked = as_label_map(labels)
    if isinstance(labels, Tensor):
        return labels.detach().cpu().numpy()
    return checked.astype(np.asarray(labels).dtype)


def _chosen(array: NDArray[Any], classes: Iterable[int] | None) -> list[int]:
    if classes is None:
        return [int(label) for label in np.unique(array) if label]
    chosen = [int(label) for label in classes]
    if any(label < 1 for label in chosen):
        raise ValueError(f"classes must be from 1 (0 is the background), got {chosen}.")
    return chosen


def _like(array: NDArray[Any], labels: Labels) -> Labels:
    if isinstance(labels, Tensor):
        return torch.from_numpy(array).to(labels.device)
    return array
