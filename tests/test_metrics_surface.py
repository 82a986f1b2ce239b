"""Distances between surfaces, against loops over all pairs of points."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg.metrics import (
    SurfaceDistances,
    average_surface_distance,
    boundary_iou,
    centreline_dice,
    dice_score,
    hausdorff_distance,
    scores_per_class,
    surface_dice,
    surface_distances,
)
from medseg.metrics import _elements as elements
from medseg.metrics import _nearest as nearest
from medseg.metrics import _scores as scores_module

EMPTY, BLOCK = np.zeros((2, 6, 7), dtype=bool)
BLOCK[2:5, 2:5] = True


def blobs(seed, shape=(14, 15), spread=1.5, share=0.6):
    """Two smooth random masks, alike in parts."""
    rng = np.random.default_rng(seed)
    base = ndimage.gaussian_filter(rng.normal(size=shape), spread)
    noise = ndimage.gaussian_filter(rng.normal(size=shape), spread)
    cut = np.quantile(base, share)
    return base + 0.5 * noise > cut, base > cut


def edge_points(mask):
    """Voxels with a face neighbour that is no foreground, by looking at each."""
    points = []
    for place in zip(*np.nonzero(mask), strict=True):
        for axis, step in itertools.product(range(mask.ndim), (-1, 1)):
            other = list(place)
            other[axis] += step
            outside = not all(
                0 <= i < n for i, n in zip(other, mask.shape, strict=True)
            )
            if outside or not mask[tuple(other)]:
                points.append(place)
                break
    return points


def all_pairs(source, target, spacing):
    """Distance from each edge point of one mask to the nearest of the other."""
    return [
        min(math.dist(*(np.array(p) * spacing for p in (a, b))) for b in target)
        for a in source
    ]


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((14, 15), (1.0, 1.0)), ((12, 17), (0.7, 1.9)), ((6, 7, 8), (1.0, 1.0, 5.0))],
)
@pytest.mark.parametrize("seed", range(3))
def test_distances_are_those_of_a_loop_over_all_pairs(shape, spacing, seed):
    pred, truth = blobs(seed, shape)
    points = edge_points(pred), edge_points(truth)
    distances = surface_distances(pred, truth, spacing)
    to_truth = all_pairs(*points, spacing)
    to_pred = all_pairs(*points[::-1], spacing)
    np.testing.assert_allclose(distances.to_truth, to_truth, atol=1e-12)
    np.testing.assert_allclose(distances.to_pred, to_pred, atol=1e-12)
    both = to_truth + to_pred
    options = {"pred": pred, "truth": truth, "spacing": spacing}
    assert hausdorff_distance(**options) == pytest.approx(max(both))
    hd95 = max(np.percentile(to_truth, 95), np.percentile(to_pred, 95))
    assert hausdorff_distance(**options, percentile=95) == pytest.approx(hd95)
    pooled = hausdorff_distance(**options, percentile=95, definition="pooled")
    assert pooled == pytest.approx(np.percentile(both, 95))
    assert average_surface_distance(**options) == pytest.approx(np.mean(both))
    masd = average_surface_distance(**options, definition="mean_of_means")
    assert masd == pytest.approx((np.mean(to_truth) + np.mean(to_pred)) / 2)
    near = np.mean(np.array(both) <= 1.0)
    assert surface_dice(**options, tolerance=1.0) == pytest.approx(near)


@pytest.mark.parametrize("way", ["looked up", "tree", "transform"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.6, 3.1, 1.1)])
def test_all_three_ways_to_the_nearest_point_agree(monkeypatch, way, spacing):
    pred, truth = blobs(1, (24, 25, 26), spread=3)
    truth[:, :, :13] = False  # so that many points are far
    edges = pred & ~ndimage.binary_erosion(pred)
    other = truth & ~ndimage.binary_erosion(truth)
    expected = ndimage.distance_transform_edt(~other, sampling=spacing)[edges]
    if way != "looked up":
        monkeypatch.setattr(nearest, "_TOO_FEW", 10**9)
        cost = 0 if way == "transform" else 10**9
        monkeypatch.setattr(nearest, "_TRANSFORM_PER_VOXEL", cost)
    found = surface_distances(pred, truth, spacing).to_truth
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (expected > nearest.shells(spacing)[-1].length).sum() > 50
    assert (expected == 0).sum() > 50


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 1.0, 5.0), (9.0, 0.01, 1.0)])
def test_shells_hold_every_step_up_to_their_reach_in_order(spacing):
    shells = nearest.shells(spacing)
    lengths = [shell.length for shell in shells]
    assert lengths == sorted(set(lengths))
    steps = {tuple(step) for shell in shells for step in shell.steps.tolist()}
    reach = [
        range(-int(lengths[-1] / s) - 1, int(lengths[-1] / s) + 2) for s in spacing
    ]
    wanted = {
        step
        for step in itertools.product(*reach)
        if 0 < np.linalg.norm(np.multiply(step, spacing)) <= lengths[-1] + 1e-12
    }
    assert steps == wanted
    for shell in shells:
        np.testing.assert_allclose(
            np.linalg.norm(shell.steps * np.array(spacing), axis=1), shell.length
        )


@pytest.mark.parametrize("spacing", [(1e-3, 100.0, 100.0), (1e-3, 50.0), (1e4, 1e4)])
def test_margin_stays_small_however_anisotropic_the_voxels(spacing):
    assert max(nearest.margin(spacing)) <= 10


def test_distance_to_a_point_at_the_other_end_of_a_thin_image():
    pred, truth = np.zeros((2, 1, 400), dtype=bool)
    pred[0, 0] = truth[0, 399] = True
    assert hausdorff_distance(pred, truth, (1.0, 0.5)) == 199.5


def test_two_definitions_of_hd95_worked_by_hand():
    # One edge point of 20 is 30 mm off. Of its own direction the 95th percentile lies
    # 0.05 of the way from the second largest, 0, to 30; of both together, far below.
    truth = np.ones((1, 19), dtype=bool)
    pred = np.zeros((1, 49), dtype=bool)
    pred[0, :19] = pred[0, 48] = True
    truth = np.pad(truth, [(0, 0), (0, 30)])
    options = {"percentile": 95, "spacing": (1.0, 1.0)}
    assert hausdorff_distance(pred, truth, **options) == pytest.approx(1.5)
    assert hausdorff_distance(pred, truth, **options, definition="pooled") == 0
    assert hausdorff_distance(pred, truth, spacing=(1.0, 1.0)) == 30


def test_spacing_belongs_to_the_axes_in_their_order():
    pred, truth = np.zeros((2, 5, 5), dtype=bool)
    pred[0, 0] = truth[3, 0] = True
    assert hausdorff_distance(pred, truth, (5.0, 1.0)) == 15
    assert hausdorff_distance(pred, truth, (1.0, 5.0)) == 3


def test_voxel_at_the_border_of_the_image_is_an_edge():
    full = np.ones((20, 20), dtype=bool)
    assert surface_distances(full, full, (1.0, 1.0)).to_pred.size == 76


def test_point_at_just_the_tolerance_agrees_whatever_its_binary_digits():
    pred, truth = np.zeros((2, 1, 9), dtype=bool)
    pred[0, 0] = truth[0, 3] = True
    assert 3 * 0.1 > 0.3  # in floating point
    assert surface_dice(pred, truth, (1.0, 0.1), tolerance=0.3) == 1
    assert surface_dice(pred, truth, (1.0, 0.1), tolerance=0.2) == 0


# Surface elements


def test_elements_of_a_rectangle_have_the_length_of_its_outline():
    # Sides of 2 and 4 steps between pixel centres, and four corners cut off.
    mask = np.zeros((8, 9), dtype=bool)
    mask[2:5, 2:7] = True
    areas = surface_distances(
        mask, mask, (2.0, 0.5), surface="area_weighted"
    ).truth_areas
    expected = 2 * (2 * 2.0 + 4 * 0.5) + 4 * math.hypot(1.0, 0.25)
    assert areas.sum() == pytest.approx(expected)


def test_elements_of_a_ball_have_nearly_its_area():
    grid = np.indices((45, 45, 45)) - 22
    ball = (grid**2).sum(axis=0) <= 18.5**2
    distances = surface_distances(ball, ball, (1, 1, 1), surface="area_weighted")
    # The surface of a mask is rough at any size: above the smooth one by some 8 %.
    ratio = distances.truth_areas.sum() / (4 * math.pi * 18.5**2)
    assert 1.04 < ratio < 1.11


def test_areas_of_a_mask_and_of_its_complement_are_the_same():
    for spacing in [(0.7, 1.3), (0.7, 1.3, 2.9)]:
        areas = elements._areas(spacing)
        np.testing.assert_allclose(areas, areas[::-1])
        assert areas[0] == 0
        assert (areas[1:-1] > 0).all()


def test_area_of_some_cubes_worked_by_hand():
    areas = elements._areas((1.0, 1.0, 1.0))
    bit = {corner: 1 << i for i, corner in enumerate(elements._corners(3))}
    corner = math.sqrt(3) / 8  # a triangle with sides of sqrt(1/2)
    assert areas[bit[0, 0, 0]] == pytest.approx(corner)
    assert areas[bit[0, 0, 0] + bit[1, 1, 1]] == pytest.approx(2 * corner)
    assert areas[bit[0, 0, 0] + bit[0, 0, 1]] == pytest.approx(math.sqrt(1 / 2))
    face = sum(bit[0, i, j] for i in (0, 1) for j in (0, 1))
    assert areas[face] == pytest.approx(1)
    # Three corners of a face: half of the face, and a trapezium of three triangles.
    assert areas[face - bit[0, 1, 1]] == pytest.approx(1 / 2 + 3 * corner)
    star = bit[0, 0, 0] + bit[1, 0, 0] + bit[0, 1, 0] + bit[0, 0, 1]
    assert areas[star] == pytest.approx(6 * corner)  # a regular hexagon


def test_thick_slices_weigh_by_their_area():
    """A plate of 20 mm by 20 mm: its outline is off, its two faces agree."""
    truth, pred = np.zeros((2, 5, 30, 30), dtype=bool)
    truth[1:4, 5:25, 5:25] = pred[1:4, 5:24, 5:24] = True
    for spacing, larger in [((10.0, 0.1, 0.1), False), ((0.1, 10.0, 10.0), True)]:
        by_voxels = surface_dice(pred, truth, spacing, 0.05)
        by_area = surface_dice(pred, truth, spacing, 0.05, definition="area_weighted")
        assert (by_area > by_voxels) == larger


def test_area_weighted_percentile_is_the_least_that_so_much_surface_is_within():
    distances = SurfaceDistances(
        np.array([3.0, 0.0, 1.0]),
        np.array([0.0]),
        np.array([1.0, 6.0, 3.0]),
        np.array([1.0]),
    )
    assert distances.hausdorff(60) == 0
    assert distances.hausdorff(61) == 1
    assert distances.hausdorff(90) == 1
    assert distances.hausdorff(91) == 3
    rare = SurfaceDistances(
        np.array([0, 9]), np.zeros(1), np.array([999, 1]), np.ones(1)
    )
    assert (rare.hausdorff(99.5), rare.hausdorff(100)) == (0, 9)
    assert distances.average("mean_of_means") == pytest.approx(0.6 / 2)
    assert distances.average() == pytest.approx(6 / 11)
    assert distances.surface_dice(1) == pytest.approx(10 / 11)


# Empty masks, and what is refused


@pytest.mark.parametrize("surface", ["voxel_edges", "area_weighted"])
def test_empty_masks(surface):
    for pred, truth, distance, share in [
        (EMPTY, EMPTY, math.nan, math.nan),
        (EMPTY, BLOCK, math.inf, 0.0),
        (BLOCK, EMPTY, math.inf, 0.0),
        (BLOCK, BLOCK, 0.0, 1.0),
    ]:
        distances = surface_distances(pred, truth, (1, 1), surface=surface)
        for definition in ("directed_max", "pooled"):
            found = distances.hausdorff(95, definition)
            assert found == pytest.approx(distance, nan_ok=True)
        for definition in ("pooled", "mean_of_means"):
            found = distances.average(definition)
            assert found == pytest.approx(distance, nan_ok=True)
        assert distances.surface_dice(1.0) == pytest.approx(share, nan_ok=True)


def test_missed_structure_is_not_dropped_from_an_average():
    found = hausdorff_distance(BLOCK, np.roll(BLOCK, 1, axis=1), (1, 1), percentile=95)
    missed = hausdorff_distance(EMPTY, BLOCK, (1, 1), percentile=95)
    assert np.nanmean([found, missed]) == math.inf


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing": (1.0,)}, "spacing has 1 values, but the array has 2 axes"),
        ({"spacing": (1.0, 0.0)}, "spacing must be positive"),
        ({"percentile": 0}, r"percentile must lie in \(0, 100\], got 0"),
        ({"percentile": math.nan}, "percentile must lie"),
        ({"definition": "usual"}, "must be one of 'directed_max', 'pooled', 'area_w"),
        ({"truth": EMPTY.T}, r"pred \(6, 7\) and truth \(7, 6\)"),
        ({"truth": EMPTY[None], "pred": EMPTY[None, None]}, "masks differ in shape"),
        ({"truth": EMPTY[0], "pred": EMPTY[0]}, r"must be \(H, W\) or \(D, H, W\)"),
        ({"pred": 0.5 * BLOCK}, "with a threshold"),
    ],
)
def test_bad_input_is_refused_with_advice(options, message):
    arguments = {"pred": BLOCK, "truth": BLOCK, "spacing": (1.0, 1.0), **options}
    with pytest.raises(ValueError, match=message):
        hausdorff_distance(**arguments)


@pytest.mark.parametrize("tolerance", [-1, math.inf, math.nan])
def test_tolerance_out_of_range_is_refused(tolerance):
    with pytest.raises(ValueError, match="tolerance must be a finite number of mm"):
        surface_dice(BLOCK, BLOCK, (1, 1), tolerance)
    with pytest.raises(ValueError, match="tolerance must be a finite number of mm"):
        scores_per_class(BLOCK * 1, BLOCK * 1, 2, (1, 1), tolerance=tolerance)


# All classes at once


def label_maps(seed, shape, count):
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(
        rng.normal(size=(count + 1, *shape)), [0, *[2] * len(shape)]
    )
    noise = ndimage.gaussian_filter(
        rng.normal(size=fields.shape), [0, *[2] * len(shape)]
    )
    return (fields + 0.4 * noise).argmax(axis=0), fields.argmax(axis=0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, bool])
@pytest.mark.parametrize(
    ("shape", "spacing"), [((40, 37), (0.7, 1.2)), ((12, 20, 19), (3.0, 1.0, 0.8))]
)
def test_scores_per_class_are_those_of_each_mask(shape, spacing, dtype):
    count = 1 if dtype is bool else 4
    pred, truth = (labels.astype(dtype) for labels in label_maps(0, shape, count))
    scores = scores_per_class(pred, truth, count + 1, spacing, tolerance=1.0)
    assert scores.classes.tolist() == list(range(1, count + 1))
    for index, k in enumerate(scores.classes):
        pair = pred == k, truth == k
        assert scores.dice[index] == pytest.approx(dice_score(*pair))
        hd95 = hausdorff_distance(*pair, spacing, percentile=95)
        assert scores.hd95[index] == pytest.approx(hd95)
        assd = average_surface_distance(*pair, spacing)
        assert scores.assd[index] == pytest.approx(assd)
        near = surface_dice(*pair, spacing, 1.0)
        assert scores.surface_dice[index] == pytest.approx(near)


def test_classes_that_are_missed_invented_absent_and_perfect():
    truth, pred = np.zeros((2, 30, 30), dtype=np.uint8)
    truth[2:8, 2:8] = 1
    pred[12:18, 2:8] = 2
    truth[20:26, 20:26] = pred[20:26, 20:26] = 4
    scores = scores_per_class(torch.from_numpy(pred), truth, 5, (1, 1), tolerance=1)
    nan, inf = math.nan, math.inf
    np.testing.assert_array_equal(scores.dice, [0, 0, nan, 1])
    np.testing.assert_array_equal(scores.hd95, [inf, inf, nan, 0])
    np.testing.assert_array_equal(scores.assd, [inf, inf, nan, 0])
    np.testing.assert_array_equal(scores.surface_dice, [0, 0, nan, 1])


def test_one_class_may_be_written_as_k_1_or_k_2():
    one, two = (
        scores_per_class(BLOCK, np.roll(BLOCK, 1), k, (1, 1), tolerance=1.0)
        for k in (1, 2)
    )
    assert one.classes.tolist() == [1]
    for ours, theirs in zip(one, two, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_each_class_may_have_its_own_tolerance():
    pred, truth = label_maps(0, (40, 40), 2)
    both = scores_per_class(pred, truth, 3, (1, 1), tolerance=[0.5, 3.0])
    for index, tolerance in enumerate([0.5, 3.0]):
        each = scores_per_class(pred, truth, 3, (1, 1), tolerance=tolerance)
        assert both.surface_dice[index] == each.surface_dice[index]
    assert both.surface_dice[0] < 1
    with pytest.raises(ValueError, match="one for each of the 2 classes but the backg"):
        scores_per_class(pred, truth, 3, (1, 1), tolerance=[1.0, 1.0, 1.0])


@pytest.mark.parametrize("count", [1, 7, 8, 62, 63, 64, 130])
@pytest.mark.parametrize("shape", [(300, 90), (2, 200, 190)])
def test_boxes_of_many_classes_are_those_of_scipy(count, shape):
    pred, truth = np.random.default_rng(count).integers(0, count + 1, (2, *shape))
    pred[pred == 3], truth[truth == 3] = 0, 0
    truth[:, :20] = 0
    for dtype in (np.uint8, np.int64):
        maps = pred.astype(dtype), truth.astype(dtype)
        boxes = scores_module._class_boxes(*maps, count)
        for k, box in enumerate(boxes, start=1):
            either = ((pred == k) | (truth == k)).astype(int)
            wanted = ndimage.find_objects(either)
            assert box == (wanted[0] if wanted else None)


def test_label_maps_are_checked():
    with pytest.raises(ValueError, match=r"0\.\.1 for num_classes=2, got 2"):
        scores_per_class([[0, 2]], [[0, 1]], 2, (1, 1), tolerance=1)
    with pytest.raises(TypeError, match="truth must be class indices"):
        scores_per_class([[0, 1]], [[0.0, 1]], 2, (1, 1), tolerance=1)
    with pytest.raises(ValueError, match="differ in shape"):
        scores_per_class([[0, 1]], [[0, 1, 1]], 2, (1, 1), tolerance=1)
    with pytest.raises(ValueError, match=r"\(H, W\) or \(D, H, W\), got shape \(2,\)"):
        scores_per_class([0, 1], [0, 1], 2, (1,), tolerance=1)


# Bands and centrelines


@given(st.integers(0, 10_000), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_boundary_iou_is_that_of_repeated_erosion(seed, width):
    pred, truth = blobs(seed)
    square = np.ones((3, 3))
    bands = [
        mask & ~ndimage.binary_erosion(mask, square, iterations=width)
        for mask in (pred, truth)
    ]
    expected = (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum()
    assert boundary_iou(pred, truth, width=width) == pytest.approx(expected)


def test_band_is_a_fraction_of_the_diagonal():
    mask = np.zeros((300, 400), dtype=bool)
    mask[50:250, 50:350] = True
    other = np.roll(mask, 3, axis=0)
    assert boundary_iou(mask, other) == boundary_iou(mask, other, width=10)
    tiny = BLOCK, np.roll(BLOCK, 1)
    assert boundary_iou(*tiny) == boundary_iou(*tiny, width=1)
    for options, message in [({"width": 0}, "width"), ({"fraction": 0}, "fraction")]:
        with pytest.raises(ValueError, match=f"{message} must"):
            boundary_iou(mask, other, **options)


def test_centreline_dice_sees_a_gap_whatever_the_thickness():
    for thickness in (1, 5):
        vessel = np.zeros((15, 60), dtype=bool)
        vessel[7 : 7 + thickness, 5:55] = True
        broken = vessel.copy()
        broken[:, 20:30] = False
        assert 0.8 < centreline_dice(broken, vessel) < 0.95
        assert centreline_dice(vessel, vessel) == 1


def test_centreline_dice_has_an_answer_for_blobs_that_thinning_deletes():
    blob = np.zeros((6, 6, 6), dtype=bool)
    blob[2:4, 2:4, 2:4] = True
    assert centreline_dice(blob, blob) == 1
    assert centreline_dice(blob, np.roll(blob, 3, axis=0)) == 0


@pytest.mark.parametrize("score", [boundary_iou, centreline_dice])
def test_overlap_of_thin_things_follows_the_rule_for_empty_masks(score):
    assert math.isnan(score(EMPTY, EMPTY))
    assert score(EMPTY, BLOCK) == score(BLOCK, EMPTY) == 0
    assert score(BLOCK, BLOCK) == 1
