"""Every metric on many shapes, dtypes and degenerate masks: what must always hold."""

import inspect
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medseg import metrics

# Scores of two masks that are nan when both are empty, and their values when only the
# prediction is, and only the reference.
SHARES = {
    "dice_score": (0.0, 0.0),
    "iou_score": (0.0, 0.0),
    "sensitivity": (0.0, math.nan),
    "precision": (0.0, 0.0),
    "volume_similarity": (0.0, 0.0),
    "boundary_iou": (0.0, 0.0),
}
SYMMETRIC = {"dice_score", "iou_score", "volume_similarity", "boundary_iou"}
DISTANCES = {
    "hd": lambda d: d.hausdorff(),
    "hd95": lambda d: d.hausdorff(95),
    "hd95 pooled": lambda d: d.hausdorff(95, "pooled"),
    "pooled": lambda d: d.average(),
    "mean of means": lambda d: d.average("mean_of_means"),
}
OBJECTS = [
    lambda p, t: metrics.average_precision(p, t).mean,
    lambda p, t: metrics.panoptic_quality(p, t).quality,
    metrics.aggregated_jaccard,
    lambda p, t: metrics.v_rand(p, t).f_score,
]
DTYPES = [np.bool_, np.uint8, np.int16, np.int64, np.float32, np.float64]
SHAPES = hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=7)


@st.composite
def mask_pairs(draw):
    """Masks of one shape, often empty, full or equal, of any dtype that is allowed."""
    shape = draw(SHAPES)
    kinds = st.sampled_from(["any", "any", "any", "empty", "full", "pixel"])

    def mask():
        kind = draw(kinds)
        if kind == "any":
            return draw(hnp.arrays(np.bool_, shape))
        values = np.full(shape, kind == "full")
        if kind == "pixel":
            values.flat[draw(st.integers(0, values.size - 1))] = True
        return values

    pred = mask()
    truth = pred.copy() if draw(st.booleans()) and draw(st.booleans()) else mask()
    return pred.astype(draw(st.sampled_from(DTYPES))), truth.astype(
        draw(st.sampled_from(DTYPES))
    )


@st.composite
def spacings(draw, ndim):
    sizes = st.floats(0.01, 50, allow_nan=False)
    return tuple(draw(st.lists(sizes, min_size=ndim, max_size=ndim)))


@given(mask_pairs())
@settings(max_examples=150, deadline=None)
def test_shares_lie_between_0_and_1_and_follow_the_rule_for_empty_masks(pair):
    pred, truth = pair
    for name, (missed, invented) in SHARES.items():
        score = getattr(metrics, name)(pred, truth)
        assert isinstance(score, float)
        if pred.any() and truth.any():
            assert 0 <= score <= 1
        else:
            either = missed if truth.any() else invented
            expected = either if pred.any() or truth.any() else math.nan
            assert score == pytest.approx(expected, nan_ok=True), name
        if name in SYMMETRIC:
            swapped = getattr(metrics, name)(truth, pred)
            assert score == pytest.approx(swapped, nan_ok=True)
        if pred.any():
            same = pred.astype(bool)
            assert getattr(metrics, name)(pred, same) == 1
    assert 0 <= metrics.accuracy(pred, truth) <= 1
    difference = metrics.relative_volume_difference(pred, truth)
    assert difference >= -1 or not truth.any()
    assert math.isnan(metrics.specificity(pred, truth)) == truth.all()


@given(mask_pairs())
@settings(max_examples=60, deadline=None)
def test_centreline_dice_has_a_value_for_every_mask(pair):
    pred, truth = pair
    score = metrics.centreline_dice(pred, truth)
    if pred.any() and truth.any():
        assert 0 <= score <= 1
    else:
        assert score == 0 if pred.any() or truth.any() else math.isnan(score)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_distances_are_symmetric_ordered_and_scale_with_the_spacing(data):
    pred, truth = data.draw(mask_pairs())
    spacing = data.draw(spacings(pred.ndim))
    for surface in ("voxel_edges", "area_weighted"):
        there = metrics.surface_distances(pred, truth, spacing, surface=surface)
        back = metrics.surface_distances(truth, pred, spacing, surface=surface)
        larger = metrics.surface_distances(
            pred, truth, [2 * s for s in spacing], surface=surface
        )
        diagonal = math.hypot(*np.multiply(pred.shape, spacing))
        found = {}
        for name, score in DISTANCES.items():
            found[name] = score(there)
            assert found[name] == pytest.approx(score(back), nan_ok=True)
            assert 2 * found[name] == pytest.approx(score(larger), nan_ok=True)
            if pred.any() and truth.any():
                assert 0 <= found[name] <= diagonal
            else:
                either = pred.any() or truth.any()
                assert found[name] == (
                    math.inf if either else pytest.approx(math.nan, nan_ok=True)
                )
        if pred.any() and truth.any():
            assert found["hd95 pooled"] <= found["hd"]  # not hd95: both interpolate
            assert found["hd95"] <= found["hd"]
            assert found["pooled"] <= found["hd"] * (1 + 1e-12)
        shares = [there.surface_dice(t) for t in (0, min(spacing), 2 * diagonal)]
        if pred.any() and truth.any():
            assert 0 <= shares[0] <= shares[1] <= shares[2] == 1
        else:
            worst = 0.0 if pred.any() or truth.any() else math.nan
            assert shares == pytest.approx([worst] * 3, nan_ok=True)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_scores_per_class_are_those_of_single_masks_for_any_label_maps(data):
    shape = data.draw(SHAPES)
    count = data.draw(st.integers(1, 5))
    dtype = data.draw(st.sampled_from([np.uint8, np.int32, np.int64]))
    pred, truth = (
        data.draw(hnp.arrays(dtype, shape, elements=st.integers(0, count)))
        for _ in "ab"
    )
    spacing = data.draw(spacings(len(shape)))
    scores = metrics.scores_per_class(
        torch.from_numpy(pred), truth, count + 1, spacing, tolerance=1.0
    )
    for k in range(1, count + 1):
        distances = metrics.surface_distances(pred == k, truth == k, spacing)
        expected = (
            metrics.dice_score(pred == k, truth == k),
            distances.hausdorff(95),
            distances.average(),
            distances.surface_dice(1.0),
        )
        found = [values[k - 1] for values in scores[1:]]
        assert found == pytest.approx(expected, nan_ok=True)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_object_scores_lie_between_0_and_1_and_are_nan_without_objects(data):
    shape = data.draw(SHAPES)
    pred, truth = (
        data.draw(hnp.arrays(np.int32, shape, elements=st.integers(0, 4))) for _ in "ab"
    )
    for score in OBJECTS:
        found = score(pred, truth)
        rand = score is OBJECTS[-1]  # defined by the reference alone
        if not truth.any() and (rand or not pred.any()):
            assert math.isnan(found)
        else:
            assert 0 <= found <= 1
        if truth.any():
            assert score(truth, truth) == 1
    lesions = metrics.lesion_scores(pred > 0, truth > 0)
    assert 0 <= lesions.found <= lesions.num_lesions
    assert 0 <= lesions.false_positives <= lesions.num_predicted
    assert math.isnan(lesions.sensitivity) == (lesions.num_lesions == 0)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_calibration_is_finite_and_in_range(data):
    shape = (*data.draw(st.tuples(st.integers(1, 2), st.integers(1, 3))), 3, 2)
    raw = data.draw(hnp.arrays(np.float64, shape, elements=st.floats(0, 1)))
    if shape[1] > 1:
        raw = raw + 1e-3
        raw /= raw.sum(axis=1, keepdims=True)
    top = max(shape[1] - 1, 1)
    labels = data.draw(
        hnp.arrays(np.int64, (shape[0], 3, 2), elements=st.integers(0, top))
    )
    assert 0 <= metrics.calibration_error(raw, labels) <= 1
    assert 0 <= metrics.brier_score(raw, labels) <= (1 if shape[1] == 1 else 2)
    assert metrics.negative_log_likelihood(raw, labels) >= 0
    table = metrics.reliability_table(raw, labels)
    assert table.counts.sum() == labels.size


# Whatever comes, an answer or a documented error; never a warning, never a crash.

MASK_SCORES = [
    *(getattr(metrics, name) for name in SHARES),
    metrics.accuracy,
    metrics.specificity,
    metrics.centreline_dice,
    metrics.relative_volume_difference,
    metrics.lesion_scores,
    lambda p, t: metrics.hausdorff_distance(p, t, (1.0, 2.0)),
    lambda p, t: metrics.surface_dice(p, t, (1.0, 2.0, 1.0), 1.0),
    lambda p, t: metrics.scores_per_class(p, t, 2, (1.0, 2.0), tolerance=1.0),
    lambda p, t: metrics.confusion_matrix(p, t, 2),
    metrics.average_precision,
    metrics.aggregated_jaccard,
    metrics.pixel_error,
    metrics.brier_score,
    metrics.lesion_candidates,
]
# How the messages of the door begin; NumPy's and SciPy's do not.
OURS = (
    *("pred ", "truth ", "masks ", "label maps ", "labels ", "spacing "),
    *("probability ", "probabilities "),
)
ANYTHING = hnp.arrays(
    st.sampled_from(
        [np.bool_, np.int8, np.uint16, np.float16, np.float64, np.complex64, "U1"]
    ),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
)


@given(ANYTHING, ANYTHING, st.booleans())
@settings(max_examples=150, deadline=None)
def test_whatever_comes_is_answered_or_refused_by_a_documented_error(pred, truth, same):
    truth = pred if same else truth
    for score in MASK_SCORES:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            refusal = ""
            try:
                score(pred, truth)
            except (TypeError, ValueError) as error:
                refusal = str(error)
            assert not refusal or refusal.startswith(OURS), refusal


def test_every_public_name_is_documented_and_every_function_says_what_empty_gives():
    for name in metrics.__all__:
        thing = getattr(metrics, name)
        if not inspect.isfunction(thing):
            continue
        text = inspect.getdoc(thing)
        for part in ("Args:", "Returns:", "Raises:", "Example:"):
            assert part in text, f"{name} has no {part}"
