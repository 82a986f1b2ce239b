"""Tests of medseg.transforms."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from medseg import transforms
from medseg.transforms import make_train_transform, make_val_transform


def half_white(height, width, channels=3):
    """An image whose right half is white, and the mask of that half."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 1
    return np.repeat(mask[..., None] * np.uint8(255), channels, axis=2), mask


@pytest.mark.parametrize(
    "transform", [transforms.train_transform, transforms.val_transform]
)
def test_ready_transforms_give_256_by_256_tensors_and_masks_of_0_and_1(transform):
    image, mask = half_white(300, 200)
    result = transform(image=image, mask=mask)
    assert result["image"].shape == (3, 256, 256)
    assert result["image"].dtype == torch.float32
    assert result["mask"].shape == (256, 256)
    assert sorted(np.unique(result["mask"])) == [0, 1]


def test_three_channels_are_normalised_with_mean_and_sd_of_imagenet():
    image = np.full((8, 8, 3), 255, np.uint8)
    pixels = make_val_transform(8)(image=image)["image"][:, 0, 0]
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert pixels.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("make", [make_train_transform, make_val_transform])
def test_one_channel_is_normalised_to_minus_one_and_one(make):
    image, mask = half_white(64, 64, channels=1)
    pixels = make(64, channels=1)(image=image, mask=mask)["image"]
    assert pixels.shape == (1, 64, 64)
    assert (pixels.min().item(), pixels.max().item()) == (-1, 1)


def test_training_mirrors_half_of_the_images_and_turns_them_by_up_to_35_degrees():
    image, mask = half_white(64, 64)
    transform = make_train_transform(64, seed=0)
    masks = [transform(image=image, mask=mask)["mask"].numpy() for _ in range(200)]
    mirrored = np.mean([mask[32, :32].mean() > 0.5 for mask in masks])
    assert 0.4 < mirrored < 0.6
    # The edge between black and white runs through the centre; its slope is the angle.
    rows = np.arange(12, 52)
    angles = []
    for turned in masks:
        whites = turned[rows].sum(axis=1)  # where the edge stands in each row
        angles.append(np.degrees(np.arctan(np.polyfit(rows, whites, 1)[0])))
    assert 30 < max(angles) < 37
    assert -37 < min(angles) < -30
    assert abs(np.mean(angles)) < 5
    assert np.mean(np.abs(angles) < 0.5) < 0.1  # none is left as it was


def test_image_and_mask_are_moved_together():
    image, mask = half_white(64, 64)
    transform = make_train_transform(64, seed=1)
    for _ in range(20):
        result = transform(image=image, mask=mask)
        white = result["image"][0] > result["image"].mean()
        # They may differ on the edge alone, which is interpolated in the image only.
        assert (white == result["mask"].bool()).float().mean() > 0.98


def test_no_class_is_invented_between_two_others():
    image, mask = half_white(50, 70)
    transform = make_train_transform(64, seed=3)
    for _ in range(10):
        result = transform(image=image, mask=mask * np.uint8(200))
        assert sorted(np.unique(result["mask"])) == [0, 200]


def test_corners_are_filled_with_mirrored_image_not_with_black():
    white = np.full((64, 64, 3), 255, np.uint8)
    transform = make_train_transform(64, seed=2)
    for _ in range(10):
        result = transform(image=white, mask=np.ones((64, 64), np.uint8))
        assert result["mask"].min() == 1
        assert result["image"].min() > 2  # black would be -2.1


def test_shrinking_averages_the_image_and_picks_from_the_mask():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::4] = 1  # one column of four is white
    image = np.repeat(stripes[..., None] * np.uint8(255), 3, axis=2)
    result = make_val_transform(16, channels=3)(image=image, mask=stripes * 200)
    assert result["image"][0].numpy() == pytest.approx((64 / 255 - 0.485) / 0.229, 0.01)
    assert set(np.unique(result["mask"])) <= {0, 200}


def test_same_seed_same_augmentations_other_seed_others():
    image, mask = half_white(32, 32)

    def three(seed):
        transform = make_train_transform(32, seed=seed)
        return torch.stack(
            [transform(image=image, mask=mask)["image"] for _ in range(3)]
        )

    assert torch.equal(three(5), three(5))
    assert not torch.equal(three(5), three(6))


@pytest.mark.parametrize("make", [make_train_transform, make_val_transform])
def test_wrong_sizes_and_channels_are_refused(make):
    with pytest.raises(ValueError, match="at least 1 pixel, got 0"):
        make(0)
    with pytest.raises(TypeError, match=r"whole number of pixels, got 256\.0"):
        make(256.0)
    with pytest.raises(ValueError, match="channels must be one of 3, 1, got 4"):
        make(channels=4)


def test_import_asks_no_server_for_a_newer_version():
    code = (
        "import socket, os; os.environ.pop('NO_ALBUMENTATIONS_UPDATE', None)\n"
        "def refuse(*a, **k): raise SystemExit('the network was used')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import medseg.transforms"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
