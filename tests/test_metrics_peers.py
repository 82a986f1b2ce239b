"""Scores against other libraries, where definitions agree (extra `bench`)."""

import importlib.util
import warnings

import numpy as np
import pytest
import torch
from scipy import ndimage

from medseg.metrics import (
    Candidates,
    average_surface_distance,
    dice_score,
    froc,
    hausdorff_distance,
    panoptic_quality,
    surface_dice,
    surface_distances,
)
from medseg.metrics import _elements as elements


def peer(name):
    """A module of a peer, or a skip; their warnings at import are theirs."""
    if importlib.util.find_spec(name.split(".")[0]) is None:
        pytest.skip(f"{name} is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def masks(seed, shape):
    """Smooth masks with pieces far apart, some of them cut by the border."""
    rng = np.random.default_rng(seed)
    base, noise = (
        ndimage.gaussian_filter(rng.normal(size=shape), 2, mode="wrap") for _ in "ab"
    )
    return base + 0.6 * noise > 0.06, base > 0.07


PAIRS = pytest.mark.parametrize(
    ("shape", "spacing", "seed"),
    [
        ((70, 61), (1.0, 1.0), 0),
        ((70, 61), (0.4, 1.7), 1),
        ((18, 33, 30), (1.0, 1.0, 1.0), 2),
        ((18, 33, 30), (5.0, 0.8, 1.1), 3),
    ],
)


@PAIRS
@pytest.mark.filterwarnings("ignore::FutureWarning:monai.*")  # of its own arguments
def test_voxel_edges_agree_with_monai(shape, spacing, seed):
    monai = peer("monai.metrics")
    pred, truth = masks(seed, shape)
    batch = [torch.from_numpy(mask)[None, None] for mask in (pred, truth)]
    options = {"include_background": True, "spacing": spacing}
    for percentile in (50, 95, 100):
        theirs = monai.compute_hausdorff_distance(
            *batch, percentile=percentile, **options
        )
        ours = hausdorff_distance(pred, truth, spacing, percentile=percentile)
        assert ours == pytest.approx(theirs.item(), rel=1e-5)  # theirs is float32
    theirs = monai.compute_average_surface_distance(*batch, symmetric=True, **options)
    ours = average_surface_distance(pred, truth, spacing)
    assert ours == pytest.approx(theirs.item(), rel=1e-5)
    for tolerance in (0.9, 2.3):
        for definition, subvoxels in (("voxel_edges", False), ("area_weighted", True)):
            theirs = monai.compute_surface_dice(
                *batch, [tolerance], use_subvoxels=subvoxels, **options
            )
            ours = surface_dice(pred, truth, spacing, tolerance, definition=definition)
            assert ours == pytest.approx(theirs.item(), rel=1e-5)


@PAIRS
def test_pooled_percentile_agrees_with_medpy(shape, spacing, seed):
    medpy = peer("medpy.metric.binary")
    pred, truth = masks(seed, shape)
    ours = hausdorff_distance(pred, truth, spacing, percentile=95, definition="pooled")
    assert ours == pytest.approx(medpy.hd95(pred, truth, spacing))
    ours = average_surface_distance(pred, truth, spacing)
    assert ours == pytest.approx(medpy.assd(pred, truth, spacing))
    assert dice_score(pred, truth) == pytest.approx(medpy.dc(pred, truth))


@PAIRS
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # scipy's old names
def test_surface_elements_agree_with_deepmind(monkeypatch, shape, spacing, seed):
    deepmind = peer("surface_distance.metrics")
    monkeypatch.setattr(np, "Inf", np.inf, raising=False)  # written for NumPy 1
    pred, truth = masks(seed, shape)
    ours = surface_distances(pred, truth, spacing, surface="area_weighted")
    theirs = deepmind.compute_surface_distances(truth, pred, spacing)
    for mine, other in [
        (ours.to_pred, theirs["distances_gt_to_pred"]),
        (ours.to_truth, theirs["distances_pred_to_gt"]),
        (ours.truth_areas, theirs["surfel_areas_gt"]),
        (ours.pred_areas, theirs["surfel_areas_pred"]),
    ]:
        np.testing.assert_allclose(np.sort(mine), np.sort(other), atol=1e-9)
    for percentile in (50, 95, 100):
        expected = deepmind.compute_robust_hausdorff(theirs, percentile)
        assert ours.hausdorff(percentile) == pytest.approx(expected)
    both = deepmind.compute_average_surface_distance(theirs)
    assert ours.average("mean_of_means") == pytest.approx(np.mean(both))
    expected = deepmind.compute_surface_dice_at_tolerance(theirs, 1.3)
    assert ours.surface_dice(1.3) == pytest.approx(expected)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 2.9)])
def test_area_of_each_of_256_cubes_is_deepminds(spacing):
    tables = peer("surface_distance.lookup_tables")
    theirs = tables.create_table_neighbour_code_to_surface_area(spacing)
    weights = tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL
    ours = elements._areas(spacing)
    for code in range(256):
        corners = elements._corners(3)
        same = sum(int(weights[c]) for bit, c in enumerate(corners) if code >> bit & 1)
        assert ours[code] == pytest.approx(float(np.ravel(theirs)[same]))


@pytest.mark.parametrize("seed", range(3))
def test_panoptic_quality_agrees_with_monai(seed):
    monai = peer("monai.metrics")
    truth = ndimage.label(masks(seed, (60, 60))[1])[0]
    pred = np.where(np.random.default_rng(seed).random(truth.shape) < 0.7, truth, 0)
    ours = panoptic_quality(pred, truth)
    maps = [torch.from_numpy(labels) for labels in (pred, truth)]
    for name, value in zip(("pq", "sq", "rq"), ours, strict=True):
        theirs = monai.compute_panoptic_quality(*maps, metric_name=name)
        assert value == pytest.approx(theirs.item(), abs=1e-5)


def test_froc_curve_has_the_points_of_monais():
    monai = peer("monai.metrics")
    rng = np.random.default_rng(0)
    hits, alarms = rng.random(20), rng.random(30)
    curve = froc(
        [Candidates(hits, alarms), Candidates(np.array([-np.inf]), alarms[:0])]
    )
    false, found = monai.compute_froc_curve_data(alarms, hits, 21, 2)
    # Theirs leaves out the lowest score, and has a point at no candidates.
    np.testing.assert_allclose(curve.false_positives[:-1], false[-2::-1])
    np.testing.assert_allclose(curve.sensitivity[:-1], found[-2::-1])
