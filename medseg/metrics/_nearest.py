"""Exact distances from the points of one surface to the nearest of another.

Most points of a fair prediction lie a few voxels from the reference, so the places
around each point are looked up first, nearest first; what is found is the nearest. For
the few points beyond, a tree of the other surface is asked.
"""

from functools import lru_cache
from itertools import groupby, product
from math import ceil, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

# Voxels that are looked up around each point: further ones cost more than the tree.
_LOOKED_UP = {2: 60, 3: 180}

# Steps along the finest axis, however anisotropic the voxels: maps get such a margin.
_FURTHEST = 10

# For fewer points, the tree is asked at once.
_TOO_FEW = 64

# What a step costs, in ns on a laptop: only their ratios matter, to choose a way.
_TREE_PER_POINT, _TREE_PER_QUERY, _TRANSFORM_PER_VOXEL = 100, 1500, 80


class Shell(NamedTuple):
    """Steps of one length from a voxel to others."""

    length: float  # mm
    steps: NDArray[np.int64]  # (steps, axes), in voxels


@lru_cache(maxsize=16)
def shells(spacing: tuple[float, ...]) -> tuple[Shell, ...]:
    """All steps up to a length, by their length, without the step to itself.

    Args:
        spacing: Size of a voxel along each axis, in mm.
    """
    # A ball that holds as many voxels as wanted, and all that it holds.
    volume = _LOOKED_UP[len(spacing)] * float(np.prod(spacing))
    radius = sqrt(volume / np.pi) if len(spacing) == 2 else (volume / 4.19) ** (1 / 3)
    radius = min(radius, _FURTHEST * min(spacing))
    reach = [range(-ceil(radius / s), ceil(radius / s) + 1) for s in spacing]
    steps = np.array(list(product(*reach)))
    lengths = np.sqrt(((steps * np.array(spacing)) ** 2).sum(axis=1))
    inside = np.flatnonzero((lengths > 0) & (lengths <= radius))
    order = inside[np.argsort(lengths[inside], kind="stable")]
    return tuple(
        Shell(length, steps[list(same)])
        for length, same in groupby(order.tolist(), key=lambda i: float(lengths[i]))
    )


def margin(spacing: tuple[float, ...]) -> tuple[int, ...]:
    """Voxels of background that a map needs on each side, so that steps stay in it."""
    steps = np.concatenate([shell.steps for shell in shells(spacing)])
    return tuple(np.maximum(steps.max(axis=0), 1).tolist())


def directed_distances(
    places: NDArray[np.int64],
    goals: NDArray[np.int64],
    goal_map: NDArray[np.bool_],
    spacing: tuple[float, ...],
) -> NDArray[np.float64]:
    """Distance in mm from each of some places to the nearest of others.

    Args:
        places: Indices ``(n,)`` into the flattened map, none of them in its `margin`.
        goals: Indices ``(m,)``, sorted, at least one.
        goal_map: The same places as a map, ``(*spatial)``, contiguous.
        spacing: Size of a voxel along each axis, in mm.

    Returns:
        Distances ``(n,)``, 0 where a place is a goal.
    """
    is_goal = goal_map.ravel()
    distances = np.zeros(places.size)
    strides = np.array(goal_map.strides)
    left = np.flatnonzero(~is_goal[places])  # which have no distance yet
    places = places[left]
    for shell in shells(spacing):
        if left.size < _TOO_FEW:
            break
        found = _any_step_hits(is_goal, places, shell.steps @ strides)
        distances[left[found]] = shell.length
        left, places = left[~found], places[~found]
    if left.size:
        distances[left] = _far_distances(places, goals, goal_map, spacing)
    return distances


def _any_step_hits(
    is_goal: NDArray[np.bool_], places: NDArray[np.int64], steps: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Say of each place whether one of these steps from it leads to a goal."""
    if places.size * steps.size < 2000:  # one call costs more than its work
        return is_goal[places + steps[:, None]].any(axis=0)
    found = is_goal[places + steps[0]]
    for step in steps[1:].tolist():
        found |= is_goal[places + step]
    return found


def _far_distances(
    places: NDArray[np.int64],
    goals: NDArray[np.int64],
    goal_map: NDArray[np.bool_],
    spacing: tuple[float, ...],
) -> NDArray[np.float64]:
    """Distances as `directed_distances` gives them, however far."""
    size = np.array(spacing)
    starts = np.stack(np.unravel_index(places, goal_map.shape), axis=1)
    by_tree = goals.size * _TREE_PER_POINT + places.size * _TREE_PER_QUERY
    if by_tree < goal_map.size * _TRANSFORM_PER_VOXEL:
        ends = np.stack(np.unravel_index(goals, goal_map.shape), axis=1)
        tree = cKDTree(
            ends * size, leafsize=32, balanced_tree=False, compact_nodes=False
        )
        nearest = ends[tree.query(starts * size)[1]]
    else:
        indices = ndimage.distance_transform_edt(
            ~goal_map, sampling=spacing, return_distances=False, return_indices=True
        )
        nearest = indices.reshape(goal_map.ndim, -1)[:, places].T
    # From whole voxels: the tree's own distances carry the rounding of coordinates.
    return np.sqrt((((starts - nearest) * size) ** 2).sum(axis=1))
