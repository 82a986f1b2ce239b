"""Augmentation of volumes: geometry in mm, image and labels together, workers."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.utils.data import DataLoader, Dataset

from medseg.transforms import (
    elastic_field,
    make_volume_transform,
    rotation_matrix,
    warp_volume,
)

QUIET = dict.fromkeys(
    [
        "p_affine",
        "p_elastic",
        "p_gamma",
        "p_contrast",
        "p_bias_field",
        "p_blur",
        "p_noise",
    ],
    0,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def ball(shape, spacing, centre, radius):
    """A mask of a ball, centre in mm from the middle."""
    axes = [
        (np.arange(n) - (n - 1) / 2) * step - c
        for n, step, c in zip(shape, spacing, centre, strict=True)
    ]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return z**2 + y**2 + x**2 < radius**2


def centre_mm(mask, spacing):
    middle = np.array(mask.shape) / 2 - 0.5
    return (np.array(ndimage.center_of_mass(mask)) - middle) * spacing


def test_a_right_angle_is_the_rotation_of_numpy():
    volume = rng().random((5, 7, 7)).astype(np.float32)
    turned = warp_volume(volume, (3, 1, 1), matrix=rotation_matrix((90, 0, 0)))
    assert turned == pytest.approx(np.rot90(volume, -1, axes=(2, 1)), abs=1e-5)
    labels = rng().integers(0, 9, (7, 7, 5))
    found = warp_volume(
        labels, (1, 1, 2), matrix=rotation_matrix((0, 0, 90)), labels="nearest"
    )
    assert np.array_equal(found, np.rot90(labels, 1, axes=(0, 1)))


def test_rotations_keep_lengths_and_follow_one_another():
    matrix = rotation_matrix((20, -30, 40))
    assert matrix @ matrix.T == pytest.approx(np.eye(3))
    assert np.linalg.det(matrix) == pytest.approx(1)
    steps = [rotation_matrix(np.eye(3)[i] * a) for i, a in enumerate((20, -30, 40))]
    assert steps[2] @ steps[1] @ steps[0] == pytest.approx(matrix)
    # About z, y goes to x; about y, z goes to x; about x, z goes to y.
    assert rotation_matrix((0, 90, 0)) @ (1, 0, 0) == pytest.approx((0, 0, 1))
    assert rotation_matrix((0, 0, 90)) @ (1, 0, 0) == pytest.approx((0, 1, 0))


@pytest.mark.parametrize("labels", ["nearest", "linear"])
@pytest.mark.parametrize("degrees", [(30, 0, 0), (0, 25, 0), (10, -20, 15)])
def test_thick_slices_are_turned_in_mm_not_in_voxels(labels, degrees):
    shape, spacing = (24, 70, 70), (3.0, 1.0, 1.0)
    place = np.array((8.0, 10.0, -12.0))
    mask = ball(shape, spacing, place, 12)
    matrix = rotation_matrix(degrees) * 1.1
    moved = warp_volume(mask, spacing, matrix=matrix, labels=labels)
    assert moved.dtype == bool
    assert centre_mm(moved, spacing) == pytest.approx(matrix @ place, abs=0.9)
    assert moved.sum() == pytest.approx(mask.sum() * 1.1**3, rel=0.05)
    # It is a ball again, where it should be: a shear would make an egg of it.
    expected = ball(shape, spacing, matrix @ place, 13.2)
    dice = 2 * (moved & expected).sum() / (moved.sum() + expected.sum())
    assert dice > 0.93


def test_displacement_shows_what_was_at_the_displaced_voxel():
    volume = rng().random((12, 14, 16)).astype(np.float32)
    field = elastic_field(volume.shape, rng(), sd=1.5)
    places = np.mgrid[:12, :14, :16] + field
    expected = ndimage.map_coordinates(volume, places, order=1, mode="mirror")
    found = warp_volume(volume, (1, 1, 1), displacement=field)
    assert found == pytest.approx(expected, abs=1e-4)
    channels = warp_volume(volume[None].repeat(2, 0), (1, 1, 1), displacement=field)
    assert np.array_equal(channels[1], found)


def test_linear_labels_win_by_their_share_and_keep_their_dtype():
    labels = np.zeros((3, 3, 12), np.uint16)
    labels[..., 4:8], labels[..., 8:] = 300, 40_000
    field = np.zeros((3, *labels.shape), np.float32)
    field[2] = 0.4  # less than half a voxel: nothing changes
    found = warp_volume(labels, (1, 1, 1), displacement=field, labels="linear")
    assert found.dtype == np.uint16
    assert np.array_equal(found, labels)
    field[2] = 0.6  # more: everything moves by one
    found = warp_volume(labels, (1, 1, 1), displacement=field, labels="linear")
    assert np.array_equal(found[..., :11], labels[..., 1:])


def test_large_labels_are_kept_exactly():
    labels = rng().integers(2**40, 2**40 + 3, (4, 6, 6))
    moved = warp_volume(
        labels, (1, 1, 1), matrix=rotation_matrix((20, 0, 0)), labels="nearest"
    )
    assert set(np.unique(moved)) <= set(np.unique(labels))
    assert moved.dtype == np.int64


def test_without_chance_a_volume_comes_out_as_it_was():
    image = rng().random((2, 6, 7, 8)).astype(np.float32)
    mask = rng().integers(0, 3, (6, 7, 8))
    out = make_volume_transform((1, 1, 1), flip_axes=(), **QUIET)(
        image=image, mask=mask
    )
    assert np.array_equal(out["image"].numpy(), image)
    assert np.array_equal(out["mask"].numpy(), mask)
    assert out["mask"].dtype == torch.int64


def test_each_axis_is_mirrored_half_of_the_time_in_image_and_mask_alike():
    mask = np.arange(24).reshape(2, 3, 4)
    transform = make_volume_transform((1, 1, 1), **QUIET, seed=0)
    seen = []
    for _ in range(200):
        out = transform(image=mask.astype(np.float32), mask=mask)
        assert torch.equal(out["image"][0].long(), out["mask"])
        first = int(out["mask"][0, 0, 0])
        seen.append((first // 12, first // 4 % 3 > 0, first % 4 > 0))
    assert np.mean(seen, axis=0) == pytest.approx((0.5, 0.5, 0.5), abs=0.1)
    assert len(set(seen)) == 8


@pytest.mark.parametrize("labels", ["nearest", "linear"])
def test_image_labels_and_weights_move_together(labels):
    spacing = (3.0, 1.0, 1.0)
    mask = ball((12, 40, 40), spacing, (0, 5, 5), 10).astype(np.uint8)
    image = mask.astype(np.float32) * 10
    transform = make_volume_transform(
        spacing,
        labels=labels,
        rotate=40,
        **{**QUIET, "p_affine": 1, "p_elastic": 1},
        seed=1,
    )
    changed = 0
    for _ in range(8):
        out = transform(image=image, mask=mask, weights=image)
        assert out["mask"].dtype == torch.uint8
        assert torch.equal(out["weights"], out["image"][0])
        assert ((out["image"][0] > 5) == out["mask"].bool()).float().mean() > 0.99
        changed += not np.array_equal(out["mask"].numpy(), mask)
    assert changed == 8


@pytest.mark.parametrize(
    "name", ["p_gamma", "p_contrast", "p_bias_field", "p_blur", "p_noise"]
)
def test_grey_values_change_with_their_chance_and_the_mask_does_not(name):
    image = rng().normal(size=(2, 6, 8, 8)).astype(np.float32)
    mask = rng().integers(0, 3, (6, 8, 8))
    transform = make_volume_transform(
        (1, 1, 1), flip_axes=(), **{**QUIET, name: 0.5}, seed=0
    )
    changed = []
    for _ in range(60):
        out = transform(image=image, mask=mask)
        assert np.array_equal(out["mask"].numpy(), mask)
        changed.append(not np.array_equal(out["image"].numpy(), image))
        assert torch.isfinite(out["image"]).all()
    assert np.mean(changed) == pytest.approx(0.5, abs=0.2)


class Volumes(Dataset):
    """As data sets of the package do it: the chance depends on the index alone."""

    def __init__(self):
        self.transform = make_volume_transform((2, 1, 1), p_affine=1, p_elastic=1)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        self.transform.set_random_state(rng([0, index]))
        image = rng(index).random((6, 10, 10)).astype(np.float32)
        out = self.transform(image=image, mask=(image > 0.5).astype(np.uint8))
        return out["image"], out["mask"]


def test_any_number_of_workers_gives_the_same_volumes():
    def volumes(num_workers):
        loader = DataLoader(Volumes(), batch_size=2, num_workers=num_workers)
        images, masks = zip(*loader, strict=True)
        return torch.cat(images), torch.cat(masks)

    expected = volumes(0)
    assert not torch.equal(expected[0][0], expected[0][1])
    for num_workers in (1, 2):
        for found, wanted in zip(volumes(num_workers), expected, strict=True):
            assert torch.equal(found, wanted)


def test_a_seed_repeats_and_another_does_not():
    image = rng().random((6, 8, 8)).astype(np.float32)

    def three(seed):
        transform = make_volume_transform((1, 1, 1), p_affine=1, seed=seed)
        return torch.stack([transform(image=image)["image"] for _ in range(3)])

    assert torch.equal(three(4), three(4))
    assert not torch.equal(three(4), three(5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing": (1, 1)}, "spacing has 2 values, but the array has 3 axes"),
        ({"flip_axes": (3,)}, r"flip_axes must be among 0, 1, 2, got \(3,\)"),
        ({"rotate": 200}, "rotate must be one or three angles, 0 to 180"),
        ({"scale": (1.2, 0.8)}, "scale must be a smallest and a largest factor"),
        ({"labels": "cubic"}, "labels must be 'nearest' or 'linear', got 'cubic'"),
        ({"p_noise": 2}, "p_noise must lie between 0 and 1, got 2"),
        ({"elastic_mm": -1}, "sd must be 0 or more"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_volume_transform(**{"spacing": (1, 1, 1), **options})


def test_arrays_of_other_shapes_are_refused():
    transform = make_volume_transform((1, 1, 1))
    with pytest.raises(
        ValueError, match=r"mask must have the image's shape \(4, 5, 6\)"
    ):
        transform(image=np.zeros((1, 4, 5, 6)), mask=np.zeros((4, 5, 5), int))
    with pytest.raises(ValueError, match=r"numbers of shape \(D, H, W\) or \(C, D"):
        transform(image=np.zeros((5, 6)))
    with pytest.raises(ValueError, match=r"volume must have shape \(D, H, W\), or"):
        warp_volume(np.zeros((2, 4, 5, 6), int), (1, 1, 1), labels="nearest")
    with pytest.raises(ValueError, match="matrix must be an invertible 3 x 3 one"):
        warp_volume(np.zeros((4, 5, 6)), (1, 1, 1), matrix=np.zeros((3, 3)))
    with pytest.raises(
        ValueError, match=r"displacement must have shape \(3, 4, 5, 6\)"
    ):
        warp_volume(np.zeros((4, 5, 6)), (1, 1, 1), displacement=np.zeros((3, 4, 5, 5)))
    with pytest.raises(ValueError, match="labels must be None, 'nearest' or 'linear'"):
        warp_volume(np.zeros((4, 5, 6)), (1, 1, 1), labels="cubic")
