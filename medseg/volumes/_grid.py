"""The same voxels turned, cut out, or put back; nothing is interpolated."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from medseg.volumes._volume import Volume, check_orientation, describe_geometry

Box = tuple[slice, ...]  # one slice each for D, H, W


def reorient(volume: Volume, orientation: str) -> Volume:
    """Flip and reorder the axes; every voxel keeps its value and its position.

    Args:
        volume: Any; oblique axes count as the patient's axis that is nearest.
        orientation: Where the index shall grow to along D, H and W. ``"SPL"`` is how
            radiologists look at axial slices: from the feet upwards, the front at the
            top, the patient's right at the left. ``"SAR"`` is what NIfTI tools call
            RAS.

    Returns:
        A volume with its own, contiguous array.

    Raises:
        ValueError: The letters do not name the three axes once each.

    Example:
        >>> volume = Volume(np.arange(4).reshape(1, 2, 2), np.eye(4))
        >>> volume.orientation, reorient(volume, "RAI").array.tolist()
        ('RAS', [[[1, 0], [3, 2]]])
    """
    now, wanted = check_orientation(volume.orientation), check_orientation(orientation)
    world_axes = [axis for axis, _ in now]
    order = [world_axes.index(axis) for axis, _ in wanted]
    flips = [now[old][1] != wanted[new][1] for new, old in enumerate(order)]
    # (d, h, w) of the old array from those of the new one, as a 4x4 matrix.
    to_old = np.zeros((4, 4))
    to_old[3, 3] = 1
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        to_old[old, new] = -1 if flip else 1
        to_old[old, 3] = volume.spatial_shape[old] - 1 if flip else 0
    channels = volume.array.ndim - 3
    array = volume.array.transpose(
        [*range(channels), *(channels + old for old in order)]
    )
    array = np.flip(array, tuple(channels + new for new in range(3) if flips[new]))
    return Volume(
        np.ascontiguousarray(array).copy(), volume.affine @ to_old, volume.name
    )


def foreground_box(
    mask: ArrayLike, *, spacing: Sequence[float], margin_mm: float = 0
) -> Box:
    """The smallest box around a mask, as slices.

    Args:
        mask: ``(D, H, W)``; what is not 0 is foreground.
        spacing: Voxel size along D, H, W, in mm.
        margin_mm: Added on each side, up to the edge of the array; part of a voxel
            counts as a voxel.

    Returns:
        ``array[box]`` cuts it out.

    Raises:
        ValueError: There is no foreground.

    Example:
        >>> mask = np.zeros((4, 9, 9), bool)
        >>> mask[2, 4:6, 3] = True
        >>> foreground_box(mask, spacing=(5, 1, 1), margin_mm=2)
        (slice(1, 4, None), slice(2, 8, None), slice(1, 6, None))
    """
    inside = np.asarray(mask) != 0
    if not inside.any():
        raise ValueError(
            f"the mask of shape {inside.shape} has no foreground to crop to; keep the "
            "volume whole."
        )
    box = []
    for axis, (size, step) in enumerate(zip(inside.shape, spacing, strict=True)):
        others = tuple(other for other in range(3) if other != axis)
        where = np.flatnonzero(inside.any(axis=others))
        # 2 / 0.1 is a little more than 20: not a reason for one voxel more.
        margin = int(np.ceil(margin_mm / step - 1e-6))
        start, stop = int(where[0]) - margin, int(where[-1]) + 1 + margin
        box.append(slice(max(start, 0), min(stop, size)))
    return tuple(box)


def crop(volume: Volume, box: Box) -> Volume:
    """Cut out a box, and move the affine with it.

    Args:
        volume: Channels are kept.
        box: Three slices without steps, within the volume.

    Returns:
        A volume with its own array.

    Raises:
        ValueError: The box is empty or has steps.
    """
    starts, stops, steps = zip(
        *(
            part.indices(size)
            for part, size in zip(box, volume.spatial_shape, strict=True)
        ),
        strict=True,
    )
    if set(steps) != {1} or any(a >= b for a, b in zip(starts, stops, strict=True)):
        raise ValueError(
            f"the box {box} cuts nothing out of {volume.spatial_shape}; expected three "
            "slices without steps that lie within it."
        )
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ starts
    index: tuple[Any, ...] = (..., *box)
    return Volume(volume.array[index].copy(), affine, volume.name)


def crop_to_foreground(
    volume: Volume, mask: Volume | ArrayLike | None = None, *, margin_mm: float = 0
) -> Volume:
    """Cut out the smallest box around the foreground.

    Args:
        volume: Image or mask.
        mask: ``(D, H, W)`` on the same grid. None: where ``volume`` is not 0 in any
            channel, which removes the empty border of an MR image, but not the air
            around a CT (-1000): give ``ct.array > -500`` there.
        margin_mm: Added on each side, up to the edge.

    Returns:
        The part. It knows its position, and :func:`paste` puts it back.

    Raises:
        ValueError: There is no foreground, or the mask has another shape.
    """
    if mask is None:
        array = volume.array
        inside = (array != 0).reshape(-1, *volume.spatial_shape).any(axis=0)
    else:
        inside = np.asarray(mask.array if isinstance(mask, Volume) else mask) != 0
    if inside.shape != volume.spatial_shape:
        raise ValueError(
            f"a mask of shape {inside.shape} does not fit the grid of {volume.name}, "
            f"{volume.spatial_shape}; expected (D, H, W) on the same grid."
        )
    box = foreground_box(inside, spacing=volume.spacing, margin_mm=margin_mm)
    return crop(volume, box)


def paste(part: Volume, whole: Volume) -> Volume:
    """Put a part back to where it was cut out; the inverse of :func:`crop`.

    Args:
        part: Lies on the grid of ``whole``, perhaps smaller; such as the prediction
            for a crop.
        whole: What to paste onto; not changed. For a mask of the whole image:
            ``image.with_array(np.zeros(image.spatial_shape, np.uint8))``.

    Returns:
        ``whole`` with the voxels of ``part`` in place, in a dtype that holds both.

    Raises:
        ValueError: The voxels of the two do not coincide, or part lies outside.
    """
    to_whole = np.linalg.inv(whole.affine) @ part.affine
    start = np.rint(to_whole[:3, 3]).astype(int)
    stop = start + part.spatial_shape
    fits = (
        np.allclose(to_whole[:3, :3], np.eye(3), atol=1e-3)
        and np.allclose(to_whole[:3, 3], start, atol=0.05)
        and (start >= 0).all()
        and (stop <= whole.spatial_shape).all()
        and part.array.shape[:-3] == whole.array.shape[:-3]
    )
    if not fits:
        raise ValueError(
            "the part is not a box of the whole volume:\n"
            f"  part  {describe_geometry(part)}\n"
            f"  whole {describe_geometry(whole)}\n"
            "Bring it onto the whole volume's grid with resample_to or "
            "resample_labels_to."
        )
    array = whole.array.astype(np.result_type(part.array, whole.array))
    index: list[Any] = [slice(a, b) for a, b in zip(start, stop, strict=True)]
    array[(..., *index)] = part.array
    return whole.with_array(array)
