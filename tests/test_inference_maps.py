"""Samples and their uncertainty, clean-up of label maps, instances of cells."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import measure
from skimage.segmentation import find_boundaries
from torch import nn

from medseg import phantoms
from medseg.inference import (
    augmented_samples,
    dropout_samples,
    ensemble_samples,
    entropy,
    fill_holes,
    instances_from_border,
    instances_from_distance,
    keep_largest,
    mean_probabilities,
    predict_augmented,
    predict_ensemble,
    predict_probabilities,
    remove_small,
    sliding_window,
    uncertainty,
)
from medseg.models.unet import UNet, UNet2015

# Test-time augmentation


def skewed(dims, num_classes=2):
    """A network that answers differently for every mirrored or turned image."""
    torch.manual_seed(0)
    return UNet(1, num_classes, widths=(3, 4), spatial_dims=dims).eval()


@pytest.mark.parametrize(
    ("size", "options", "count"),
    [
        ((12, 10), {}, 4),
        ((12, 10), {"flips": (1,)}, 2),
        ((12, 10), {"flips": ()}, 1),
        ((12, 10), {"plane": (0, 1)}, 8),
        ((12, 10), {"flips": (), "plane": (0, 1)}, 4),
        ((12, 10), {"flips": (0,), "plane": (0, 1)}, 8),
        ((4, 6, 8), {}, 8),
        ((4, 6, 8), {"plane": (1, 2)}, 16),
        ((4, 6, 8), {"flips": (0,), "plane": (0, 2)}, 8),
    ],
)
def test_every_move_is_made_once_and_undone_exactly(size, options, count):
    images, seen = torch.rand(2, 1, *size), []

    def predictor(_, moved):
        seen.append(moved)
        return moved

    moves = augmented_samples(nn.Identity(), images, **options, predictor=predictor)
    samples = list(moves)
    assert len(samples) == count
    for sample in samples:
        assert torch.equal(sample, images)
    distinct = {(tuple(x.shape), tuple(x.flatten().tolist())) for x in seen}
    assert len(distinct) == count


@pytest.mark.parametrize("dims", [2, 3])
def test_a_mirrored_or_turned_image_has_the_mirrored_or_turned_result(dims):
    model, images = skewed(dims), torch.randn(1, 1, *(6, 8, 8)[-dims:])
    options = {"plane": (dims - 2, dims - 1)}
    plain = predict_augmented(model, images, **options)
    moves = [lambda x: x.flip(2), lambda x: x.flip(-1), lambda x: x.rot90(1, (-2, -1))]
    for move in moves:
        moved = predict_augmented(model, move(images), **options)
        torch.testing.assert_close(moved, move(plain), rtol=0, atol=1e-6)
        alone = predict_probabilities(model, move(images))
        assert (alone - move(predict_probabilities(model, images))).abs().max() > 1e-3


def test_turns_are_those_of_rot90():
    images, seen = torch.rand(1, 1, 3, 5), []

    def predictor(_, moved):
        seen.append(moved)
        return moved

    model, options = nn.Identity(), {"flips": (), "plane": (0, 1)}
    list(augmented_samples(model, images, **options, predictor=predictor))
    for turns in range(4):
        turned = images.rot90(turns, (2, 3))
        same = [other for other in seen if other.shape == turned.shape]
        assert sum(torch.equal(turned, other) for other in same) == 1


def test_predictors_combine():
    model, images = skewed(2), torch.randn(1, 1, 20, 16)
    windows = partial(sliding_window, patch_size=8)
    found = predict_augmented(model, images, predictor=windows)
    expected = sum(
        sliding_window(model, images.flip(axes), patch_size=8).flip(axes)
        for axes in ([], [2], [3], [2, 3])
    )
    torch.testing.assert_close(found, expected / 4)
    both = predict_ensemble(
        [model, model], images, predictor=partial(predict_augmented, predictor=windows)
    )
    torch.testing.assert_close(both, found)


@pytest.mark.parametrize(
    "options",
    [{"flips": (2,)}, {"flips": (0, 0)}, {"flips": (-1,)}, {"plane": (1, 1)}]
    + [{"plane": (0, 2)}, {"plane": (0,)}],
)
def test_axes_that_are_none(options):
    with pytest.raises(ValueError, match="spatial axes"):
        augmented_samples(nn.Identity(), torch.rand(1, 1, 4, 4), **options)


# Ensembles and dropout


def constant(value):
    """A network with one logit for all pixels."""
    model = nn.Conv2d(1, 1, 1)
    nn.init.zeros_(model.weight)
    nn.init.constant_(model.bias, value)
    return model


def test_an_ensemble_is_the_mean_probability_not_that_of_the_mean_logit():
    images = torch.rand(1, 1, 2, 3)
    found = predict_ensemble([constant(-9.0), constant(3.0), constant(3.0)], images)
    expected = (1 / (1 + math.exp(9)) + 2 / (1 + math.exp(-3))) / 3
    torch.testing.assert_close(found, torch.full((1, 1, 2, 3), expected))
    with pytest.raises(ValueError, match="at least one network"):
        ensemble_samples([], images)
    with pytest.raises(ValueError, match="sample 1 has shape"):
        predict_ensemble([constant(1.0), nn.Conv2d(1, 2, 1)], images)


def dropping():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 1), nn.BatchNorm2d(8), nn.Dropout2d(0.5), nn.Conv2d(8, 2, 1)
    )


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_at_work_and_batch_norm_is_not(training):
    model, images = dropping().train(training), torch.randn(2, 1, 4, 4)
    model[3].eval()  # someone froze a layer
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    samples = []
    for sample in dropout_samples(model, images, count=5):
        samples.append(sample)
        assert [module.training for module in model.modules()] == modes
        assert not model[2]._forward_pre_hooks
        assert not model[2]._forward_hooks
    assert len({tuple(sample.flatten().tolist()) for sample in samples}) == 5
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), "batch norm has learned"
    # The same drops by hand: batch norm by its running statistics.
    torch.manual_seed(1)
    model.eval()
    with torch.no_grad():
        x = nn.functional.dropout2d(model[1](model[0](images)), 0.5, training=True)
        expected = model[3](x).softmax(1)
    torch.testing.assert_close(samples[0], expected)


def test_the_mean_over_many_drops_is_near_the_prediction():
    # One linear layer after the dropout, and small logits: nearly unbiased.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.3), nn.Conv2d(16, 1, 1))
    images = torch.randn(1, 16, 3, 3)
    mean = mean_probabilities(dropout_samples(model, images, count=400))
    expected = predict_probabilities(model, images)
    torch.testing.assert_close(mean, expected, rtol=0, atol=0.05)


def test_dropout_reaches_through_windows_and_is_put_back_after_an_error():
    model, images = dropping().train(), torch.randn(1, 1, 12, 12)
    windows = partial(sliding_window, patch_size=8)
    first, second = dropout_samples(model, images, count=2, predictor=windows)
    assert not torch.equal(first, second)

    def fails(network, batch):
        predict_probabilities(network, batch)
        raise RuntimeError("no more memory")

    with pytest.raises(RuntimeError, match="no more memory"):
        list(dropout_samples(model, images, predictor=fails))
    assert all(module.training for module in model.modules())
    model.eval()
    assert torch.equal(*(predict_probabilities(model, images) for _ in range(2)))


def test_networks_without_dropout_are_refused():
    for model in (UNet(1, 1, widths=(2, 2)), UNet2015(1, 1, widths=(2, 2), dropout=0)):
        with pytest.raises(ValueError, match="has no dropout layer"):
            dropout_samples(model, torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match="count must be at least 1"):
        dropout_samples(dropping(), torch.rand(1, 1, 8, 8), count=0)


# Uncertainty


def pixel(*probabilities):
    return torch.tensor(probabilities).reshape(1, -1, 1, 1)


def test_entropy_by_hand():
    ln = math.log
    assert entropy(pixel(0.5)).item() == pytest.approx(ln(2))
    assert entropy(pixel(0.25)).item() == pytest.approx(0.25 * ln(4) + 0.75 * ln(4 / 3))
    assert entropy(pixel(0.2, 0.3, 0.5)).item() == pytest.approx(
        -(0.2 * ln(0.2) + 0.3 * ln(0.3) + 0.5 * ln(0.5))
    )
    assert entropy(pixel(0.25, 0.25, 0.25, 0.25)).item() == pytest.approx(ln(4))
    for certain in (pixel(0.0), pixel(1.0), pixel(0.0, 1.0, 0.0)):
        assert entropy(certain).item() == 0
    assert entropy(pixel(0.5), normalised=True).item() == pytest.approx(1)
    assert entropy(pixel(0.25, 0.25, 0.25, 0.25), normalised=True).item() == (
        pytest.approx(1)
    )
    # One foreground probability and two classes are the same thing.
    p = torch.rand(2, 1, 3, 4)
    torch.testing.assert_close(entropy(p), entropy(torch.cat([1 - p, p], dim=1)))


def test_uncertainty_by_hand():
    def h(p):
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    maps = uncertainty([pixel(0.9), pixel(0.6), pixel(0.3)])
    assert maps.count == 3
    assert maps.mean.item() == pytest.approx(0.6)
    assert maps.entropy.item() == pytest.approx(h(0.6), abs=1e-6)
    expected = (h(0.9) + h(0.6) + h(0.3)) / 3
    assert maps.expected_entropy.item() == pytest.approx(expected, abs=1e-6)
    assert maps.mutual_information.item() == pytest.approx(h(0.6) - expected, abs=1e-6)
    # Certain, and in full disagreement: all of it is between the samples.
    maps = uncertainty(iter([pixel(1.0, 0.0), pixel(0.0, 1.0)]))
    assert maps.mutual_information.item() == pytest.approx(math.log(2))
    assert maps.expected_entropy.item() == 0
    # Unsure, and in full agreement: none of it is.
    maps = uncertainty([pixel(0.5, 0.5)] * 2, normalised=True)
    assert maps.mutual_information.item() == 0
    assert maps.expected_entropy.item() == pytest.approx(1)


@pytest.mark.parametrize("shape", [(2, 1, 5, 6), (1, 4, 3, 4, 5)])
def test_uncertainty_of_a_stack_and_what_came_in_is_left_alone(shape):
    torch.manual_seed(0)
    logits = 3 * torch.randn(7, *shape)
    stack = logits.sigmoid() if shape[1] == 1 else logits.softmax(2)
    copy = stack.clone()
    maps = uncertainty(stack)
    assert torch.equal(stack, copy)
    torch.testing.assert_close(maps.mean, stack.mean(0))
    both = torch.cat([stack, 1 - stack], 2) if shape[1] == 1 else stack
    expected = -(both * both.log()).sum(2).mean(0)
    torch.testing.assert_close(maps.expected_entropy, expected, rtol=1e-4, atol=1e-5)
    total = maps.expected_entropy + maps.mutual_information
    torch.testing.assert_close(total, maps.entropy)
    assert maps.mutual_information.min() >= 0
    torch.testing.assert_close(mean_probabilities(stack), stack.mean(0))
    assert torch.equal(stack, copy)


@pytest.mark.parametrize(
    ("probabilities", "error", "message"),
    [
        (
            pixel(1.5),
            ValueError,
            r"in \[0, 1\], got 1.5..1.5.*to_probabilities",
        ),
        (pixel(-0.1, 1.1), ValueError, r"must lie in \[0, 1\]"),
        (pixel(0.5, 0.9), ValueError, "must add up to 1"),
        (pixel(math.nan), ValueError, "1 NaN"),
        (torch.rand(3, 3), ValueError, r"shape \(B, K, \*spatial\)"),
        (torch.rand(1, 0, 3), ValueError, "at least one pixel"),
        (torch.ones(1, 1, 3).int(), TypeError, "floating-point tensor"),
        (np.ones((1, 1, 3)), TypeError, "floating-point tensor"),
    ],
)
def test_probabilities_that_are_none(probabilities, error, message):
    with pytest.raises(error, match=message):
        entropy(probabilities)
    with pytest.raises(error, match=message):
        uncertainty([probabilities])


def test_samples_that_are_none():
    for function in (uncertainty, mean_probabilities):
        with pytest.raises(ValueError, match="there are no samples"):
            function([])
        with pytest.raises(ValueError, match="sample 1 has shape"):
            function([pixel(0.5), pixel(0.5, 0.5)])


# Clean-up


def slow_largest(labels, label, connectivity):
    """The largest component, by scikit-image; the first of two that are equal."""
    found = measure.label(labels == label, connectivity=connectivity)
    sizes = [(found == number).sum() for number in range(1, found.max() + 1)]
    return found == 1 + int(np.argmax(sizes)) if sizes else found > 0


@pytest.mark.parametrize("size", [(20, 17), (9, 8, 10)])
@pytest.mark.parametrize("connectivity", [1, 2])
def test_the_largest_component_of_each_class_stays(size, connectivity):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, size).astype(np.uint8)
    kept = keep_largest(labels, connectivity=connectivity)
    assert kept.dtype == np.uint8
    for label in (1, 2, 3):
        expected = slow_largest(labels, label, connectivity)
        np.testing.assert_array_equal(kept == label, expected)
    only = keep_largest(labels, classes=[2, 9], connectivity=connectivity)
    np.testing.assert_array_equal(only[labels != 2], labels[labels != 2])
    np.testing.assert_array_equal(only == 2, kept == 2)


def test_volumes_are_in_cubic_millimetres():
    labels = np.zeros((4, 5, 6), dtype=np.int64)
    labels[0, 0, :3] = 1  # 3 voxels
    labels[3, 2, :2] = 1  # 2 voxels
    labels[2, 4, 4] = 7  # 1 voxel
    spacing = (2.0, 0.5, 1.5)  # 1.5 mm^3 a voxel
    for least, stays in ((0, 6), (1.5, 6), (1.6, 5), (3.0, 5), (3.1, 3), (4.5, 3)):
        assert (remove_small(labels, least, spacing) > 0).sum() == stays
    assert (remove_small(labels, 4.6, spacing) > 0).sum() == 0
    assert (remove_small(labels, 9, spacing, classes=[7]) > 0).sum() == 5
    thin = np.array([[1, 1, 1]])
    assert remove_small(thin, 0.3, (0.1, 1.0)).sum() == 3  # 3 * 0.1 < 0.3 in binary


def test_corners_join_only_where_they_are_told_to():
    labels = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert keep_largest(labels).sum() == 1
    assert keep_largest(labels).tolist()[0] == [1, 0, 0]
    assert keep_largest(labels, connectivity=2).sum() == 3


def test_holes_are_filled_with_the_class_around_them():
    labels = np.zeros((7, 9), dtype=np.int16)
    labels[1:6, 1:6] = 3
    labels[2:5, 2:5] = 0
    labels[3, 3] = 5  # another class in the hole, which stays
    labels[0:3, 7:9] = 3  # a pocket at the edge of the image, which is none
    labels[1, 8] = 0
    filled = fill_holes(labels)
    assert (filled == 3).sum() == 24 + 5
    assert filled[3, 3] == 5
    assert filled[1, 8] == 0
    assert (fill_holes(labels, classes=[5]) == labels).all()
    # A class that touches the wall is a part of it.
    labels = np.array([[1, 1, 1, 1], [1, 0, 2, 2], [1, 1, 1, 1]])
    assert fill_holes(labels)[1, 1] == 0


@pytest.mark.parametrize("connectivity", [1, 2])
def test_holes_of_one_mask_are_those_of_scipy(connectivity):
    mask = np.random.default_rng(0).random((30, 40)) < 0.6
    structure = ndimage.generate_binary_structure(2, connectivity)
    expected = ndimage.binary_fill_holes(mask, structure)
    filled = fill_holes(mask, connectivity=connectivity)
    assert filled.dtype == np.bool_
    assert expected.sum() > mask.sum()
    np.testing.assert_array_equal(filled, expected)


def test_in_a_volume_a_tunnel_is_no_hole():
    labels = np.ones((5, 5, 5), dtype=int)
    labels[2, 2, 2] = 0
    assert fill_holes(labels).all()
    labels[2, 2, 3:] = 0
    assert fill_holes(labels).sum() == 122


CLEAN = [keep_largest, partial(remove_small, min_volume=1, spacing=(1, 1)), fill_holes]


@pytest.mark.parametrize("clean", CLEAN)
def test_tensors_stay_tensors_and_what_came_in_is_left_alone(clean):
    labels = torch.tensor([[1, 0, 1], [1, 1, 1]], dtype=torch.int16)
    copy = labels.clone()
    cleaned = clean(labels)
    assert isinstance(cleaned, torch.Tensor)
    assert cleaned.dtype == torch.int16
    cleaned += 5
    assert torch.equal(labels, copy)
    array = np.ones((2, 2), dtype=bool)
    assert clean(array).dtype == np.bool_
    empty = np.zeros((3, 3), dtype=int)
    assert clean(empty).sum() == 0


@pytest.mark.parametrize("clean", CLEAN)
@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.zeros((2, 2)), TypeError, "integer dtype"),
        (-np.ones((2, 2), int), ValueError, "must not be negative"),
        (np.zeros((0, 2), int), ValueError, "no pixels"),
        (np.zeros(4, int), ValueError, r"\(H, W\) or \(D, H, W\)"),
        (torch.zeros(1, 1, 2, 2).int(), ValueError, "images of a batch one by one"),
    ],
)
def test_labels_that_cannot_be_cleaned(clean, labels, error, message):
    with pytest.raises(error, match=message):
        clean(labels)


@pytest.mark.parametrize("clean", CLEAN)
def test_options_of_clean_up_that_are_none(clean):
    labels = np.ones((2, 2), int)
    for connectivity in (0, 3):
        with pytest.raises(ValueError, match=r"connectivity must lie in 1\.\.2"):
            clean(labels, connectivity=connectivity)
    with pytest.raises(ValueError, match="classes must be from 1"):
        clean(labels, classes=[0])


def test_volumes_that_are_no_limit():
    labels = np.ones((2, 2), int)
    for least in (-1, math.nan):
        with pytest.raises(ValueError, match="min_volume must be at least 0"):
            remove_small(labels, least, (1, 1))
    with pytest.raises(ValueError, match="spacing has 3 values"):
        remove_small(labels, 1, (1, 1, 1))


# Instances


def drawn_cells(seed):
    """Cells that touch, with what a good network says of them."""
    cells = phantoms.cells((128, 128), 25, seed=seed, touching=0.6).labels
    border = find_boundaries(cells, mode="inner", background=0)
    rng = np.random.default_rng(seed)

    def blurred(mask):
        soft = ndimage.gaussian_filter(mask.astype(float), 0.5)
        return np.clip(soft + 0.05 * rng.standard_normal(mask.shape), 0, 1)

    return cells, blurred(cells > 0), blurred(border)


def matched(found, truth):
    """IoU of each true cell with the found one that covers it best."""
    scores = []
    for number in np.unique(truth[truth > 0]):
        mask = truth == number
        best = np.bincount(found[mask]).argmax()
        other = found == best
        scores.append((mask & other).sum() / (mask | other).sum() if best else 0.0)
    return np.array(scores)


@pytest.mark.parametrize("seed", range(4))
def test_touching_cells_come_apart_by_their_borders(seed):
    cells, foreground, border = drawn_cells(seed)
    pieces = ndimage.label(foreground > 0.5)[1]
    count = len(np.unique(cells)) - 1
    assert pieces < count, "no cells touch in this image"
    found = instances_from_border(foreground, border, min_marker=5)
    assert found.dtype == np.int32
    assert found.max() == count
    assert matched(found, cells).min() > 0.75
    np.testing.assert_array_equal(found > 0, foreground > 0.5)
    assert np.unique(found).tolist() == list(range(count + 1))
    first = [np.flatnonzero(found == n)[0] for n in range(1, count + 1)]
    assert first == sorted(first)


@pytest.mark.parametrize("seed", range(4))
def test_touching_cells_come_apart_by_the_distance(seed):
    cells, _, _ = drawn_cells(seed)
    distance = np.zeros(cells.shape)
    for number in range(1, cells.max() + 1):  # to the nearest pixel outside its cell
        alone = ndimage.distance_transform_edt(np.pad(cells == number, 1))[1:-1, 1:-1]
        distance = np.maximum(distance, alone)
    found = instances_from_distance(distance, min_depth=1.0)
    np.testing.assert_array_equal(found > 0, cells > 0)
    assert found.max() == len(np.unique(cells)) - 1
    assert np.mean(matched(found, cells)) > 0.95


def test_cells_in_a_volume_and_cells_without_a_marker():
    foreground = np.zeros((4, 6, 9))
    foreground[1:3, 1:5, 1:8] = 0.9
    border = np.zeros_like(foreground)
    border[1:3, 1:5, 4] = 0.9
    foreground[0, 0, 0] = 0.6  # no marker: 0.6 - 0.2 is below 0.5
    border[0, 0, 0] = 0.2
    found = instances_from_border(foreground, border)
    assert found.max() == 3
    assert found[0, 0, 0] == 1
    assert found[1, 1, 1] == 2
    assert found[1, 1, 7] == 3
    tensors = torch.tensor(foreground), torch.tensor(border)
    np.testing.assert_array_equal(instances_from_border(*tensors), found)


def test_nothing_is_found_in_nothing():
    empty = np.zeros((5, 6))
    assert not instances_from_border(empty, empty).any()
    assert not instances_from_distance(empty).any()
    assert instances_from_border(empty + 1, empty).max() == 1
    assert instances_from_distance(empty + 2).max() == 1


@pytest.mark.parametrize(
    ("foreground", "border", "options", "message"),
    [
        (np.zeros((2, 2)), np.zeros((2, 3)), {}, "give both for the same pixels"),
        (np.full((2, 2), 1.2), np.zeros((2, 2)), {}, "foreground must hold probab"),
        (np.zeros((2, 2)), np.full((2, 2), -1), {}, "border must hold probab"),
        (np.full((2, 2), np.nan), np.zeros((2, 2)), {}, "foreground holds NaN"),
        (np.zeros(2), np.zeros(2), {}, "map of one image"),
        (np.zeros((0, 2)), np.zeros((0, 2)), {}, "at least one pixel"),
        (np.zeros((2, 2)), np.zeros((2, 2)), {"threshold": 2}, "threshold and marker"),
        (np.zeros((2, 2)), np.zeros((2, 2)), {"min_marker": 0}, "at least 1 pixel"),
    ],
)
def test_maps_of_borders_that_are_none(foreground, border, options, message):
    with pytest.raises(ValueError, match=message):
        instances_from_border(foreground, border, **options)


def test_maps_of_distances_that_are_none():
    for depth in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="min_depth must be positive"):
            instances_from_distance(np.ones((2, 2)), min_depth=depth)
    with pytest.raises(ValueError, match="distance holds NaN"):
        instances_from_distance(np.full((2, 2), np.inf))
    with pytest.raises(ValueError, match="threshold must be finite"):
        instances_from_distance(np.ones((2, 2)), threshold=math.nan)
