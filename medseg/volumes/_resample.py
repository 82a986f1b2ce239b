"""Volumes on another grid: interpolation of images, and of labels.

On parallel grids interpolation is done axis by axis, each time by a sparse matrix with
1 (nearest), 2 (linear) or 4 (cubic) weights a row; on oblique ones by SciPy.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from medseg.checks import as_spacing, check_choice
from medseg.volumes._grid import Box, reorient
from medseg.volumes._volume import (
    Volume,
    check_orientation,
    corner_indices,
    describe_geometry,
    grid_affine,
    to_world,
)

_EVERYWHERE = (slice(None), slice(None), slice(None))
_TIE = 1e-5  # weights that differ by less are equal: they are sums of 32-bit floats


def resample(
    volume: Volume,
    spacing: Sequence[float],
    *,
    order: int = 3,
    nearest_axis: int | None = None,
) -> Volume:
    """Give an image another voxel size.

    The new grid has the same centre and axes, the wanted spacing exactly, and covers
    the same box, up to half a voxel. Nothing is smoothed first: fine detail of an image
    that is made much smaller turns into noise.

    Args:
        volume: An image; of label maps the numbers would be mixed:
            :func:`resample_labels`.
        spacing: Wanted voxel size along D, H, W, in mm.
        order: 0 nearest voxel, 1 linear, 3 cubic splines, which keep edges sharper.
            Values beyond the range of the image are clipped.
        nearest_axis: Axis along which the nearest slice is taken instead, as nnU-Net
            does where slices are thick; see :func:`thick_axis`.

    Returns:
        float32.

    Raises:
        ValueError: ``spacing``, ``order`` or ``nearest_axis`` is not valid.

    Source:
        isensee2021nnunet, for ``nearest_axis``.

    Example:
        >>> slab = Volume(np.array([[[0.0, 1.0, 2.0, 3.0]]]), grid_affine((5, 1, 1)))
        >>> resample(slab, (5, 1, 2), order=1).array
        array([[[0.5, 2.5]]], dtype=float32)
    """
    shape, affine = _rescaled_grid(volume, spacing)
    return _resample_image(volume, shape, affine, order, nearest_axis, None)


def resample_to(
    volume: Volume,
    grid: Volume,
    *,
    order: int = 3,
    nearest_axis: int | None = None,
    fill: float | None = None,
) -> Volume:
    """Bring an image onto the grid of another volume.

    Args:
        volume: An image, as for :func:`resample`.
        grid: Its shape and affine count, oblique or not.
        order: 0, 1 or 3.
        nearest_axis: Axis of ``grid`` along which the nearest slice is taken; the two
            grids must be parallel.
        fill: Value outside the image. None: its smallest value, such as air in CT.

    Returns:
        float32, on ``grid``.

    Raises:
        ValueError: An option is not valid, or the two grids do not overlap.
    """
    return _resample_image(
        volume, grid.spatial_shape, grid.affine, order, nearest_axis, fill
    )


def resample_labels(
    labels: Volume,
    spacing: Sequence[float],
    *,
    nearest_axis: int | None = None,
    keep_small: bool = True,
) -> Volume:
    """Give a label map another voxel size.

    Each class is interpolated linearly as a mask of its own, and each voxel gets the
    class with the largest weight: borders stay smooth, and no class appears between two
    others. Where foreground and background weigh the same, it is foreground.

    Args:
        labels: Integers or booleans, 0 is background.
        spacing: Wanted voxel size along D, H, W, in mm.
        nearest_axis: As for :func:`resample`.
        keep_small: Where a connected part of a class would vanish, because its voxels
            nowhere weigh most or lie between the new ones, keep one voxel of it, in
            the place where it weighs most. A part of one voxel grows then with the
            voxel size: count objects in the result, but do not measure them.

    Returns:
        The dtype of ``labels``. Memory is a few volumes, however many classes.

    Raises:
        TypeError: ``labels`` holds no integers.
        ValueError: ``spacing`` or ``nearest_axis`` is not valid, or a label negative.

    Example:
        >>> row = Volume(np.array([[[0, 2, 2, 2, 0, 1]]]), grid_affine((1, 1, 1)))
        >>> resample_labels(row, (1, 1, 2)).array  # a vote between 0 and 1 at the end
        array([[[2, 2, 1]]])
    """
    shape, affine = _rescaled_grid(labels, spacing)
    return _resample_label_map(labels, shape, affine, nearest_axis, keep_small)


def resample_labels_to(
    labels: Volume,
    grid: Volume,
    *,
    nearest_axis: int | None = None,
    keep_small: bool = True,
) -> Volume:
    """Bring a label map onto the grid of another volume; 0 outside.

    The way back of a prediction to the image it was made for.

    Args:
        labels: As for :func:`resample_labels`.
        grid: Its shape and affine count.
        nearest_axis: Axis of ``grid``, which must be parallel.
        keep_small: As for :func:`resample_labels`.

    Returns:
        The dtype of ``labels``, on ``grid``.

    Raises:
        TypeError: ``labels`` holds no integers.
        ValueError: The two grids do not overlap, or an option is not valid.
    """
    return _resample_label_map(
        labels, grid.spatial_shape, grid.affine, nearest_axis, keep_small
    )


def upright_grid(
    volume: Volume, spacing: Sequence[float], *, orientation: str = "SPL"
) -> Volume:
    """A grid along the patient's axes that covers a tilted or oblique volume.

    Args:
        volume: Its affine and shape count.
        spacing: Wanted voxel size along D, H, W of the new grid, in mm.
        orientation: Where the index grows to along D, H and W.

    Returns:
        A volume of zeros without memory of its own, for ``resample_to``.

    Raises:
        ValueError: ``spacing`` or ``orientation`` is not valid.
    """
    affine = grid_affine(spacing, orientation=orientation)
    corners = to_world(volume, corner_indices(volume.spatial_shape))
    index = corners @ np.linalg.inv(affine[:3, :3]).T
    low, high = index.min(axis=0), index.max(axis=0)
    shape = np.ceil(high - low - 1e-6).astype(int) + 1
    affine[:3, 3] = affine[:3, :3] @ low
    return Volume(np.broadcast_to(np.uint8(0), shape), affine, f"grid of {volume.name}")


def thick_axis(spacing: Sequence[float], *, ratio: float = 3) -> int | None:
    """The axis along which voxels are more than ``ratio`` times as long as on others.

    Returns:
        The axis, or None if there is none, or if two are that long.

    Raises:
        ValueError: A spacing is not positive.

    Source:
        isensee2021nnunet: a ratio of 3.

    Example:
        >>> thick_axis((6.5, 0.78, 0.78)), thick_axis((2.5, 0.9, 0.9))
        (0, None)
    """
    sizes = np.array(as_spacing(spacing, 3))
    thick = np.flatnonzero(sizes > ratio * sizes.min())
    return int(thick[0]) if thick.size == 1 else None


def _rescaled_grid(
    volume: Volume, spacing: Sequence[float]
) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Shape and affine with another spacing, and the same centre."""
    old_shape = np.array(volume.spatial_shape)
    old = np.linalg.norm(volume.affine[:3, :3], axis=0)
    new = np.array(as_spacing(spacing, 3))
    shape = np.maximum(np.rint(old_shape * old / new), 1).astype(int)
    affine = volume.affine.copy()
    affine[:3, :3] *= new / old
    centre = to_world(volume, (old_shape - 1) / 2)
    affine[:3, 3] = centre - affine[:3, :3] @ ((shape - 1) / 2)
    return tuple(shape.tolist()), affine


def _resample_image(
    volume: Volume,
    shape: Sequence[int],
    affine: NDArray[np.float64],
    order: int,
    nearest_axis: int | None,
    fill: float | None,
) -> Volume:
    check_choice(order, "order", (0, 1, 3))
    source, mapping = _prepare(volume, shape, affine, nearest_axis)
    channels = source.array if source.array.ndim == 4 else source.array[None]
    result = np.empty((len(channels), *shape), np.float32)
    for channel, out in zip(channels, result, strict=True):
        low, high = float(channel.min()), float(channel.max())
        out[...] = mapping.interpolate(channel, order, np.float32(low))
        np.clip(out, low, high, out=out)
        mapping.fill_outside(out, low if fill is None else fill)
    array = result if source.array.ndim == 4 else result[0]
    return Volume(array, affine, volume.name)


def _resample_label_map(
    labels: Volume,
    shape: Sequence[int],
    affine: NDArray[np.float64],
    nearest_axis: int | None,
    keep_small: bool,
) -> Volume:
    array = labels.array
    if array.dtype.kind not in "bui":
        raise TypeError(
            f"{labels.name} holds {array.dtype}; expected labels, which are integers. "
            "Whole numbers stored as floats become integers with volumes.to_labels; "
            "images are resampled with resample."
        )
    if array.ndim != 3 or (array.dtype.kind == "i" and array.min() < 0):
        raise ValueError(
            f"{labels.name} has shape {array.shape} and values from {array.min()}; "
            "expected one label map (D, H, W) of values from 0."
        )
    source, mapping = _prepare(labels, shape, affine, nearest_axis)
    dense: NDArray[Any]
    # find_objects needs dense numbers: 1 for the smallest label that occurs, and so on.
    values, dense = np.unique(source.array, return_inverse=True)
    dense = dense.reshape(source.array.shape).astype(np.int32)
    if values[0] != 0:
        values, dense = np.concatenate([[0], values]), dense + np.int32(1)
    result = np.zeros(shape, np.int32)
    best, total = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    boxes = ndimage.find_objects(dense)
    for label, box in enumerate(boxes, start=1):
        region = mapping.region(box)
        weight = mapping.interpolate(
            dense[box] == label, 1, np.float32(0), box=box, region=region
        )
        wins = weight > best[region] + _TIE
        result[region][wins] = label
        best[region][wins] = weight[wins]
        total[region] += weight
    result[best < 1 - total - _TIE] = 0
    mapping.fill_outside(result, 0)
    if keep_small:
        for label, box in enumerate(boxes, start=1):
            _keep_parts(dense, label, box, mapping, result)
    values = values.astype(array.dtype)
    return Volume(values[result], affine, labels.name)


def _keep_parts(
    dense: NDArray[np.int32],
    label: int,
    box: Box,
    mapping: "_Mapping",
    result: NDArray[np.int32],
) -> None:
    """Give a voxel of ``result`` to each part of a class that has none near it."""
    parts, _ = ndimage.label(dense[box] == label)
    for number, local in enumerate(ndimage.find_objects(parts), start=1):
        part_box = tuple(
            slice(outer.start + inner.start, outer.start + inner.stop)
            for outer, inner in zip(box, local, strict=True)
        )
        region = mapping.region(part_box)
        if (result[region] == label).any():
            continue
        mask = parts[local] == number
        weight = mapping.interpolate(
            mask, 1, np.float32(0), box=part_box, region=region
        )
        if weight.size and weight.max() > 0:
            place = np.array(np.unravel_index(weight.argmax(), weight.shape))
            place += [part.start for part in region]
        else:  # between the new voxels: the nearest of them
            centre = np.mean(np.nonzero(mask), axis=1)
            centre += [part.start for part in part_box]
            place = np.rint(mapping.to_target(centre)).astype(int)
        if (place >= 0).all() and (place < result.shape).all():
            result[tuple(place)] = label


class _Mapping:
    """From the indices of a target grid to those of a source, and interpolation.

    Args:
        matrix: ``(4, 4)``: target index to source index.
        shape: Of the target.
        source_shape: Of the source.
        nearest_axis: Order 0 along this axis, which needs parallel grids.
    """

    def __init__(
        self,
        matrix: NDArray[np.float64],
        shape: Sequence[int],
        source_shape: Sequence[int],
        nearest_axis: int | None,
    ) -> None:
        self.matrix, self.shape, self.source_shape = matrix, shape, source_shape
        self.nearest_axis = nearest_axis
        linear = matrix[:3, :3]
        off_diagonal = linear - np.diag(np.diag(linear))
        # Less than a thousandth of a voxel over the whole grid is rounding.
        self.parallel = bool((np.abs(off_diagonal) @ np.array(shape) < 1e-3).all())

    def to_target(self, index: NDArray[np.float64]) -> NDArray[np.float64]:
        """Target indices of source indices ``(..., 3)``."""
        inverse = np.linalg.inv(self.matrix)
        return index @ inverse[:3, :3].T + inverse[:3, 3]

    def coordinates(self, axis: int, region: slice = slice(None)) -> NDArray[Any]:
        """Source coordinate of each target index along an axis of parallel grids."""
        index = np.arange(self.shape[axis])[region]
        return self.matrix[axis, axis] * index + self.matrix[axis, 3]

    def region(self, box: Box) -> Box:
        """The part of the target that linear weights of this part can reach."""
        # A voxel reaches to its neighbours' centres: beyond the edge of the source too,
        # where the half voxel that counts repeats the edge.
        low = np.array([part.start - 1.0 for part in box])
        high = np.array([part.stop + 0.0 for part in box])
        corners = low + corner_indices((2, 2, 2)) * (high - low)
        reached = self.to_target(corners)
        start = np.clip(np.ceil(reached.min(axis=0) - 1e-6), 0, self.shape).astype(int)
        stop = np.clip(np.floor(reached.max(axis=0) + 1e-6) + 1, start, self.shape)
        return tuple(slice(int(i), int(j)) for i, j in zip(start, stop, strict=True))

    def interpolate(
        self,
        values: NDArray[Any],
        order: int,
        around: np.float32,
        *,
        box: Box = _EVERYWHERE,
        region: Box = _EVERYWHERE,
    ) -> NDArray[np.float32]:
        """Values on a region of the target.

        ``values`` are those of ``box`` in the source; beyond it the source is
        ``around``.
        """
        result = values.astype(np.float32) - around
        shape = [
            len(range(n)[part]) for n, part in zip(self.shape, region, strict=True)
        ]
        if 0 in shape:
            return np.zeros(shape, np.float32)
        if not self.parallel:
            return self._oblique(result, order, box, region, shape) + around
        for axis in range(3):
            along = 0 if axis == self.nearest_axis else order
            coordinates = self.coordinates(axis, region[axis])
            if along == 3:
                result = _spline_coefficients(result)
            first = box[axis].start or 0
            weights = _weights(
                coordinates, self.source_shape[axis], along, first, len(result)
            )
            rest = result.shape[1:]
            result = weights @ result.reshape(len(result), -1)
            # (D', H, W) to (H, W, D'): after three turns the axes are in order again.
            result = np.ascontiguousarray(result.reshape(-1, *rest).transpose(1, 2, 0))
        return result + around

    def _oblique(
        self,
        values: NDArray[np.float32],
        order: int,
        box: Box,
        region: Box,
        shape: Sequence[int],
    ) -> NDArray[np.float32]:
        first = np.array([part.start or 0 for part in region])
        linear = self.matrix[:3, :3]
        offset = linear @ first + self.matrix[:3, 3]
        if box != _EVERYWHERE:
            # Around the box is 0, but the edge of the source goes on as it is.
            borders = [
                (int(part.start > 0), int(part.stop < size))
                for part, size in zip(box, self.source_shape, strict=True)
            ]
            values = np.pad(values, borders)
            starts = [part.start for part in box]
            offset = offset - starts + [before for before, _ in borders]
        return ndimage.affine_transform(
            values, linear, offset, shape, np.float32, order, mode="nearest"
        )

    def fill_outside(self, array: NDArray[Any], value: float) -> None:
        """Set target voxels whose centre lies in no voxel of the source, in place."""
        top = np.array(self.source_shape) - 0.5 + 1e-4
        if self.parallel:
            for axis in range(3):
                place = self.coordinates(axis)
                outside = (place < -0.5 - 1e-4) | (place > top[axis])
                np.moveaxis(array, axis, 0)[outside] = value
            return
        d, h, w = np.ogrid[tuple(slice(size) for size in self.shape)]
        for axis in range(3):
            a, b, c, start = self.matrix[axis]
            place = a * d + b * h + c * w + start
            array[(place < -0.5 - 1e-4) | (place > top[axis])] = value


def _prepare(
    volume: Volume,
    shape: Sequence[int],
    affine: NDArray[np.float64],
    nearest_axis: int | None,
) -> tuple[Volume, _Mapping]:
    """Turn the source's axes to the target's, and map target to source indices."""
    check_choice(nearest_axis, "nearest_axis", (None, 0, 1, 2))
    target = Volume(np.broadcast_to(np.uint8(0), shape), affine, "the target")
    source = volume
    if source.orientation != target.orientation:
        check_orientation(target.orientation)
        source = reorient(source, target.orientation)
    matrix = np.linalg.inv(source.affine) @ affine
    mapping = _Mapping(matrix, shape, source.spatial_shape, nearest_axis)
    reached = corner_indices(shape) @ matrix[:3, :3].T + matrix[:3, 3]
    size = np.array(source.spatial_shape)
    if (reached.max(axis=0) < -0.5).any() or (reached.min(axis=0) > size - 0.5).any():
        raise ValueError(
            "the two grids do not overlap:\n"
            f"  from {describe_geometry(volume)}\n"
            f"  to   {describe_geometry(target)}\n"
            "Check that both belong to one patient and one frame of reference."
        )
    if nearest_axis is not None and not mapping.parallel:
        raise ValueError(
            f"nearest_axis={nearest_axis} needs parallel grids, and the two are "
            "oblique to each other; leave it out."
        )
    return source, mapping


def _spline_coefficients(values: NDArray[np.float32]) -> NDArray[np.float32]:
    if len(values) == 1:
        return values
    return ndimage.spline_filter1d(values, 3, axis=0, output=np.float32, mode="mirror")


def _weights(
    coordinates: NDArray[np.float64], size: int, order: int, first: int, count: int
) -> sparse.csr_array:
    """Interpolation along an axis as a matrix, ``(len(coordinates), count)``.

    Coordinates outside are moved to the edge. Columns are the voxels ``first`` to
    ``first + count``; weights of others are left out.
    """
    place = np.clip(coordinates, 0, size - 1)
    kernels: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
        0: lambda distance: (distance < 0.5).astype(np.float64),
        1: lambda distance: np.maximum(1 - distance, 0),
        3: _cubic,
    }
    if order == 0:
        place = np.floor(place + 0.5 - 1e-9)
    low = np.floor(place).astype(int)[:, None] + np.arange(-1, 3)  # (rows, 4)
    weights = kernels[order](np.abs(place[:, None] - low))
    period = max(2 * (size - 1), 1)
    mirrored = np.abs(low) % period  # whole samples, as the splines' coefficients
    mirrored = np.minimum(mirrored, period - mirrored) if size > 1 else low * 0
    column = mirrored - first
    known = (column >= 0) & (column < count) & (weights != 0)
    rows = np.broadcast_to(np.arange(len(place))[:, None], low.shape)
    return sparse.csr_array(
        (weights[known].astype(np.float32), (rows[known], column[known])),
        shape=(len(place), count),
    )


def _cubic(distance: NDArray[Any]) -> NDArray[Any]:
    """The cubic B-spline."""
    near = 2 / 3 - distance**2 + distance**3 / 2
    return np.where(distance < 1, near, np.maximum(2 - distance, 0) ** 3 / 6)
