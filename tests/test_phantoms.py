"""Phantoms: exact labels, honest dials, and values that are those of the body."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.io import imread
from skimage.morphology import skeletonize

from medseg import phantoms
from medseg.phantoms._brushes import blob

SMALL = {"size": (96, 112)}


def draw(name, **options):
    return getattr(phantoms, name)(**{**SMALL, **options})


@pytest.mark.parametrize("name", ["cells", "em_membranes", "abdomen_ct"])
def test_a_seed_gives_one_phantom_and_another_seed_another(name):
    first, again, other = draw(name), draw(name), draw(name, seed=1)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.labels, other.labels)
    assert first.image.shape == first.labels.shape == SMALL["size"]
    assert first.labels.dtype == np.int32


def fingerprint(array):
    """Three sums with random signs: one other draw changes them by thousands.

    A hash would also change with the last bit of a sine on another processor.
    """
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (3, array.size))
    return signs @ array.ravel()


@pytest.mark.parametrize(
    ("name", "size", "options", "image", "labels"),
    [
        (
            "cells",
            (64, 64),
            {"num_cells": 8, "seed": 3},
            [-4386, -126, 5820],
            [-287, 135, 225],
        ),
        (
            "cells",
            (256, 256),
            {"num_cells": 60, "seed": 1, "noise": 0},
            [-6362, 788, -3250],
            [896, -4480, 1938],
        ),
        ("em_membranes", (256, 256), {}, [-22896, -2612, -5008], [-94, -30, -40]),
        (
            "abdomen_ct",
            (256, 256),
            {"seed": 0, "tumour": False},
            [-132715, 90407, 35177],
            [143, -207, -307],
        ),
        (
            "abdomen_ct",
            (96, 112),
            {"seed": 2},
            [-195832, 68539, 60358],
            [-69, -131, 161],
        ),
    ],
)
def test_what_chapters_draw_stays_the_very_same(name, size, options, image, labels):
    phantom = draw(name, size=size, **options)
    assert fingerprint(phantom.image) == pytest.approx(image, abs=40)
    assert fingerprint(phantom.labels) == pytest.approx(labels, abs=60)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("cells", {"noise": 0.2, "contrast": 0.6, "blur": 3, "illumination": 0.9}),
        ("em_membranes", {"noise": 0.4, "contrast": 0.1}),
        ("abdomen_ct", {"noise_hu": 50, "contrast": 0}),
    ],
)
def test_optics_and_noise_change_the_image_but_not_the_labels(name, change):
    plain, hard = draw(name), draw(name, **change)
    assert np.array_equal(plain.labels, hard.labels)
    assert not np.array_equal(plain.image, hard.image)


def test_a_wavy_outline_encloses_the_area_of_its_ellipse():
    y, x = np.mgrid[-150:151, -150:151].astype(float)
    wobble = np.array([[0.2, 1.0], [0.1, 2.0], [0.1, 0.5], [0.1, 4.0]])
    rho = blob(y, x, 60, 90, angle=0.4, wobble=wobble)
    assert (rho < 1).sum() == pytest.approx(np.pi * 60 * 90, rel=2e-3)
    assert not np.array_equal(rho < 1, blob(y, x, 60, 90, angle=0.4) < 1)


def test_nuclei_have_the_number_and_the_area_that_were_asked_for():
    labels = phantoms.cells(num_cells=25, radius=(9, 9), seed=4).labels
    assert np.array_equal(np.unique(labels), np.arange(26))
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    whole = np.setdiff1d(np.arange(1, 26), edge)
    assert len(whole) > 10
    areas = np.bincount(labels.ravel())[whole]
    assert areas == pytest.approx(np.pi * 9**2, rel=0.04)
    assert areas.mean() == pytest.approx(np.pi * 9**2, rel=0.01)
    for number in whole:
        assert ndimage.label(labels == number)[1] == 1


def contacts(labels):
    """For each instance, whether another one lies within one pixel."""
    numbers = np.unique(labels[labels > 0])
    grown = {n: ndimage.binary_dilation(labels == n, np.ones((3, 3))) for n in numbers}
    return [bool(((labels > 0) & (labels != n))[grown[n]].any()) for n in numbers]


def test_touching_runs_from_no_contact_to_contact_of_all():
    alone = phantoms.cells(num_cells=30, touching=0, seed=2).labels
    assert not any(contacts(alone))
    crowd = phantoms.cells(num_cells=15, touching=1, seed=2).labels
    assert all(contacts(crowd))


def test_contrast_is_the_brightness_of_nuclei_above_the_background():
    # Small differences remain: chromatin, and clipping of the brightest nuclei.
    for contrast in (0.15, 0.45):
        image, labels, _, _ = phantoms.cells(
            num_cells=40, contrast=contrast, noise=0, illumination=0, blur=0, seed=1
        )
        near = ndimage.binary_dilation(labels > 0, iterations=5) & (labels == 0)
        step = (image[labels > 0].mean() - image[near].mean()) / 255
        assert step == pytest.approx(contrast, rel=0.15)


def test_noise_of_cells_is_that_of_photons_and_read_out():
    options = {"num_cells": 1, "illumination": 0, "contrast": 0.01, "seed": 3}
    clean = phantoms.cells(noise=0, **options).image.astype(float) / 255
    noisy = phantoms.cells(noise=0.08, **options).image.astype(float) / 255
    background = clean.mean()
    assert clean.std() < 0.01
    # Clipping at 0 would narrow it: 3 standard deviations fit below 0.05 only just.
    expected = 0.08 * np.sqrt(background + 1 / 9)
    assert noisy.std() == pytest.approx(expected, rel=0.15)


def test_illumination_is_the_loss_from_the_brightest_to_the_darkest_spot():
    image = phantoms.cells(num_cells=1, noise=0, illumination=0.6, contrast=0.01).image
    assert image.min() / image.max() == pytest.approx(0.4, abs=0.06)
    flat = phantoms.cells(num_cells=1, noise=0, illumination=0, contrast=0.01).image
    assert flat.min() / flat.max() > 0.8


def test_membranes_are_dark_closed_and_as_thick_as_asked():
    image, labels, spacing, names = phantoms.em_membranes((256, 256), 24, seed=1)
    assert set(np.unique(labels)) == {0, 1}
    assert names[1] == "cell"
    assert spacing == (4e-6, 4e-6)
    assert image[labels == 1].mean() - image[labels == 0].mean() > 30
    assert 12 <= ndimage.label(labels)[1] <= 30  # closed: cells do not run together
    for thickness in ((4.0, 4.0), (6.0, 6.0)):
        labels = phantoms.em_membranes((256, 256), 24, seed=1, thickness=thickness)[1]
        membrane = labels == 0
        # A slanted line has fewer pixels than its length: over all angles, 1 / 1.12.
        width = membrane.sum() / (1.12 * skeletonize(membrane).sum())
        assert width == pytest.approx(thickness[0], rel=0.15)


def test_contrast_and_noise_of_membranes_do_what_they_say():
    def gap(**options):
        image, labels, _, _ = phantoms.em_membranes((256, 256), seed=1, **options)
        return image[labels == 1].mean() - image[labels == 0].mean()

    assert gap(contrast=0.4) > 1.5 * gap(contrast=0.2) > 0
    clean = phantoms.em_membranes((128, 128), noise=0).image.astype(float)
    noisy = phantoms.em_membranes((128, 128), noise=0.1).image.astype(float)
    assert (noisy - clean).std() / 255 == pytest.approx(0.1, rel=0.15)


@pytest.mark.parametrize("contrast", [0, 1])
def test_organs_have_their_nominal_hounsfield_units(contrast):
    found = {name: [] for name in phantoms.abdomen_ct().names[1:]}
    for seed in range(4):
        image, labels, _, names = phantoms.abdomen_ct(seed=seed, contrast=contrast)
        for label, name in enumerate(names[1:], start=1):
            core = ndimage.binary_erosion(labels == label, iterations=2)
            core &= image < 300  # marrow, not the bony shell around it
            found[name].append(np.median(image[core]))
    for name, values in found.items():
        nominal = phantoms.ABDOMEN_HU[name.split()[-1]][contrast]
        assert np.mean(values) == pytest.approx(nominal, abs=6), name


def test_the_patients_right_is_on_the_left_of_the_image():
    _, labels, spacing, names = phantoms.abdomen_ct(seed=2)
    centre = {
        name: ndimage.center_of_mass(labels == label)
        for label, name in enumerate(names)
    }
    middle = labels.shape[1] / 2
    assert centre["liver"][1] < centre["right kidney"][1] < middle
    assert middle < centre["left kidney"][1] < centre["spleen"][1]
    assert centre["spine"][0] > centre["aorta"][0]  # supine: the back is below
    assert spacing == (380 / 256, 380 / 256)


def test_size_changes_the_resolution_and_not_the_patient():
    coarse, fine = phantoms.abdomen_ct((128, 128)), phantoms.abdomen_ct((256, 512))
    assert fine.spacing == (380 / 256, 380 / 512)
    organs = coarse.labels > 0
    same = coarse.labels == fine.labels[::2, 2::4]
    assert same[organs].mean() > 0.87
    cm2 = (fine.labels == 1).sum() * fine.spacing[0] * fine.spacing[1] / 100
    assert 80 < cm2 < 200  # the liver's area


def test_the_tumour_lies_in_the_liver_and_has_the_stated_size():
    for seed in range(8):
        _, labels, spacing, _ = phantoms.abdomen_ct(seed=seed)
        tumour = labels == 2
        radius = np.sqrt(tumour.sum() * spacing[0] * spacing[1] / np.pi)
        assert 8 < radius < 20.5
        around = labels[ndimage.binary_dilation(tumour) & ~tumour]
        assert (around == 1).mean() > 0.9
    assert not (phantoms.abdomen_ct(tumour=False).labels == 2).any()


def test_ct_noise_has_its_standard_deviation_and_is_correlated():
    noise = (
        phantoms.abdomen_ct(noise_hu=20).image - phantoms.abdomen_ct(noise_hu=0).image
    )
    body = noise[110:150, 60:190]  # in air, values are clipped at -1024
    assert body.std() == pytest.approx(20, rel=0.1)
    assert np.corrcoef(body[:, 1:].ravel(), body[:, :-1].ravel())[0, 1] > 0.3


def test_write_cells_writes_pairs_of_8_bit_images_and_0_255_masks(tmp_path):
    images, masks = phantoms.write_cells(tmp_path / "a" / "cells", 3, size=(64, 80))
    assert (images, masks) == (tmp_path / "a/cells/images", tmp_path / "a/cells/masks")
    names = [f"cells_00{i}.png" for i in range(3)]
    assert sorted(p.name for p in images.iterdir()) == names
    assert sorted(p.name for p in masks.iterdir()) == names
    for name in names:
        image, mask = imread(images / name), imread(masks / name)
        assert image.shape == mask.shape == (64, 80)
        assert image.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 255}
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["cells"]


def test_folders_of_two_seeds_share_no_image(tmp_path):
    contents = []
    for seed in (0, 1):
        images, _ = phantoms.write_cells(
            tmp_path / str(seed), 4, seed=seed, size=(32, 32)
        )
        contents += [path.read_bytes() for path in images.iterdir()]
    assert len(set(contents)) == 8


def test_write_cells_leaves_a_full_folder_as_it_is(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not an empty folder: nothing was writ"):
        phantoms.write_cells(tmp_path, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("medseg.phantoms._cells.imsave", interrupted)
    with pytest.raises(KeyboardInterrupt):
        phantoms.write_cells(tmp_path / "cells", 2, size=(32, 32))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: phantoms.cells((8, 256)), r"each 16 or more, got \(8, 256\)"),
        (lambda: phantoms.cells(num_cells=0), "num_cells must be a whole number, 1"),
        (lambda: phantoms.cells(num_cells=2.5), "num_cells must be a whole number"),
        (lambda: phantoms.cells(contrast=2), r"between 0.01 and 0.9, got 2"),
        (lambda: phantoms.cells(noise=float("nan")), "noise must lie between"),
        (lambda: phantoms.em_membranes(num_cells=1), "2 or more, got 1"),
        (lambda: phantoms.abdomen_ct(noise_hu=-1), "noise_hu must lie between 0"),
        (lambda: phantoms.write_cells("x", 0), "count must be a whole number, 1"),
    ],
)
def test_numbers_out_of_range_are_refused_with_the_range(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_too_many_nuclei_are_refused_with_advice():
    with pytest.raises(ValueError, match=r"do not fit into 64x64.*Ask for fewer"):
        phantoms.cells((64, 64), num_cells=200)
