"""Steps of augmentation: the elastic grid, what scanners do, pipelines, workers."""

import albumentations as A
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.utils.data import DataLoader

from medseg import transforms
from medseg.datasets import CaseDataset, ImageCase

STEPS = [
    transforms.BiasField((0.2, 0.5), p=1),
    transforms.Ghosting((0.2, 0.5), p=1),
    transforms.Gamma((1.4, 2), p=1),
    transforms.RicianNoise((0.05, 0.1), p=1),
]


def rng(seed=0):
    return np.random.default_rng(seed)


# The elastic grid


def test_displacements_on_the_grid_have_the_papers_deviation_of_10_pixels():
    fields = np.stack([transforms.elastic_field((65, 33), rng(s)) for s in range(400)])
    nodes = fields[:, :, [0, 32, 64]][..., [0, 16, 32]]  # the 3 x 3 points
    assert nodes.mean() == pytest.approx(0, abs=0.4)
    assert nodes.std() == pytest.approx(10, rel=0.02)
    flat = nodes.reshape(400, 18)  # each component of each vector by itself
    correlation = np.corrcoef(flat.T) - np.eye(18)
    assert np.abs(correlation).max() < 0.25


def test_between_its_points_the_field_is_cubic_convolution():
    field = transforms.elastic_field((9, 9), rng(1))
    line = field[0, 0]  # points at 0, 4 and 8; at 2 half-way between the first two
    a, b, c = line[[0, 4, 8]]
    # Keys: weights -1/16, 9/16, 9/16, -1/16, with the outermost point repeated.
    assert line[2] == pytest.approx((-a + 9 * a + 9 * b - c) / 16, abs=1e-4)
    assert line[6] == pytest.approx((-a + 9 * b + 9 * c - c) / 16, abs=1e-4)


def test_field_scales_with_the_deviation_and_takes_one_for_each_axis():
    one = transforms.elastic_field((8, 9, 10), rng(), sd=1, grid=4)
    many = transforms.elastic_field((8, 9, 10), rng(), sd=(0, 2, 3), grid=4)
    assert many[0] == pytest.approx(0)
    assert many[1] == pytest.approx(2 * one[1], rel=1e-5)
    assert many[2] == pytest.approx(3 * one[2], rel=1e-5)


def test_warp_shows_what_was_at_the_displaced_place():
    image = rng().random((20, 24, 6)).astype(np.float32)
    field = np.zeros((2, 20, 24), np.float32)
    field[0], field[1] = 3, -2
    moved = transforms.warp(image, field)
    assert moved[:-3, 2:] == pytest.approx(image[3:, :-2])
    # Against scipy, for a field that changes.
    field = transforms.elastic_field((20, 24), rng(), sd=2)
    places = np.mgrid[:20, :24] + field
    expected = ndimage.map_coordinates(image[..., 0], places, order=1, mode="mirror")
    # OpenCV rounds places to 1/32 pixel.
    assert transforms.warp(image, field)[..., 0] == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize("dtype", [np.uint8, bool, np.int32, np.int64, np.uint16])
def test_labels_of_any_dtype_are_picked_never_mixed(dtype):
    labels = rng().integers(0, 2, (40, 40)).astype(dtype)
    if dtype in (np.int32, np.int64, np.uint16):
        labels = (labels * 60_001).astype(dtype)
    field = transforms.elastic_field((40, 40), rng(), sd=4)
    moved = transforms.warp(labels, field, nearest=True)
    assert moved.dtype == dtype
    assert np.array_equal(np.unique(moved), np.unique(labels))
    places = np.rint(np.mgrid[:40, :40] + field).astype(int)
    inside = ((places >= 0) & (places < 40)).all(axis=0)
    picked = labels[tuple(places.clip(0, 39))]
    # Places half-way between two pixels are rounded either way.
    assert (moved == picked)[inside].mean() > 0.97


def test_elastic_grid_moves_image_mask_and_weights_together_and_repeats():
    ramp = np.tile(np.arange(64, dtype=np.float32)[:, None], (1, 64))
    compose = A.Compose(
        [transforms.ElasticGrid(4)],
        additional_targets={"weights": "mask"},
        seed=3,
    )
    out = compose(image=ramp, mask=ramp.astype(np.int32), weights=ramp)
    assert np.abs(out["image"] - ramp).max() > 2
    assert np.abs(out["image"] - out["mask"]).max() <= 0.6
    assert np.array_equal(out["weights"], out["mask"])
    again = A.Compose([transforms.ElasticGrid(4)], seed=3)(image=ramp)
    assert np.array_equal(again["image"], out["image"])
    more = compose(image=ramp)
    assert not np.array_equal(more["image"], out["image"])


def test_what_is_no_field_or_no_image_is_refused():
    with pytest.raises(ValueError, match=r"field must have shape \(2, 4, 5\)"):
        transforms.warp(np.zeros((4, 5)), np.zeros((2, 5, 4)))
    with pytest.raises(
        ValueError, match=r"int32\. Convert the image to float32, or set"
    ):
        transforms.warp(np.zeros((4, 5), np.int32), np.zeros((2, 4, 5)))
    with pytest.raises(ValueError, match="sd must be 0 or more pixels, got -1"):
        transforms.ElasticGrid(sd=-1)
    with pytest.raises(ValueError, match="grid must be a whole number of points"):
        transforms.ElasticGrid(grid=1)
    with pytest.raises(ValueError, match="2 or more pixels along each axis"):
        transforms.elastic_field((1, 5), rng())


# What scanners do


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
@pytest.mark.parametrize("shape", [(32, 40), (32, 40, 1), (32, 40, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_step_keeps_shape_and_dtype_changes_the_image_and_leaves_the_mask(
    step, shape, dtype
):
    image = (rng().random(shape) * 200).astype(dtype)
    before, mask = image.copy(), np.ones(shape[:2], np.uint8)
    out = A.Compose([step], seed=1)(image=image, mask=mask)
    assert out["image"].shape == shape
    assert out["image"].dtype == dtype
    assert not np.array_equal(out["image"], image)
    assert np.array_equal(out["mask"], mask)
    assert np.array_equal(image, before)
    again = A.Compose([step], seed=1)(image=image, mask=mask)
    assert np.array_equal(again["image"], out["image"])


def test_strengths_are_drawn_from_the_range():
    flat = np.full((16, 16), 100, np.float32)
    bias = A.Compose([transforms.BiasField((0.2, 0.5), p=1)], seed=0)
    depth = [1 - bias(image=flat)["image"].min() / 100 for _ in range(200)]
    assert 0.2 <= min(depth) < 0.23
    assert 0.47 < max(depth) <= 0.5
    ghost = A.Compose([transforms.Ghosting((0.1, 0.3), p=1)], seed=0)
    gain = [ghost(image=flat)["image"].mean() / 100 for _ in range(200)]
    assert 1.1 <= min(gain) < 1.12 < 1.28 < max(gain) <= 1.3 + 1e-5
    rice = A.Compose([transforms.RicianNoise((0.1, 0.1), p=1)], seed=0)
    image = np.zeros((200, 200), np.float32)
    image[0, 0] = 50
    assert rice(image=image)["image"].std() == pytest.approx(
        5 * np.sqrt(2 - np.pi / 2), rel=0.03
    )


def test_gamma_makes_as_many_images_brighter_as_darker():
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    gamma = A.Compose([transforms.Gamma((0.5, 2), p=1)], seed=0)
    means = np.array([gamma(image=ramp)["image"].mean() for _ in range(400)])
    assert (means > 0.5).mean() == pytest.approx(0.5, abs=0.07)
    assert means.min() == pytest.approx(1 / 3, abs=0.02)  # the integral of x^2
    assert means.max() == pytest.approx(2 / 3, abs=0.02)  # of x^(1/2)


def test_a_window_without_jitter_is_the_window_and_with_it_moves_within_its_bounds():
    hu = np.array([[-200.0, -160, 40], [240, 300, 140]], np.float32)
    still = transforms.WindowJitter(40, 400, jitter=0)(image=hu)["image"]
    assert still == pytest.approx(np.array([[0, 0, 0.5], [1, 1, 0.75]]))
    moving = A.Compose([transforms.WindowJitter(40, 400, jitter=0.1)], seed=0)
    middle = [moving(image=hu)["image"][0, 2] for _ in range(300)]
    # 40 HU, with the level moved by up to 40 HU and a width of 360 or more.
    assert 0.5 - 40 / 360 <= min(middle) < 0.42
    assert 0.58 < max(middle) <= 0.5 + 40 / 360
    with pytest.raises(TypeError, match=r"float32 images in HU, got uint8.*rescale"):
        still = transforms.WindowJitter(40, 400)(image=hu.astype(np.uint8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: transforms.BiasField((0.5, 0.2)), "strength must be a smallest and"),
        (lambda: transforms.BiasField((0, 2)), "between 0 and 1, got"),
        (lambda: transforms.Ghosting(num_ghosts=(1, 4)), "num_ghosts must be"),
        (lambda: transforms.Gamma((0, 1)), "exponent must be"),
        (lambda: transforms.RicianNoise((-1, 1)), "sd must be"),
        (lambda: transforms.WindowJitter(40, 0), "width must be above 0 HU, got 0"),
        (lambda: transforms.WindowJitter(40, 9, jitter=2), "jitter must be"),
    ],
)
def test_ranges_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_steps_take_no_integers_of_16_bits():
    with pytest.raises(TypeError, match="Gamma takes uint8 or float32 images, got uin"):
        transforms.Gamma(p=1)(image=np.zeros((4, 4), np.uint16))


# Pipelines


def make_ct_train(size=64, **options):
    return transforms.make_ct_train_transform(size, level=40, width=400, **options)


@pytest.mark.parametrize(
    ("make", "dtype"),
    [
        (transforms.make_train_transform, np.uint8),
        (transforms.make_strong_transform, np.uint8),
        (make_ct_train, np.float32),
    ],
)
def test_pipelines_move_image_mask_and_weights_together(make, dtype):
    mask = np.zeros((64, 64), np.uint8)
    mask[10:40, 20:50] = 1
    image = np.repeat(mask[..., None] * dtype(255), 3, axis=2)
    if dtype == np.float32:
        image = image[..., :1] * 4 - 600
    weights = 1 + mask.astype(np.float32)
    transform = make(64, seed=2, additional_targets={"weights": "mask"})
    for _ in range(15):
        out = transform(image=image, mask=mask, weights=weights)
        assert out["weights"].dtype == torch.float32
        seen = out["weights"] > 0  # 0 in corners that are filled with air
        assert seen.float().mean() > 0.5
        assert torch.equal(out["weights"][seen], 1 + out["mask"][seen].float())
        assert out["image"].dtype == torch.float32
        assert set(out["mask"].unique().tolist()) <= {0, 1}
        inside = out["image"][0][out["mask"] == 1]
        outside = out["image"][0][out["mask"] == 0]
        assert inside.median() > outside.median() + 0.5


def test_strong_augmentation_turns_scales_and_bends():
    mask = np.zeros((96, 96), np.uint8)
    mask[30:60, 40:70] = 1
    image = np.repeat(mask[..., None] * np.uint8(200), 3, axis=2)
    transform = transforms.make_strong_transform(96, seed=0)
    areas = [int(transform(image=image, mask=mask)["mask"].sum()) for _ in range(150)]
    assert min(areas) < 0.65 * 900
    assert max(areas) > 1.5 * 900
    assert np.median(areas) == pytest.approx(900, rel=0.1)


def test_ct_pipeline_ends_between_minus_one_and_one_with_air_in_the_corners():
    water = np.zeros((64, 64), np.float32)
    transform = make_ct_train(64, seed=0, jitter=0)
    filled = 0
    for _ in range(20):
        out = transform(image=water, mask=np.ones((64, 64), np.uint8))
        assert out["image"].shape == (1, 64, 64)
        assert -1.3 < out["image"].min() <= out["image"].max() < 1.3  # with noise
        assert out["image"][0, 32, 32] == pytest.approx(-0.2, abs=0.35)
        air = out["image"][0] < -0.7
        assert (air == (out["mask"] == 0)).float().mean() > 0.95
        filled += bool(air.any())
    assert filled > 10


def test_only_a_mirror_that_is_asked_for_puts_the_liver_on_the_other_side():
    left = np.zeros((64, 64), np.float32)
    left[:, :20] = 200
    sides = {}
    for mirror in (False, True):
        transform = make_ct_train(64, seed=0, mirror=mirror)
        outs = [transform(image=left)["image"][0] for _ in range(30)]
        sides[mirror] = {bool(o[:, :32].mean() > o[:, 32:].mean()) for o in outs}
    assert sides == {False: {True}, True: {True, False}}


def test_pipelines_refuse_wrong_arguments():
    with pytest.raises(ValueError, match=r"additional_targets\['w'\] must be one of"):
        transforms.make_train_transform(additional_targets={"w": "weights"})
    with pytest.raises(ValueError, match=r"jitter must lie between 0 and 0\.5"):
        make_ct_train(jitter=1)
    with pytest.raises(TypeError, match="whole number of pixels"):
        transforms.make_strong_transform(2.5)


@pytest.mark.parametrize("seed", [0, 7])
def test_any_number_of_workers_gives_the_same_batches(seed):
    cases = [
        ImageCase(
            str(i),
            str(i),
            (rng(i).random((40, 40, 3)) * 255).astype(np.uint8),
            rng(i).integers(0, 2, (40, 40)).astype(np.int32),
        )
        for i in range(6)
    ]

    def batches(num_workers):
        data = CaseDataset(cases, transforms.make_strong_transform(32), seed=seed)
        loader = DataLoader(data, batch_size=2, num_workers=num_workers)
        images, masks = zip(*loader, strict=True)
        return torch.cat(images), torch.cat(masks)

    expected = batches(0)
    for num_workers in (1, 2):
        for found, wanted in zip(batches(num_workers), expected, strict=True):
            assert torch.equal(found, wanted)
