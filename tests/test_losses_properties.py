"""Many shapes, dtypes and degenerate masks for every public name of the losses."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from medseg import losses

MANY = settings(max_examples=150, deadline=None)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
VOID = 255


def boundary(logits, labels, **options):
    spacing = (1.5, 0.5, 3.0)[: logits.ndim - 2]
    return losses.boundary_loss(logits, labels, spacing=spacing, **options)


def boundary_from_maps(logits, labels, **options):
    steps = (1.5, 0.5, 3.0)[: logits.ndim - 2]
    maps = losses.signed_distance_maps(labels, logits.shape[1], spacing=steps)
    return losses.boundary_loss(logits, labels, distances=maps, **options)


def deep(logits, labels, **options):
    """Three outputs, the others of half and of a third of the size."""
    half, third = (
        logits[(..., *[slice(None, None, n)] * dims)]
        for n, dims in ((2, logits.ndim - 2), (3, logits.ndim - 2))
    )
    return losses.deep_supervision_loss([logits, half, third], labels, **options)


LOSSES = {
    "cross_entropy": losses.cross_entropy,
    "cross_entropy, smoothed": partial(losses.cross_entropy, label_smoothing=0.3),
    "focal_loss": losses.focal_loss,
    "focal_loss, gamma 0.3": partial(losses.focal_loss, gamma=0.3),
    "dice_loss": losses.dice_loss,
    "generalised_dice_loss": losses.generalised_dice_loss,
    "tversky_loss": losses.tversky_loss,
    "focal_tversky_loss": losses.focal_tversky_loss,
    "focal_tversky_loss, gamma 3": partial(losses.focal_tversky_loss, gamma=3),
    "lovasz_loss": losses.lovasz_loss,
    "boundary_loss": boundary,
    "boundary_loss, distances": boundary_from_maps,
    "cldice_loss": partial(losses.cldice_loss, iterations=2),
    "cross_entropy_dice": losses.cross_entropy_dice,
    "combined_loss": partial(
        losses.combined_loss, terms=[(1, losses.lovasz_loss), (0.1, boundary)]
    ),
    "deep_supervision_loss": deep,
    "deep_supervision_loss, logits": partial(deep, resize="logits"),
}
UNIT = ("dice", "generalised", "tversky", "focal_tversky", "cldice")  # at most 1
POOLED = ("dice", "generalised", "tversky", "focal_tversky", "lovasz", "cldice")


@st.composite
def batches(draw):
    """Logits and labels of any fit shape, often degenerate; and an ignored label."""
    spatial = draw(st.lists(st.integers(1, 6), min_size=2, max_size=3))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 4)), *spatial)
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from(DTYPES))
    scale = draw(st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e4]))
    logits = scale * torch.randn(shape, generator=rng, dtype=torch.float64)
    if draw(st.booleans()):
        logits = logits.round()  # ties
    logits = (logits + draw(st.sampled_from([0.0, -9.0, 200.0, 6e4]))).clamp(-6e4, 6e4)
    top = max(shape[1], 2) - 1
    kind = draw(st.sampled_from(["any", "one class", "one pixel", "as predicted"]))
    labels = torch.randint(0, top + 1, (shape[0], *spatial), generator=rng)
    if kind == "one class":
        labels = torch.full_like(labels, draw(st.integers(0, top)))
    elif kind == "one pixel":
        labels = torch.zeros_like(labels)
        labels.view(-1)[-1] = top
    elif kind == "as predicted":
        labels = logits.argmax(1) if top < shape[1] else (logits[:, 0] > 0).long()
    ignored = draw(st.sampled_from([None, VOID, 0]))
    if ignored is not None:
        share = draw(st.sampled_from([0.3, 1.0]))
        labels[torch.rand(labels.shape, generator=rng) < share] = ignored
    whole = draw(st.sampled_from([torch.int64, torch.uint8, torch.int32, torch.int16]))
    return logits.to(dtype), labels.to(whole), ignored


@pytest.mark.parametrize("name", LOSSES)
@given(batch=batches(), per_sample=st.booleans(), background=st.booleans())
@MANY
def test_loss_is_a_finite_scalar_with_a_finite_gradient(
    name, batch, per_sample, background
):
    logits, labels, ignored = batch
    options = {} if ignored is None else {"ignore_index": ignored}
    if name.startswith(POOLED):
        options["per_sample"] = per_sample
    if name.startswith(("dice", "tversky", "focal_t", "lovasz", "boundary")):
        options["include_background"] = background
    logits.requires_grad_()
    value = LOSSES[name](logits, labels, **options)
    value.backward()
    assert value.shape == ()
    assert value.dtype == torch.promote_types(logits.dtype, torch.float32)
    assert torch.isfinite(value)
    assert value >= 0
    if name.startswith(UNIT):
        assert value <= 1 + 1e-6
    assert logits.grad.dtype == logits.dtype
    assert torch.isfinite(logits.grad).all()


@st.composite
def tensors(draw):
    """A tensor of any shape and dtype, with one value that may be anything."""
    shape = draw(st.lists(st.integers(0, 3), min_size=0, max_size=5))
    dtype = draw(st.sampled_from([*DTYPES, torch.int64, torch.uint8, torch.bool]))
    values = torch.full(shape, draw(st.integers(0, 1)), dtype=dtype)
    if values.numel():
        odd = [2, VOID]
        if dtype.is_floating_point:
            odd += [0.5, torch.inf, torch.nan]
        elif dtype == torch.int64:
            odd += [-1, 2**62]
        values.view(-1)[0] = draw(st.sampled_from(odd))
    return values


@st.composite
def doubtful_pairs(draw):
    """Logits and labels, of fit shapes in about half of the cases."""
    logits, labels = draw(tensors()), draw(tensors())
    if logits.ndim > 2 and draw(st.booleans()):
        fit = logits.shape[:1] + logits.shape[2:]
        if logits.shape[1] == 1 and draw(st.booleans()):
            fit = logits.shape
        labels = labels.flatten()[:1].expand(fit) if labels.numel() else labels
    return logits, labels


ANY_INPUT = LOSSES | {
    "boundary_loss, distances": partial(
        losses.boundary_loss, distances=torch.zeros(1, 2, 2, 2)
    ),
    "deep_supervision_loss": lambda z, y: losses.deep_supervision_loss([z, z], y),
    "deep_supervision_loss, logits": losses.deep_supervision_loss,
}


@pytest.mark.parametrize("name", ANY_INPUT)
@given(pair=doubtful_pairs())
@MANY
def test_anything_else_ends_in_a_documented_error(name, pair):
    value, message = None, ""
    try:
        value = ANY_INPUT[name](*pair)
    except (TypeError, ValueError) as error:
        message = str(error)
    assert len(message) > 20 if value is None else torch.isfinite(value)


LABEL_MAPS = arrays.arrays(
    st.sampled_from([np.int64, np.uint8, np.int16, np.uint32]),
    arrays.array_shapes(min_dims=1, max_dims=3, max_side=7),
    elements=st.integers(0, 5),
)
SPACING = st.lists(st.floats(0.1, 10), min_size=3, max_size=3)


@given(
    instances=LABEL_MAPS,
    w0=st.floats(0, 100),
    sigma=st.floats(0.1, 50),
    spacing=st.none() | SPACING,
)
@MANY
def test_border_weights_lie_between_the_classes_and_w0(instances, w0, sigma, spacing):
    if spacing is not None:
        spacing = spacing[: instances.ndim]
    weights = losses.border_weights(instances, w0=w0, sigma=sigma, spacing=spacing)
    assert weights.shape == instances.shape
    assert (weights[instances > 0] == 1).all()
    assert (weights >= 1).all()
    assert (weights <= np.float32(1 + w0)).all()
    mirrored = losses.border_weights(
        instances[::-1], w0=w0, sigma=sigma, spacing=spacing
    )
    np.testing.assert_allclose(mirrored[::-1], weights, rtol=1e-6)


@given(instances=LABEL_MAPS)
@MANY
def test_separating_twice_is_separating_once(instances):
    once = losses.separate_touching(instances)
    assert ((once == instances) | (once == 0)).all()
    assert (losses.separate_touching(once) == once).all()


@given(labels=LABEL_MAPS, num_classes=st.integers(6, 9))
@MANY
def test_balance_weights_have_mean_one_over_the_pixels(labels, num_classes):
    weights = losses.class_balance_weights(labels, num_classes)
    assert weights.shape == (num_classes,)
    assert torch.isfinite(weights).all()
    assert weights[torch.from_numpy(labels.astype(np.int64))].mean().item() == (
        pytest.approx(1, rel=1e-5)
    )


@given(labels=LABEL_MAPS, num_classes=st.integers(1, 7), spacing=SPACING)
@MANY
def test_signed_distance_is_negative_inside_and_at_least_a_step(
    labels, num_classes, spacing
):
    spacing = spacing[: labels.ndim]
    batch = torch.from_numpy(labels.astype(np.int64))[None]
    maps = losses.signed_distance_maps(batch, num_classes, spacing=spacing)
    assert maps.shape == (1, num_classes, *labels.shape)
    first = 1 if num_classes == 1 else 0
    for channel in range(num_classes):
        assert ((maps[0, channel] < 0) == (batch[0] == channel + first)).all()
    assert (maps.abs() >= 0.999 * min(spacing)).all()


@given(
    masks=arrays.arrays(
        np.float32,
        st.tuples(*[st.integers(1, 6)] * 4) | st.tuples(*[st.integers(1, 4)] * 5),
        elements=st.floats(0, 1, width=32),
    ),
    iterations=st.integers(0, 4),
)
@MANY
def test_soft_skeleton_lies_between_zero_and_one(masks, iterations):
    skeleton = losses.soft_skeleton(torch.from_numpy(masks), iterations)
    assert skeleton.shape == masks.shape
    assert (skeleton >= 0).all()
    assert (skeleton <= 1).all()
