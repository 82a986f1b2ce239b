"""Objects and lesions, against loops over all pairs of objects."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.metrics import (
    IOU_THRESHOLDS,
    Candidates,
    aggregated_jaccard,
    average_precision,
    froc,
    iou_score,
    lesion_candidates,
    lesion_scores,
    panoptic_quality,
)

NOTHING = np.zeros((4, 5), dtype=int)


def label_maps(seed, shape=(9, 8), count=5):
    """Numbers with gaps, and maps that agree in part."""
    rng = np.random.default_rng(seed)
    truth = 3 * rng.integers(0, count, shape)
    pred = np.where(rng.random(shape) < 0.75, truth, 7 * rng.integers(0, count, shape))
    return pred, truth


def objects(labels):
    return [labels == k for k in np.unique(labels) if k]


def most_pairs(good):
    """Largest number of pairs with one in each row and column, by trying all."""
    rows, columns = good.shape
    if rows > columns:
        return most_pairs(good.T)
    orders = itertools.permutations(range(columns), rows)
    return max(sum(good[i, j] for i, j in enumerate(order)) for order in orders)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_object_scores_are_those_of_loops(seed):
    pred, truth = label_maps(seed)
    ours, theirs = objects(pred), objects(truth)
    table = np.array([[iou_score(p, t) for t in theirs] for p in ours])
    cuts = (0.0, 0.1, 0.3, 0.5, 0.8)
    expected = []
    for cut in cuts:
        right = most_pairs(table > cut)
        expected.append(right / (len(ours) + len(theirs) - right))
    scores = average_precision(pred, truth, thresholds=cuts)
    np.testing.assert_allclose(scores.per_threshold, expected)
    assert scores.mean == pytest.approx(np.mean(expected))

    found = table[table > 0.5]
    quality = found.sum() / (len(ours) / 2 + len(theirs) / 2)
    result = panoptic_quality(pred, truth)
    assert result.quality == pytest.approx(quality)
    if found.size:
        assert result.segmentation == pytest.approx(found.mean())
        assert result.quality == result.segmentation * result.recognition

    shared = union = 0
    used = set()
    for index, t in enumerate(theirs):
        best = int(table[:, index].argmax())
        if table[best, index] == 0:
            union += t.sum()
            continue
        used.add(best)
        shared += (ours[best] & t).sum()
        union += (ours[best] | t).sum()
    union += sum(p.sum() for i, p in enumerate(ours) if i not in used)
    assert aggregated_jaccard(pred, truth) == pytest.approx(shared / union)


def test_iou_must_exceed_the_threshold():
    truth, pred = [1, 1, 1, 1], [1, 1, 0, 0]
    assert average_precision(pred, truth, thresholds=[0.5]).mean == 0
    assert average_precision(pred, truth, thresholds=[0.49]).mean == 1
    assert panoptic_quality(pred, truth).quality == 0


def test_thresholds_of_the_data_science_bowl():
    np.testing.assert_allclose(IOU_THRESHOLDS, np.arange(0.5, 1.0, 0.05))
    # An IoU of 8/10 exceeds six of the ten.
    assert average_precision([1] * 8 + [0, 0], [1] * 10).mean == pytest.approx(0.6)


def test_numbers_of_the_objects_do_not_matter():
    pred, truth = label_maps(0)
    renamed = np.where(pred > 0, 1000 - pred, 0), 5 * truth
    for score in (panoptic_quality, aggregated_jaccard):
        np.testing.assert_allclose(score(pred, truth), score(*renamed))
    first, second = (average_precision(*maps) for maps in ((pred, truth), renamed))
    np.testing.assert_array_equal(first.per_threshold, second.per_threshold)


def test_merger_is_punished_twice_by_aggregated_jaccard():
    truth = [1, 1, 1, 2, 2, 2]
    assert aggregated_jaccard([1] * 6, truth) == 6 / 12
    assert aggregated_jaccard(truth, truth) == 1


def test_maps_without_objects():
    one = NOTHING + [0, 0, 1, 1, 0]
    for pred, truth in [(NOTHING, one), (one, NOTHING)]:
        assert average_precision(pred, truth).mean == 0
        assert aggregated_jaccard(pred, truth) == 0
        quality, segmentation, recognition = panoptic_quality(pred, truth)
        assert quality == recognition == 0
        assert math.isnan(segmentation)
    assert math.isnan(average_precision(NOTHING, NOTHING).mean)
    assert np.isnan(average_precision(NOTHING, NOTHING).per_threshold).all()
    assert math.isnan(aggregated_jaccard(NOTHING, NOTHING))
    assert all(math.isnan(value) for value in panoptic_quality(NOTHING, NOTHING))


@pytest.mark.parametrize("thresholds", [[], [1.0], [-0.1], [math.nan], 0.5])
def test_iou_thresholds_out_of_range_are_refused(thresholds):
    with pytest.raises(ValueError, match=r"one or more numbers in \[0, 1\)"):
        average_precision(NOTHING, NOTHING, thresholds=thresholds)


# Lesions

TRUTH = np.array([[1, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 1]])
PRED = np.array([[1, 0, 0, 0, 0, 1, 1, 1, 0, 1, 0, 0]])


@pytest.mark.parametrize(
    ("rule", "minimum", "found", "false"),
    [
        ("any_voxel", 0.5, 2, 1),
        ("share", 0.25, 2, 1),
        ("share", 0.3, 1, 1),  # a quarter of the first, a third of the middle one
        ("share", 0.5, 1, 2),
        ("iou", 0.25, 2, 1),
        ("iou", 0.3, 1, 2),
        ("iou", 0.5, 0, 3),
    ],
)
def test_lesions_found_under_each_rule(rule, minimum, found, false):
    scores = lesion_scores(PRED, TRUTH, rule=rule, minimum=minimum)
    assert (scores.num_lesions, scores.num_predicted) == (3, 3)
    assert (scores.found, scores.false_positives) == (found, false)
    assert scores.sensitivity == found / 3
    assert scores.precision == (3 - false) / 3


def test_one_detection_over_two_lesions_finds_both_but_pairs_with_one():
    truth, pred = [[1, 0, 1]], [[1, 1, 1]]
    assert lesion_scores(pred, truth).found == 2
    assert lesion_scores(pred, truth, rule="iou", minimum=0.3).found == 1


def test_corners_join_or_part_lesions():
    diagonal = np.eye(3, dtype=bool)
    assert lesion_scores(diagonal, diagonal).num_lesions == 1
    assert lesion_scores(diagonal, diagonal, connectivity="faces").num_lesions == 3


def test_scans_without_lesions_or_detections():
    empty = np.zeros_like(TRUTH)
    none = lesion_scores(empty, empty)
    assert none[:4] == (0, 0, 0, 0)
    assert math.isnan(none.sensitivity)
    assert math.isnan(none.precision)
    missed = lesion_scores(empty, TRUTH)
    assert (missed.sensitivity, missed.precision) == (0, 0)
    invented = lesion_scores(PRED, empty)
    assert invented.false_positives == 3
    assert invented.precision == 0
    assert math.isnan(invented.sensitivity)


def test_lesion_options_are_checked():
    with pytest.raises(ValueError, match="rule must be one of 'any_voxel', 'share'"):
        lesion_scores(PRED, TRUTH, rule="touch")
    with pytest.raises(ValueError, match="connectivity must be one of 'corners', 'fa"):
        lesion_scores(PRED, TRUTH, connectivity=26)
    with pytest.raises(ValueError, match=r"minimum must lie in \(0, 1\], got 0"):
        lesion_scores(PRED, TRUTH, rule="iou", minimum=0)


def test_candidates_take_the_largest_probability_of_their_component():
    probability = torch.tensor([[0.6, 0.9, 0.0, 0.7, 0.4, 0.8, 0.0, 0.55]])
    truth = [[1, 0, 0, 1, 0, 0, 1, 0]]
    found = lesion_candidates(probability, truth)
    assert found.lesion_scores == pytest.approx([0.9, 0.7, -math.inf])
    assert found.false_scores == pytest.approx([0.8, 0.55])
    joined = lesion_candidates(probability, truth, threshold=0.3)
    assert joined.lesion_scores == pytest.approx([0.9, 0.8, -math.inf])
    assert joined.false_scores == pytest.approx([0.55])


def random_candidates(seed, scans=4):
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(scans):
        lesions = rng.integers(0, 10, rng.integers(0, 4)) / 10
        lesions[lesions < 0.2] = -math.inf
        cases.append(Candidates(lesions, rng.integers(0, 10, rng.integers(0, 6)) / 10))
    return cases


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_froc_is_a_loop_over_scores(seed):
    cases = random_candidates(seed)
    rates = (0.0, 0.3, 1.0, 2.5)
    lesions = [s for case in cases for s in case.lesion_scores]
    alarms = [s for case in cases for s in case.false_scores]
    curve = froc(cases, rates=rates)
    if not lesions:
        assert math.isnan(curve.average)
        return
    points = [
        (
            sum(a >= cut for a in alarms) / len(cases),
            sum(s >= cut for s in lesions) / len(lesions),
        )
        for cut in sorted({s for s in lesions + alarms if s > -math.inf}, reverse=True)
    ]
    assert list(zip(curve.false_positives, curve.sensitivity, strict=True)) == points
    expected = [
        max([found for false, found in points if false <= rate], default=0.0)
        for rate in rates
    ]
    assert curve.at_rates.tolist() == expected
    assert curve.average == pytest.approx(np.mean(expected))


def test_scan_without_lesions_still_counts_as_a_scan():
    case = Candidates(np.array([0.9]), np.array([0.95]))
    healthy = Candidates(np.array([]), np.array([]))
    assert froc([case], rates=[0.5]).average == 0
    assert froc([case, healthy], rates=[0.5]).average == 1


def test_froc_refuses_what_it_cannot_answer():
    with pytest.raises(ValueError, match="at least one scan, got none"):
        froc([])
    with pytest.raises(ValueError, match=r"not negative, got \[-1.0\]"):
        froc(random_candidates(0), rates=[-1])
    with pytest.raises(ValueError, match=r"values from 0\.0 to 3\.0\. Put logits"):
        lesion_candidates([[0.0, 3.0]], [[0, 1]])
    with pytest.raises(ValueError, match=r"threshold must lie in \[0, 1\), got 1"):
        lesion_candidates([[0.0, 0.3]], [[0, 1]], threshold=1)
