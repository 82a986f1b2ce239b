"""Tests of medseg.datasets."""

import pickle
import subprocess
import sys

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from medseg.datasets import CaseDataset, ImageCase, MedicalImageDataset
from medseg.transforms import make_train_transform, make_val_transform

RNG = np.random.default_rng(0)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def folders(tmp_path):
    """Four noisy images of odd sizes, with masks of 0 and 255."""
    for i in range(4):
        size = (20 + i, 30 - i)
        image = RNG.integers(0, 256, (*size, 3), np.uint8)
        write(tmp_path / "images" / f"{i}.png", image)
        mask = np.zeros(size, np.uint8)
        mask[:10, :12] = 255
        write(tmp_path / "masks" / f"{i}.png", mask)
    return tmp_path / "images", tmp_path / "masks"


def case(labels, image=None):
    labels = np.asarray(labels, np.int32)
    if image is None:
        image = np.full(labels.shape, 51, np.uint8)
    return ImageCase("a", "patient", image, labels)


# Samples


def test_without_transform_the_image_is_divided_by_255_and_the_mask_is_0_or_1(folders):
    image, mask = MedicalImageDataset(*folders)[1]
    with Image.open(folders[0] / "1.png") as file:
        pixels = np.array(file)
    assert image.dtype == torch.float32
    assert np.allclose(image.permute(1, 2, 0).numpy(), pixels / 255)
    assert mask.shape == (1, 21, 29)
    assert mask.dtype == torch.float32
    assert mask.sum() == 10 * 12
    assert mask[0, 9, 11] == 1


def test_samples_of_the_listing_are_collated_and_fit_bce_with_logits(folders):
    dataset = MedicalImageDataset(*folders, make_train_transform(32))
    loader = DataLoader(dataset, batch_size=4, shuffle=True)
    [(images, masks)] = loader
    assert images.shape == (4, 3, 32, 32)
    assert masks.shape == (4, 1, 32, 32)
    nn.BCEWithLogitsLoss()(images[:, :1], masks)
    assert len(dataset) == 4
    assert [p.name for p in dataset.image_paths] == [p.name for p in dataset.mask_paths]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("to_tensor", [True, False])
def test_transform_may_or_may_not_end_in_a_tensor(folders, channels, to_tensor):
    steps = [A.HorizontalFlip(p=1.0)] + [A.pytorch.ToTensorV2()] * to_tensor
    flipped = MedicalImageDataset(*folders, A.Compose(steps), channels=channels)
    plain = MedicalImageDataset(*folders, channels=channels)
    for ours, expected in zip(flipped[0], plain[0], strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, expected.flip(-1))


def test_transform_may_return_a_view_that_runs_backwards(folders):
    def mirror(image, mask):
        return {"image": image[:, ::-1], "mask": mask[:, ::-1]}

    mirrored = MedicalImageDataset(*folders, mirror)[0]
    plain = MedicalImageDataset(*folders)[0]
    assert torch.equal(mirrored[0], plain[0].flip(-1))
    assert torch.equal(mirrored[1], plain[1].flip(-1))


def test_more_classes_come_as_int64_without_channel_axis(tmp_path):
    write(tmp_path / "images" / "x.png", np.zeros((2, 3), np.uint8))
    labels = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    write(tmp_path / "masks" / "x.png", labels)
    _, mask = MedicalImageDataset(
        tmp_path / "images", tmp_path / "masks", num_classes=3
    )[0]
    assert mask.dtype == torch.int64
    assert mask.tolist() == labels.tolist()
    dataset = MedicalImageDataset(
        tmp_path / "images", tmp_path / "masks", num_classes=2
    )
    with pytest.raises(ValueError, match=r"x\.png holds 2, outside the classes 0\.\.1"):
        dataset[0]


def test_image_and_mask_of_two_sizes_are_named_with_their_shapes(folders):
    write(folders[1] / "2.png", np.zeros((22, 20), np.uint8))
    with pytest.raises(ValueError, match=r"2\.png has \(22, 28\).*2\.png has \(22, 20"):
        MedicalImageDataset(*folders)[2]


def test_transform_that_blurs_a_mask_is_refused(folders):
    blur = A.Compose([A.Rotate(limit=(20, 20), fill_mask=7, p=1.0)])
    with pytest.raises(ValueError, match=r"binary mask \(0\.\.7\).*INTER_NEAREST"):
        MedicalImageDataset(*folders, blur)[0]


def test_transform_that_moves_the_image_alone_is_refused(folders):
    def resize(image, mask):
        return {"image": cv2.resize(image, (8, 8)), "mask": mask}

    with pytest.raises(ValueError, match=r"\(3, 8, 8\) with a mask \(20, 30\)"):
        MedicalImageDataset(*folders, resize)[0]


def test_large_rotations_and_resizes_leave_masks_of_0_and_1():
    labels = RNG.integers(0, 3, (50, 40))
    dataset = CaseDataset([case(labels)] * 10, make_train_transform(37))
    for _, mask in dataset:
        assert sorted(mask.unique().tolist()) == [0, 1]
    dataset = CaseDataset([case(labels)] * 10, make_train_transform(37), num_classes=3)
    for _, mask in dataset:
        assert sorted(mask.unique().tolist()) == [0, 1, 2]


@pytest.mark.parametrize("channels", [1, 3])
def test_cases_in_memory_give_the_samples_of_their_files(folders, channels):
    from_files = MedicalImageDataset(*folders, channels=channels)
    cases = []
    for image_path, mask_path in zip(
        from_files.image_paths, from_files.mask_paths, strict=True
    ):
        with Image.open(image_path) as image, Image.open(mask_path) as mask:
            labels = np.array(mask).astype(np.int32)
            cases.append(ImageCase(image_path.stem, "g", np.array(image), labels))
    transform = make_val_transform(16, channels=channels)
    from_files.transform = transform
    in_memory = CaseDataset(cases, transform, channels=channels)
    assert len(in_memory) == len(from_files)
    for ours, theirs in zip(in_memory, from_files, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def test_transform_that_writes_into_its_input_leaves_the_case_as_it_was():
    def paint(image, mask):
        image[:], mask[:] = 0, 1
        return {"image": image, "mask": mask}

    white = case([[0, 3]], np.full((1, 2, 3), 255, np.uint8))
    CaseDataset([white], paint)[0]
    assert white.image.min() == 255
    assert white.labels.tolist() == [[0, 3]]


def test_cases_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="no cases"):
        CaseDataset([])
    with pytest.raises(ValueError, match=r"case a .*\(4, 4\).*\(1, 2\)"):
        CaseDataset([case([[0, 1]], np.zeros((4, 4), np.uint8))])
    with pytest.raises(ValueError, match=r"case a must be integers from 0.*-1"):
        CaseDataset([case([[0, -1]])])
    with pytest.raises(ValueError, match=r"labels of case a holds 7, outside .*0\.\.2"):
        CaseDataset([case([[0, 7]])], num_classes=3)[0]


def test_options_out_of_range_are_refused(folders):
    for wrong in (0, 300, "3"):
        with pytest.raises(ValueError, match=f"from 1 .binary. to 256, got {wrong!r}"):
            MedicalImageDataset(*folders, num_classes=wrong)
    with pytest.raises(ValueError, match="channels must be one of 3, 1, got 4"):
        CaseDataset([case([[0]])], channels=4)


def test_decoded_once_all_stays_as_it_was(folders):
    torch.manual_seed(0)
    fresh = list(MedicalImageDataset(*folders, make_train_transform(16)))
    cached = MedicalImageDataset(*folders, make_train_transform(16), cache=True)
    for path in (*cached.image_paths, *cached.mask_paths):
        path.unlink()
    for _ in range(2):  # the transform does not wear out what is kept
        torch.manual_seed(0)
        for ours, theirs in zip(cached, fresh, strict=True):
            assert torch.equal(ours[0], theirs[0])
            assert torch.equal(ours[1], theirs[1])


def test_transform_that_paints_leaves_the_cache_as_it_was(folders):
    def paint(image, mask):
        image[:], mask[:] = 0, 1
        return {"image": image, "mask": mask}

    data = MedicalImageDataset(*folders, paint, cache=True)
    data[0]
    data.transform = None
    assert data[0][0].max() > 0.9


def test_all_bad_pairs_are_listed_before_the_training(folders):
    data = MedicalImageDataset(*folders)
    data.check()
    (folders[0] / "1.png").write_bytes(b"no image")
    write(folders[1] / "3.png", np.zeros((5, 5), np.uint8))
    with pytest.raises(
        ValueError, match=r"(?s)2 of 4 pairs.*1\.png.*3\.png has \(5, 5"
    ):
        data.check()


# Chance


def augmented(num_workers, seed, transform_seed=None, epochs=2):
    """What a loader yields in each epoch for eight copies of one case."""
    noise = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    cases = [case(np.zeros((32, 32)), noise)] * 8
    dataset = CaseDataset(cases, make_train_transform(32, seed=transform_seed))
    torch.manual_seed(seed)
    loader = DataLoader(dataset, num_workers=num_workers)
    return [torch.cat([images for images, _ in loader]) for _ in range(epochs)]


@pytest.mark.parametrize("transform_seed", [None, 3])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_no_augmentation_comes_twice_in_any_worker_or_epoch(
    num_workers, transform_seed
):
    images = torch.cat(augmented(num_workers, 0, transform_seed))
    assert len(images.unique(dim=0)) == 16


@pytest.mark.parametrize("num_workers", [0, 2])
def test_augmentations_follow_torch_manual_seed(num_workers):
    first, again, other = (augmented(num_workers, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.stack(first), torch.stack(again))
    assert not torch.equal(torch.stack(first), torch.stack(other))


def test_transform_with_a_seed_keeps_its_stream_without_workers():
    first, other = (augmented(0, seed, transform_seed=3) for seed in (0, 1))
    assert torch.equal(torch.stack(first), torch.stack(other))


def seeded(num_workers, seed, epochs=2):
    noise = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    cases = [case(np.zeros((32, 32)), noise)] * 8
    data = CaseDataset(cases, make_train_transform(32), seed=seed)
    loader = DataLoader(data, num_workers=num_workers)
    found = []
    for epoch in range(epochs):
        data.set_epoch(epoch)
        found.append(torch.cat([images for images, _ in loader]))
    return torch.cat(found)


def test_with_a_seed_augmentations_are_the_same_with_any_number_of_workers():
    alone = seeded(0, 5)
    assert len(alone.unique(dim=0)) == 16
    assert torch.equal(alone, seeded(1, 5))
    assert torch.equal(alone, seeded(2, 5))
    assert not torch.equal(alone, seeded(0, 6))


def test_seed_and_epoch_out_of_range_are_refused():
    with pytest.raises(ValueError, match="seed must be a whole number from 0, got -1"):
        CaseDataset([case([[0]])], seed=-1)
    with pytest.raises(ValueError, match="epoch must not be negative, got -1"):
        CaseDataset([case([[0]])], seed=1).set_epoch(-1)


def test_data_set_can_be_sent_to_a_worker_that_is_spawned(folders):
    dataset = MedicalImageDataset(*folders, make_val_transform(8))
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[3][0], dataset[3][0])


def test_import_leaves_albumentations_alone():
    code = "import sys, medseg.datasets; sys.exit('albumentations' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
