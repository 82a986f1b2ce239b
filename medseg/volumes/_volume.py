"""The type `Volume`, and whether two volumes lie on the same grid."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg.checks import as_spacing


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D image or mask, and where its voxels lie in the patient.

    The axes are ``(D, H, W)`` or ``(C, D, H, W)``, whatever file they come from: a file
    lists its axes with the fastest first, an array with the slowest first, so the
    array has the file's axes **in reverse order**. Of an axial CT, ``array[d]`` is a
    slice, rows run from front to back, columns from the patient's right to the left.

    Positions are in RAS, as in NIfTI: x grows towards the patient's right, y to the
    front (anterior), z to the head (superior). DICOM and ITK count x and y the other
    way (LPS); the readers convert.

    Args:
        array: ``(D, H, W)``, or ``(C, D, H, W)`` with channels first.
        affine: ``(4, 4)``: ``affine @ (d, h, w, 1)`` is the position of the centre of
            voxel ``(d, h, w)`` in mm, RAS. It may be oblique or sheared.
        name: What an error message calls it, such as the file's path.

    Raises:
        TypeError: The voxels are no numbers.
        ValueError: The array has another number of axes or no voxels, or the affine is
            not finite, not invertible, or not an affine.

    Example:
        >>> volume = Volume(np.zeros((3, 5, 5)), grid_affine((2.5, 0.7, 0.7)))
        >>> volume.spacing, volume.orientation
        ((2.5, 0.7, 0.7), 'SPL')
        >>> to_world(volume, (1, 0, 0)).tolist()
        [0.0, 0.0, 2.5]
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    name: str = "volume"

    def __post_init__(self) -> None:
        array, affine = np.asarray(self.array), np.array(self.affine, np.float64)
        if array.dtype.kind not in "buif":
            raise TypeError(
                f"{self.name} must hold numbers or booleans, got {array.dtype}. Split "
                "colour or complex values into channels (C, D, H, W)."
            )
        if array.ndim not in (3, 4) or array.size == 0:
            raise ValueError(
                f"{self.name} has shape {array.shape}; expected (D, H, W) or "
                "(C, D, H, W), with voxels in it. A single slice is array[None]."
            )
        _check_affine(affine, self.name)
        affine.flags.writeable = False
        object.__setattr__(self, "array", array)
        object.__setattr__(self, "affine", affine)

    @property
    def spatial_shape(self) -> tuple[int, int, int]:
        """Voxels along D, H and W."""
        return self.array.shape[-3:]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxel centres along D, H and W, in mm."""
        columns = self.affine[:3, :3]
        # Files store 32-bit floats: 0.7 must not come back as 0.699999988.
        lengths = (float(f"{length:.7g}") for length in np.linalg.norm(columns, axis=0))
        return tuple(lengths)  # type: ignore[return-value]

    @property
    def orientation(self) -> str:
        """Where the index grows to along D, H and W, as letters of R/L, A/P, S/I.

        One letter an axis, the nearest, in the order of the **array's** axes. A NIfTI
        file that other tools call RAS is ``"SAR"`` here, an axial DICOM series
        ``"SPL"``.
        """
        return "".join(nib.aff2axcodes(self.affine))

    def with_array(self, array: ArrayLike) -> "Volume":
        """The same grid with other voxels, such as a mask of this image.

        Raises:
            ValueError: ``array`` has another spatial shape.
        """
        values = np.asarray(array)
        if values.shape[-3:] != self.spatial_shape:
            raise ValueError(
                f"an array of shape {values.shape} does not fit the grid of "
                f"{self.name}, {self.spatial_shape}."
            )
        return replace(self, array=values)

    def __repr__(self) -> str:
        return (
            f"Volume({self.name}: {self.array.dtype} {self.array.shape}, "
            f"{_sizes(self.spacing)} mm, {self.orientation}, "
            f"first voxel at {_listed(self.affine[:3, 3])})"
        )


def grid_affine(
    spacing: Sequence[float],
    *,
    orientation: str = "SPL",
    origin: Sequence[float] = (0.0, 0.0, 0.0),
) -> NDArray[np.float64]:
    """The affine of an upright grid.

    Args:
        spacing: Voxel size along D, H, W, in mm.
        orientation: Where the index grows to along D, H and W; see
            :attr:`Volume.orientation`.
        origin: Position of voxel (0, 0, 0) in mm, RAS.

    Returns:
        ``(4, 4)``.

    Raises:
        ValueError: A spacing is not positive, or the letters name no three axes.

    Example:
        >>> grid_affine((3, 1, 1), orientation="SAR").tolist()
        [[0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0],
         [0.0, 0.0, 0.0, 1.0]]
    """
    affine = np.eye(4)
    steps = zip(check_orientation(orientation), as_spacing(spacing, 3), strict=True)
    for axis, ((world_axis, sign), step) in enumerate(steps):
        affine[:3, axis] = 0
        affine[world_axis, axis] = sign * step
    affine[:3, 3] = origin
    return affine


def to_world(volume: Volume, index: ArrayLike) -> NDArray[np.float64]:
    """Positions of voxels in mm, RAS.

    Args:
        volume: Its affine counts.
        index: ``(..., 3)``: d, h, w; fractions lie between voxel centres.

    Returns:
        ``(..., 3)``: x, y, z.
    """
    return np.asarray(index) @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def to_index(volume: Volume, position: ArrayLike) -> NDArray[np.float64]:
    """Where positions lie in the array; the inverse of :func:`to_world`.

    Args:
        volume: Its affine counts.
        position: ``(..., 3)``: x, y, z in mm, RAS.

    Returns:
        ``(..., 3)``: d, h, w, fractions between voxel centres, perhaps outside.
    """
    inverse = np.linalg.inv(volume.affine)
    return np.asarray(position) @ inverse[:3, :3].T + inverse[:3, 3]


def check_same_geometry(
    image: Volume, mask: Volume, *, tolerance_mm: float = 0.01
) -> None:
    """Refuse two volumes whose voxels do not lie in the same places.

    The voxels at the eight corners are compared; between them an affine is linear.

    Args:
        image: One volume.
        mask: The other; numbers of channels may differ.
        tolerance_mm: How far apart two corners may be. Files round: NIfTI keeps 32-bit
            floats, which at 500 mm are 0.00003 mm apart, other writers 3 decimals.

    Raises:
        ValueError: The spatial shapes differ or a corner is further away; both
            geometries are printed.
    """
    away = float("inf")
    if image.spatial_shape == mask.spatial_shape:
        corners = corner_indices(image.spatial_shape)
        moved = to_world(image, corners) - to_world(mask, corners)
        away = float(np.linalg.norm(moved, axis=1).max())
    if away <= tolerance_mm:
        return
    reason = (
        f"corners lie up to {away:.4g} mm apart (tolerance {tolerance_mm:g} mm)"
        if np.isfinite(away)
        else "their shapes differ"
    )
    raise ValueError(
        f"image and mask lie on different grids: {reason}.\n"
        f"  image {describe_geometry(image)}\n"
        f"  mask  {describe_geometry(mask)}\n"
        "If both show the same patient, bring the mask onto the image's grid with "
        "volumes.resample_labels_to(mask, image), and look at the overlay."
    )


def check_orientation(orientation: str) -> list[tuple[int, int]]:
    """Return world axis (0 x, 1 y, 2 z) and sign for each letter of e.g. ``"SPL"``.

    Raises:
        ValueError: The letters do not name the three axes once each.
    """
    meaning = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1)}
    meaning |= {"S": (2, 1), "I": (2, -1)}
    axes = [meaning[letter] for letter in orientation if letter in meaning]
    if len(orientation) != 3 or sorted(axis for axis, _ in axes) != [0, 1, 2]:
        raise ValueError(
            f"orientation must name one of R/L, one of A/P and one of S/I, such as "
            f"'SPL', got {orientation!r}."
        )
    return axes


def describe_geometry(volume: Volume) -> str:
    """Shape, spacing, orientation and affine in words, for messages."""
    rows = "; ".join(_listed(row) for row in volume.affine[:3])
    return (
        f"{volume.name}: {volume.spatial_shape} voxels of "
        f"{_sizes(volume.spacing)} mm, {volume.orientation}, affine [{rows}]"
    )


def corner_indices(shape: Sequence[int]) -> NDArray[np.float64]:
    """Indices of the eight corner voxels, ``(8, 3)``."""
    ends = [(0.0, float(size - 1)) for size in shape]
    return np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)


def _check_affine(affine: NDArray[np.float64], name: str) -> None:
    problem = ""
    if affine.shape != (4, 4):
        problem = f"shape {affine.shape}; expected (4, 4)"
    elif not np.isfinite(affine).all():
        problem = "NaN or infinite values"
    elif not np.allclose(affine[3], (0, 0, 0, 1)):
        problem = f"last row {affine[3].tolist()}; expected 0 0 0 1"
    else:
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        if not lengths.all():
            problem = f"voxels of {_sizes(lengths)} mm"
        elif abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-6:
            problem = "axes that lie in one plane"
    if problem:
        raise ValueError(
            f"the affine of {name} has {problem}:\n{affine}\nWithout a valid geometry "
            "no distance or volume can be measured; repair the file's header, or "
            "leave the file out."
        )


def _listed(values: ArrayLike) -> str:
    return ", ".join(f"{value:.6g}" for value in np.asarray(values).ravel())


def _sizes(values: ArrayLike) -> str:
    return " x ".join(f"{value:.6g}" for value in np.asarray(values).ravel())
