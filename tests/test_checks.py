import math

import numpy as np
import pytest
import torch

from medseg.checks import (
    as_label_map,
    as_labels,
    as_mask,
    as_mask_pair,
    as_spacing,
    check_choice,
    check_finite,
    check_images,
)


def test_fitting_images_pass():
    check_images(torch.zeros(2, 3, 8, 9), in_channels=3)
    check_images(torch.zeros(1, 1, 4, 8, 9).half(), in_channels=1, spatial_dims=3)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros((1, 3, 8, 8)), TypeError, r"got ndarray.*torch\.from_numpy"),
        (torch.zeros(1, 3, 8, 8).byte(), TypeError, r"got torch\.uint8.*/ 255"),
        (torch.zeros(3, 8, 8), ValueError, r"\(B, C, H, W\), got shape \(3, 8, 8\)"),
        (torch.zeros(1, 1, 8, 8), ValueError, r"takes 3 .* with 1\. .*in_channels=1"),
    ],
)
def test_unfit_images_are_refused_with_advice(images, error, message):
    with pytest.raises(error, match=message):
        check_images(images, in_channels=3)


def test_axes_of_volumes_are_named():
    with pytest.raises(ValueError, match=r"5 axes \(B, C, D, H, W\)"):
        check_images(torch.zeros(1, 1, 8, 8), in_channels=1, spatial_dims=3)


def test_non_finite_values_are_counted():
    check_finite(torch.ones(3), "loss")
    with pytest.raises(ValueError, match=r"loss holds 2 NaN .* among 3"):
        check_finite(torch.tensor([1.0, math.nan, -math.inf]), "loss")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.bool])
def test_labels_of_any_integer_type_become_int64(dtype):
    labels = torch.tensor([[[0, 1]]])
    result = as_labels(torch.zeros(1, 2, 1, 2), labels.to(dtype))
    assert result.dtype == torch.int64
    assert torch.equal(result, labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
def test_binary_mask_in_the_shape_of_the_logits_loses_its_channel(dtype):
    mask = torch.tensor([[[[0, 1], [1, 1]]]])  # (1, 1, 2, 2)
    labels = as_labels(torch.zeros(1, 1, 2, 2), mask.to(dtype))
    assert torch.equal(labels, mask[:, 0])


def test_volumes_are_taken_too():
    labels = torch.randint(0, 3, (2, 4, 5, 6))
    assert torch.equal(as_labels(torch.zeros(2, 3, 4, 5, 6), labels), labels)


def test_ignored_label_may_lie_out_of_range():
    labels = torch.tensor([[[0, 255]]])
    assert torch.equal(as_labels(torch.zeros(1, 2, 1, 2), labels, 255), labels)
    with pytest.raises(ValueError, match=r"0\.\.1 for logits with K = 2, got 0\.\.255"):
        as_labels(torch.zeros(1, 2, 1, 2), labels)


@pytest.mark.parametrize(
    ("num_classes", "labels", "error", "message"),
    [
        (2, torch.zeros(1, 1, 2), TypeError, r"got torch\.float32.*argmax"),
        (2, torch.zeros(1, 1, 1, 2).long(), ValueError, r"of shape \(1, 1, 2\)"),
        (1, torch.tensor([[[0, 2]]]), ValueError, r"0\.\.1 .* K = 1, got 0\.\.2"),
        (3, torch.tensor([[[-1, 2]]]), ValueError, r"0\.\.2 .* got -1\.\.2"),
        (1, torch.full((1, 1, 1, 2), 255.0), ValueError, r"from 255 to 255.*mask > 12"),
        (1, torch.full((1, 1, 1, 2), math.nan), ValueError, "only 0 and 1, got values"),
    ],
)
def test_unfit_labels_are_refused_with_advice(num_classes, labels, error, message):
    with pytest.raises(error, match=message):
        as_labels(torch.zeros(1, num_classes, 1, 2), labels)


@pytest.mark.parametrize(
    ("logits", "error", "message"),
    [
        (torch.zeros(1, 2, 1, 2).long(), TypeError, "logits must hold floating point"),
        (torch.zeros(1, 2), ValueError, r"\(B, K, \*spatial\), got \(1, 2\)"),
        (torch.full((1, 2, 1, 2), math.inf), ValueError, "logits holds 4 NaN"),
    ],
)
def test_unfit_logits_are_refused(logits, error, message):
    with pytest.raises(error, match=message):
        as_labels(logits, torch.zeros(1, 1, 2).long())


@pytest.mark.parametrize(
    "mask",
    [
        [[0, 1], [1, 0]],
        np.array([[0, 1], [1, 0]], dtype=np.uint8),
        np.array([[0.0, 1.0], [1.0, 0.0]]),
        torch.tensor([[False, True], [True, False]]),
        torch.tensor([[0.0, 1.0], [1.0, 0.0]], requires_grad=True),
    ],
)
def test_masks_of_any_kind_become_booleans(mask):
    result = as_mask(mask)
    assert result.dtype == np.bool_
    np.testing.assert_array_equal(result, [[False, True], [True, False]])


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ([["a"]], TypeError, "reference must hold booleans or numbers, got <U1"),
        (np.zeros((0, 4)), ValueError, r"reference has shape \(0, 4\): there are no"),
        ([0, 255], ValueError, "from 0 to 255.*mask > 127"),
        ([0.2, 0.9], ValueError, r"from 0\.2 to 0\.9"),
        ([0.0, math.nan], ValueError, "only 0 and 1"),
    ],
)
def test_unfit_masks_are_refused_by_name_with_advice(mask, error, message):
    with pytest.raises(error, match=message):
        as_mask(mask, "reference")


def test_pair_of_masks_must_share_a_shape():
    pred, truth = as_mask_pair([1, 0], torch.tensor([0, 1]))
    assert pred.tolist() == [True, False]
    assert truth.tolist() == [False, True]
    with pytest.raises(ValueError, match=r"pred \(2,\) and truth \(3,\).*Resize the"):
        as_mask_pair([1, 0], [1, 0, 0])


def test_fault_of_a_pair_names_the_mask_that_has_it():
    with pytest.raises(ValueError, match="truth must hold only 0 and 1"):
        as_mask_pair([0, 1], [0, 2])


def test_label_maps_become_int64():
    result = as_label_map(torch.tensor([[0, 7]], dtype=torch.uint8))
    assert result.dtype == np.int64
    assert result.tolist() == [[0, 7]]


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0.5, 1.0], TypeError, "pred must be class indices.*got float64.*argmax"),
        (np.zeros((0,), dtype=int), ValueError, r"pred has shape \(0,\)"),
        ([0, -1], ValueError, "pred must not be negative, got -1"),
    ],
)
def test_unfit_label_maps_are_refused_by_name_with_advice(labels, error, message):
    with pytest.raises(error, match=message):
        as_label_map(labels, "pred")


def test_spacing_becomes_floats_in_order():
    assert as_spacing(np.array([5, 1, 0.5]), ndim=3) == (5.0, 1.0, 0.5)


@pytest.mark.parametrize(
    ("spacing", "message"),
    [
        ((1.0, 1.0), "2 values, but the array has 3 axes"),
        ((1.0, 0.0, 1.0), r"positive and finite, in mm, got \(1\.0, 0\.0, 1\.0\)"),
        ((1.0, -1.0, 1.0), "positive and finite"),
        ((1.0, math.nan, 1.0), "positive and finite"),
        ((1.0, math.inf, 1.0), "positive and finite"),
    ],
)
def test_unfit_spacing_is_refused(spacing, message):
    with pytest.raises(ValueError, match=message):
        as_spacing(spacing, ndim=3)


def test_choice_out_of_range_lists_the_choices():
    check_choice("batch", "norm", ["batch", None])
    with pytest.raises(ValueError, match="norm must be one of 'batch', None, got 'bn'"):
        check_choice("bn", "norm", ["batch", None])
