import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.losses import cross_entropy, cross_entropy_dice, dice_loss

LABELS = torch.tensor([[[0, 0, 1, 1]]])  # (B=1, H=1, W=4)
ALL_LOSSES = [cross_entropy, dice_loss, cross_entropy_dice]
SHAPES = [(1, (5, 4)), (3, (5, 4)), (1, (3, 4, 2)), (3, (3, 4, 2))]  # K, *spatial


def confident(classes, num_classes=2, doubt=100.0):
    """Logits that softmax turns into these classes, with no doubt left."""
    return doubt * F.one_hot(classes, num_classes).movedim(-1, 1).float()


def example(num_classes, spatial, dtype=torch.float32, batch=2):
    """Random logits and labels, the same at each call."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, num_classes, *spatial, generator=rng, dtype=dtype)
    labels = torch.randint(0, max(num_classes, 2), (batch, *spatial), generator=rng)
    return logits, labels


# All losses


@pytest.mark.parametrize("loss", ALL_LOSSES)
@pytest.mark.parametrize(("num_classes", "spatial"), SHAPES)
def test_gradient_is_the_derivative(loss, num_classes, spatial):
    logits, labels = example(num_classes, spatial, torch.float64)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(partial(loss, labels=labels), logits)


@pytest.mark.parametrize("loss", ALL_LOSSES)
@pytest.mark.parametrize(
    ("given_dtype", "result"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_result_is_at_least_float32(loss, given_dtype, result):
    logits, labels = example(3, (4, 4), given_dtype)
    assert loss(logits, labels).dtype == result


@pytest.mark.parametrize("loss", ALL_LOSSES)
@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_half_precision_image_does_not_overflow(loss, num_classes, dtype):
    logits, labels = example(num_classes, (300, 300), dtype, batch=1)
    exact = loss(logits.double(), labels)
    assert loss(logits, labels).item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("loss", ALL_LOSSES)
@pytest.mark.parametrize("num_classes", [1, 2, 4])
@pytest.mark.parametrize("label", [0, 1])
def test_gradient_is_finite_for_huge_logits(loss, num_classes, label):
    signs = torch.tensor([1.0, -1.0]).repeat(1, num_classes, 4, 2)  # (1, K, 4, 4)
    logits = (1e4 * signs).requires_grad_()
    value = loss(logits, torch.full((1, 4, 4), label))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_binary_shorthand_takes_float_masks_with_a_channel(loss):
    logits, labels = example(1, (4, 4))
    mask = labels[:, None].float()  # (B, 1, H, W)
    assert loss(logits, mask) == loss(logits, labels)


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_perfect_prediction_costs_nothing(loss):
    assert loss(confident(LABELS), LABELS).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_channel_axis_on_labels_is_refused_with_advice(loss):
    with pytest.raises(ValueError, match=r"need labels of shape \(1, 1, 4\)"):
        loss(torch.zeros(1, 2, 1, 4), LABELS.unsqueeze(1))


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_nan_logits_are_refused(loss):
    with pytest.raises(ValueError, match="logits holds 4 NaN or infinite"):
        loss(torch.full((1, 1, 1, 4), math.nan), LABELS)


def test_losses_follow_the_logits_through_a_network_step():
    logits, labels = example(3, (8, 8))
    logits.requires_grad_()
    before = cross_entropy_dice(logits, labels)
    before.backward()
    after = cross_entropy_dice(logits.detach() - logits.grad, labels)
    assert after < before


# Cross entropy


def test_cross_entropy_worked_by_hand():
    logits = torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1)  # probs 1/4 and 3/4
    for label, prob in ((0, 1 / 4), (1, 3 / 4)):
        loss = cross_entropy(logits, torch.full((1, 1, 1), label))
        assert loss.item() == pytest.approx(-math.log(prob))


@pytest.mark.parametrize(("num_classes", "spatial"), SHAPES)
def test_cross_entropy_equals_torch(num_classes, spatial):
    logits, labels = example(num_classes, spatial)
    if num_classes == 1:
        expected = F.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
    else:
        expected = F.cross_entropy(logits, labels)
    torch.testing.assert_close(cross_entropy(logits, labels), expected)


def test_weighted_cross_entropy_equals_torch():
    logits, labels = example(3, (6, 6))
    weights = torch.tensor([0.2, 1.0, 5.0])
    labels[0, 0] = 255
    torch.testing.assert_close(
        cross_entropy(logits, labels, class_weights=weights, ignore_index=255),
        F.cross_entropy(logits, labels, weight=weights, ignore_index=255),
    )


def test_pixel_and_class_weights_multiply_and_their_sum_divides():
    logits, labels = example(1, (3, 3))
    pixel_weights = torch.arange(18.0).view(2, 3, 3)
    x, y = logits[:, 0].double().numpy(), labels.numpy()
    w = np.where(y == 1, 4.0, 0.5) * pixel_weights.numpy()
    prob = 1 / (1 + np.exp(-x))
    losses = -np.log(np.where(y == 1, prob, 1 - prob))
    loss = cross_entropy(
        logits, labels, class_weights=[0.5, 4.0], pixel_weights=pixel_weights
    )
    assert loss.item() == pytest.approx((w * losses).sum() / w.sum(), rel=1e-5)


@given(factor=st.floats(0.01, 100))
@settings(max_examples=20, deadline=None)
def test_doubling_all_weights_changes_nothing(factor):
    logits, labels = example(3, (4, 4))
    weights = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        cross_entropy(logits, labels, pixel_weights=weights),
        cross_entropy(logits, labels, pixel_weights=factor * weights),
    )


@pytest.mark.parametrize("num_classes", [1, 3])
def test_ignored_pixels_have_no_say(num_classes):
    logits, labels = example(num_classes, (4, 4))
    labels[:, 1:] = 255
    logits.requires_grad_()
    loss = cross_entropy(logits, labels, ignore_index=255)
    loss.backward()
    alone = cross_entropy(logits[:, :, :1].detach(), labels[:, :1])
    assert loss.item() == pytest.approx(alone.item())
    assert (logits.grad[:, :, 1:] == 0).all()
    assert (logits.grad[:, :, :1] != 0).all()


@pytest.mark.parametrize("num_classes", [1, 3])
def test_batch_without_a_counted_pixel_costs_nothing(num_classes):
    logits = torch.randn(1, num_classes, 2, 2, requires_grad=True)
    loss = cross_entropy(logits, torch.full((1, 2, 2), 255), ignore_index=255)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_binary_shorthand_is_two_class_softmax_with_a_background_logit_of_zero():
    foreground, labels = example(1, (5, 5))
    both = torch.cat([torch.zeros_like(foreground), foreground], dim=1)
    torch.testing.assert_close(
        cross_entropy(foreground, labels, class_weights=[1.0, 3.0]),
        cross_entropy(both, labels, class_weights=[1.0, 3.0]),
    )
    torch.testing.assert_close(
        dice_loss(foreground, labels), dice_loss(both, labels, include_background=False)
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"class_weights": [1.0, 2.0]}, r"class_weights must have shape \(3,\)"),
        ({"class_weights": [1.0, -2.0, 1.0]}, "not negative, got values from -2 to 1"),
        ({"pixel_weights": torch.ones(2, 1, 4, 4)}, "and no channel axis"),
        ({"pixel_weights": torch.full((2, 4, 4), math.nan)}, "must be finite"),
        ({"pixel_weights": torch.full((2, 4, 4), math.inf)}, "must be finite"),
    ],
)
def test_unfit_weights_are_refused_with_advice(weights, message):
    logits, labels = example(3, (4, 4))
    with pytest.raises(ValueError, match=message):
        cross_entropy(logits, labels, **weights)


# Dice loss


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        ([[[0, 0, 1, 1]]], 0.0),  # all right
        ([[[1, 1, 0, 0]]], 1.0),  # all wrong
        ([[[0, 0, 0, 1]]], 1 - (4 / 5 + 2 / 3) / 2),  # one pixel of class 1 lost
    ],
)
def test_dice_loss_worked_by_hand(predicted, expected):
    loss = dice_loss(confident(torch.tensor(predicted)), LABELS)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_background_can_be_left_out():
    logits = confident(torch.tensor([[[0, 0, 0, 1]]]))
    loss = dice_loss(logits, LABELS, include_background=False)
    assert loss.item() == pytest.approx(1 - 2 / 3)


def test_per_sample_averages_the_images_and_batch_pools_their_pixels():
    # Dice of the foreground: 1 in the first image, 2 * 1 / (1 + 3) in the second.
    labels = torch.tensor([[[1, 0, 0, 0]], [[1, 1, 1, 0]]])
    logits = 100 * (2 * torch.tensor([[[1, 0, 0, 0]], [[1, 0, 0, 0]]]) - 1.0)
    loss = partial(dice_loss, logits[:, None], labels)
    assert loss(per_sample=True).item() == pytest.approx((0 + 1 / 2) / 2)
    assert loss(per_sample=False).item() == pytest.approx(1 - 2 * 2 / (2 + 4))


def test_dice_loss_equals_a_loop_over_classes_and_images():
    logits, labels = example(4, (6, 5))
    probs, truth = logits.softmax(1).double().numpy(), labels.numpy()
    terms = [
        1 - 2 * (p[k] * (g == k)).sum() / (p[k].sum() + (g == k).sum())
        for p, g in zip(probs, truth, strict=True)
        for k in range(4)
    ]
    loss = dice_loss(logits, labels, per_sample=True)
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_false_positive_on_an_absent_class_costs_and_has_a_gradient(num_classes, dtype):
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    logits = torch.zeros(1, num_classes, 64, 64, dtype=dtype)
    logits[:, 0] = -6.0 if num_classes == 1 else 6.0  # background everywhere
    quiet = dice_loss(logits, labels)
    logits[0, -1, 30:34, 30:34] = 6.0  # 16 false pixels
    logits.requires_grad_()
    loss = dice_loss(logits, labels)
    loss.backward()
    assert loss > quiet + 1e-4
    assert (logits.grad[0, -1, 30:34, 30:34] > 0).all()  # descent lowers them


def test_gradient_is_finite_where_an_absent_class_has_no_probability_left():
    logits = torch.full((1, 1, 4, 4), -1e4, requires_grad=True)
    dice_loss(logits, torch.zeros(1, 4, 4, dtype=torch.long)).backward()
    assert torch.isfinite(logits.grad).all()


def test_absent_class_is_scored_by_its_complement():
    # One false pixel of four: 1 - Dice of the backgrounds, 2 * 3 / (3 + 4).
    logits = torch.tensor([100.0, -100, -100, -100]).view(1, 1, 1, 4)
    loss = dice_loss(logits, torch.zeros(1, 1, 4, dtype=torch.long))
    assert loss.item() == pytest.approx(1 - 6 / 7)
    assert loss.item() == pytest.approx(1 / (2 * 4 - 1))


def test_more_false_pixels_on_an_absent_class_cost_more():
    losses = [
        dice_loss(
            torch.where(torch.arange(9) < count, 5.0, -5.0).view(1, 1, 3, 3),
            torch.zeros(1, 3, 3, dtype=torch.long),
        )
        for count in range(10)
    ]
    assert losses == sorted(losses)
    assert losses[0] < 0.01
    assert losses[9] > 0.97


def test_absence_is_judged_per_image_only_when_asked():
    labels = torch.tensor([[[1, 1]], [[0, 0]]])
    logits = torch.full((2, 1, 1, 2), 100.0)
    batch = dice_loss(logits, labels)
    assert batch.item() == pytest.approx(1 - 2 * 2 / (4 + 2))
    each = dice_loss(logits, labels, per_sample=True)
    assert each.item() == pytest.approx((0 + 1) / 2)  # absent, all predicted: 2 / 2


@given(st.integers(1, 4), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=60, deadline=None)
def test_dice_loss_lies_between_0_and_1(num_classes, seed, per_sample):
    rng = torch.Generator().manual_seed(seed)
    logits = 10 * torch.randn(2, num_classes, 3, 3, generator=rng)
    labels = torch.randint(0, max(num_classes, 2), (2, 3, 3), generator=rng)
    loss = dice_loss(logits, labels, per_sample=per_sample)
    assert 0 <= loss <= 1


def test_sum_is_the_sum_and_passes_its_options_on():
    logits, labels = example(3, (4, 4))
    weights = torch.arange(32.0).view(2, 4, 4)
    options = {"per_sample": True, "include_background": False}
    torch.testing.assert_close(
        cross_entropy_dice(
            logits,
            labels,
            class_weights=[1.0, 2.0, 3.0],
            pixel_weights=weights,
            **options,
        ),
        cross_entropy(
            logits, labels, class_weights=[1.0, 2.0, 3.0], pixel_weights=weights
        )
        + dice_loss(logits, labels, **options),
    )
