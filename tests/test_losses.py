import math
import warnings
from functools import partial
from itertools import pairwise, product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg.losses import (
    border_weights,
    boundary_loss,
    class_balance_weights,
    cldice_loss,
    combined_loss,
    cross_entropy,
    cross_entropy_dice,
    deep_supervision_loss,
    dice_loss,
    focal_loss,
    focal_tversky_loss,
    generalised_dice_loss,
    lovasz_loss,
    separate_touching,
    signed_distance_maps,
    soft_skeleton,
    tversky_loss,
)
from medseg.models.nnunet import PlainConvUNet
from medseg.models.unet_variants import UNetPlusPlus
from medseg.training import evaluate, train_one_epoch

LABELS = torch.tensor([[[0, 0, 1, 1]]])  # (B=1, H=1, W=4)


def boundary(logits, labels, **options):
    """The boundary loss in 2D or 3D, with pixels that are no cubes."""
    spacing = (1.5, 1.0, 2.0)[: logits.ndim - 2]
    return boundary_loss(logits, labels, spacing=spacing, **options)


REGION_LOSSES = {
    "dice": dice_loss,
    "dice per sample": partial(dice_loss, per_sample=True),
    "generalised Dice": generalised_dice_loss,
    "generalised Dice per sample": partial(generalised_dice_loss, per_sample=True),
    "Tversky": tversky_loss,
    "focal Tversky": focal_tversky_loss,
    "Lovász": lovasz_loss,
    "Lovász per sample": partial(lovasz_loss, per_sample=True),
    "boundary": boundary,
    "clDice": partial(cldice_loss, iterations=2),
}
PIXEL_LOSSES = {
    "cross entropy": cross_entropy,
    "smoothed": partial(cross_entropy, label_smoothing=0.1),
    "focal": focal_loss,
    "focal with a small gamma": partial(focal_loss, gamma=0.5),
}
SUMS = {
    "cross entropy + Dice": cross_entropy_dice,
    "combined": partial(combined_loss, terms=[(1, dice_loss), (0.1, boundary)]),
    "deep supervision": deep_supervision_loss,
}
LOSSES = PIXEL_LOSSES | REGION_LOSSES | SUMS
SHAPES = [(1, (5, 4)), (3, (5, 4)), (1, (3, 4, 2)), (3, (3, 4, 2))]  # K, *spatial

every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
region_loss = pytest.mark.parametrize("loss", REGION_LOSSES.values(), ids=REGION_LOSSES)


def confident(classes, num_classes=2, doubt=100.0):
    """Logits that softmax turns into these classes, with no doubt left."""
    return doubt * F.one_hot(classes, num_classes).movedim(-1, 1).float()


def example(num_classes, spatial, dtype=torch.float32, batch=2):
    """Random logits and labels, the same at each call."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, num_classes, *spatial, generator=rng, dtype=dtype)
    labels = torch.randint(0, max(num_classes, 2), (batch, *spatial), generator=rng)
    return logits, labels


def gradient(loss, logits, labels):
    logits = logits.clone().requires_grad_()
    loss(logits, labels).backward()
    return logits.grad


def discs(size, count, radius, seed=0):
    """Round cells that touch here and there, numbered without a gap."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((size, size))
    cells = np.zeros((size, size), np.int64)
    for label in range(1, count + 1):
        row, column = rng.uniform(0, size, 2)
        disc = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
        cells[disc & (cells == 0)] = label
    return np.unique(cells, return_inverse=True)[1].reshape(cells.shape)


# All losses


@every_loss
@pytest.mark.parametrize(("num_classes", "spatial"), SHAPES)
def test_gradient_is_the_derivative(loss, num_classes, spatial):
    logits, labels = example(num_classes, spatial, torch.float64)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(partial(loss, labels=labels), logits)


@every_loss
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
    value = loss(logits, labels)
    assert value.dtype == result
    assert value.shape == ()


@every_loss
@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_half_precision_image_does_not_overflow(loss, num_classes, dtype):
    logits, labels = example(num_classes, (300, 300), dtype, batch=1)
    exact = loss(logits.double(), labels)
    assert loss(logits, labels).item() == pytest.approx(exact.item(), rel=2e-5)


@every_loss
@pytest.mark.parametrize("num_classes", [1, 2, 4])
@pytest.mark.parametrize("label", [0, 1])
def test_gradient_is_finite_for_huge_logits(loss, num_classes, label):
    signs = torch.tensor([1.0, -1.0]).repeat(1, num_classes, 4, 2)  # (1, K, 4, 4)
    logits = (1e4 * signs).requires_grad_()
    value = loss(logits, torch.full((1, 4, 4), label))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


@every_loss
def test_binary_shorthand_takes_float_masks_with_a_channel(loss):
    logits, labels = example(1, (4, 4))
    mask = labels[:, None].float()  # (B, 1, H, W)
    assert loss(logits, mask) == loss(logits, labels)


@pytest.mark.parametrize(
    "loss",
    [value for name, value in LOSSES.items() if name != "smoothed"],
    ids=[name for name in LOSSES if name != "smoothed"],
)
@pytest.mark.parametrize("classes", [1, 2])
def test_perfect_prediction_costs_nothing(loss, classes):
    logits = confident(LABELS)
    if classes == 1:
        logits = logits[:, 1:] - logits[:, :1]
    assert loss(logits, LABELS).item() == pytest.approx(0, abs=1e-6)


@every_loss
def test_step_against_the_gradient_lowers_the_loss(loss):
    logits, labels = example(3, (8, 8))
    step = gradient(loss, logits, labels)
    assert loss(logits - 0.1 * step / step.norm(), labels) < loss(logits, labels)


@every_loss
@pytest.mark.parametrize("num_classes", [1, 3])
def test_ignored_pixels_get_no_gradient_and_have_no_say(loss, num_classes):
    logits, labels = example(num_classes, (6, 4))
    labels[:, 4:] = 255
    loss = partial(loss, ignore_index=255)
    changed = logits.clone()
    changed[:, :, 4:] = -3 * logits[:, :, 4:] + 1
    assert loss(changed, labels) == loss(logits, labels)
    slope = gradient(loss, logits, labels)
    assert (slope[:, :, 4:] == 0).all()
    assert slope.abs().sum() > 0


LOCAL = [n for n in LOSSES if n not in ("boundary", "clDice", "combined")]


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("ignored", [0, 1, 255])
def test_ignoring_pixels_is_cutting_them_off(name, num_classes, ignored):
    logits, labels = example(num_classes, (6, 4))
    labels[labels == ignored] = 1 - ignored if ignored < 2 else 0
    cut = labels.clone()
    labels[:, 4:] = ignored
    torch.testing.assert_close(
        LOSSES[name](logits, labels, ignore_index=ignored),
        LOSSES[name](logits[:, :, :4], cut[:, :4]),
    )


@every_loss
@pytest.mark.parametrize("num_classes", [1, 3])
def test_batch_without_a_counted_pixel_costs_nothing(loss, num_classes):
    logits = torch.randn(1, num_classes, 2, 2, requires_grad=True)
    value = loss(logits, torch.full((1, 2, 2), 255), ignore_index=255)
    value.backward()
    assert value.item() == 0
    assert (logits.grad == 0).all()


@every_loss
def test_channel_axis_on_labels_is_refused_with_advice(loss):
    with pytest.raises(ValueError, match=r"need labels of shape \(1, 1, 4\)"):
        loss(torch.zeros(1, 2, 1, 4), LABELS.unsqueeze(1))


@every_loss
@pytest.mark.parametrize(
    ("logits", "labels", "error", "message"),
    [
        (torch.full((1, 1, 1, 4), math.nan), LABELS, ValueError, "logits holds 4 NaN"),
        (torch.full((1, 2, 1, 4), math.inf), LABELS, ValueError, "logits holds 8 NaN"),
        (torch.zeros(1, 2, 1, 4), LABELS.float(), TypeError, "must be class indices"),
        (
            torch.zeros(1, 2, 1, 4),
            LABELS + 1,
            ValueError,
            r"lie in 0\.\.1 .* got 1\.\.2",
        ),
        (torch.zeros(1, 1, 1, 4), LABELS * 255, ValueError, r"lie in 0\.\.1"),
        (torch.zeros(1, 2, 1, 4), -LABELS, ValueError, r"lie in 0\.\.1 .* got -1\.\.0"),
        (torch.zeros(1, 2, 1, 4).long(), LABELS, TypeError, "must hold floating point"),
        (
            torch.zeros(1, 2, 1, 5),
            LABELS,
            ValueError,
            r"need labels of shape \(1, 1, 5",
        ),
        (torch.zeros(1, 2, 0, 4), LABELS[:, :0], ValueError, "no class or no pixel"),
        (torch.zeros(0, 2, 1, 4), LABELS[:0], ValueError, "no class or no pixel"),
        (torch.zeros(1, 2, 1, 4), LABELS.numpy(), TypeError, "must be a torch.Tensor"),
        (np.zeros((1, 2, 1, 4)), LABELS, TypeError, "must be a "),
    ],
)
def test_unfit_input_is_refused_with_advice(loss, logits, labels, error, message):
    with pytest.raises(error, match=message):
        loss(logits, labels)


@every_loss
@pytest.mark.parametrize("num_classes", [1, 2])
def test_every_loss_is_a_criterion(loss, num_classes):
    logits, labels = example(num_classes, (8, 8))
    targets = labels[:, None].float() if num_classes == 1 else labels
    if num_classes == 2:
        targets[:, 0] = 255
        loss = partial(loss, ignore_index=255)
    batches = [(logits[:, :1], targets)]
    model = torch.nn.Conv2d(1, num_classes, 3, padding=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    first = train_one_epoch(model, batches, loss, optimizer, "cpu")
    assert evaluate(model, batches, loss, "cpu").loss < first


@pytest.mark.parametrize(
    "loss", [cross_entropy, cross_entropy_dice, focal_tversky_loss, lovasz_loss]
)
def test_compiled_without_a_break_it_is_the_same(loss):
    logits, labels = example(3, (4, 4))
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    assert compiled(logits, labels) == loss(logits, labels)


# Classes that do not occur


@region_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_false_positive_on_an_absent_class_costs_and_has_a_gradient(
    loss, num_classes, dtype
):
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    logits = torch.zeros(1, num_classes, 64, 64, dtype=dtype)
    logits[:, 0] = -6.0 if num_classes == 1 else 6.0  # background everywhere
    quiet = loss(logits, labels)
    logits[0, -1, 30:34, 30:34] = 6.0  # 16 false pixels
    assert loss(logits, labels) > quiet + 1e-4
    assert (gradient(loss, logits, labels)[0, -1, 30:34, 30:34] > 0).all()


@region_loss
@pytest.mark.parametrize("num_classes", [1, 3])
def test_gradient_on_an_absent_class_is_not_tiny(loss, num_classes):
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    logits = torch.full((1, num_classes, 64, 64), -4.0)  # p = 0.02 of the last class
    if num_classes > 1:
        logits[:, 0] = 0.0
    logits[0, -1, 30:34, 30:34] = 0.0  # and 1/2 on 16 pixels
    slope = gradient(loss, logits, labels)[0, -1]
    # The mean of p over the pixels and classes would have p (1 - p) = 1/4 here.
    assert slope[30:34, 30:34].min() * 64**2 * num_classes > 0.05
    if loss is not lovasz_loss and getattr(loss, "func", None) is not lovasz_loss:
        assert slope.min() > 0


@region_loss
def test_more_false_pixels_on_an_absent_class_cost_more(loss):
    losses = [
        loss(
            torch.where(torch.arange(9) < count, 5.0, -5.0).view(1, 1, 3, 3),
            torch.zeros(1, 3, 3, dtype=torch.long),
        )
        for count in range(10)
    ]
    assert all(more > less for less, more in pairwise(losses))
    assert losses[0] < 0.05
    assert losses[9] > 0.95


@region_loss
@pytest.mark.parametrize("num_classes", [1, 3])
def test_gradient_is_finite_where_an_absent_class_has_no_probability_left(
    loss, num_classes
):
    logits = torch.full((1, num_classes, 4, 4), -1e4)
    if num_classes > 1:
        logits[:, 0] = 1e4
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    assert torch.isfinite(gradient(loss, logits, labels)).all()
    assert loss(logits, labels) == 0


@region_loss
def test_a_class_missed_altogether_has_a_gradient(loss):
    labels = torch.zeros(1, 16, 16, dtype=torch.long)
    labels[:, 6:9, 3:12] = 1
    logits = torch.full((1, 1, 16, 16), -4.0)
    slope = gradient(loss, logits, labels)[0, 0]
    assert slope[7, 4:11].max() < -1e-5  # descent raises them
    assert loss(logits, labels) > 0.6 or loss is boundary


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


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weighted_and_smoothed_cross_entropy_equals_torch(smoothing):
    logits, labels = example(3, (6, 6))
    weights = torch.tensor([0.2, 1.0, 5.0])
    labels[0, 0] = 255
    torch.testing.assert_close(
        cross_entropy(
            logits,
            labels,
            class_weights=weights,
            ignore_index=255,
            label_smoothing=smoothing,
        ),
        F.cross_entropy(
            logits, labels, weight=weights, ignore_index=255, label_smoothing=smoothing
        ),
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
    for loss in (cross_entropy, focal_loss):
        torch.testing.assert_close(
            loss(logits, labels, pixel_weights=weights),
            loss(logits, labels, pixel_weights=factor * weights),
        )


def test_all_weights_zero_cost_nothing():
    logits, labels = example(3, (4, 4))
    for options in ({"class_weights": [0.0] * 3}, {"pixel_weights": 0.0 * labels}):
        loss = partial(cross_entropy, label_smoothing=0.1, **options)
        assert loss(logits, labels) == 0
        assert (gradient(loss, logits, labels) == 0).all()


@pytest.mark.parametrize(
    "loss",
    [
        partial(cross_entropy, class_weights=[1.0, 3.0]),
        partial(cross_entropy, class_weights=[1.0, 3.0], label_smoothing=0.2),
        partial(focal_loss, class_weights=[1.0, 3.0]),
        *[loss for name, loss in REGION_LOSSES.items() if "Lov" not in name],
    ],
)
def test_binary_shorthand_is_two_class_softmax_with_a_background_logit_of_zero(loss):
    foreground, labels = example(1, (5, 5))
    both = torch.cat([torch.zeros_like(foreground), foreground], dim=1)
    only = {}
    if getattr(loss, "func", loss) in (dice_loss, tversky_loss, focal_tversky_loss):
        only = {"include_background": False}
    torch.testing.assert_close(loss(foreground, labels), loss(both, labels, **only))


@pytest.mark.parametrize("num_classes", [1, 2])
def test_smoothing_asks_for_less_than_certainty(num_classes):
    # The least value is the entropy of (0.95, 0.05), at those probabilities.
    z = math.log(0.95 / 0.05)
    logits = torch.tensor([[[z]], [[-z]]])[:, None]  # (2, 1, 1, 1): labels 1 and 0
    if num_classes == 2:
        logits = torch.cat([-logits / 2, logits / 2], dim=1)
    labels = torch.tensor([[[1]], [[0]]])
    loss = partial(cross_entropy, label_smoothing=0.1)
    entropy = -0.95 * math.log(0.95) - 0.05 * math.log(0.05)
    assert loss(logits, labels).item() == pytest.approx(entropy)
    assert gradient(loss, logits, labels).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": [1.0, 2.0]}, r"class_weights must have shape \(3,\)"),
        ({"class_weights": [1.0, -2.0, 1.0]}, "not negative, got values from -2 to 1"),
        ({"pixel_weights": torch.ones(2, 1, 4, 4)}, "and no channel axis"),
        ({"pixel_weights": torch.full((2, 4, 4), math.nan)}, "must be finite"),
        ({"pixel_weights": torch.full((2, 4, 4), math.inf)}, "must be finite"),
    ],
)
@pytest.mark.parametrize("loss", [cross_entropy, focal_loss, cross_entropy_dice])
def test_unfit_weights_are_refused_with_advice(loss, options, message):
    logits, labels = example(3, (4, 4))
    with pytest.raises(ValueError, match=message):
        loss(logits, labels, **options)


@pytest.mark.parametrize(
    ("loss", "options", "message"),
    [
        (cross_entropy, {"label_smoothing": 1}, "at least 0 and below 1, got 1"),
        (cross_entropy, {"label_smoothing": math.nan}, "below 1, got nan"),
        (focal_loss, {"gamma": -1}, "gamma must be at least 0 and finite, got -1"),
        (tversky_loss, {"alpha": 0}, "alpha must be greater than 0 and finite, got 0"),
        (tversky_loss, {"beta": -1}, "beta must be greater than 0"),
        (focal_tversky_loss, {"alpha": math.inf}, "alpha must be greater than 0 and f"),
        (focal_tversky_loss, {"beta": 0}, "beta must be greater than 0"),
        (focal_tversky_loss, {"gamma": 0}, "gamma must be greater than 0"),
        (boundary_loss, {}, "needs either the spacing in mm or distances"),
        (boundary_loss, {"spacing": (1, 1, 1)}, "has 3 values, but the array has 2"),
        (boundary_loss, {"spacing": (1, 0)}, "must be positive"),
        (boundary_loss, {"distances": torch.zeros(2, 4, 4)}, "distances have shape"),
        (
            boundary_loss,
            {"distances": torch.full((2, 3, 4, 4), math.nan)},
            "distances holds 96 NaN",
        ),
        (cldice_loss, {"smooth": 0}, "smooth must be greater than 0"),
        (cldice_loss, {"iterations": -1}, "iterations must be at least 0, got -1"),
        (deep_supervision_loss, {"resize": "both"}, "resize must be one of 'labels'"),
        (combined_loss, {"terms": []}, "at least one pair of weight and loss"),
        (combined_loss, {"terms": [(math.nan, dice_loss)]}, "finite, got nan"),
    ],
)
def test_unfit_options_are_refused_with_advice(loss, options, message):
    logits, labels = example(3, (4, 4))
    with pytest.raises(ValueError, match=message):
        loss(logits, labels, **options)


# Focal loss


@pytest.mark.parametrize("num_classes", [1, 3])
def test_focal_loss_without_gamma_is_cross_entropy(num_classes):
    logits, labels = example(num_classes, (4, 4))
    torch.testing.assert_close(
        focal_loss(logits, labels, gamma=0), cross_entropy(logits, labels)
    )


def test_focal_loss_equals_a_loop_over_pixels():
    logits, labels = example(3, (3, 4))
    weights = [0.5, 1.0, 3.0]
    top = bottom = 0.0
    for b, row, column in np.ndindex(2, 3, 4):
        k = labels[b, row, column]
        scores = logits[b, :, row, column].double().exp()
        p = float(scores[k] / scores.sum())
        top += weights[k] * (1 - p) ** 1.5 * -math.log(p)
        bottom += weights[k]
    loss = focal_loss(logits, labels, gamma=1.5, class_weights=weights)
    assert loss.item() == pytest.approx(top / bottom, rel=1e-5)


def test_easy_pixels_count_a_hundredth_at_probability_nine_tenths():
    logits = torch.full((1, 1, 1, 1), math.log(9))
    labels = torch.ones(1, 1, 1, dtype=torch.long)
    ratio = focal_loss(logits, labels) / cross_entropy(logits, labels)
    assert ratio.item() == pytest.approx(0.01, rel=1e-5)


# Dice and its relatives


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


@pytest.mark.parametrize(
    "loss",
    [dice_loss, generalised_dice_loss, tversky_loss, focal_tversky_loss]
    + [lovasz_loss, partial(cldice_loss, iterations=2)],
)
@pytest.mark.parametrize("num_classes", [1, 3])
def test_per_sample_is_the_mean_over_images(loss, num_classes):
    logits, labels = example(num_classes, (6, 5), batch=3)
    alone = [loss(logits[b : b + 1], labels[b : b + 1]) for b in range(3)]
    torch.testing.assert_close(
        loss(logits, labels, per_sample=True), torch.stack(alone).mean()
    )


def sums_by_loop(probs, truth, classes):
    """True, invented and missed soft pixels of each class."""
    for k in classes:
        p, g = probs[:, k], truth == k
        yield p[g].sum(), p[~g].sum(), (1 - p[g]).sum()


@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize(
    ("loss", "term"),
    [
        (dice_loss, lambda t, f, m: 1 - 2 * t / (2 * t + f + m)),
        (tversky_loss, lambda t, f, m: 1 - t / (t + 0.3 * f + 0.7 * m)),
        (
            partial(tversky_loss, alpha=1, beta=1),  # soft IoU
            lambda t, f, m: 1 - t / (t + f + m),
        ),
        (
            partial(focal_tversky_loss, alpha=0.4, beta=0.9, gamma=2),
            lambda t, f, m: math.sqrt(1 - t / (t + 0.4 * f + 0.9 * m)),
        ),
    ],
)
def test_overlap_losses_equal_a_loop_over_classes(loss, term, include_background):
    logits, labels = example(4, (6, 5))
    probs, truth = logits.softmax(1).double().numpy(), labels.numpy()
    classes = range(0 if include_background else 1, 4)
    terms = [term(*sums) for sums in sums_by_loop(probs, truth, classes)]
    value = loss(logits, labels, include_background=include_background)
    assert value.item() == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize("per_sample", [True, False])
def test_tversky_loss_with_halves_is_dice_loss(per_sample):
    logits, labels = example(4, (6, 5))
    labels[0] = labels[0].clamp(max=2)  # one class absent in one image
    torch.testing.assert_close(
        tversky_loss(logits, labels, alpha=0.5, beta=0.5, per_sample=per_sample),
        dice_loss(logits, labels, per_sample=per_sample),
    )


def test_generalised_dice_loss_equals_a_loop_over_classes():
    logits, labels = example(4, (6, 5))
    probs, truth = logits.softmax(1).double().numpy(), labels.numpy()
    top = bottom = 0.0
    for k, (t, f, m) in enumerate(sums_by_loop(probs, truth, range(4))):
        weight = 1 / (truth == k).sum() ** 2
        top += weight * 2 * t
        bottom += weight * (2 * t + f + m)
    value = generalised_dice_loss(logits, labels)
    assert value.item() == pytest.approx(1 - top / bottom, rel=1e-5)


def test_generalised_dice_loss_takes_absent_classes_apart():
    logits, labels = example(4, (6, 5))
    labels = labels.clamp(max=1)  # classes 2 and 3 do not occur
    probs, truth = logits.softmax(1).double().numpy(), labels.numpy()
    sums = list(sums_by_loop(probs, truth, range(4)))
    weights = [1 / (truth == k).sum() ** 2 for k in (0, 1)]
    errors = sum(w * (f + m) for w, (_, f, m) in zip(weights, sums[:2], strict=True))
    total = sum(
        w * (2 * t + f + m) for w, (t, f, m) in zip(weights, sums[:2], strict=True)
    )
    absent = [f / (2 * 60 - f) for _, f, _ in sums[2:]]
    value = generalised_dice_loss(logits, labels)
    assert value.item() == pytest.approx((2 * errors / total + sum(absent)) / 4)


def test_absent_class_is_scored_by_its_complement():
    # One false pixel of four: 1 - Dice of the backgrounds, 2 * 3 / (3 + 4).
    logits = torch.tensor([100.0, -100, -100, -100]).view(1, 1, 1, 4)
    labels = torch.zeros(1, 1, 4, dtype=torch.long)
    assert dice_loss(logits, labels).item() == pytest.approx(1 - 6 / 7)
    assert dice_loss(logits, labels).item() == pytest.approx(1 / (2 * 4 - 1))
    assert generalised_dice_loss(logits, labels).item() == pytest.approx(1 - 6 / 7)
    # The missed pixel of the complement is the invented one of the class.
    tversky = 1 - 3 / (3 + 0.3)
    assert tversky_loss(logits, labels).item() == pytest.approx(tversky)
    power = focal_tversky_loss(logits, labels).item()
    assert power == pytest.approx(tversky**0.75)
    # The hinge: 101 on one of four pixels.
    assert lovasz_loss(logits, labels).item() == pytest.approx(101 / 4)


def test_absence_is_judged_per_image_only_when_asked():
    labels = torch.tensor([[[1, 1]], [[0, 0]]])
    logits = torch.full((2, 1, 1, 2), 100.0)
    batch = dice_loss(logits, labels)
    assert batch.item() == pytest.approx(1 - 2 * 2 / (4 + 2))
    each = dice_loss(logits, labels, per_sample=True)
    assert each.item() == pytest.approx((0 + 1) / 2)  # absent, all predicted: 2 / 2


# Lovász


def lovasz_by_sets(errors, truth):
    """The extension by its definition: one minus the IoU of growing sets of errors."""

    def cost(wrong):
        intersection = (truth & ~wrong).sum()
        return 1 - intersection / (truth | wrong).sum()

    total, wrong, before = 0.0, np.zeros_like(truth), 0.0
    for i in np.argsort(-errors):
        wrong[i] = True
        total += errors[i] * (cost(wrong) - before)
        before = cost(wrong)
    return total


def test_lovasz_softmax_equals_its_definition_on_sets():
    logits, labels = example(3, (4, 3))
    probs = logits.softmax(1).double().numpy()
    terms = []
    for k in range(3):
        truth = (labels == k).numpy().ravel()
        terms.append(lovasz_by_sets(np.abs(truth - probs[:, k].ravel()), truth))
    assert lovasz_loss(logits, labels).item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_lovasz_hinge_equals_its_definition_on_sets():
    logits, labels = example(1, (4, 3))
    truth = labels.numpy().ravel() == 1
    z = logits.double().numpy().ravel()
    errors = np.maximum(0, 1 - np.where(truth, z, -z))
    value = lovasz_loss(logits, labels).item()
    assert value == pytest.approx(lovasz_by_sets(errors, truth), rel=1e-5)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_lovasz_softmax_of_hard_predictions_is_one_minus_iou(num_classes):
    _, labels = example(num_classes, (6, 6))
    _, pred = example(num_classes, (6, 6), batch=3)
    pred = pred[1:]
    ious = [
        ((pred == k) & (labels == k)).sum() / ((pred == k) | (labels == k)).sum()
        for k in range(num_classes)
    ]
    loss = lovasz_loss(confident(pred, num_classes), labels)
    assert loss.item() == pytest.approx(1 - np.mean(ious), abs=1e-6)


def test_lovasz_gradient_is_exact_on_a_large_image():
    # As differences of the IoU in float32 the steps would be wrong by up to 20 %.
    logits, labels = example(1, (600, 600), batch=1)
    exact = gradient(lovasz_loss, logits.double(), labels)
    slope = gradient(lovasz_loss, logits, labels)
    assert ((slope - exact).abs() <= 1e-3 * exact.abs()).all()


# Boundary loss


def signed_by_pairs(mask, spacing):
    """Signed distance of a mask by looking at all pairs of pixels."""
    steps = np.array(spacing)
    diagonal = np.linalg.norm(steps * mask.shape)
    points = np.stack(np.indices(mask.shape), -1).reshape(-1, mask.ndim) * steps
    flat = mask.ravel()
    values = np.empty(flat.size)
    for i, inside in enumerate(flat):
        others = points[flat != inside]
        far = np.linalg.norm(others - points[i], axis=1).min(initial=diagonal)
        values[i] = -far if inside else far
    return values.reshape(mask.shape)


@pytest.mark.parametrize(
    ("spatial", "spacing"), [((7, 9), (2, 0.5)), ((4, 5, 6), (3, 1, 1))]
)
@pytest.mark.parametrize("num_classes", [1, 3])
def test_signed_distances_equal_all_pairs(spatial, spacing, num_classes):
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=spatial), 1)
    labels = np.digitize(smooth, np.quantile(smooth, [0.6, 0.9]))
    labels = np.stack([labels.clip(max=max(num_classes - 1, 1)), np.zeros_like(labels)])
    maps = signed_distance_maps(torch.from_numpy(labels), num_classes, spacing=spacing)
    assert maps.dtype == torch.float32
    classes = [1] if num_classes == 1 else range(3)
    for b, (channel, k) in product(range(2), enumerate(classes)):
        expected = signed_by_pairs(labels[b] == k, spacing)
        np.testing.assert_allclose(maps[b, channel], expected, rtol=1e-6)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_boundary_loss_is_the_mean_of_distance_times_error(num_classes):
    logits, labels = example(num_classes, (5, 6))
    spacing = (1.0, 0.7)
    probs = logits.sigmoid() if num_classes == 1 else logits.softmax(1)[:, 1:]
    terms = []
    for b, k in product(range(2), range(probs.shape[1])):
        truth = (labels[b] == k + 1).numpy()
        error = np.abs(probs[b, k].double().numpy() - truth)
        terms.append((np.abs(signed_by_pairs(truth, spacing)) * error).mean())
    value = boundary_loss(logits, labels, spacing=spacing)
    assert value.item() == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("include_background", [True, False])
def test_distances_made_beforehand_give_the_same(num_classes, include_background):
    logits, labels = example(num_classes, (5, 6))
    maps = signed_distance_maps(labels, num_classes, spacing=(1, 2))
    options = {"include_background": include_background}
    assert boundary_loss(logits, labels, distances=maps, **options) == boundary_loss(
        logits, labels, spacing=(1, 2), **options
    )


def test_far_island_costs_more_than_a_boundary_off_by_a_pixel():
    labels = torch.zeros(1, 1, 20, dtype=torch.long)
    labels[..., :5] = 1
    near, far = labels.clone(), labels.clone()
    near[..., 5] = far[..., 19] = 1
    costs = [
        boundary_loss(confident(pred), labels, spacing=(1, 1)).item()
        for pred in (near, far)
    ]
    assert costs == pytest.approx([1 / 20, 15 / 20])


@pytest.mark.parametrize(
    ("labels", "num_classes", "error", "message"),
    [
        (LABELS.float(), 2, TypeError, "must be a tensor of integers, got torch.float"),
        (LABELS.numpy(), 2, TypeError, "must be a tensor of integers, got ndarray"),
        (LABELS[:0], 2, ValueError, "with a pixel in it"),
        (LABELS, 0, ValueError, "num_classes be at least 1, got .* and 0"),
    ],
)
def test_unfit_labels_for_distances_are_refused(labels, num_classes, error, message):
    with pytest.raises(error, match=message):
        signed_distance_maps(labels, num_classes, spacing=(1, 1))


# clDice


@pytest.mark.parametrize("spatial", [(9, 11), (5, 7, 6)])
@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_soft_skeleton_equals_grey_morphology(spatial, iterations):
    masks = np.random.default_rng(0).uniform(size=spatial)
    cross = ndimage.generate_binary_structure(len(spatial), 1)
    expected = np.zeros(spatial)
    layer = masks
    for _ in range(iterations + 1):
        # Beyond the border "nearest" repeats pixels that are in reach anyhow.
        smaller = ndimage.grey_erosion(layer, footprint=cross, mode="nearest")
        opened = ndimage.grey_dilation(smaller, size=3, mode="nearest")
        ridge = np.maximum(layer - opened, 0)
        expected += np.maximum(ridge - expected * ridge, 0)
        layer = smaller
    found = soft_skeleton(torch.from_numpy(masks)[None, None], iterations)
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-12)


def test_cldice_counts_centre_lines_not_widths():
    labels = torch.zeros(1, 15, 30, dtype=torch.long)
    labels[:, 5:10] = 1  # a vessel, five pixels thick
    thin, gap = labels.clone(), labels.clone()
    thin[:, [5, 9]] = 0
    gap[:, :, 12:18] = 0
    narrow, broken = (cldice_loss(confident(pred), labels) for pred in (thin, gap))
    assert narrow < 1e-6
    assert broken > 0.08
    assert dice_loss(confident(thin), labels) > dice_loss(confident(gap), labels)


def test_structure_too_thick_to_thin_is_its_own_skeleton():
    labels = torch.ones(1, 8, 8, dtype=torch.long)
    logits = torch.full((1, 1, 8, 8), -50.0)
    logits[..., :4] = 50.0  # found by half: S = (32 + 1) / (64 + 1)
    sensitivity = 33 / 65
    assert soft_skeleton(labels[:, None].float(), 10).sum() == 0
    loss = cldice_loss(logits, labels)
    assert loss.item() == pytest.approx(1 - 2 * sensitivity / (1 + sensitivity))


@pytest.mark.parametrize("shape", [(1, 1, 4), (1, 1, 2, 2, 2, 2)])
def test_cldice_needs_two_or_three_axes(shape):
    labels = torch.zeros(1, *shape[2:], dtype=torch.long)
    with pytest.raises(ValueError, match=r"must have shape \(B, K, H, W\) or"):
        cldice_loss(torch.zeros(shape), labels)


# Sums and deep supervision


def test_sum_is_the_sum_and_passes_its_options_on():
    logits, labels = example(3, (4, 4))
    labels[:, 0] = 255
    of_both = {"ignore_index": 255}
    of_pixels = {
        "class_weights": [1.0, 2.0, 3.0],
        "pixel_weights": torch.arange(32.0).view(2, 4, 4),
        "label_smoothing": 0.1,
    }
    of_regions = {"per_sample": True, "include_background": False}
    torch.testing.assert_close(
        cross_entropy_dice(logits, labels, **of_both, **of_pixels, **of_regions),
        cross_entropy(logits, labels, **of_both, **of_pixels)
        + dice_loss(logits, labels, **of_both, **of_regions),
    )


def test_combined_loss_is_the_weighted_sum():
    logits, labels = example(3, (4, 4))
    terms = [(0.25, dice_loss), (2, partial(focal_loss, gamma=1))]
    torch.testing.assert_close(
        combined_loss(logits, labels, terms=terms),
        0.25 * dice_loss(logits, labels) + 2 * focal_loss(logits, labels, gamma=1),
    )


@pytest.mark.parametrize("terms", [[dice_loss], [(dice_loss, 1)], [(1, 2)]])
def test_terms_that_are_no_pairs_are_refused(terms):
    with pytest.raises(TypeError, match=r"must be a pair \(weight, loss\), got"):
        combined_loss(*example(3, (4, 4)), terms=terms)


def scales(num_classes=3, sizes=((9, 12), (5, 6), (3, 3))):
    labels = example(num_classes, sizes[0])[1]
    return [example(num_classes, size)[0] for size in sizes], labels


def nearest_exact(labels, size):
    return F.interpolate(labels[:, None].float(), size, mode="nearest-exact")[:, 0]


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({}, [4 / 7, 2 / 7, 1 / 7]),
        ({"drop_last": True}, [2 / 3, 1 / 3, 0]),
        ({"weights": (1, 1, 2)}, [1 / 4, 1 / 4, 1 / 2]),
    ],
)
def test_deep_supervision_weighs_the_scales(options, shares):
    logits, labels = scales()
    losses = [
        dice_loss(z, nearest_exact(labels, z.shape[2:]).long()).item() for z in logits
    ]
    value = deep_supervision_loss(logits, labels, loss=dice_loss, **options)
    assert value.item() == pytest.approx(np.dot(shares, losses), rel=1e-5)


def test_deep_supervision_by_larger_logits():
    logits, labels = scales()
    losses = [
        dice_loss(F.interpolate(z, (9, 12), mode="bilinear"), labels).item()
        for z in logits
    ]
    value = deep_supervision_loss(logits, labels, loss=dice_loss, resize="logits")
    assert value.item() == pytest.approx(np.dot([4 / 7, 2 / 7, 1 / 7], losses))


@pytest.mark.parametrize("large", [(7, 10, 5), (8, 8, 8)])
@pytest.mark.parametrize("small", [(4, 4, 5), (1, 2, 3), (3, 7, 2)])
def test_labels_are_subsampled_as_nearest_exact(large, small):
    labels = torch.randint(0, 9, (2, *large))
    expected = nearest_exact(labels, small)

    def compare(logits, reference):
        assert (reference == expected).all()
        return logits.sum()

    deep_supervision_loss([torch.zeros(2, 9, *small)], labels, loss=compare)


def test_deep_supervision_takes_masks_with_a_channel():
    logits, labels = scales(1)
    assert deep_supervision_loss(logits, labels[:, None].float()) == (
        deep_supervision_loss(logits, labels)
    )


def test_single_output_is_judged_as_it_is():
    logits, labels = example(3, (4, 4))
    plain = cross_entropy_dice(logits, labels)
    assert deep_supervision_loss(logits, labels, drop_last=True) == plain
    assert deep_supervision_loss([logits], labels, drop_last=True) == plain


@pytest.mark.parametrize("resize", ["labels", "logits"])
def test_networks_with_deep_supervision_learn_in_every_head(resize):
    images = torch.randn(2, 1, 21, 18)
    labels = torch.randint(0, 3, (2, 21, 18))
    for net in (
        PlainConvUNet(1, 3, widths=(4, 4, 4), spatial_dims=2, deep_supervision=True),
        UNetPlusPlus(1, 3, widths=(4, 4, 4), deep_supervision=True),
    ):
        deep_supervision_loss(net(images), labels, resize=resize).backward()
        assert all(p.grad.abs().sum() > 0 for p in net.parameters() if p.ndim > 1)
        deep_supervision_loss(net.eval()(images), labels)


@pytest.mark.parametrize(
    ("logits", "options", "error", "message"),
    [
        ([], {}, ValueError, "the network returned no output"),
        (None, {}, TypeError, "or a list of them, got NoneType"),
        ([None], {}, TypeError, "or a list of them, got list"),
        (scales()[0], {"weights": (1, 2)}, ValueError, "2 values for 3 outputs"),
        (scales()[0], {"weights": (1, -2, 1)}, ValueError, "not negative, got"),
        (scales()[0], {"weights": (0, 0, 0)}, ValueError, "must not all be 0"),
        (
            scales()[0],
            {"weights": (0, 0, 1), "drop_last": True},
            ValueError,
            "all be 0",
        ),
    ],
)
def test_unfit_outputs_are_refused(logits, options, error, message):
    with pytest.raises(error, match=message):
        deep_supervision_loss(logits, scales()[1], **options)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (LABELS.numpy(), TypeError, "labels must be a tensor, got ndarray"),
        (LABELS[0], ValueError, r"need labels \(B, \*spatial\) with pixels in them"),
        (LABELS[:0], ValueError, r"shape \(0, 1, 4\), but logits \(1, 2, 1, 4\)"),
    ],
)
def test_labels_that_cannot_be_subsampled_are_refused(labels, error, message):
    with pytest.raises(error, match=message):
        deep_supervision_loss([torch.zeros(1, 2, 1, 4)], labels)


# Border weights


def border_by_pairs(cells, w0, sigma, spacing, class_weights):
    """Equation 2 by looking at each pair of a background pixel and a cell."""
    steps = np.array(spacing)
    weights = np.where(cells > 0, class_weights[1], class_weights[0]).astype(float)
    points = {
        label: np.argwhere(cells == label) * steps
        for label in np.unique(cells[cells > 0])
    }
    for pixel in np.argwhere(cells == 0):
        near = sorted(
            np.linalg.norm(points[label] - pixel * steps, axis=1).min()
            for label in points
        )
        if len(near) > 1:
            exponent = -((near[0] + near[1]) ** 2) / (2 * sigma**2)
            weights[tuple(pixel)] += w0 * math.exp(exponent)
    return weights


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"w0": 3.0, "sigma": 1.5},
        {"sigma": 40.0},
        {"spacing": (0.5, 2.0), "sigma": 2.5, "class_weights": (0.3, 4.0)},
    ],
)
def test_border_weights_equal_a_loop_over_pixels_and_cells(options):
    cells = discs(48, 14, 4.0)
    cells[cells == 3] = 1000  # a gap in the numbers
    settings = {"w0": 10, "sigma": 5, "spacing": (1, 1), "class_weights": (1, 1)}
    weights = border_weights(cells, **options)
    expected = border_by_pairs(cells, **(settings | options))
    assert weights.dtype == np.float32
    assert weights.max() > 1.5 * weights.min()
    np.testing.assert_allclose(weights, expected, rtol=1e-6, atol=1.1e-6)


def test_border_weights_in_3d_equal_a_loop():
    cells = np.zeros((6, 9, 9), np.uint16)
    cells[1:3, 1:4, 2:5], cells[1:5, 6:8, 2:4], cells[4:, 1:3, 5:] = 7, 2, 300
    weights = border_weights(cells, sigma=2, spacing=(2, 1, 1))
    expected = border_by_pairs(cells, 10, 2, (2, 1, 1), (1, 1))
    np.testing.assert_allclose(weights, expected, rtol=1e-6, atol=1.1e-6)


@pytest.mark.parametrize("count", [0, 1])
def test_without_two_cells_there_is_no_border(count):
    cells = np.zeros((5, 5), int)
    cells[2, 2] = count
    expected = np.where(cells, 2.0, 0.5)
    assert (border_weights(cells, class_weights=(0.5, 2.0)) == expected).all()


def test_numbering_of_the_cells_does_not_matter():
    cells = discs(40, 10, 4.0)
    other = np.where(cells > 0, 10**12 + 1 - cells, 0)
    assert (border_weights(cells) == border_weights(other)).all()
    assert (border_weights(torch.from_numpy(cells)) == border_weights(cells)).all()


@pytest.mark.parametrize(
    ("instances", "options", "error", "message"),
    [
        (np.zeros((3, 3), bool), {}, TypeError, r"scipy.ndimage.label\(mask\)"),
        (torch.zeros(3, 3, dtype=torch.bool), {}, TypeError, "number the cells"),
        (np.zeros((3, 3)), {}, TypeError, "instances must be class indices"),
        (np.full((3, 3), -1), {}, ValueError, "must not be negative"),
        (np.zeros((0, 3), int), {}, ValueError, "there are no pixels"),
        (np.zeros((3, 3), int), {"sigma": 0}, ValueError, "sigma must be greater than"),
        (np.zeros((3, 3), int), {"w0": -1}, ValueError, "w0 must be at least 0"),
        (np.zeros((3, 3), int), {"spacing": (1,)}, ValueError, "has 1 values"),
        (
            np.zeros((3, 3), int),
            {"class_weights": (1,)},
            ValueError,
            "hold two numbers",
        ),
        (np.zeros((3, 3), int), {"class_weights": (1, -1)}, ValueError, "at least 0"),
    ],
)
def test_unfit_instances_are_refused(instances, options, error, message):
    with pytest.raises(error, match=message):
        border_weights(instances, **options)


def test_touching_cells_are_separated_by_one_pixel():
    cells = np.array([[1, 1, 1, 2, 2], [1, 1, 1, 2, 2], [3, 3, 3, 3, 0]])
    expected = np.array([[1, 1, 0, 2, 2], [0, 0, 0, 0, 0], [3, 3, 3, 3, 0]])
    assert (separate_touching(cells) == expected).all()


def test_separated_cells_do_not_touch_and_lose_only_pixels():
    cells = discs(60, 40, 5.0)
    apart = separate_touching(cells)
    assert ((apart == cells) | (apart == 0)).all()
    assert (apart != cells).any()
    for row, column in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shifted = np.roll(apart, (row, column), (0, 1))
        inner = np.s_[1:-1, 1:-1]
        touching = (apart > 0) & (shifted > 0) & (apart != shifted)
        assert not touching[inner].any()


@pytest.mark.parametrize("num_classes", [2, 4])
def test_balanced_classes_weigh_the_same(num_classes):
    labels = np.random.default_rng(0).integers(0, num_classes, 500) ** 2 // num_classes
    weights = class_balance_weights(labels, num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    shares = [w * n for w, n in zip(weights.tolist(), counts, strict=True) if n]
    assert shares == pytest.approx([500 / len(shares)] * len(shares))
    assert (weights[torch.from_numpy(counts == 0)] == 1).all()


def test_balance_weights_fit_the_cross_entropy():
    logits, labels = example(1, (4, 4))
    weights = class_balance_weights(labels, 1)
    foreground, background = (
        cross_entropy(logits, labels, pixel_weights=(labels == k).float())
        for k in (1, 0)
    )
    balanced = cross_entropy(logits, labels, class_weights=weights)
    assert balanced.item() == pytest.approx((foreground + background).item() / 2)


@pytest.mark.parametrize(
    ("labels", "num_classes", "message"),
    [
        (np.array([0, 255]), 2, r"lie in 0\.\.1 for 2 classes, got 255"),
        (np.array([0, 1]), 0, "num_classes must be at least 1"),
    ],
)
def test_unfit_labels_for_balancing_are_refused(labels, num_classes, message):
    with pytest.raises(ValueError, match=message):
        class_balance_weights(labels, num_classes)


# Against MONAI, where it is installed and the definitions agree


@pytest.fixture(scope="module")
def peers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("monai.losses")


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize(
    ("loss", "name", "settings"),
    [
        (dice_loss, "DiceLoss", {}),
        (generalised_dice_loss, "GeneralizedDiceLoss", {}),
        (partial(tversky_loss, beta=0.6), "TverskyLoss", {"alpha": 0.3, "beta": 0.6}),
    ],
)
def test_overlap_losses_equal_monai(
    peers, loss, name, settings, per_sample, num_classes
):
    if num_classes == 1 and loss is generalised_dice_loss:
        pytest.skip("MONAI leaves the background out for K = 1")
    logits, labels = example(num_classes, (6, 7, 5))
    kind = {"sigmoid": True}
    if num_classes > 1:
        kind = {"softmax": True, "to_onehot_y": True}
    peer = getattr(peers, name)(
        smooth_nr=0, smooth_dr=0, batch=not per_sample, **settings, **kind
    )
    torch.testing.assert_close(
        loss(logits, labels, per_sample=per_sample), peer(logits, labels[:, None])
    )


@pytest.mark.parametrize("num_classes", [1, 3])
def test_focal_loss_equals_monai(peers, num_classes):
    logits, labels = example(num_classes, (6, 7, 5))
    kind = {"use_softmax": True, "to_onehot_y": True} if num_classes > 1 else {}
    peer = peers.FocalLoss(gamma=1.5, **kind)(logits, labels[:, None])
    torch.testing.assert_close(
        focal_loss(logits, labels, gamma=1.5), peer * num_classes
    )


def test_cldice_equals_monai_for_one_class(peers):
    logits, labels = example(1, (12, 9, 7), batch=2)
    peer = peers.SoftclDiceLoss(iter_=3, sigmoid=True, smooth=1e-12)
    torch.testing.assert_close(
        cldice_loss(logits, labels, iterations=3, per_sample=True),
        peer(logits, labels[:, None].float()),
    )


def test_boundary_gradient_equals_monai_outside_the_mask(peers):
    logits, labels = example(1, (8, 8))
    peer = peers.BoundaryLoss(sigmoid=True)
    mine = gradient(partial(boundary_loss, spacing=(1, 1)), logits, labels)
    theirs = gradient(lambda z, y: peer(z, y[:, None]), logits, labels)
    outside = labels[:, None] == 0
    torch.testing.assert_close(mine[outside], theirs[outside])
