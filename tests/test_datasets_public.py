"""Tests of the public data sets: registry, splits, loading, download."""

import dataclasses
import os
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tifffile
from layouts import isbi_stacks, kaggle_tree, write
from torch.utils.data import DataLoader

from medseg import datasets
from medseg.datasets import CaseDataset, MedicalImageDataset, _public, _splits
from medseg.transforms import make_val_transform

DATA = os.environ.get("MEDSEG_DATA")
real_data = pytest.mark.skipif(
    not DATA, reason="MEDSEG_DATA is not set: no real images to read"
)


LISTED = ("dsb2018", "isbi2012", "isic2017", "montgomery", "msd_task04", "vnc")


def rows(name):
    return [row._asdict() for row in _splits.stored_split(name)]


def long_ids(split):
    return [row["id"] + "0" * 52 for row in rows("dsb2018") if row["split"] == split]


@pytest.fixture
def kaggle_root(tmp_path):
    stranger = "f" * 64  # in no list: withheld
    tree = tmp_path / "dsb2018_nuclei" / "stage1_train"
    kaggle_tree(tree, [*long_ids("val"), stranger])
    (tree / ".DS_Store").touch()
    return tmp_path


def test_split_files_hold_the_counts_of_the_notes_and_no_group_twice():
    count = defaultdict(int)
    splits_of = defaultdict(set)
    for row in rows("dsb2018"):
        count[row["split"]] += 1
        splits_of[row["group"]].add(row["split"])
    assert count == {"train": 328, "val": 84, "test": 111}
    assert max(len(splits) for splits in splits_of.values()) == 1
    assert len({row["id"] for row in rows("dsb2018")}) == 523
    blocks = {row["id"]: row["split"] for row in rows("isbi2012")}
    assert [blocks[f"{i:02d}"] for i in range(30)] == (
        ["train"] * 16 + ["val"] * 4 + ["test"] * 4 + ["withheld"] * 6
    )


@pytest.mark.parametrize("name", LISTED)
def test_splits_are_sorted(name):
    ids = [row["id"] for row in rows(name)]
    assert ids == sorted(ids)


def test_kaggle_tree_is_read_with_the_lower_number_winning(kaggle_root):
    cases = datasets.load("dsb2018", "val", kaggle_root)
    assert [c.name for c in cases] == [i[:12] for i in long_ids("val")]
    expected = np.zeros((6, 8), np.int32)
    expected[3:6, 3:6] = 2
    expected[1:4, 1:4] = 1  # claimed by both at (3, 3)
    assert np.array_equal(cases[0].labels, expected)
    assert cases[0].labels.dtype == np.int32
    assert cases[0].image.shape == (6, 8, 3)
    assert cases[0].image.dtype == np.uint8


def test_images_in_no_list_are_left_out(kaggle_root):
    assert len(datasets.load("dsb2018", "val", kaggle_root)) == 84


def test_tree_may_be_given_directly(kaggle_root):
    for inside in ("dsb2018_nuclei", "dsb2018_nuclei/stage1_train"):
        cases = datasets.load("dsb2018", "val", kaggle_root / inside, limit=2)
        assert len(cases) == 2


def test_limit_takes_cases_evenly_spread(kaggle_root):
    every = [i[:12] for i in long_ids("val")]
    for limit, places in ((1, [0]), (3, [0, 28, 56]), (84, range(84)), (99, range(84))):
        cases = datasets.load("dsb2018", "val", kaggle_root, limit=limit)
        assert [c.name for c in cases] == [every[i] for i in places]
    with pytest.raises(ValueError, match=r"limit must be at least 1, or None.*got 0"):
        datasets.load("dsb2018", "val", kaggle_root, limit=0)


def test_incomplete_tree_is_refused_with_what_is_missing(kaggle_root):
    with pytest.raises(
        FileNotFoundError, match=r"328 cases .* 328 are missing \(003ce"
    ):
        datasets.load("dsb2018", "train", kaggle_root)


def test_mask_of_another_size_in_the_tree_is_named(kaggle_root):
    first = long_ids("val")[0]
    masks = kaggle_root / "dsb2018_nuclei" / "stage1_train" / first / "masks"
    write(masks / "b.png", np.zeros((9, 9), np.uint8))
    with pytest.raises(ValueError, match=r"b\.png has the shape \(9, 9\).*\(6, 8\)"):
        datasets.load("dsb2018", "val", kaggle_root)


def test_isbi_stacks_and_slices_give_the_same_cases(tmp_path):
    volume, labels = isbi_stacks(tmp_path / "stacks" / "isbi2012_em_membrane")
    slices = tmp_path / "slices" / "isbi2012_em_membrane"
    for i in range(30):
        write(slices / "images" / f"{i:02d}.png", volume[i])
        write(slices / "masks" / f"{i:02d}.png", labels[i])
    for split, places in (("train", range(16)), ("test", range(20, 24))):
        ours = datasets.load("isbi2012", split, tmp_path / "stacks")
        theirs = datasets.load("isbi2012", split, tmp_path / "slices")
        assert [c.name for c in ours] == [f"{i:02d}" for i in places]
        for a, b, i in zip(ours, theirs, places, strict=True):
            assert np.array_equal(a.image, volume[i])
            assert np.array_equal(b.image, volume[i])
            assert np.array_equal(a.labels, labels[i] > 0)
            assert np.array_equal(b.labels, labels[i] > 0)
            assert a.labels.dtype == b.labels.dtype == np.int32


def test_isbi_stacks_that_do_not_fit_are_refused_with_their_shapes(tmp_path):
    for kind in ("volume", "labels"):
        tifffile.imwrite(tmp_path / f"train-{kind}.tif", np.zeros((5, 8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"\(5, 8, 8\).*expected \(30, 512, 512\)"):
        datasets.load("isbi2012", "test", tmp_path)


@pytest.mark.parametrize("name", datasets.names())
def test_withheld_cases_cannot_be_loaded(name):
    with pytest.raises(ValueError, match="split must be one of 'train', 'val', 'test'"):
        datasets.load(name, "withheld")


def test_missing_data_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSEG_DATA", str(tmp_path))
    assert not datasets.is_available("dsb2018")
    with pytest.raises(
        FileNotFoundError, match=r"`medseg datasets get dsb2018`.* 83 MB"
    ):
        datasets.load("dsb2018", "train")
    for get in (datasets.find, datasets.download):
        with pytest.raises((FileNotFoundError, ValueError)) as caught:
            get("isbi2012")
        assert "https://imagej.net/events/isbi-2012" in str(caught.value)
        assert str(tmp_path / "isbi2012_em_membrane") in str(caught.value)
        assert "train-volume.tif" in str(caught.value)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(
        ValueError, match=r"one of 'dsb2018', 'isbi2012', .* got 'cats'"
    ):
        datasets.info("cats")


def test_data_root_is_medseg_data_or_the_cache(monkeypatch):
    monkeypatch.setenv("MEDSEG_DATA", "~/scans")
    assert datasets.data_root() == Path.home() / "scans"
    for unset in ("", None):
        monkeypatch.delenv("MEDSEG_DATA")
        if unset is not None:
            monkeypatch.setenv("MEDSEG_DATA", unset)
        assert datasets.data_root() == Path.home() / ".cache" / "medseg"
        monkeypatch.setenv("MEDSEG_DATA", "x")


def test_checksums_are_not_invented():
    assert datasets.info("dsb2018").sha256 is None
    for name in datasets.names():
        for part in datasets.info(name).downloads:
            if part.checksum is not None:
                kind, digits = part.checksum.split(":")
                assert len(digits) == {"md5": 32, "sha256": 64}[kind]
                assert int(digits, 16)


@pytest.mark.skipif(not find_spec("monai"), reason="MONAI is not installed")
def test_checksums_of_the_decathlon_are_those_that_monai_compares():
    folder = Path(find_spec("monai").submodule_search_locations[0])  # not imported
    source = (folder / "apps" / "datasets.py").read_text(encoding="utf-8")
    for number in range(1, 11):
        (part,) = datasets.info(f"msd_task{number:02d}").downloads
        assert f'"{part.folder}": "{part.checksum.removeprefix("md5:")}"' in source
        assert f'"{part.url}"' in source


@pytest.mark.parametrize("name", datasets.names())
def test_every_entry_says_what_one_must_know(name):
    about = datasets.info(name)
    assert about.name == name
    assert len(about.classes) >= 2
    assert about.spatial_dims == (3 if name.startswith(("msd", "chaos")) else 2)
    for text in (about.title, about.licence, about.citation, about.layout, about.notes):
        assert len(text) > 6
    assert about.page.startswith("http")
    assert 0 < about.size_bytes <= about.disk_bytes
    assert all(part.url.startswith("https://") for part in about.downloads)
    folders = [part.folder for part in about.downloads]
    assert len(set(folders)) == len(folders)
    if about.downloads:
        known = sum(part.size_bytes or 0 for part in about.downloads)
        assert known <= about.size_bytes * 1.1


@pytest.mark.parametrize("name", datasets.names())
def test_every_data_set_has_a_card_in_the_book(name):
    page = (Path(__file__).parents[1] / "book" / "data.md").read_text(encoding="utf-8")
    assert f"`{name}`" in page


@pytest.fixture
def publisher(tmp_path, monkeypatch):
    """Stands in for the network: unpacking what an archive would hold."""
    calls = []

    def fetch(url, target, disk_bytes, checksum, *, trusted, accept):
        calls.append((url, target))
        kaggle_tree(target, long_ids("val"))
        assert accept(target)
        assert not accept(tmp_path)

    monkeypatch.setattr(_public, "fetch", fetch)
    return calls


def test_download_puts_the_tree_where_it_is_found(tmp_path, publisher):
    folder = datasets.download("dsb2018", tmp_path / "root")
    assert folder == tmp_path / "root" / "dsb2018_nuclei"
    assert publisher == [(datasets.info("dsb2018").url, folder / "stage1_train")]
    assert len(datasets.load("dsb2018", "val", tmp_path / "root")) == 84


def isic_part(target):
    write(target / "ISIC_0000000.jpg", np.zeros((4, 5, 3), np.uint8))
    write(target / "ISIC_0000000_segmentation.png", np.zeros((4, 5), np.uint8))


def test_data_set_of_several_archives_gets_those_that_are_missing(
    tmp_path, monkeypatch
):
    got = []

    def fetch(url, target, disk_bytes, checksum, *, trusted, accept):
        got.append(target.name)
        assert checksum.startswith("md5:")
        isic_part(target)
        assert accept(target)

    monkeypatch.setattr(_public, "fetch", fetch)
    monkeypatch.setattr(_public, "check_space", lambda folder, needed: None)
    parts = [part.folder for part in datasets.info("isic2017").downloads]
    for part in parts[:2]:  # the training part is there already
        isic_part(tmp_path / "isic2017_lesion" / part)
    datasets.download("isic2017", tmp_path)
    assert got == parts[2:]
    got.clear()
    assert datasets.download("isic2017", tmp_path) == tmp_path / "isic2017_lesion"
    assert got == []


def test_too_small_a_disk_is_told_before_any_of_several_archives(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10_000_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    monkeypatch.setattr(_public, "fetch", None)
    with pytest.raises(OSError, match="29,000 MB needed, 10,000 MB free"):
        datasets.download("isic2018", tmp_path)


def test_download_of_what_is_there_asks_nobody(kaggle_root, publisher):
    folder = datasets.download("dsb2018", kaggle_root)
    assert folder == kaggle_root / "dsb2018_nuclei"
    assert publisher == []


def test_facts_of_a_data_set_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        datasets.info("dsb2018").licence = "mine"


# Real images


@real_data
def test_packed_copy_and_kaggle_tree_give_identical_arrays(monkeypatch):
    sample = Path(DATA) / "dsb2018_nuclei" / "kaggle_layout_sample"
    ten = {path.name[:12] for path in (sample / "stage1_train").iterdir()}
    few = [row for row in _splits.stored_split("dsb2018") if row.id in ten]
    monkeypatch.setattr(_public, "stored_split", lambda name: few)
    packed = datasets.load("dsb2018", "train", DATA)
    tree = datasets.load("dsb2018", "train", sample)
    assert len(packed) == len(tree) == 10
    for a, b in zip(packed, tree, strict=True):
        assert (a.name, a.group) == (b.name, b.group)
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.labels, b.labels)
        assert a.labels.max() >= 1


@real_data
@pytest.mark.parametrize("name", [name for name in LISTED if "msd" not in name])
def test_every_listed_case_is_there_and_can_be_used(name):
    for split in ("train", "val", "test"):
        cases = datasets.load(name, split, DATA, limit=3)
        assert len(cases) == 3
        [(images, masks)] = DataLoader(
            CaseDataset(cases, make_val_transform(64)), batch_size=3
        )
        assert images.shape == (3, 3, 64, 64)
        assert 0 < masks.mean() < 1


@real_data
def test_membrane_slices_are_mostly_interior():
    cases = datasets.load("isbi2012", "train", DATA)
    assert len(cases) == 16
    assert np.mean([c.labels.mean() for c in cases]) == pytest.approx(0.77, abs=0.02)


@real_data
def test_instance_masks_of_nuclei_are_not_taken_for_binary_ones():
    folder = Path(DATA) / "dsb2018_nuclei"
    dataset = MedicalImageDataset(folder / "images", folder / "masks")
    with pytest.raises(ValueError, match="object numbers"):
        dataset[0]


@real_data
@pytest.mark.parametrize(
    ("name", "num_classes"),
    [("isic2017_lesion", 1), ("montgomery_cxr_lungs", 1), ("isbi2012_em_membrane", 1)],
)
def test_folders_of_real_images_work_as_they_are(name, num_classes):
    folder = Path(DATA) / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not in MEDSEG_DATA")
    dataset = MedicalImageDataset(
        folder / "images", folder / "masks", make_val_transform(64), num_classes
    )
    image, mask = dataset[0]
    assert image.shape == (3, 64, 64)
    assert sorted(mask.unique().tolist()) == [0, 1]
