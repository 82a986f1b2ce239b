import itertools
import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.metrics import adapted_rand_error, contingency_table

from medseg.metrics import (
    _membranes,
    accuracy,
    confusion_counts,
    confusion_matrix,
    dice_per_class,
    dice_score,
    iou_per_class,
    iou_score,
    pixel_error,
    pooled_scores,
    precision,
    rand_error,
    relative_volume_difference,
    sensitivity,
    specificity,
    v_rand,
    volume_similarity,
    warping_error,
)

EMPTY, FULL = np.zeros((2, 3), dtype=bool), np.ones((2, 3), dtype=bool)
SHARES = [dice_score, iou_score, sensitivity, specificity, precision]
TRIO = [pixel_error, rand_error, warping_error]


def picture(text):
    """A membrane task from a drawing: # is membrane, . is cell interior."""
    return np.array([[c == "." for c in line] for line in text.split()])


def random_masks(seed, shape=(9, 7), share=0.5):
    return np.random.default_rng(seed).random((2, *shape)) < share


# Overlap


def test_counts_worked_by_hand():
    pred = [[1, 1, 1], [0, 0, 0]]
    truth = [[0, 1, 1], [1, 0, 0]]
    assert confusion_counts(pred, truth) == (2, 1, 1, 2)


@given(st.integers(0, 10_000), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_counts_add_up_and_swap_with_the_masks(seed, share):
    pred, truth = random_masks(seed, share=share)
    counts = confusion_counts(pred, truth)
    assert sum(counts) == pred.size
    swapped = confusion_counts(truth, pred)
    assert (counts.tp, counts.fp, counts.fn) == (swapped.tp, swapped.fn, swapped.fp)
    inverted = confusion_counts(~pred, ~truth)
    assert counts == (inverted.tn, inverted.fn, inverted.fp, inverted.tp)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (dice_score, 6 / 9),
        (iou_score, 3 / 6),
        (sensitivity, 3 / 5),
        (specificity, 2 / 3),
        (precision, 3 / 4),
    ],
)
def test_scores_worked_by_hand(score, expected):
    # 3 true positives, 1 false positive, 2 false negatives, 2 true negatives
    pred, truth = [1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 1, 1, 0, 0]
    assert score(pred, truth) == pytest.approx(expected)
    assert isinstance(score(pred, truth), float)


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_iou_is_a_function_of_dice_and_never_above_it(seed):
    pred, truth = random_masks(seed)
    dice, iou = dice_score(pred, truth), iou_score(pred, truth)
    assert iou == pytest.approx(dice / (2 - dice))
    assert iou <= dice


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_dice_is_the_harmonic_mean_of_precision_and_sensitivity(seed):
    pred, truth = random_masks(seed, share=0.7)
    p, s = precision(pred, truth), sensitivity(pred, truth)
    assert dice_score(pred, truth) == pytest.approx(2 * p * s / (p + s))


@pytest.mark.parametrize(
    ("score", "both_empty", "only_pred_empty", "only_truth_empty"),
    [
        (dice_score, math.nan, 0.0, 0.0),
        (iou_score, math.nan, 0.0, 0.0),
        (sensitivity, math.nan, 0.0, math.nan),
        (specificity, 1.0, math.nan, 0.0),  # FULL has no background
        (precision, math.nan, 0.0, 0.0),
    ],
)
def test_empty_masks(score, both_empty, only_pred_empty, only_truth_empty):
    assert score(EMPTY, EMPTY) == pytest.approx(both_empty, nan_ok=True)
    assert score(EMPTY, FULL) == pytest.approx(only_pred_empty, nan_ok=True)
    assert score(FULL, EMPTY) == pytest.approx(only_truth_empty, nan_ok=True)


def test_missed_structure_pulls_the_mean_down():
    scores = [dice_score(FULL, FULL), dice_score(EMPTY, FULL), dice_score(EMPTY, EMPTY)]
    assert np.nanmean(scores) == 0.5


@pytest.mark.parametrize("score", SHARES)
def test_tensors_arrays_and_lists_score_the_same(score):
    pred, truth = random_masks(0)
    expected = score(pred, truth)
    assert score(torch.from_numpy(pred), torch.from_numpy(truth).float()) == expected
    assert score(pred.astype(np.uint8), truth.tolist()) == expected


@pytest.mark.parametrize("score", SHARES)
def test_probabilities_and_other_shapes_are_refused_with_advice(score):
    with pytest.raises(ValueError, match=r"with a threshold: mask > 0\.5"):
        score([0.2, 0.9], [0, 1])
    with pytest.raises(ValueError, match=r"pred \(2, 3\) and truth \(3, 2\)"):
        score(EMPTY, EMPTY.T)


def test_confusion_matrix_equals_a_loop_over_pixels():
    pred, truth = np.random.default_rng(0).integers(0, 4, size=(2, 6, 5, 3))
    expected = np.zeros((5, 5), dtype=int)
    for p, t in zip(pred.ravel(), truth.ravel(), strict=True):
        expected[t, p] += 1
    matrix = confusion_matrix(torch.from_numpy(pred), truth, num_classes=5)
    np.testing.assert_array_equal(matrix, expected)
    assert matrix.dtype == np.int64


def test_label_maps_out_of_range_or_shape_are_refused_with_advice():
    with pytest.raises(ValueError, match=r"0\.\.1 for num_classes=2, got 2"):
        confusion_matrix([0, 2], [0, 1], num_classes=2)
    with pytest.raises(ValueError, match=r"pred \(2,\) and truth \(3,\)"):
        confusion_matrix([0, 1], [0, 1, 1], num_classes=2)
    with pytest.raises(TypeError, match="take the argmax"):
        dice_per_class([0.1, 0.9], [0, 1], num_classes=2)


def test_dice_per_class_is_the_dice_of_each_mask():
    pred, truth = np.random.default_rng(0).integers(0, 3, size=(2, 8, 8))
    truth[truth == 2] = 1  # class 2 only predicted, class 3 nowhere
    scores = dice_per_class(pred, truth, num_classes=4)
    expected = [dice_score(pred == k, truth == k) for k in range(4)]
    np.testing.assert_allclose(scores, expected)
    assert scores[2] == 0
    assert math.isnan(scores[3])


def test_accuracy_and_volumes_worked_by_hand():
    # 3 true positives, 1 false positive, 2 false negatives, 2 true negatives
    pred, truth = [1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 1, 1, 0, 0]
    assert accuracy(pred, truth) == 5 / 8
    assert volume_similarity(pred, truth) == pytest.approx(1 - 1 / 9)
    assert relative_volume_difference(pred, truth) == pytest.approx(-1 / 5)


@given(st.integers(0, 10_000), st.floats(0.05, 1))
@settings(max_examples=50, deadline=None)
def test_volume_similarity_is_symmetric_and_never_below_dice(seed, share):
    pred, truth = random_masks(seed, share=share)
    truth[0] = False
    similarity = volume_similarity(pred, truth)
    assert similarity == volume_similarity(truth, pred)
    if pred.any() or truth.any():
        assert similarity >= dice_score(pred, truth) - 1e-12


def test_volumes_of_empty_masks():
    assert math.isnan(volume_similarity(EMPTY, EMPTY))
    assert volume_similarity(EMPTY, FULL) == volume_similarity(FULL, EMPTY) == 0
    assert math.isnan(relative_volume_difference(EMPTY, EMPTY))
    assert relative_volume_difference(EMPTY, FULL) == -1
    assert relative_volume_difference(FULL, EMPTY) == math.inf
    assert (accuracy(EMPTY, EMPTY), accuracy(EMPTY, FULL)) == (1, 0)


def test_iou_per_class_is_the_iou_of_each_mask():
    pred, truth = np.random.default_rng(0).integers(0, 3, size=(2, 8, 8))
    truth[truth == 2] = 1
    scores = iou_per_class(pred, truth, num_classes=4)
    expected = [iou_score(pred == k, truth == k) for k in range(4)]
    np.testing.assert_allclose(scores, expected)


def test_pooled_scores_are_those_of_all_pixels_together():
    pred, truth = np.random.default_rng(0).integers(0, 3, size=(2, 3, 8, 8))
    truth[truth == 2] = 1  # class 2 only predicted, class 3 nowhere
    counts = sum(
        confusion_matrix(p, t, num_classes=4) for p, t in zip(pred, truth, strict=True)
    )
    scores = pooled_scores(counts)
    assert scores.pixel_accuracy == pytest.approx((pred == truth).mean())
    found = [sensitivity(pred == k, truth == k) for k in range(2)]
    assert scores.mean_accuracy == pytest.approx(np.mean(found))
    ious = [iou_score(pred == k, truth == k) for k in range(3)]
    assert ious[2] == 0
    assert scores.mean_iou == pytest.approx(np.mean(ious))
    shares = [(truth == k).mean() for k in range(3)]
    assert scores.frequency_weighted_iou == pytest.approx(np.dot(shares, ious))


def test_pooled_scores_of_no_pixels_and_of_no_matrix():
    assert all(math.isnan(score) for score in pooled_scores(np.zeros((2, 2), int)))
    with pytest.raises(ValueError, match=r"matrix \(K, K\), got shape \(2, 3\)"):
        pooled_scores(np.zeros((2, 3), int))
    with pytest.raises(TypeError, match="counts must be integers, got float64"):
        pooled_scores(np.zeros((2, 2)))


# The three of ISBI 2012: what they share

TWO_CELLS = picture("...#.... " * 6)
MERGED = picture("........ " * 6)


@pytest.mark.parametrize("error", TRIO)
def test_perfect_prediction_has_no_error(error):
    assert error(TWO_CELLS.astype(float), TWO_CELLS) == 0


@pytest.mark.parametrize("error", TRIO)
def test_error_is_the_least_over_the_thresholds(error):
    noise = np.random.default_rng(0).random((16, 16))
    truth = ndimage.gaussian_filter(noise, 1.5) > 0.5
    probability = 0.6 * truth + 0.4 * np.random.default_rng(1).random((16, 16))
    cuts = (0.2, 0.45, 0.9)
    each = [error(probability, truth, thresholds=[cut]) for cut in cuts]
    assert error(probability, truth, thresholds=cuts) == min(each)
    assert len(set(each)) > 1


@pytest.mark.parametrize("error", TRIO)
def test_probability_must_exceed_the_threshold(error):
    assert error(0.5 * TWO_CELLS, TWO_CELLS, thresholds=[0.49]) == 0
    assert error(0.5 * TWO_CELLS, TWO_CELLS, thresholds=[0.5]) > 0


@pytest.mark.parametrize("error", TRIO)
def test_stack_of_one_section_is_its_section(error):
    probability = np.random.default_rng(0).random((12, 10))
    truth = random_masks(1, (12, 10), share=0.8)[0]
    assert error(probability[None], truth[None]) == error(probability, truth)


@pytest.mark.parametrize("error", TRIO)
def test_order_of_the_sections_does_not_matter(error):
    probability = np.random.default_rng(0).random((3, 9, 7))
    truth = np.random.default_rng(1).random((3, 9, 7)) < 0.8
    turned = error(probability[::-1], truth[::-1])
    assert error(probability, truth) == pytest.approx(turned)


@pytest.mark.parametrize("error", TRIO)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_any_float_type_are_taken(error, dtype):
    probability = torch.from_numpy(TWO_CELLS).to(dtype)
    assert error(probability, torch.from_numpy(TWO_CELLS)) == 0


@pytest.mark.parametrize("error", TRIO)
@pytest.mark.parametrize(
    ("probability", "truth", "options", "message"),
    [
        (5 * TWO_CELLS, TWO_CELLS, {}, "values from 0 to 5. Put logits through"),
        (np.full((6, 8), np.nan), TWO_CELLS, {}, "values from nan to nan"),
        (TWO_CELLS[None], TWO_CELLS, {}, r"got \(1, 6, 8\) and \(6, 8\)"),
        (TWO_CELLS[0], TWO_CELLS[0], {}, r"both be \(H, W\)"),
        (TWO_CELLS, TWO_CELLS, {"thresholds": []}, r"one or more numbers in \[0, 1\)"),
        (TWO_CELLS, TWO_CELLS, {"thresholds": [1]}, r"in \[0, 1\), got \[1.0\]"),
        (TWO_CELLS, 255 * TWO_CELLS.astype(int), {}, "truth must hold only 0 and 1"),
    ],
)
def test_bad_input_is_refused_with_advice(error, probability, truth, options, message):
    with pytest.raises(ValueError, match=message):
        error(probability, truth, **options)


@pytest.mark.parametrize("error", TRIO)
def test_text_is_refused_as_a_probability(error):
    with pytest.raises(TypeError, match="probability must hold numbers, got <U3"):
        error([["0.1", "0.9"]], [[0, 1]])


@pytest.mark.parametrize("error", [pixel_error, rand_error])
def test_reference_without_cells_leaves_the_error_undefined(error):
    assert math.isnan(error(TWO_CELLS, np.zeros_like(TWO_CELLS)))


# Pixel error


def test_pixel_error_is_one_minus_the_f_score_of_the_interior():
    probability = np.random.default_rng(0).random((20, 20))
    truth = random_masks(1, (20, 20))[0]
    p = truth[probability > 0.3].mean()
    r = (probability > 0.3)[truth].mean()
    error = pixel_error(probability, truth, thresholds=[0.3])
    assert error == pytest.approx(1 - 2 / (1 / p + 1 / r))


# Rand error


def random_cells(seed, shape=(60, 60), num_cells=12):
    """A label map without gaps: each pixel has the number of its nearest seed."""
    rng = np.random.default_rng(seed)
    seeds = np.ones(shape, dtype=bool)
    seeds.ravel()[rng.choice(seeds.size, num_cells, replace=False)] = False
    nearest = ndimage.distance_transform_edt(
        seeds, return_distances=False, return_indices=True
    )
    return 1 + np.ravel_multi_index(nearest, shape)


def test_v_rand_counts_pairs_as_a_loop_does():
    pred, truth = np.random.default_rng(0).integers(0, 3, size=(2, 5, 4))
    pixels = np.flatnonzero(truth.ravel())
    p, t = pred.ravel(), truth.ravel()
    together = in_pred = in_truth = 0
    for a, b in itertools.product(pixels, pixels):
        same_pred = a == b or (p[a] == p[b] > 0)  # membrane pixels stand alone
        in_pred += same_pred
        in_truth += t[a] == t[b]
        together += same_pred and t[a] == t[b]
    assert v_rand(pred, truth) == pytest.approx(
        (
            2 * together / (in_pred + in_truth),
            together / in_truth,
            together / in_pred,
        )
    )


def test_v_rand_agrees_with_scikit_image():
    pred, truth = random_cells(0), random_cells(1)
    truth[::7] = 0
    # Without self pairs. Its second value divides by the pairs of the reference, and
    # its third by those of the prediction, whatever its docstring says.
    error, split, merge = adapted_rand_error(truth, pred)
    score = v_rand(pred, truth)
    assert score == pytest.approx((1 - error, split, merge), abs=0.003)
    table = contingency_table(truth, pred, ignore_labels=[0]).toarray().astype(float)
    together = (table**2).sum()
    expected_split = together / (table.sum(axis=1) ** 2).sum()
    expected_merge = together / (table.sum(axis=0) ** 2).sum()
    assert score.split == pytest.approx(expected_split)
    assert score.merge == pytest.approx(expected_merge)


def test_splitting_costs_split_score_and_merging_costs_merge_score():
    whole, halves = np.ones((4, 4), int), np.repeat([[1, 1, 2, 2]], 4, axis=0)
    assert v_rand(halves, whole) == (pytest.approx(2 / 3), 0.5, 1.0)
    assert v_rand(whole, halves) == (pytest.approx(2 / 3), 1.0, 0.5)


def test_numbers_of_the_cells_do_not_matter():
    pred, truth = random_cells(0), random_cells(1)
    assert v_rand(pred, truth) == v_rand(3 * pred + 5, truth[:, ::1] + 1000)


def test_predicted_membrane_on_a_cell_is_a_cell_for_each_pixel():
    # Pairs in the prediction: 2 * 2 + 1 + 1, all of them in the one reference cell.
    assert v_rand([1, 1, 0, 0], [1, 1, 1, 1]) == (12 / 22, 6 / 16, 1.0)


def test_v_rand_of_a_reference_without_cells_is_undefined():
    assert all(math.isnan(value) for value in v_rand([1, 2], [0, 0]))


def test_rand_error_of_a_merger_worked_by_hand():
    # Cells of 18 and 24 pixels in one of 48, of which 42 count.
    f_score = 2 * (18**2 + 24**2) / (18**2 + 24**2 + 42**2)
    assert rand_error(MERGED, TWO_CELLS) == pytest.approx(1 - f_score)


def test_rand_error_sees_a_gap_of_one_pixel():
    leaky = TWO_CELLS.copy()
    leaky[2, 3] = True
    assert rand_error(leaky, TWO_CELLS) > 0.3
    assert pixel_error(leaky, TWO_CELLS) < 0.02


def test_cells_that_touch_at_a_corner_are_two():
    corner = picture("..## ..## ##.. ##..")
    assert rand_error(corner, corner) == 0
    filled = picture("..## ...# ##.. ##..")  # 5 and 4 interior pixels, now joined
    assert rand_error(filled, corner) > 0.3


def test_cells_of_a_stack_end_at_their_section():
    # The same place in two sections: two cells, in prediction and reference alike.
    truth = np.stack([MERGED, MERGED])
    assert rand_error(truth, truth) == 0
    split = np.stack([MERGED, TWO_CELLS])  # 48 whole; 18, 24 and 6 single pixels
    together = 48**2 + 18**2 + 24**2 + 6
    expected = 1 - 2 * together / (together + 2 * 48**2)
    assert rand_error(split, truth) == pytest.approx(expected)


# Warping error


def pixels_wrong(pred, truth, **options):
    return round(warping_error(pred, truth, **options) * truth.size)


@pytest.mark.parametrize("moved_by", [-1, 1])
def test_shifted_membrane_costs_nothing(moved_by):
    assert pixels_wrong(np.roll(TWO_CELLS, moved_by, axis=1), TWO_CELLS) == 0


@pytest.mark.parametrize(("thickness", "moved_by"), [(3, -3), (3, 2), (8, -8), (8, 8)])
def test_membrane_moves_by_its_own_thickness_at_no_cost(thickness, moved_by):
    truth = picture(f"{'.' * 12}{'#' * thickness}{'.' * 12} " * 12)
    assert pixels_wrong(np.roll(truth, moved_by, axis=1), truth) == 0


def test_membrane_that_touches_its_prediction_nowhere_stays_and_costs_its_length():
    # All 6 pixels stay, as each joins the cells; the new one grows from the image
    # border, but for the pixel that would cut the cell.
    assert pixels_wrong(np.roll(TWO_CELLS, 2, axis=1), TWO_CELLS) == 6 + 1


def test_thicker_and_crooked_membrane_costs_nothing():
    pred = picture("..##.... .###.... ..#..... ..##.... ...####. ...##...")
    assert (pred != TWO_CELLS).sum() == 10
    assert pixels_wrong(pred, TWO_CELLS) == 0


@pytest.mark.parametrize("length", [1, 2, 5])
def test_gap_that_merges_two_cells_costs_its_length(length):
    pred = TWO_CELLS.copy()
    pred[:length, 3] = True
    assert pixels_wrong(pred, TWO_CELLS) == length
    assert pixels_wrong(pred, TWO_CELLS, only_splits_and_mergers=True) == length


def test_gap_in_a_thick_membrane_costs_its_length_not_its_area():
    truth, pred = picture("..###... " * 6), picture("..###... " * 6)
    pred[2:4, 2:5] = True  # 2 long, 3 thick
    assert pixels_wrong(pred, truth) == 2


def test_membrane_across_a_cell_costs_one_pixel():
    pred = TWO_CELLS.copy()
    pred[3, :3] = False
    assert pixels_wrong(pred, TWO_CELLS) == 1
    assert pixels_wrong(pred, TWO_CELLS, only_splits_and_mergers=True) == 1


def test_dead_end_of_a_membrane_costs_nothing():
    pred = TWO_CELLS.copy()
    pred[3, 4:7] = False
    assert pixels_wrong(pred, TWO_CELLS) == 0


def test_blob_in_a_cell_costs_its_area_but_is_no_split():
    truth, pred = np.ones((2, 9, 9), dtype=bool)
    pred[3:5, 3:6] = False
    assert pixels_wrong(pred, truth) == 6
    assert pixels_wrong(pred, truth, only_splits_and_mergers=True) == 0


def test_speck_of_interior_in_a_membrane_costs_its_area_but_is_no_merger():
    truth, pred = np.zeros((2, 9, 9), dtype=bool)
    pred[3:5, 3:6] = True
    assert pixels_wrong(pred, truth) == 6
    assert pixels_wrong(pred, truth, only_splits_and_mergers=True) == 0


def test_ring_of_membrane_that_cuts_a_cell_out_of_a_cell_is_a_split():
    truth, pred = np.ones((2, 9, 9), dtype=bool)
    truth[4, 2] = False  # a hole, whose membrane grows into a ring but for one pixel
    pred[2:7, 2:7] = False
    pred[3:6, 3:6] = True
    assert pixels_wrong(pred, truth) == 1
    assert pixels_wrong(pred, truth, only_splits_and_mergers=True) == 1


def test_lost_cell_costs_its_last_pixel_and_is_no_split():
    truth = picture("####### #..#..# #..#..# #######")
    pred = picture("####### #..#### #..#### #######")
    assert pixels_wrong(pred, truth) == 1
    assert pixels_wrong(pred, truth, only_splits_and_mergers=True) == 0


def test_image_border_acts_as_membrane():
    truth = picture(".... .... ....")
    assert pixels_wrong(picture("#### .... ...."), truth) == 0
    assert pixels_wrong(picture(".... .##. ...."), truth) == 2


def test_stack_counts_the_pixels_of_all_sections():
    pred = TWO_CELLS.copy()
    pred[:3, 3] = True
    stack = np.stack([pred, TWO_CELLS]), np.stack([TWO_CELLS, TWO_CELLS])
    assert pixels_wrong(*stack) == 3
    for options in ({}, {"only_splits_and_mergers": True}):
        assert warping_error(*stack, **options) == pytest.approx(3 / 96)


def test_a_pixel_is_simple_where_one_piece_of_each_kind_touches_it():
    for code in range(256):
        ring = [bool(code >> k & 1) for k in range(8)]
        window = np.zeros((3, 3), dtype=bool)
        for (row, column), value in zip(_membranes._RING, ring, strict=True):
            window[row + 1, column + 1] = value
        cells = ndimage.label(window)[0]
        cells_touching = {cells[0, 1], cells[1, 0], cells[1, 2], cells[2, 1]} - {0}
        around = ~window
        around[1, 1] = False
        membranes = ndimage.label(around, np.ones((3, 3)))[1]
        simple = len(cells_touching) == 1 and membranes == 1
        assert (_membranes._PIECES[code] == 1) == simple, window


def euler_counts(inside):
    """Numbers of cells and of membranes, the outside among the latter."""
    padded = np.pad(inside, 1)
    return ndimage.label(padded)[1], ndimage.label(~padded, np.ones((3, 3)))[1]


@given(st.integers(0, 10_000), st.floats(0.2, 0.9))
@settings(max_examples=60, deadline=None)
def test_warping_keeps_the_topology_and_ends_where_no_flip_is_left(seed, share):
    target, source = (np.pad(mask, 1) for mask in random_masks(seed, (14, 11), share))
    warped = _membranes._warp(source, target)
    assert euler_counts(warped) == euler_counts(source)
    assert ((warped == source) | (warped == target)).all()
    for place in zip(*np.nonzero(warped != target), strict=True):
        flipped = warped.copy()
        flipped[place] ^= True
        single = _membranes._pieces(
            warped.ravel(), np.array([np.ravel_multi_index(place, warped.shape)]), 13
        )
        assert single != 1


def test_membrane_grows_until_it_can_grow_no_further():
    warped = np.pad(np.ones((1, 20), dtype=bool), 1).ravel()  # a cell, 22 pixels a row
    _membranes._flip_simple(warped, np.arange(23, 42), width=22)
    assert np.flatnonzero(warped).tolist() == [42]  # the last pixel, not to be flipped


@given(st.integers(0, 10_000), st.floats(0.3, 0.8))
@settings(max_examples=60, deadline=None)
def test_splits_and_mergers_are_told_by_counting_cells(seed, share):
    target, source = (np.pad(mask, 1) for mask in random_masks(seed, (14, 11), share))
    warped = _membranes._warp(source, target)
    wrong = np.flatnonzero(warped != target)
    told = _membranes._splits_or_merges(warped, wrong)
    before = ndimage.label(warped)[1]
    for pixel, claim in zip(wrong, told, strict=True):
        flipped = warped.copy()
        flipped.flat[pixel] ^= True
        after = ndimage.label(flipped)[1]
        assert claim == (after < before if flipped.flat[pixel] else after > before)


def test_warping_a_section_of_full_size_takes_a_few_seconds():
    truth = random_cells(0, (512, 512), 150)
    inside = ndimage.minimum_filter(truth, 3) == ndimage.maximum_filter(truth, 3)
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(512, 512)), 2)
    probability = np.clip(0.5 * inside + 0.25 + 2 * noise, 0, 1)
    cuts = (0.3, 0.4, 0.5, 0.6, 0.7)
    start = time.process_time()
    error = warping_error(probability, inside, thresholds=cuts)
    assert time.process_time() - start < 5
    assert 0 < error < 0.05
