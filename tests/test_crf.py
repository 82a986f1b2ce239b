import dataclasses
import math
from functools import partial

import numpy as np
import pytest
import skimage.data
import torch

from medseg import metrics, phantoms
from medseg.crf import (
    DEEPLAB_V1,
    DEEPLAB_V2_RESNET101,
    DEEPLAB_V2_VGG16,
    CRFCase,
    CRFParams,
    dense_crf,
    grid_search,
    parameter_grid,
    to_logits,
)
from medseg.permutohedral import ExactGaussian, GridGaussian, PermutohedralLattice

SMALL = CRFParams(3, 2, 30, 2, 1.5)  # sigmas that fit images of a few pixels
METHODS = ["lattice", "exact"]


def example(num_classes=3, spatial=(5, 6), channels=3, batch=1, dtype=torch.float32):
    """Random logits, and images of two regions with noise; the same at each call."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, num_classes, *spatial, generator=rng, dtype=dtype)
    images = 10 * torch.randn(batch, channels, *spatial, generator=rng, dtype=dtype)
    images[..., spatial[-1] // 2 :] += 150
    return logits, images + 50


def mean_field(logits, image, params, spacing, iterations=10):
    """The formula, pixel by pixel, in float64: (K, *spatial) to (K, *spatial)."""
    logits, image = np.float64(logits), np.float64(image)
    spatial = logits.shape[1:]
    places = np.stack(np.indices(spatial), -1).reshape(-1, len(spatial)) * spacing
    colours = image.reshape(len(image), -1).T

    def kernel(features):
        k = np.array([[math.exp(-((a - b) ** 2).sum() / 2) for b in features]
                      for a in features])  # fmt: skip
        return k / np.sqrt(k.sum(1)[:, None] * k.sum(0))

    appearance = kernel(
        np.hstack(
            [
                places / params.appearance_sigma_position,
                colours / params.appearance_sigma_intensity,
            ]
        )
    )
    smoothness = kernel(places / params.smoothness_sigma)
    both = params.appearance_weight * appearance + params.smoothness_weight * smoothness
    unary = np.exp(logits.reshape(len(logits), -1).T)
    q = unary / unary.sum(1, keepdims=True)
    for _ in range(iterations):
        q = unary * np.exp(both @ q)
        q /= q.sum(1, keepdims=True)
    return q.T.reshape(logits.shape)


# The formula


@pytest.mark.parametrize(
    ("spatial", "channels", "spacing"),
    [
        ((5, 6), 3, None),
        ((5, 6), 1, (0.5, 2.0)),
        ((1, 7), 2, None),
        ((3, 4, 3), 1, (3.0, 0.8, 0.8)),
    ],
)
@pytest.mark.parametrize("num_classes", [2, 3])
def test_exact_method_is_the_formula(spatial, channels, spacing, num_classes):
    logits, images = example(num_classes, spatial, channels, batch=2)
    result = dense_crf(logits, images, params=SMALL, spacing=spacing, method="exact")
    for one in range(2):
        expected = mean_field(
            logits[one], images[one], SMALL, spacing or (1,) * len(spatial)
        )
        np.testing.assert_allclose(result[one], expected, atol=2e-5)


def test_two_equal_pixels_by_hand():
    # All four values of both kernels are 1, so all are 1/2 after normalisation, and
    # each pixel hears the mean of tanh(l / 2), which is Q_1 - Q_0, from both kernels.
    logits = torch.tensor([[[[2.0, 0.0]]]])
    images = torch.tensor([[[[7.0, 7.0], [900.0, 900.0]]]])
    logits = torch.cat([logits, -logits], dim=2)  # (1, 1, 2, 2): two pairs
    params = CRFParams(3, 1e6, 1, 0, 1)
    expected = torch.sigmoid(logits + 3 * logits.sign().sum(3, True) * math.tanh(1) / 2)
    for method in METHODS:
        result = dense_crf(logits, images, params=params, iterations=1, method=method)
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("method", METHODS)
def test_binary_shorthand_is_two_classes(method):
    logits, images = example(1)
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    one = dense_crf(logits, images, params=SMALL, method=method)
    both = dense_crf(two, images, params=SMALL, method=method)
    assert one.shape == logits.shape
    torch.testing.assert_close(both, torch.cat([1 - one, one], dim=1))


@pytest.mark.parametrize("num_classes", [1, 2, 4])
def test_no_iteration_gives_the_networks_probabilities(num_classes):
    logits, images = example(num_classes)
    result = dense_crf(logits, images, iterations=0)
    expected = logits.sigmoid() if num_classes == 1 else logits.softmax(dim=1)
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("method", METHODS)
def test_sigmas_of_positions_are_in_the_units_of_the_spacing(method):
    logits, images = example(3, (4, 5, 6), channels=1)
    millimetres = dataclasses.replace(
        SMALL, appearance_sigma_position=4, smoothness_sigma=3
    )
    torch.testing.assert_close(
        dense_crf(logits, images, params=millimetres, spacing=(2, 2, 2), method=method),
        dense_crf(logits, images, params=SMALL, method=method),
    )


# The lattice


def cases():
    cells = phantoms.cells((48, 48), 6)
    ct = phantoms.abdomen_ct((48, 48))
    face = skimage.data.astronaut()[90:138, 190:238]
    cup = skimage.data.coffee()[200:248, 300:348]
    ramp = np.indices((8, 9, 10)).sum(0) * 7.0
    ball = np.hypot(*(np.indices((9, 10)) - 5)) + np.arange(8)[:, None, None] < 7
    return {
        "cells": (cells.image[None], cells.labels > 0),
        "CT": (((ct.image + 160) / 400).clip(0, 1)[None] * 255, ct.labels == 1),
        "face": (face.transpose(2, 0, 1), face[..., 0] > np.median(face[..., 0])),
        "cup": (cup.transpose(2, 0, 1), cup[..., 0] > np.median(cup[..., 0])),
        "volume": (ramp[None] + 60 * ball, ball),
    }


@pytest.mark.parametrize("params", [DEEPLAB_V1, DEEPLAB_V2_RESNET101])
@pytest.mark.parametrize("name", ["cells", "CT", "face", "cup", "volume"])
def test_lattice_is_the_exact_mean_field(name, params):
    image, mask = cases()[name]
    rng = np.random.default_rng(1)
    doubt = np.where(mask, 1.0, -1.0) + rng.normal(0, 1.5, mask.shape)
    logits = torch.tensor(doubt, dtype=torch.float32)[None, None]
    images = torch.tensor(np.float32(image))[None]
    lattice, exact = (
        dense_crf(logits, images, params=params, method=m) for m in METHODS
    )
    assert (logits.sigmoid() - exact).abs().mean() > 0.1  # there was something to do
    assert (lattice - exact).abs().mean() <= 0.01


@pytest.mark.parametrize("dim", [1, 2, 5, 7])
def test_lattice_is_symmetric_and_keeps_constants_of_one_cloud(dim):
    features = torch.randn(30, dim, dtype=torch.float64)
    matrix = PermutohedralLattice(features)(torch.eye(30, dtype=torch.float64))
    torch.testing.assert_close(matrix, matrix.T)
    assert (matrix >= 0).all()


@pytest.mark.parametrize("kind", [PermutohedralLattice, ExactGaussian])
def test_orders_are_each_others_transpose_and_their_mean_the_filter(kind):
    eye = torch.eye(30, dtype=torch.float64)
    linear = kind(2 * torch.randn(30, 4, dtype=torch.float64))
    onward, backward, both = (linear(eye, order=order) for order in (1, -1, 0))
    torch.testing.assert_close(onward, backward.T)
    torch.testing.assert_close((onward + backward) / 2, both)
    if kind is PermutohedralLattice:  # empty vertices between the points
        assert not torch.allclose(onward, backward)
    values = torch.randn(30, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: linear(v, order=1), values)


def test_a_lattice_of_several_pieces_is_the_same(monkeypatch):
    features, values = torch.randn(50, 3), torch.rand(50, 2)
    whole = PermutohedralLattice(features)(values)
    monkeypatch.setattr("medseg.permutohedral.ROWS", 7)
    torch.testing.assert_close(PermutohedralLattice(features)(values), whole)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_classes", [1, 2, 4])
def test_result_is_the_same_whether_gradients_are_recorded_or_not(method, num_classes):
    logits, images = example(num_classes, (9, 11))
    options = {"params": SMALL, "method": method, "iterations": 3}
    without = dense_crf(logits, images, **options)
    recorded = dense_crf(logits.requires_grad_(), images, **options)
    assert recorded.requires_grad
    # Without gradients the lattice holds several columns in float16.
    rounded = method == "lattice" and num_classes > 2
    atol = 1e-3 if rounded else 1e-5
    torch.testing.assert_close(recorded.detach(), without, atol=atol, rtol=0)


def test_half_precision_in_the_lattice_changes_next_to_nothing(monkeypatch):
    image = torch.from_numpy(skimage.data.astronaut()[:96, 150:246].copy())
    images = image.permute(2, 0, 1)[None]
    logits = 3 * torch.randn(1, 5, 96, 96, generator=torch.Generator().manual_seed(0))
    compact = dense_crf(logits, images)
    exact = dense_crf(logits.double(), images)
    monkeypatch.setattr("medseg.crf.COMPACT_POINTS", 0)
    full = dense_crf(logits, images)
    assert not torch.equal(compact, full)  # it was used, and can be left out
    torch.testing.assert_close(full.double(), exact, atol=1e-4, rtol=0)
    assert (compact - exact).abs().mean() < 1e-4
    assert (compact.argmax(1) == exact.argmax(1)).float().mean() > 0.999


def test_scores_too_large_for_an_exponential_are_decided_all_the_same():
    logits = torch.tensor([[[[-500.0]], [[500.0]], [[499.0]]]]).expand(1, 3, 4, 4)
    images = torch.zeros(1, 1, 4, 4)
    images[..., 2:] = 200.0
    refined = dense_crf(logits, images)
    assert refined.isfinite().all()
    assert (refined.argmax(1) == 1).all()
    assert (refined[:, 0] == 0).all()


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_barycentric_weights_find_the_point(dim):
    lattice = PermutohedralLattice(3 * torch.randn(50, dim), normalized=False)
    assert lattice.slice_weights.min() >= -1e-5
    torch.testing.assert_close(lattice.slice_weights.sum(1), torch.ones(50))
    # Each point has one vertex of each colour, and no two vertices are one.
    assert lattice.num_vertices <= 50 * (dim + 1)
    assert all(len(set(row)) == dim + 1 for row in lattice.slice_vertices.tolist())


def test_lattice_without_normalisation_is_a_gaussian_up_to_a_factor():
    line = torch.linspace(-4, 4, 400, dtype=torch.float64)[:, None]
    plane = torch.cat([line, torch.zeros_like(line)], dim=1)
    middle = torch.zeros(400, 1, dtype=torch.float64)
    middle[200] = 1
    response = PermutohedralLattice(plane, normalized=False)(middle)
    share = response / response.sum()
    variance = (share * (line - line[200]) ** 2).sum()
    assert variance.item() == pytest.approx(1, abs=0.15)


def test_keys_too_long_for_an_integer_give_the_same_lattice(monkeypatch):
    features, values = 20 * torch.randn(200, 4), torch.rand(200, 3)
    digits = PermutohedralLattice(features)
    monkeypatch.setattr("medseg.permutohedral.LONGEST_KEY", 1)
    hashed = PermutohedralLattice(features)
    assert hashed.num_vertices == digits.num_vertices
    torch.testing.assert_close(hashed(values), digits(values))


def test_many_channels_fit():
    logits, images = example(2, (6, 6), channels=16)
    result = dense_crf(logits, 20 * images, params=SMALL)
    assert torch.isfinite(result).all()


@pytest.mark.parametrize(
    ("shape", "sigmas"),
    [
        ((7, 9), (1.5, 0.7)),
        ((20, 1), (3, 3)),
        ((4, 5, 6), (1, 2, 0.5)),
        ((150,), (2,)),  # three blocks
        ((400, 2), (1, 1)),  # several pieces of rows
    ],
)
@pytest.mark.parametrize("columns", [1, 3, 20])
def test_filter_of_a_grid_is_the_gaussian_of_all_pairs(shape, sigmas, columns):
    places = torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing="ij"), -1)
    features = places.reshape(-1, len(shape)) / torch.tensor(sigmas)
    values = torch.rand(math.prod(shape), columns)
    grid = GridGaussian(shape, sigmas, like=values)
    torch.testing.assert_close(
        grid(values), ExactGaussian(features.float())(values), rtol=1e-4, atol=1e-5
    )


def test_exact_gaussian_is_the_same_in_pieces():
    features, values = torch.randn(23, 3), torch.rand(23, 2)
    torch.testing.assert_close(
        ExactGaussian(features, pairs=50)(values), ExactGaussian(features)(values)
    )


# What every use relies on


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_classes", [1, 2, 3])
def test_gradient_of_logits_and_weights_is_the_derivative(method, num_classes):
    logits, images = example(num_classes, (2, 3), dtype=torch.float64)
    weights = torch.tensor([2.0, 1.0], dtype=torch.float64, requires_grad=True)

    def refine(logits, weights):
        params = dataclasses.replace(
            SMALL, appearance_weight=weights[0], smoothness_weight=weights[1]
        )
        return dense_crf(logits, images, params=params, iterations=2, method=method)

    assert torch.autograd.gradcheck(refine, (logits.requires_grad_(), weights))


@pytest.mark.parametrize("method", METHODS)
def test_each_image_of_a_batch_is_by_itself(method):
    logits, images = example(3, batch=3)
    together = dense_crf(logits, images, params=SMALL, method=method)
    alone = [
        dense_crf(logits[i : i + 1], images[i : i + 1], params=SMALL, method=method)
        for i in range(3)
    ]
    torch.testing.assert_close(together, torch.cat(alone))


def test_image_is_found_in_every_dtype_and_logits_in_half_precision():
    logits, images = example(3)
    images = images.round().clamp(0, 255)
    expected = dense_crf(logits.half().float(), images)
    torch.testing.assert_close(dense_crf(logits.half(), images.byte()), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(dense_crf(logits.half(), images), expected)


def test_no_gradient_is_kept_for_the_image():
    logits, images = example(2)
    result = dense_crf(logits, images.requires_grad_(), params=SMALL)
    assert not result.requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_classes", [1, 3])
def test_gpu_agrees_with_cpu(method, num_classes):
    logits, images = example(num_classes, (32, 40))
    torch.testing.assert_close(
        dense_crf(logits.cuda(), images.cuda(), params=SMALL, method=method).cpu(),
        dense_crf(logits, images, params=SMALL, method=method),
        rtol=1e-3,
        atol=1e-3,
    )


# The door


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"logits": np.zeros((1, 2, 4, 4))}, TypeError, "logits must be a torch"),
        ({"logits": torch.zeros(1, 2, 4, 4).long()}, TypeError, "Use to_logits"),
        ({"images": torch.zeros(1, 3, 4, 4) > 0}, TypeError, "images must hold real"),
        ({"logits": torch.zeros(2, 4, 4)}, ValueError, r"got \(2, 4, 4\). Add a mis"),
        ({"images": torch.zeros(1, 3, 4, 5)}, ValueError, "must agree in all axes"),
        ({"images": torch.zeros(2, 3, 4, 4)}, ValueError, "must agree in all axes"),
        ({"images": torch.zeros(1, 0, 4, 4)}, ValueError, "nothing in them"),
        ({"logits": torch.full((1, 2, 4, 4), math.nan)}, ValueError, "logits holds 32"),
        ({"images": torch.full((1, 3, 4, 4), math.inf)}, ValueError, "images holds 48"),
        ({"spacing": (1, 1, 1)}, ValueError, "spacing has 3 values"),
        ({"spacing": ()}, ValueError, "spacing has 0 values"),
        ({"spacing": (1, 0)}, ValueError, "spacing must be positive"),
        ({"iterations": -1}, ValueError, "0 or more, got -1"),
        ({"iterations": 2.5}, TypeError, "must be an integer, got 2.5"),
        ({"method": "fast"}, ValueError, "one of 'lattice', 'exact', got 'fast'"),
    ],
)
def test_bad_input_is_refused_with_advice(changes, error, message):
    good = {"logits": torch.zeros(1, 2, 4, 4), "images": torch.zeros(1, 3, 4, 4)}
    with pytest.raises(error, match=message):
        dense_crf(**{**good, **changes})


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        (
            "appearance_weight",
            -1,
            ValueError,
            "at least 0 and finite, got -1. To learn",
        ),
        ("smoothness_sigma", 0, ValueError, "positive and finite, got 0. To leave"),
        ("appearance_sigma_position", -3.0, ValueError, "positive and finite, got -3"),
        ("appearance_sigma_intensity", math.nan, ValueError, "finite, got nan"),
        ("smoothness_weight", torch.ones(2), TypeError, "must be one number"),
        ("smoothness_weight", None, TypeError, "must be one number, got None"),
    ],
)
def test_impossible_parameters_are_refused(name, value, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(DEEPLAB_V1, **{name: value})


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (torch.zeros(3, 2).half(), TypeError, "float32 or float64, got torch.float16"),
        (torch.zeros(3), ValueError, r"shape \(N, d\)"),
        (torch.zeros(0, 2), ValueError, r"got \(0, 2\)"),
        (torch.full((3, 2), math.nan), ValueError, "features holds 6 NaN"),
    ],
)
@pytest.mark.parametrize("kind", [ExactGaussian, PermutohedralLattice])
def test_bad_features_are_refused(kind, features, error, message):
    with pytest.raises(error, match=message):
        kind(features)


def test_images_from_0_to_1_are_noticed():
    logits, images = example(2)
    with pytest.warns(UserWarning, match="multiply images in \\[0, 1\\] by 255"):
        dense_crf(logits, images / 255)


def test_parameters_are_those_of_the_released_scripts():
    assert dataclasses.astuple(DEEPLAB_V1) == (5, 50, 3, 3, 3)
    assert dataclasses.astuple(DEEPLAB_V2_VGG16) == (4, 65, 3, 2, 2)
    assert dataclasses.astuple(DEEPLAB_V2_RESNET101) == (4, 67, 3, 3, 1)


def test_logits_come_back_from_probabilities():
    for num_classes in (1, 3):
        logits, _ = example(num_classes)
        probs = logits.sigmoid() if num_classes == 1 else logits.softmax(dim=1)
        back = to_logits(probs)
        again = back.sigmoid() if num_classes == 1 else back.softmax(dim=1)
        torch.testing.assert_close(again, probs)
    assert torch.isfinite(to_logits(torch.tensor([[[0.0, 1.0]]]))).all()


@pytest.mark.parametrize(
    ("probabilities", "floor", "error", "message"),
    [
        (torch.ones(1, 1, 2).long(), 1e-6, TypeError, "Labels say nothing of doubt"),
        (torch.tensor([[[1.5]]]), 1e-6, ValueError, r"got values from 1\.5 to 1\.5"),
        (torch.tensor([[[math.nan]]]), 1e-6, ValueError, r"must lie in \[0, 1\]"),
        (torch.tensor([[[0.5]]]), 0.5, ValueError, "floor must lie between 0 and 0.5"),
    ],
)
def test_what_is_no_probability_is_refused(probabilities, floor, error, message):
    with pytest.raises(error, match=message):
        to_logits(probabilities, floor=floor)


# The grid search


def lesion(seed, num_classes=1):
    """A bright square, and logits that know it badly."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.zeros(16, 16, dtype=torch.long)
    labels[4:11, 5:12] = 1
    image = 100.0 * labels[None] + 5 * torch.randn(1, 16, 16, generator=rng)
    logits = 2 * labels[None] - 1 + 1.5 * torch.randn(1, 16, 16, generator=rng)
    if num_classes == 2:
        logits = torch.cat([-logits / 2, logits / 2])
    return CRFCase(logits, image, labels)


@pytest.mark.parametrize("num_classes", [1, 2])
def test_grid_search_scores_each_candidate_as_dense_crf_would(num_classes):
    validation = [lesion(seed, num_classes) for seed in range(2)]
    candidates = parameter_grid(
        SMALL,
        appearance_weights=[0, 3],
        appearance_sigmas_position=[5],
        appearance_sigmas_intensity=[10, 40],
    )
    search = grid_search(validation, candidates, metrics.dice_score)
    assert search.after.shape == (4, 2)
    for case, before, after in zip(
        validation, search.before, search.after.T, strict=True
    ):
        outcomes = [torch.sigmoid(case.logits)[None]] + [
            dense_crf(case.logits[None], case.image[None], params=params)
            for params in candidates
        ]
        for outcome, score in zip(outcomes, [before, *after], strict=True):
            decided = outcome[0, -1] > 0.5
            assert score == metrics.dice_score(decided, case.labels)
    assert search.means.max() > search.before.mean()
    assert search.best == candidates[int(search.means.argmax())]


def test_grid_search_never_reports_after_without_before():
    search = grid_search([lesion(0)], [DEEPLAB_V1], metrics.dice_score)
    before, after = search.before[0], search.after[0, 0]
    text = str(search)
    assert text.startswith(f"before {before:.4f}, after {after:.4f} (n = 1")
    assert "best of 1: CRFParams(appearance_weight=5" in text


def test_grid_search_counts_what_is_undefined():
    empty = lesion(1)
    empty = empty._replace(
        labels=torch.zeros_like(empty.labels), logits=torch.full((1, 16, 16), -9.0)
    )
    search = grid_search([lesion(0), empty], [DEEPLAB_V1], metrics.dice_score)
    assert np.isnan(search.before).tolist() == [False, True]
    assert "undefined before 1, after 1" in str(search)
    assert search.means[0] == search.after[0, 0]


def test_grid_search_uses_the_spacing_of_each_case():
    candidates = [CRFParams(3, 10, 20, 3, 4)]
    score = partial(metrics.dice_score)
    fine, coarse = (
        grid_search([lesion(3)._replace(spacing=(s, s))], candidates, score).after[0, 0]
        for s in (1.0, 100.0)
    )
    assert fine != coarse


def test_grid_search_needs_something_to_search():
    with pytest.raises(ValueError, match="got 0 case"):
        grid_search([], [DEEPLAB_V1], metrics.dice_score)
    with pytest.raises(ValueError, match=r"0 candidate\(s\)"):
        grid_search([lesion(0)], [], metrics.dice_score)
    wrong = lesion(0)._replace(labels=torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"need labels of shape \(16, 16\)"):
        grid_search([wrong], [DEEPLAB_V1], metrics.dice_score)
