"""Distances between the surfaces of two masks, in mm, each definition by its name."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, nan
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from medseg.checks import as_mask_pair, as_spacing, check_choice
from medseg.metrics._elements import surface_elements
from medseg.metrics._nearest import directed_distances, margin

Surface = Literal["voxel_edges", "area_weighted"]

# A voxel that lies at the tolerance counts, whatever 3 * 0.7 is in binary digits.
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distances between two surfaces, from which several scores are taken.

    Made by `surface_distances`. A surface is a set of points; where they are surface
    elements, each has an area, and all scores weigh by it.
    """

    to_truth: NDArray[np.float64]  # (n,) mm, each point of pred's surface to truth's
    to_pred: NDArray[np.float64]  # (m,) mm, each point of truth's surface to pred's
    pred_areas: NDArray[np.float64] | None = None  # (n,) mm^2, in 2D mm; None: all 1
    truth_areas: NDArray[np.float64] | None = None  # (m,)

    def hausdorff(
        self,
        percentile: float = 100,
        definition: Literal["directed_max", "pooled"] = "directed_max",
    ) -> float:
        """Hausdorff distance in mm, or a percentile; see `hausdorff_distance`."""
        _check_percentile(percentile)
        check_choice(definition, "definition", ["directed_max", "pooled"])
        if (undefined := self._undefined()) is not None:
            return undefined
        if definition == "pooled":
            distances, areas = self._pooled()
            return _percentile(distances, areas, percentile)
        return max(
            _percentile(self.to_truth, self.pred_areas, percentile),
            _percentile(self.to_pred, self.truth_areas, percentile),
        )

    def average(
        self, definition: Literal["pooled", "mean_of_means"] = "pooled"
    ) -> float:
        """Average distance in mm; see `average_surface_distance`."""
        check_choice(definition, "definition", ["pooled", "mean_of_means"])
        if (undefined := self._undefined()) is not None:
            return undefined
        if definition == "pooled":
            distances, areas = self._pooled()
            return float(np.average(distances, weights=areas))
        one = np.average(self.to_truth, weights=self.pred_areas)
        other = np.average(self.to_pred, weights=self.truth_areas)
        return float((one + other) / 2)

    def surface_dice(self, tolerance: float) -> float:
        """Share of both surfaces that is near the other; see `surface_dice`."""
        check_tolerance(tolerance)
        distances, areas = self._pooled()
        if not distances.size:
            return nan
        near = distances <= tolerance * (1 + _ROUNDING)
        return float(np.average(near, weights=areas))

    def _undefined(self) -> float | None:
        if self.to_truth.size and self.to_pred.size:
            return None
        return inf if self.to_truth.size or self.to_pred.size else nan

    def _pooled(self) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        distances = np.concatenate([self.to_truth, self.to_pred])
        if self.pred_areas is None or self.truth_areas is None:
            return distances, None
        return distances, np.concatenate([self.pred_areas, self.truth_areas])


def surface_distances(
    pred: ArrayLike | Tensor,
    truth: ArrayLike | Tensor,
    spacing: Sequence[float],
    *,
    surface: Surface = "voxel_edges",
) -> SurfaceDistances:
    """Measure from each point of one surface to the nearest of the other, both ways.

    Scores of one pair of masks that are taken from the result measure only once.

    Args:
        pred: Predicted mask, ``(H, W)`` or ``(D, H, W)``: booleans, or 0 and 1.
        truth: Reference mask, same shape.
        spacing: Size of a voxel along each axis, in mm, in the order of the axes.
        surface: ``voxel_edges``: the centres of the voxels of the mask that share a
            face with background, all of the same weight. ``area_weighted``: the pieces
            of surface between voxel centres (marching cubes), each placed at the
            middle of its cube and weighted by its area in mm^2 (in 2D: by its length).
            For both, all beyond the image is background.

    Returns:
        `SurfaceDistances`. Where one mask is empty, the distances from the other are
        inf; where both are, there are none.

    Raises:
        TypeError: The values are not numbers.
        ValueError: The shapes differ, are not 2D or 3D, there are values other than 0
            and 1, or ``spacing`` has another length or is not positive.

    Example:
        Two points, 3 pixels of 0.5 mm apart:

        >>> surface_distances([[1, 0, 0, 0]], [[0, 0, 0, 1]], (1.0, 0.5)).to_truth
        array([1.5])
    """
    check_choice(surface, "surface", ["voxel_edges", "area_weighted"])
    pred, truth = as_mask_pair(pred, truth)
    if pred.ndim not in (2, 3):
        raise ValueError(
            f"masks must be (H, W) or (D, H, W), got shape {pred.shape}. Score the "
            "images of a batch one by one."
        )
    size = as_spacing(spacing, pred.ndim)
    box = _joint_box(pred, truth)
    edge = 1 if surface == "area_weighted" else 0  # that much smaller is its map
    width = [(n + edge, n + edge) for n in margin(size)]
    pred, truth = np.pad(pred[box], width), np.pad(truth[box], width)
    return measure(pred, truth, size, surface=surface)


def hausdorff_distance(
    pred: ArrayLike | Tensor,
    truth: ArrayLike | Tensor,
    spacing: Sequence[float],
    *,
    percentile: float = 100,
    definition: Literal["directed_max", "pooled", "area_weighted"] = "directed_max",
) -> float:
    r"""Hausdorff distance between the surfaces of two masks in mm, or a percentile.

    .. math:: \max\Bigl( \max_{p \in S_P} d(p, S_T),\;
        \max_{t \in S_T} d(t, S_P) \Bigr)

    One voxel far off decides it, so the maxima are often replaced by the 95th
    percentile, HD95. Then definitions part ways, by millimetres to tens of them; a
    figure without its definition is not comparable:

    - ``directed_max``: the larger of the two directed percentiles, over voxel edges,
      linearly interpolated; as in MONAI.
    - ``pooled``: the percentile of both directions' distances together; as in medpy.
      Lower where one surface is off and has fewer points.
    - ``area_weighted``: the larger of the two directed percentiles over surface
      elements weighted by area, not interpolated; as in DeepMind's surface-distance.

    Args:
        pred: Predicted mask, ``(H, W)`` or ``(D, H, W)``: booleans, or 0 and 1.
        truth: Reference mask, same shape.
        spacing: Size of a voxel along each axis, in mm, in the order of the axes. It
            has no default, as a distance in voxels is no result.
        percentile: 100 for the maximum, 95 for HD95; above 0.
        definition: One of the three above.

    Returns:
        The distance in mm; inf when one mask is empty, nan when both are.

    Raises:
        TypeError: The values are not numbers.
        ValueError: The shapes differ, are not 2D or 3D, there are values other than 0
            and 1, or ``spacing`` or ``percentile`` is out of range.

    Source:
        huttenlocher1993hausdorff; for the areas, nikolov2021clinically.

    Example:
        >>> hausdorff_distance([[1, 1, 0, 0]], [[1, 1, 1, 1]], (1.0, 0.5))
        1.0
    """
    check_choice(definition, "definition", ["directed_max", "pooled", "area_weighted"])
    _check_percentile(percentile)
    if definition == "area_weighted":
        distances = surface_distances(pred, truth, spacing, surface="area_weighted")
        return distances.hausdorff(percentile)
    return surface_distances(pred, truth, spacing).hausdorff(percentile, definition)


def average_surface_distance(
    pred: ArrayLike | Tensor,
    truth: ArrayLike | Tensor,
    spacing: Sequence[float],
    *,
    definition: Literal["pooled", "mean_of_means"] = "pooled",
) -> float:
    """Average distance between the surfaces of two masks in mm.

    Two averages have the same names in the literature. ``pooled``, the default, is the
    average over the points of both surfaces together (ASSD), as in MONAI and medpy;
    ``mean_of_means`` averages each direction by itself first (MASD). They differ where
    the surfaces have different numbers of points.

    Args:
        pred: Predicted mask, ``(H, W)`` or ``(D, H, W)``: booleans, or 0 and 1.
        truth: Reference mask, same shape.
        spacing: Size of a voxel along each axis, in mm, in the order of the axes.
        definition: ``pooled`` or ``mean_of_means``, both over voxel edges.

    Returns:
        The distance in mm; inf when one mask is empty, nan when both are.

    Raises:
        TypeError: The values are not numbers.
        ValueError: The shapes differ, are not 2D or 3D, there are values other than 0
            and 1, or ``spacing`` has another length or is not positive.

    Example:
        Distances 0 from the one pixel; 0, 1 and 2 mm from the three to it:

        >>> pred, truth = [[1, 0, 0]], [[1, 1, 1]]
        >>> average_surface_distance(pred, truth, (1.0, 1.0))
        0.75
        >>> average_surface_distance(
        ...     pred, truth, (1.0, 1.0), definition="mean_of_means"
        ... )
        0.5
    """
    return surface_distances(pred, truth, spacing).average(definition)


def surface_dice(
    pred: ArrayLike | Tensor,
    truth: ArrayLike | Tensor,
    spacing: Sequence[float],
    tolerance: float,
    *,
    definition: Surface = "voxel_edges",
) -> float:
    """Share of both surfaces that lies within a tolerance of the other.

    Also called normalised surface Dice, NSD. The tolerance says which differences do
    not matter, such as those between two experts; without it there is no figure.

    Args:
        pred: Predicted mask, ``(H, W)`` or ``(D, H, W)``: booleans, or 0 and 1.
        truth: Reference mask, same shape.
        spacing: Size of a voxel along each axis, in mm, in the order of the axes.
        tolerance: In mm; a point at just this distance agrees.
        definition: ``voxel_edges``, the default, counts the voxels at the edge of the
            masks, as MONAI does; ``area_weighted`` weighs surface elements by their
            area, as DeepMind's surface-distance does. With slices thicker than pixels
            they differ widely: a voxel counts as one, however large its faces.

    Returns:
        A number in ``[0, 1]``; 0.0 when one mask is empty, nan when both are.

    Raises:
        TypeError: The values are not numbers.
        ValueError: The shapes differ, are not 2D or 3D, there are values other than 0
            and 1, or ``spacing`` or ``tolerance`` is out of range.

    Source:
        nikolov2021clinically.

    Example:
        Of four points, one is 2 mm away from the other surface:

        >>> surface_dice([[1, 0, 0]], [[1, 1, 1]], (1.0, 1.0), tolerance=1.0)
        0.75
    """
    check_choice(definition, "definition", ["voxel_edges", "area_weighted"])
    check_tolerance(tolerance)
    distances = surface_distances(pred, truth, spacing, surface=definition)
    return distances.surface_dice(tolerance)


def measure(
    pred: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    spacing: tuple[float, ...],
    *,
    surface: Surface = "voxel_edges",
) -> SurfaceDistances:
    """Measure between two checked masks that have the margin of `directed_distances`.

    Surface elements need one voxel more of it.
    """
    pred_areas = truth_areas = None
    if surface == "voxel_edges":
        pred_map, truth_map = _voxel_edges(pred), _voxel_edges(truth)
    else:
        pred_map, pred_areas = surface_elements(pred, spacing)
        truth_map, truth_areas = surface_elements(truth, spacing)
    pred_points, truth_points = np.flatnonzero(pred_map), np.flatnonzero(truth_map)
    if pred_points.size and truth_points.size:
        to_truth = directed_distances(pred_points, truth_points, truth_map, spacing)
        to_pred = directed_distances(truth_points, pred_points, pred_map, spacing)
    else:
        to_truth = np.full(pred_points.size, inf)
        to_pred = np.full(truth_points.size, inf)
    return SurfaceDistances(to_truth, to_pred, pred_areas, truth_areas)


def _joint_box(pred: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Return the box around both masks; without a pixel where both are empty."""
    # The maximum of bytes is many times as fast as `any` of booleans.
    maps = [mask.view(np.uint8) for mask in (pred, truth)]
    plane = np.maximum(*(m.max(axis=0) for m in maps))
    rest = tuple(range(1, pred.ndim))
    profiles = [np.maximum(*(m.max(axis=rest) for m in maps))]
    for axis in range(plane.ndim):
        others = tuple(other for other in range(plane.ndim) if other != axis)
        profiles.append(plane.max(axis=others))
    taken = [np.flatnonzero(profile) for profile in profiles]
    return tuple(slice(t[0], t[-1] + 1) if t.size else slice(0, 0) for t in taken)


def _voxel_edges(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of the mask that share a face with background.

    The mask has a margin, so that a shift of the flattened map runs over no side.
    """
    flat = mask.ravel()
    inner = flat.copy()
    for stride in mask.strides:
        inner[stride:] &= flat[:-stride]
        inner[:-stride] &= flat[stride:]
    np.greater(flat, inner, out=inner)
    return inner.reshape(mask.shape)


def _percentile(
    distances: NDArray[np.float64],
    areas: NDArray[np.float64] | None,
    percentile: float,
) -> float:
    """Percentile of distances; with areas, the least that so much surface is within."""
    if areas is None:
        return float(np.percentile(distances, percentile))
    order = np.argsort(distances)
    shares = np.cumsum(areas[order])
    place = int(np.searchsorted(shares / shares[-1], percentile / 100))
    return float(distances[order[min(place, order.size - 1)]])


def _check_percentile(percentile: float) -> None:
    if not 0 < percentile <= 100:
        raise ValueError(
            f"percentile must lie in (0, 100], got {percentile}: 100 for the maximum, "
            "95 for the usual HD95."
        )


def check_tolerance(tolerance: float) -> None:
    """Refuse a tolerance that is no finite number of mm."""
    if not 0 <= tolerance < inf:
        raise ValueError(
            f"tolerance must be a finite number of mm, not negative, got {tolerance}."
        )
