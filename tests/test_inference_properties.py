"""Inference under thousands of shapes, dtypes and degenerate maps.

Whatever comes in: a right answer, or a ``TypeError`` or ``ValueError`` with a text;
never another error, and no NaN.
"""

import math

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from medseg.inference import (
    entropy,
    fill_holes,
    instances_from_border,
    instances_from_distance,
    keep_largest,
    overlap_tile,
    predict,
    predict_augmented,
    predict_probabilities,
    predict_volume,
    remove_small,
    resize,
    sliding_window,
    uncertainty,
)
from medseg.inference._sliding import window_shares, window_starts
from medseg.models.unet import UNet2015

quickly = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
spatial = st.lists(st.integers(1, 12), min_size=2, max_size=3).map(tuple)
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def answer_or_reason(call):
    """What a call returns, or the text of its error if it is a documented one."""
    try:
        return call()
    except (TypeError, ValueError) as error:
        return str(error)


def images(shape, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype)


@quickly
@given(
    size=spatial,
    batch=st.integers(1, 3),
    channels=st.integers(1, 3),
    patch=st.integers(1, 14),
    overlap=st.floats(0, 0.9),
    weights=st.sampled_from(["gaussian", "constant"]),
    sigma=st.floats(1e-3, 10),
    batch_size=st.integers(1, 5),
    dtype=st.sampled_from(FLOATS),
    seed=st.integers(0, 99),
)
def test_windows_of_an_identity_are_the_image(
    size, batch, channels, patch, overlap, weights, sigma, batch_size, dtype, seed
):
    values = images((batch, channels, *size), seed, dtype)
    options = {
        "patch_size": patch,
        "overlap": overlap if patch < 8 else min(overlap, 0.5),
        "weights": weights,
        "sigma": sigma,
        "batch_size": batch_size,
    }
    logits = sliding_window(nn.Identity(), values, **options, output="logits")
    torch.testing.assert_close(logits, values.float(), rtol=1e-5, atol=1e-5)
    probabilities = sliding_window(nn.Identity(), values, **options)
    expected = predict_probabilities(nn.Identity(), values)
    torch.testing.assert_close(probabilities, expected, rtol=1e-5, atol=1e-5)
    labels = sliding_window(nn.Identity(), values, **options, output="labels")
    sure = (
        (expected - 0.5).abs()[:, 0] > 1e-4
        if channels == 1
        else expected.topk(2, dim=1).values.diff(dim=1).abs()[:, 0] > 1e-4
    )
    assert torch.equal(labels.long()[sure], predict(nn.Identity(), values)[sure])


@quickly
@given(
    size=st.integers(1, 200),
    share=st.floats(0.001, 1),
    overlap=st.floats(0, 0.999),
    sigma=st.floats(1e-4, 1e4),
)
def test_the_weights_add_up_to_one_at_each_pixel(size, share, overlap, sigma):
    window = max(1, round(share * size))
    starts = window_starts(size, window, overlap)
    for weights in ("gaussian", "constant"):
        total = torch.zeros(size, dtype=torch.float64)
        shares = window_shares(size, window, starts, weights, sigma)
        for start, part in zip(starts, shares, strict=True):
            assert (part >= 0).all()
            total[start : start + window] += part
        torch.testing.assert_close(total, torch.ones_like(total))


@quickly
@given(
    shape=st.lists(st.integers(0, 4), max_size=6).map(tuple),
    dtype=st.sampled_from(
        [torch.float32, torch.float16, torch.float64, torch.int64, torch.bool]
        + [torch.complex64, torch.uint8]
    ),
    bad=st.sampled_from([None, math.nan, math.inf]),
    call=st.sampled_from(
        [
            lambda x: sliding_window(nn.Identity(), x, patch_size=3),
            lambda x: sliding_window(nn.Identity(), x, patch_size=3, output="labels"),
            lambda x: predict_probabilities(nn.Identity(), x),
            lambda x: predict(nn.Identity(), x),
            lambda x: predict_augmented(nn.Identity(), x),
            lambda x: overlap_tile(UNet2015(1, 1, widths=(1, 1)).eval(), x, tile=20),
        ]
    ),
)
def test_any_tensor_is_predicted_or_refused_with_a_text(shape, dtype, bad, call):
    torch.manual_seed(0)
    values = torch.zeros(shape, dtype=dtype)
    if bad is not None and dtype.is_floating_point and values.numel():
        values.view(-1)[-1] = bad
    found = answer_or_reason(lambda: call(values))
    if not isinstance(found, str):
        assert len(shape) in (4, 5)
        assert dtype.is_floating_point
        assert bad is None
        assert torch.isfinite(found).all()
    else:
        assert len(found) > 20


@quickly
@given(
    size=spatial,
    new=st.lists(st.integers(1, 20), min_size=3, max_size=3),
    antialias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_resizing_stays_between_the_values_and_keeps_constants(
    size, new, antialias, seed
):
    values = images((1, 2, *size), seed)
    found = resize(values, new[: len(size)], antialias=antialias)
    assert found.shape == (1, 2, *new[: len(size)])
    assert found.min() >= values.min() - 1e-5
    assert found.max() <= values.max() + 1e-5
    flat = resize(torch.full_like(values, 3.5), new[: len(size)], antialias=antialias)
    torch.testing.assert_close(flat, torch.full_like(flat, 3.5))
    mirrored = resize(values.flip(-1), new[: len(size)], antialias=antialias)
    torch.testing.assert_close(mirrored, found.flip(-1), rtol=1e-4, atol=1e-4)


@quickly
@given(
    size=spatial,
    spacing=st.lists(st.floats(0.3, 5), min_size=3, max_size=3),
    training=st.lists(st.floats(0.5, 5), min_size=3, max_size=3),
    seed=st.integers(0, 99),
)
def test_volumes_come_back_in_their_own_grid(size, spacing, training, seed):
    dims = len(size)
    image = images(size, seed).numpy()
    labels = predict_volume(
        nn.Identity(), image, spacing[:dims], training_spacing=training[:dims]
    )
    assert labels.shape == image.shape
    assert set(np.unique(labels)) <= {0, 1}
    ones = (1,) * dims
    same = predict_volume(nn.Identity(), image, ones, training_spacing=ones)
    np.testing.assert_array_equal(same, image > 0)


@quickly
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6)),
    count=st.integers(1, 4),
    scale=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    seed=st.integers(0, 99),
    normalised=st.booleans(),
)
def test_uncertainties_are_never_nan_and_add_up(shape, count, scale, seed, normalised):
    logits = scale * images((count, *shape), seed)
    samples = logits.sigmoid() if shape[1] == 1 else logits.softmax(2)
    maps = uncertainty(samples, normalised=normalised)
    top = 1.0 if normalised else math.log(max(shape[1], 2))
    for values in (maps.entropy, maps.expected_entropy, maps.mutual_information):
        assert torch.isfinite(values).all()
        assert values.min() >= 0
        assert values.max() <= top + 1e-5
    total = maps.expected_entropy + maps.mutual_information
    torch.testing.assert_close(total, maps.entropy, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(entropy(maps.mean, normalised=normalised), maps.entropy)


label_maps = hnp.arrays(
    st.sampled_from([np.uint8, np.int16, np.int64, np.bool_]),
    hnp.array_shapes(min_dims=2, max_dims=3, max_side=7),
    elements={"min_value": 0, "max_value": 3},
).filter(lambda array: array.size) | hnp.arrays(
    np.bool_, hnp.array_shapes(min_dims=2, max_dims=3, max_side=9)
)


@quickly
@given(labels=label_maps, connectivity=st.integers(1, 2))
def test_clean_up_takes_away_and_fills_as_it_says(labels, connectivity):
    kept = keep_largest(labels, connectivity=connectivity)
    small = remove_small(labels, 2.0, (1,) * labels.ndim, connectivity=connectivity)
    filled = fill_holes(labels, connectivity=connectivity)
    for cleaned in (kept, small, filled):
        assert cleaned.shape == labels.shape
        assert cleaned.dtype == labels.dtype
    for cleaned in (kept, small):  # only from something to nothing
        assert ((cleaned == labels) | (cleaned == 0)).all()
    assert (filled[labels > 0] == labels[labels > 0]).all()
    for function in (keep_largest, fill_holes):  # a second time changes nothing
        once = function(labels, connectivity=connectivity)
        np.testing.assert_array_equal(function(once, connectivity=connectivity), once)
    assert set(np.unique(kept)) | {0} == set(np.unique(labels)) | {0}


@quickly
@given(
    maps=hnp.array_shapes(min_dims=2, max_dims=3, max_side=8).flatmap(
        lambda shape: st.tuples(
            hnp.arrays(np.float32, shape, elements=st.floats(0, 1, width=32)),
            hnp.arrays(np.float32, shape, elements=st.floats(0, 1, width=32)),
        )
    ),
    depth=st.floats(0.01, 2),
)
def test_instances_cover_the_foreground_and_are_numbered_without_gaps(maps, depth):
    foreground, border = maps
    for found, mask in (
        (instances_from_border(foreground, border), foreground > 0.5),
        (instances_from_distance(4 * border, min_depth=depth), 4 * border > 0.5),
    ):
        np.testing.assert_array_equal(found > 0, mask)
        assert np.unique(found[mask]).tolist() == list(range(1, found.max() + 1))


@quickly
@given(
    array=hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int16, np.uint8, np.complex64]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
        fill=st.nothing(),
    ),
    spacing=st.lists(st.one_of(st.floats(), st.just(1.0), st.just(0.0)), max_size=4),
)
def test_arrays_of_any_kind_are_cleaned_or_refused_with_a_text(array, spacing):
    calls = [
        lambda: keep_largest(array),
        lambda: fill_holes(array),
        lambda: remove_small(array, 1, spacing),
        lambda: instances_from_border(array, array),
        lambda: instances_from_distance(array),
        lambda: predict_volume(
            nn.Identity(), array, spacing, training_spacing=(1,) * len(spacing)
        ),
    ]
    for call in calls:
        found = answer_or_reason(call)
        if isinstance(found, str):
            assert len(found) > 20
        else:
            assert found.shape == array.shape or array.ndim == len(spacing) + 1
