"""Exact distances from the points of one surface to the nearest of another."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree


def directed_distances(
    source: NDArray[np.bool_], target: NDArray[np.bool_], spacing: tuple[float, ...]
) -> NDArray[np.float64]:
    """Distance in mm from each point of a map to the nearest point of another.

    Args:
        source: Map of points, ``(*spatial)``.
        target: Map of at least one point, same shape.
        spacing: Size of a voxel along each axis, in mm.

    Returns:
        Distances ``(points of source,)``, in the order of ``np.nonzero(source)``.
    """
    starts, goals = np.argwhere(source), np.argwhere(target)
    nearest = cKDTree(goals * np.array(spacing)).query(starts * np.array(spacing))[1]
    steps = (starts - goals[nearest]) * np.array(spacing)
    return np.sqrt((steps**2).sum(axis=1))
