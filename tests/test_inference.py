"""From a network to probabilities, labels, and whole images."""

import numpy as np
import pytest
import torch
from torch import nn

from medseg.inference import overlap_tile, predict, predict_probabilities
from medseg.models.unet import UNet, UNet2015


class Logits(nn.Module):
    """Returns the images as logits: what is predicted is written in the test."""

    def forward(self, images):
        return images


def test_one_class_goes_through_a_sigmoid_and_a_threshold():
    logits = torch.tensor([-1.0, 0.0, 1.0, 2.0]).reshape(1, 1, 1, 4)
    probabilities = predict_probabilities(Logits(), logits)
    expected = 1 / (1 + np.exp([1.0, 0.0, -1.0, -2.0]))
    np.testing.assert_allclose(probabilities.flatten(), expected, rtol=1e-6)
    assert probabilities.shape == (1, 1, 1, 4)
    labels = predict(Logits(), logits)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [[[0, 0, 1, 1]]]  # exactly 0.5 is not above 0.5
    assert predict(Logits(), logits, threshold=0.8).tolist() == [[[0, 0, 0, 1]]]


def test_several_classes_go_through_a_softmax_and_the_largest_wins():
    logits = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 0.5]]).reshape(1, 3, 1, 2)
    probabilities = predict_probabilities(Logits(), logits)
    expected = np.exp([1, 3, 2]) / np.exp([1, 3, 2]).sum()
    np.testing.assert_allclose(probabilities[0, :, 0, 0], expected, rtol=1e-6)
    assert predict(Logits(), logits).tolist() == [[[1, 2]]]


@pytest.mark.parametrize("size", [(37, 50), (1, 1)])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_any_height_and_width_and_no_gradients(size, num_classes):
    model = UNet(1, num_classes, widths=(2, 4))
    images = torch.rand(2, 1, *size)
    probabilities = predict_probabilities(model, images)
    assert probabilities.shape == (2, num_classes, *size)
    assert not probabilities.requires_grad
    assert predict(model, images).shape == (2, *size)


def test_volumes_and_half_precision_images():
    volumes = torch.zeros(1, 2, 3, 4, 5, dtype=torch.bfloat16)
    assert predict_probabilities(Logits(), volumes).dtype == torch.float32
    assert predict(Logits(), volumes).shape == (1, 3, 4, 5)


def test_prediction_is_in_evaluation_mode_and_puts_each_module_back():
    model = UNet(1, 1, widths=(2, 4))
    frozen = model.encoder[0][1]
    frozen.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.rand(1, 1, 8, 8)
    first = predict_probabilities(model, images)
    assert torch.equal(first, predict_probabilities(model.eval(), images))
    assert not model.training

    model.train()
    frozen.eval()
    predict(model, images)
    assert model.training
    assert not frozen.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_mode_comes_back_after_an_error():
    model = UNet(1, 1, widths=(2, 4))
    with pytest.raises(ValueError, match="in_channels=2"):
        predict(model, torch.zeros(1, 2, 8, 8))
    assert model.training


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), TypeError, r"float\(\) / 255"),
        (np.zeros((1, 1, 8, 8)), TypeError, r"torch\.from_numpy"),
        (torch.zeros(1, 8, 8), ValueError, r"images\.unsqueeze\(0\)"),
        (torch.zeros(8), ValueError, r"images\.unsqueeze\(0\)"),
        (torch.full((1, 1, 8, 8), torch.nan), ValueError, "images holds 64 NaN"),
        (torch.zeros(0, 1, 8, 8), ValueError, "no pixels"),
    ],
)
@pytest.mark.parametrize("function", [predict, overlap_tile])
def test_images_that_are_none(function, images, error, message):
    with pytest.raises(error, match=message):
        function(valid_network(), images)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_a_threshold_is_a_probability(threshold):
    with pytest.raises(ValueError, match=r"probability in \[0, 1\]"):
        predict(Logits(), torch.zeros(1, 1, 2, 2), threshold=threshold)


# Overlapping tiles


def valid_network(num_classes=2):
    """Three scales: margin 40, stride 4, so tiles of 44, 48, ... pixels."""
    return UNet2015(1, num_classes, widths=(3, 4, 5)).eval()


def one_pass(model, images):
    """The whole image, mirrored by NumPy, in one pass through the network."""
    height, width = images.shape[2:]
    margin = model.margin // 2
    # Sizes that fit are 4 more than the margin, and any number of strides.
    after = [margin + (4 - size) % model.stride for size in (height, width)]
    pad = [(0, 0), (0, 0), (margin, after[0]), (margin, after[1])]
    mirrored = torch.from_numpy(np.pad(images.numpy(), pad, mode="reflect"))
    return predict_probabilities(model, mirrored)[:, :, :height, :width]


@pytest.mark.parametrize("size", [(64, 64), (61, 47), (30, 90), (5, 3), (1, 50)])
@pytest.mark.parametrize("tile", [44, 52, 92])
def test_tiles_equal_one_pass_over_the_whole_image(size, tile):
    model = valid_network()
    images = torch.randn(1, 1, *size)
    tiled = overlap_tile(model, images, tile=tile)
    assert tiled.shape == (1, 2, *size)
    torch.testing.assert_close(tiled, one_pass(model, images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_tiles_of_several_images_pass_together(num_classes):
    model = valid_network(num_classes)
    images = torch.randn(2, 1, 40, 33)
    tiled = overlap_tile(model, images, tile=60, batch_size=5)
    torch.testing.assert_close(tiled, one_pass(model, images), rtol=0, atol=1e-5)


def test_tiles_start_at_multiples_of_the_stride_when_centres_are_none():
    model = UNet2015(1, 2, widths=(2, 2, 2, 2)).eval()  # stride 8
    images = torch.randn(1, 1, 40, 30)
    tiled = overlap_tile(model, images, tile=model.margin + 12)
    torch.testing.assert_close(tiled, one_pass(model, images), rtol=0, atol=1e-5)


def test_the_network_sees_tiles_and_no_more_of_them_than_asked_for():
    model, seen = valid_network(), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    overlap_tile(model, torch.zeros(1, 1, 30, 30), tile=60, batch_size=3)
    # centres of 20 pixels at 0 and 12 in both directions: four tiles
    assert seen == [(3, 1, 60, 60), (1, 1, 60, 60)]


def test_a_tile_that_the_network_does_not_take():
    with pytest.raises(ValueError, match=r"got 50\. The nearest that fit: 48 and 52"):
        overlap_tile(valid_network(), torch.zeros(1, 1, 60, 60), tile=50)


def test_a_tile_whose_centres_would_leave_gaps():
    model = UNet2015(1, 1, widths=(1, 1, 1, 1))  # stride 8, centre 4
    tile = model.valid_sizes[0]
    with pytest.raises(ValueError, match=f"gaps .* larger tile: {tile + 8} or more"):
        overlap_tile(model, torch.zeros(1, 1, 60, 60), tile=tile)


def test_a_network_with_same_padding_needs_no_tiles():
    with pytest.raises(TypeError, match=r"UNet has not both.*predict_probabilities"):
        overlap_tile(UNet(1, 1, widths=(1, 1)), torch.zeros(1, 1, 8, 8))


def test_tiles_are_for_the_axes_of_the_network_and_at_least_one_at_a_time():
    with pytest.raises(ValueError, match=r"must have 4 axes \(B, C, H, W\)"):
        overlap_tile(valid_network(), torch.zeros(1, 1, 8, 8, 8), tile=44)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        overlap_tile(valid_network(), torch.zeros(1, 1, 8, 8), tile=44, batch_size=0)
