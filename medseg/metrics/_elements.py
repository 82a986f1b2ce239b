"""Surface elements: the pieces of surface between the centres of 2 x 2 x 2 voxels.

Marching cubes (lorensen1987marching) at level one half. In each cube that eight voxel
centres span, corners in the mask are cut off from those outside, half-way along the
cube's edges. Corners of the rarer kind that no edge of the cube joins are cut off one
by one. In 2D, marching squares.
"""

from functools import lru_cache
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, ...]

# How a group of joined corners is cut off: its corners, and the corners of the patch,
# which is a fan of triangles around the first. Turned and mirrored, these are all.
_PATCHES_3D: tuple[tuple[tuple[Point, ...], tuple[Point, ...]], ...] = (
    (((0, 0, 0),), ((0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5))),  # a corner
    (  # an edge
        ((0, 0, 0), (1, 0, 0)),
        ((0, 0.5, 0), (1, 0.5, 0), (1, 0, 0.5), (0, 0, 0.5)),
    ),
    (  # three corners of a face: a triangle and a trapezium
        ((0, 0, 0), (1, 0, 0), (0, 1, 0)),
        ((1, 0, 0.5), (1, 0.5, 0), (0.5, 1, 0), (0, 1, 0.5), (0, 0, 0.5)),
    ),
    (  # a face
        ((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)),
        ((0, 0, 0.5), (1, 0, 0.5), (1, 1, 0.5), (0, 1, 0.5)),
    ),
    (  # a corner and its three neighbours: a flat hexagon
        ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)),
        (
            (1, 0.5, 0),
            (1, 0, 0.5),
            (0.5, 0, 1),
            (0, 0.5, 1),
            (0, 1, 0.5),
            (0.5, 1, 0),
        ),
    ),
    (  # a path along three axes: a bent hexagon
        ((1, 0, 0), (0, 0, 0), (0, 1, 0), (0, 1, 1)),
        (
            (0, 0.5, 1),
            (0, 0, 0.5),
            (1, 0, 0.5),
            (1, 0.5, 0),
            (0.5, 1, 0),
            (0.5, 1, 1),
        ),
    ),
)
_PATCHES_2D: tuple[tuple[tuple[Point, ...], tuple[Point, ...]], ...] = (
    (((0, 0),), ((0.5, 0), (0, 0.5))),
    (((0, 0), (1, 0)), ((0, 0.5), (1, 0.5))),
)


def surface_elements(
    mask: NDArray[np.bool_], spacing: tuple[float, ...]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Find the surface elements of a mask, and their areas.

    Args:
        mask: ``(H, W)`` or ``(D, H, W)``, with a margin of background on all sides.
        spacing: Size of a voxel along each axis, in mm.

    Returns:
        A map of the cubes that hold surface, one smaller than the mask along each
        axis, and the area of each in mm^2 (in 2D, the length in mm), in the order of
        ``np.nonzero`` of the map.
    """
    codes = np.zeros([n - 1 for n in mask.shape], dtype=np.uint8)
    for bit, corner in enumerate(_corners(mask.ndim)):
        part = mask[
            tuple(slice(c, c + n) for c, n in zip(corner, codes.shape, strict=True))
        ]
        codes |= part.view(np.uint8) << np.uint8(bit)
    full = 2 ** len(_corners(mask.ndim)) - 1
    cut = (codes != 0) & (codes != full)
    return cut, _areas(spacing)[codes[cut]]


def _corners(ndim: int) -> list[tuple[int, ...]]:
    """Corners of the unit cube; the place in the list is the bit in a code."""
    return list(product((0, 1), repeat=ndim))


@lru_cache(maxsize=16)
def _areas(spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Area of surface in a cube, for each code of its corners: 256, or 16 in 2D."""
    corners = _corners(len(spacing))
    patches = _all_patches(len(spacing))
    areas = np.zeros(2 ** len(corners))
    for code in range(len(areas)):
        inside = {c for bit, c in enumerate(corners) if code >> bit & 1}
        rarer = min(inside, set(corners) - inside, key=len)
        areas[code] = sum(_size(patches[g], spacing) for g in _groups(rarer))
    return areas


def _groups(corners: set[tuple[int, ...]]) -> list[frozenset[tuple[int, ...]]]:
    """Split corners into groups that edges of the cube join."""
    left, groups = set(corners), []
    while left:
        group = {left.pop()}
        while more := {
            c for c in left for g in group if np.abs(np.subtract(c, g)).sum() == 1
        }:
            group |= more
            left -= more
        groups.append(frozenset(group))
    return groups


def _joined(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return sum(a != b for a, b in zip(one, other, strict=True)) == 1


def _all_patches(ndim: int) -> dict[frozenset[tuple[int, ...]], NDArray[np.float64]]:
    """Patches in all positions, by the corners they cut off."""
    patches = {}
    for corners, patch in _PATCHES_3D if ndim == 3 else _PATCHES_2D:
        for axes in permutations(range(ndim)):
            for mirror in product((0, 1), repeat=ndim):
                placed = np.abs(np.array(mirror) - np.array(corners)[:, axes])
                key = frozenset(tuple(c) for c in placed.tolist())
                patches[key] = np.abs(np.array(mirror) - np.array(patch)[:, axes])
    return patches


def _size(patch: NDArray[np.float64], spacing: tuple[float, ...]) -> float:
    """Length of a line, or area of a fan of triangles around its first corner."""
    sides = (patch[1:] - patch[0]) * np.array(spacing)
    if len(spacing) == 2:
        return float(np.linalg.norm(sides))
    return float(np.linalg.norm(np.cross(sides[:-1], sides[1:]), axis=1).sum() / 2)
