"""Tests of VolumeDataset: patches, chance, caches."""

import errno
import functools
import json
import os
import pickle
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from medseg.datasets import VolumeCase, VolumeDataset, _cache, decathlon_cases
from medseg.transforms import make_volume_transform
from medseg.volumes import Volume, grid_affine


def case(labels, image=None, name="a"):
    labels = np.asarray(labels)
    if image is None:
        image = np.arange(labels.size, dtype=np.int16).reshape(labels.shape)
    affine = grid_affine((3, 1, 1))
    return VolumeCase(name, name, Volume(image, affine), Volume(labels, affine))


def rare(shape=(12, 14, 16)):
    """One voxel of class 2 in a corner, a block of class 1, each voxel its number."""
    labels = np.zeros(shape, np.uint8)
    labels[4:8, 4:8, 4:8] = 1
    labels[0, 0, -1] = 2
    return case(labels)


def scale(case, factor=2.0):
    return case._replace(image=case.image.with_array(case.image.array * factor))


def shift(case, by):
    return case._replace(image=case.image.with_array(case.image.array + by))


def task(folder, count=3, shape=(6, 7, 8)):
    """A small task of the Decathlon; the value of a scan is its number."""
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
    names = [f"x_{i:03d}.nii.gz" for i in range(count)]
    for number, name in enumerate(names):
        labels = np.zeros(shape, np.uint8)
        labels[2:4, 2:4, 2:4] = 1
        for kind, array in (
            ("imagesTr", np.full(shape, number, np.int16)),
            ("labelsTr", labels),
        ):
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / kind / name)
    pairs = [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names]
    facts = {"modality": {"0": "CT"}, "labels": {"0": "b", "1": "x"}, "training": pairs}
    (folder / "dataset.json").write_text(json.dumps(facts))
    return decathlon_cases(folder)


# Samples


def test_whole_volumes_come_with_channel_and_class():
    one = rare()
    image, mask = VolumeDataset([one], num_classes=3)[0]
    assert image.dtype == torch.float32
    assert image.shape == (1, 12, 14, 16)
    assert np.array_equal(image[0].numpy(), one.image.array)
    assert mask.dtype == torch.int64
    assert np.array_equal(mask.numpy(), one.labels.array)
    image, mask = VolumeDataset([one])[0]
    assert mask.dtype == torch.float32
    assert np.array_equal(mask[0].numpy(), one.labels.array > 0)


def test_a_patch_is_a_piece_of_image_and_labels_at_one_place():
    one = rare()
    data = VolumeDataset([one], (4, 5, 6), num_classes=3, patches_per_volume=50)
    assert len(data) == 50
    for image, mask in data:
        assert image.shape == (1, 4, 5, 6)
        place = np.unravel_index(int(image[0, 0, 0, 0]), (12, 14, 16))
        piece = tuple(slice(p, p + n) for p, n in zip(place, (4, 5, 6), strict=True))
        assert np.array_equal(image[0].numpy(), one.image.array[piece])
        assert np.array_equal(mask.numpy(), one.labels.array[piece])


def test_channels_stay_channels():
    image = np.stack([np.zeros((6, 6, 6)), np.ones((6, 6, 6))]).astype(np.float32)
    one = case(np.zeros((6, 6, 6), int), image)
    patch, _ = VolumeDataset([one], 3)[0]
    assert patch.shape == (2, 3, 3, 3)
    assert patch.mean(dim=(1, 2, 3)).tolist() == [0, 1]


def test_patches_on_foreground_show_small_classes_as_often_as_large_ones():
    data = VolumeDataset(
        [rare()], 3, num_classes=3, patches_per_volume=600, foreground=1.0, seed=1
    )
    holds = np.array([[(mask == c).any() for c in (1, 2)] for _, mask in data])
    assert holds.any(axis=1).all()
    assert holds.mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.07)


def test_share_of_patches_on_foreground_is_what_was_asked_for():
    labels = np.zeros((40, 40, 40), int)
    labels[20, 20, 20] = 1  # a patch anywhere holds it once in 50,000 times
    data = VolumeDataset(
        [case(labels)], 1, patches_per_volume=900, foreground=0.3, seed=0
    )
    share = np.mean([bool(mask.any()) for _, mask in data])
    assert share == pytest.approx(0.3, abs=0.05)


def test_patches_anywhere_reach_every_voxel_evenly():
    one = case(np.zeros((4, 5, 3), int))
    data = VolumeDataset([one], (2, 2, 3), patches_per_volume=3000, seed=0)
    starts = np.array([int(image[0, 0, 0, 0]) for image, _ in data])
    counts = np.bincount(starts, minlength=60)
    assert (counts > 0).sum() == 3 * 4
    assert counts[counts > 0].min() > 0.7 * 3000 / 12
    assert counts.max() < 1.3 * 3000 / 12


def test_volume_smaller_than_the_patch_is_padded_with_its_lowest_value():
    image = np.full((2, 8, 8), -5.0)
    image[0, 0, 0] = -1000
    one = case(np.ones((2, 8, 8), int), image)
    patch, mask = VolumeDataset([one], (5, 4, 4), foreground=1.0)[0]
    assert patch.shape == (1, 5, 4, 4)
    assert mask[0].sum(dim=(1, 2)).tolist() == [0, 16, 16, 0, 0]  # 1 before, 2 after
    assert (patch[0, [0, 3, 4]] == -1000).all()


def test_transform_gets_image_and_mask_and_chance_if_it_wants_it():
    def flip(image, mask, rng):
        assert image.dtype == np.float32
        if rng.random() < 0.5:
            image, mask = image[:, ::-1], mask[::-1]
        return {"image": image, "mask": mask}

    one = rare()
    data = VolumeDataset([one], transform=flip, num_classes=3, seed=0)
    found = []
    for epoch in range(20):
        data.set_epoch(epoch)
        image, mask = data[0]
        found.append(bool(image[0, 0, 0, 0] != 0))
        assert int(mask[-1 if found[-1] else 0, 0, -1]) == 2
    assert 3 < sum(found) < 17


def test_transform_that_crops_the_image_alone_is_refused():
    def crop(image, mask):
        return {"image": image[:, 1:], "mask": mask}

    with pytest.raises(ValueError, match=r"\(1, 11, 14, 16\) with a mask \(12, 14, 16"):
        VolumeDataset([rare()], transform=crop)[0]


# Chance


def starts(num_workers, *, seed, epochs=2, persistent=False):
    data = VolumeDataset([rare()] * 3, 3, patches_per_volume=4, seed=seed)
    torch.manual_seed(7)
    loader = DataLoader(
        data, num_workers=num_workers, persistent_workers=persistent, batch_size=2
    )
    found = []
    for epoch in range(epochs):
        data.set_epoch(epoch)
        found.append([int(image[0, 0, 0, 0]) for batch, _ in loader for image in batch])
    return found


def test_with_a_seed_all_is_the_same_with_any_number_of_workers():
    alone = starts(0, seed=3)
    assert alone[0] != alone[1]
    assert len(set(alone[0])) > 6  # patches of one volume differ
    assert starts(1, seed=3) == alone
    assert starts(2, seed=3, persistent=True) == alone
    assert starts(0, seed=4) != alone


def test_augmented_volumes_are_the_same_with_any_number_of_workers():
    def samples(num_workers):
        data = VolumeDataset(
            [rare()] * 3, 8, make_volume_transform((3, 1, 1)), num_classes=3, seed=1
        )
        batches = list(DataLoader(data, num_workers=num_workers))
        return [torch.cat(part) for part in zip(*batches, strict=True)]

    for ours, theirs in zip(samples(0), samples(2), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_without_a_seed_chance_follows_torch(num_workers):
    first = starts(num_workers, seed=None)
    assert starts(num_workers, seed=None) == first
    assert first[0] != first[1]


# Caches


@pytest.mark.parametrize("where", ["memory", "disk", None])
def test_a_cache_changes_no_sample(tmp_path, where):
    cases = task(tmp_path / "task")
    cache = tmp_path / "cache" if where == "disk" else where
    plain = VolumeDataset([c.read() for c in cases], 4, seed=0, preprocess=scale)
    cached = VolumeDataset(cases, 4, seed=0, preprocess=scale, cache=cache)
    for ours, theirs in zip(cached, plain, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
    assert cached[2][0].unique().tolist() == [4.0]


def test_a_disk_cache_is_found_again_and_nothing_is_read_twice(tmp_path, monkeypatch):
    cases = task(tmp_path / "task")
    first = VolumeDataset(cases, cache=tmp_path / "cache")
    monkeypatch.setattr(_cache, "make_ready", None)  # would fail
    again = VolumeDataset(cases, cache=tmp_path / "cache")
    assert torch.equal(again[1][0], first[1][0])
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_a_cache_of_other_files_or_other_preprocessing_is_not_used(tmp_path):
    cases = task(tmp_path / "task", count=1)

    def count():
        return len([p for p in (tmp_path / "cache").iterdir() if p.name[0] != "."])

    cache = tmp_path / "cache"
    VolumeDataset(cases, cache=cache)
    VolumeDataset(cases, cache=cache, preprocess=scale)
    assert count() == 2
    for by in (1, 2):
        data = VolumeDataset(cases, cache=cache, preprocess=partial(shift, by=by))
        assert data[0][0].unique().tolist() == [by]
    assert count() == 4
    data = VolumeDataset(cases, cache=cache, preprocess=lambda c: shift(c, 5))
    other = VolumeDataset(cases, cache=cache, preprocess=lambda c: shift(c, 6))
    assert data[0][0].unique().tolist() == [5]
    assert other[0][0].unique().tolist() == [6]
    image = nib.Nifti1Image(np.full((6, 7, 8), 9, np.int16), np.eye(4))
    nib.save(image, tmp_path / "task" / "imagesTr" / "x_000.nii.gz")
    assert VolumeDataset(cases, cache=cache)[0][0].unique().tolist() == [9]


def test_preprocessing_that_cannot_be_told_apart_needs_a_key(tmp_path):
    class Scale:
        def __call__(self, case):
            return case

    cases = task(tmp_path / "task", count=1)
    with pytest.raises(ValueError, match=r"Scale object at 0x.*cache_key"):
        VolumeDataset(cases, cache=tmp_path / "cache", preprocess=Scale())
    VolumeDataset(cases, cache=tmp_path / "c", preprocess=Scale(), cache_key="v1")
    assert len(list((tmp_path / "c").iterdir())) == 1


@pytest.mark.parametrize("file", ["image.npy", "labels.npy", "facts.json"])
def test_damaged_cache_is_made_anew(tmp_path, file):
    cases = task(tmp_path / "task", count=1)
    first = VolumeDataset(cases, cache=tmp_path / "cache")[0]
    (folder,) = (tmp_path / "cache").iterdir()
    (folder / file).write_bytes((folder / file).read_bytes()[:70])
    again = VolumeDataset(cases, cache=tmp_path / "cache")[0]
    assert torch.equal(first[0], again[0])
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]


def test_file_written_again_with_the_same_size_is_read_again(tmp_path):
    cases = task(tmp_path / "task", count=1)
    VolumeDataset(cases, cache=tmp_path / "cache")
    os.utime(cases[0].files[0], ns=(1, 1))
    VolumeDataset(cases, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_cache_whose_files_do_not_belong_together_is_made_anew(tmp_path):
    cases = task(tmp_path / "task", count=1)
    first = VolumeDataset(cases, cache=tmp_path / "cache")[0]
    (folder,) = (tmp_path / "cache").iterdir()
    np.save(folder / "image.npy", np.zeros((1, 2, 2, 2), np.int16))
    again = VolumeDataset(cases, cache=tmp_path / "cache")[0]
    assert torch.equal(first[0], again[0])


def test_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    cases = task(tmp_path / "task", count=2)
    save = np.save

    def full(path, array):
        if Path(path).name == "labels.npy":
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(path, array)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match=r"cache .* for case x_000 .*No space left"):
        VolumeDataset(cases, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_cases_in_memory_are_told_apart_by_their_voxels(tmp_path):
    one, two = rare(), scale(rare(), 3.0)
    for index, data in enumerate((one, two, one)):
        VolumeDataset([data], cache=tmp_path)
        assert len(list(tmp_path.iterdir())) == (1, 2, 2)[index]


def test_disk_cache_is_sent_to_a_spawned_worker_as_paths(tmp_path):
    big = case(np.zeros((40, 50, 60), np.uint8))
    data = VolumeDataset([big], 4, cache=tmp_path)
    data.cases = data.cases[:0] + [big._replace(image=big.labels)]
    assert len(pickle.dumps(data._kept)) < 1000


# Bad input


def test_labels_that_no_class_has_are_refused_with_the_case(tmp_path):
    with pytest.raises(ValueError, match=r"case a reach 2, but num_classes=2 allows 0"):
        VolumeDataset([rare()], num_classes=2)
    lazy = VolumeDataset(task(tmp_path), num_classes=2)
    assert lazy[0][1].max() == 1


def test_bad_arguments_are_refused():
    for wrong, message in (
        ({"patch_size": 0}, "whole numbers from 1, got 0"),
        ({"patch_size": (3, 3)}, r"one or three whole numbers from 1, got \(3, 3\)"),
        ({"foreground": 1.5}, "share from 0 to 1, got 1.5"),
        ({"patches_per_volume": 0}, "at least 1, got 0"),
        ({"num_classes": 0}, "got 0"),
        ({"seed": -1}, "seed must be a whole number from 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            VolumeDataset([rare()], **wrong)
    with pytest.raises(ValueError, match="no cases"):
        VolumeDataset([])
    with pytest.raises(IndexError, match="no sample 1 of 1"):
        VolumeDataset([rare()])[1]


def test_nan_and_a_grid_that_does_not_fit_are_named():
    image = np.zeros((3, 3, 3))
    image[1, 1, 1] = np.nan
    with pytest.raises(ValueError, match="image of case a holds NaN"):
        VolumeDataset([case(np.zeros((3, 3, 3), int), image)])
    one = rare()
    moved = one._replace(labels=Volume(one.labels.array, grid_affine((2, 1, 1))))
    with pytest.raises(ValueError, match="mm"):
        VolumeDataset([moved])
    with pytest.raises(TypeError, match=r"returned Volume for case a; expected a Vol"):
        VolumeDataset([one], preprocess=lambda c: c.image)


def test_preprocessing_is_told_by_its_code_and_values():
    def make(value):
        def shift_by(c):
            return c if value else None

        return shift_by

    one, two, again = make(1), make(2), make(1)
    assert _cache.identity_of(one) == _cache.identity_of(again)
    assert _cache.identity_of(one) != _cache.identity_of(two)
    a, b = functools.partial(shift, by=1), functools.partial(shift, by=2)
    assert _cache.identity_of(a) != _cache.identity_of(b)
    c, d = (lambda x: x + 1), (lambda x: x - 1)
    assert _cache.identity_of(c) != _cache.identity_of(d)


SPACING = (1.0, 1.0, 1.0)


def resampled(c):
    return [halved(c) for _ in SPACING]


def halved(c):
    return c if c is None else resampled(None)


def test_preprocessing_is_told_by_the_values_of_its_module_too(monkeypatch):
    before = _cache.identity_of(resampled)
    assert _cache.identity_of(resampled) == before
    monkeypatch.setitem(globals(), "SPACING", (2.0, 1.0, 1.0))
    other_spacing = _cache.identity_of(resampled)
    assert other_spacing != before
    monkeypatch.setitem(globals(), "halved", shift)
    assert _cache.identity_of(resampled) != other_spacing
