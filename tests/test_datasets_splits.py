"""Tests of splits and of the search for leaks."""

import hashlib
import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medseg import datasets
from medseg.datasets import (
    ImageCase,
    VolumeCase,
    _splits,
    find_leaks,
    image_hash,
    make_split,
    read_split,
    write_split,
)
from medseg.volumes import Volume, write_nifti

DATA = os.environ.get("MEDSEG_DATA")
real_data = pytest.mark.skipif(
    not DATA, reason="MEDSEG_DATA is not set: no real images to read"
)
RNG = np.random.default_rng(0)


# Splits


def test_order_of_groups_is_the_hash_of_their_name():
    names = [f"p{i}" for i in range(10)]
    rows = make_split(names, "demo", val=0.1, test=0.3)
    ranked = sorted(
        names,
        key=lambda n: hashlib.sha256(f"medseg-2024:demo:test:{n}".encode()).hexdigest(),
    )
    assert {row.id for row in rows if row.split == "test"} == set(ranked[:3])
    ranked = sorted(
        ranked[3:],
        key=lambda n: hashlib.sha256(f"medseg-2024:demo:val:{n}".encode()).hexdigest(),
    )
    assert [row.id for row in rows if row.split == "val"] == ranked[:1]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("msd_task04", "msd_task04_hippocampus"),
        ("montgomery", "montgomery_cxr_lungs"),
        ("isic2017", "isic2017_lesion"),
    ],
)
def test_stored_lists_are_what_the_rule_gives(name, rule):
    rows = _splits.stored_split(name)
    again = make_split(
        {row.id: row.group for row in rows},
        rule,
        strata={row.id: row.stratum for row in rows},
    )
    assert again == rows


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.text(min_size=1), st.sampled_from("abcdefgh"), min_size=1),
    st.floats(0, 0.4),
    st.floats(0, 0.5),
)
def test_no_group_is_ever_cut(groups, val, test):
    rows = make_split(groups, "x", val=val, test=test)
    assert [row.id for row in rows] == sorted(groups)
    split_of = {}
    for row in rows:
        assert split_of.setdefault(row.group, row.split) == row.split
        assert row.group == groups[row.id]


def test_each_stratum_gets_its_share():
    names = [f"{i:03d}" for i in range(100)]
    strata = {name: "rare" if int(name) < 20 else "common" for name in names}
    rows = make_split(names, "x", strata=strata, val=0.1, test=0.2)
    for stratum, count in (("rare", 20), ("common", 80)):
        own = [row.split for row in rows if row.stratum == stratum]
        assert own.count("test") == 0.2 * count
        assert own.count("val") == 0.1 * count


def test_splits_do_not_depend_on_the_order_of_the_cases():
    groups = {f"{i}": f"g{i // 3}" for i in range(30)}
    backwards = dict(reversed(groups.items()))
    assert make_split(groups, "x") == make_split(backwards, "x")


def test_bad_splits_are_refused():
    for groups, shares, message in (
        ([], {}, "no cases"),
        (["a", "a", "b"], {}, "come twice: a"),
        (["a"], {"val": 0.5, "test": 0.5}, "less than 1; got val=0.5, test=0.5"),
        (["a"], {"test": -0.1}, "test=-0.1"),
        (["a"], {"strata": {}}, r"1 cases have no stratum: \['a'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            make_split(groups, "x", **shares)


def test_a_split_is_the_same_after_writing_and_reading(tmp_path):
    rows = make_split({"ä, 1": 'P"1', "b": "P2", "c": "P3"}, "x", test=0.4)
    path = write_split(rows, tmp_path / "split.csv")
    assert read_split(path) == rows
    assert path.read_text(encoding="utf-8").startswith("id,group,split,stratum\n")
    assert [p.name for p in tmp_path.iterdir()] == ["split.csv"]


def test_split_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = write_split(make_split(["a"], "x"), tmp_path / "split.csv")
    before = path.read_text()

    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_split(make_split(["b"], "x"), path)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["split.csv"]


def test_split_files_of_others_are_read_or_refused(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("split,id\ntrain,a\ntest,b\n")
    assert [tuple(row)[:3] for row in read_split(path)] == [
        ("a", "a", "train"),
        ("b", "b", "test"),
    ]
    path.write_text("name,fold\na,1\n")
    with pytest.raises(ValueError, match=r"columns name, fold; expected id and split"):
        read_split(path)
    path.write_text("id,split\na,train\na,test\n")
    with pytest.raises(ValueError, match="lists a twice"):
        read_split(path)


# Leaks


def picture(size=(80, 90)):
    """Some smooth blobs: unlike any other picture."""
    coarse = RNG.random((8, 9)).astype(np.float32)
    smooth = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    return (255 * np.clip(smooth, 0, 1)).astype(np.uint8)


def case(name, group, image):
    return ImageCase(name, group, image, np.zeros(image.shape[:2], np.int32))


def test_hash_bits_say_where_the_right_neighbour_is_brighter():
    image = np.zeros((16, 17), np.uint8)
    image[3, 5] = 200
    bits = image_hash(image).reshape(16, 16)
    assert np.argwhere(bits).tolist() == [[3, 4]]
    assert not image_hash(np.full((40, 40, 3), 9, np.uint8)).any()


@pytest.mark.parametrize(
    "change",
    [
        lambda image: cv2.resize(image, (200, 300), interpolation=cv2.INTER_AREA),
        lambda image: (image * 0.5 + 60).astype(np.uint8),
        lambda image: (255 * (image / 255) ** 0.6).astype(np.uint8),
        lambda image: cv2.imdecode(cv2.imencode(".jpg", image)[1], 0),
        lambda image: image.astype(np.uint16) * 257,
        lambda image: np.stack([image] * 3, axis=-1),
    ],
    ids=["size", "brightness", "gamma", "jpeg", "16 bits", "colour"],
)
def test_altered_copy_is_found(change):
    originals = [case(f"{i}", f"P{i}", picture()) for i in range(20)]
    copy = change(originals[7].image)
    copies = [case(f"x{i}", f"Q{i}", picture()) for i in range(20)]
    copies[3] = copies[3]._replace(image=copy, labels=np.zeros(copy.shape[:2], int))
    (leak,) = find_leaks({"train": originals, "test": copies})
    assert leak[:4] == ("image", "7", "x3", ("train", "test"))
    assert leak.distance <= 10


def test_turned_copy_is_found_when_asked_for():
    image = picture()
    for copy in (image[:, ::-1], np.rot90(image), np.rot90(image)[::-1]):
        splits = {"train": [case("a", "1", image)], "test": [case("b", "2", copy)]}
        assert find_leaks(splits) == []
        (leak,) = find_leaks(splits, turned=True)
        assert (leak.first, leak.second) == ("a", "b")


def test_groups_on_two_sides_are_found_and_those_on_one_are_not():
    splits = {
        "train": [case("a1", "P1", picture()), case("a2", "P1", picture())],
        "val": [case("b1", "P2", picture())],
        "test": [case("c1", "P1", picture()), case("c2", "P3", picture())],
    }
    (leak,) = find_leaks(splits)
    assert str(leak) == "a1 (train) and c1 (test) are both of group P1"


def test_duplicates_on_one_side_and_empty_pictures_are_no_leak():
    image, black = picture(), np.zeros((30, 30), np.uint8)
    splits = {
        "train": [case("a", "1", image), case("b", "2", image), case("k", "3", black)],
        "test": [case("c", "4", black), case("d", "5", picture())],
    }
    assert find_leaks(splits) == []


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def test_folders_are_compared_with_the_patient_in_the_name(tmp_path):
    image = picture()
    save(tmp_path / "train" / "P01_left.png", image)
    save(tmp_path / "train" / "P02_left.png", picture())
    save(tmp_path / "test" / "P02_right.png", picture())
    save(tmp_path / "test" / "P03_left.jpg", image)
    splits = {split: tmp_path / split for split in ("train", "test")}
    group, same = find_leaks(splits, group=r"(P\d+)_")
    assert (group.kind, group.group) == ("group", "P02")
    assert (same.first, same.second) == ("P01_left.png", "P03_left.jpg")
    assert [leak.kind for leak in find_leaks(splits)] == ["image"]
    named = {"P01_left": "1", "P02_left": "2", "P02_right": "2", "P03_left": "1"}
    assert [leak.group for leak in find_leaks(splits, group=named)] == ["1", "2", ""]
    with pytest.raises(ValueError, match=r"finds no patient in the name 'P01_left'"):
        find_leaks(splits, group="(X)")
    with pytest.raises(ValueError, match=r"P02_left has no group in the list"):
        find_leaks(splits, group={"P01_left": "1"})


def test_volumes_are_compared_by_their_middle_slices(tmp_path):
    def volume():
        coarse = RNG.random((5, 6, 7))
        return Volume(np.kron(coarse, np.ones((4, 4, 4))).astype(np.float32), np.eye(4))

    one, other = volume(), volume()
    for split, name, scan in (
        ("train", "a", one),
        ("test", "b", other),
        ("test", "c", one.with_array(one.array * 2 + 1)),
    ):
        (tmp_path / split).mkdir(exist_ok=True)
        write_nifti(scan, tmp_path / split / f"{name}.nii.gz")
    (leak,) = find_leaks({split: tmp_path / split for split in ("train", "test")})
    assert (leak.first, leak.second) == ("a.nii.gz", "c.nii.gz")
    labels = one.with_array(np.zeros(one.array.shape, np.uint8))
    cases = [VolumeCase(n, n, v, labels) for n, v in (("x", one), ("y", other))]
    (leak,) = find_leaks({"train": cases, "test": [cases[0]._replace(group="z")]})
    assert (leak.first, leak.second) == ("x", "x")


def test_bad_splits_are_not_searched(tmp_path):
    with pytest.raises(ValueError, match="1 splits; expected two"):
        find_leaks({"train": [case("a", "1", picture())]})
    with pytest.raises(ValueError, match="'test' is empty"):
        find_leaks({"train": [case("a", "1", picture())], "test": []})
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        find_leaks({"train": tmp_path / "nowhere", "test": tmp_path})


def test_thousands_of_pictures_are_compared_in_seconds():
    bits = [("x", "", RNG.random((1, 256)) < 0.5) for _ in range(3000)]
    begin = time.process_time()
    assert datasets._leaks._near_pairs({"a": bits, "b": bits[:1500]}, "a", "b", 0)
    assert time.process_time() - begin < 10


@real_data
def test_real_films_of_different_people_raise_no_alarm():
    splits = {s: datasets.list_cases("montgomery", s, DATA) for s in ("train", "test")}
    assert find_leaks(splits) == []


@real_data
def test_real_image_that_is_twice_in_a_set_is_found():
    folder = Path(DATA) / "wbc_cytoplasm_nucleus" / "images"
    if not folder.is_dir():
        pytest.skip("this set is not in MEDSEG_DATA")
    files = sorted(folder.iterdir())
    half = {
        "train": [f for f in files if f.stem != "139"][:80]
        + [f for f in files if f.stem == "112"],
        "test": [f for f in files if f.stem == "139"],
    }
    half["train"] = sorted(set(half["train"]))
    (leak,) = find_leaks(half)
    assert {leak.first, leak.second} == {"112.bmp", "139.bmp"}
