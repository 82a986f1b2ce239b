"""Tests of ``medseg datasets``."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from medseg import datasets
from medseg.cli import main

RNG = np.random.default_rng(0)


def run(capsys, *words):
    """Run the command; return its status and what it printed."""
    status = main([str(word) for word in words])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


@pytest.fixture(autouse=True)
def no_data(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSEG_DATA", str(tmp_path / "data"))


def picture():
    coarse = RNG.random((8, 9)).astype(np.float32)
    smooth = cv2.resize(coarse, (90, 80), interpolation=cv2.INTER_CUBIC)
    return (255 * np.clip(smooth, 0, 1)).astype(np.uint8)


@pytest.fixture
def folders(tmp_path):
    """P1 and P2 to train on; P2 again, and a copy of P1 as P3, to test on."""
    same = picture()
    for name, image in (
        ("train/P1_a.png", same),
        ("train/P2_a.png", picture()),
        ("test/P2_b.png", picture()),
        ("test/P3_a.png", same),
        ("good/P4_a.png", picture()),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / name)
    return tmp_path


def test_all_data_sets_are_listed_with_their_size(capsys):
    status, out, _ = run(capsys, "datasets", "list")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == list(datasets.names())
    assert "msd_task03 not here    28.7 GB  Medical Segmentation Decathlon" in out
    _, out, _ = run(capsys, "datasets", "list", "--json")
    assert [one["name"] for one in json.loads(out)] == list(datasets.names())


@pytest.mark.parametrize("name", datasets.names())
def test_info_says_licence_citation_source_and_checksum(capsys, name):
    about = datasets.info(name)
    status, out, _ = run(capsys, "datasets", "info", name)
    assert status == 0
    assert about.licence in out
    assert about.citation in out
    assert about.page in out
    for part in about.downloads:
        assert part.url in out
        assert (part.checksum or "recorded at the first download") in out
    facts = json.loads(run(capsys, "datasets", "info", name, "--json")[1])
    assert facts["classes"] == list(about.classes)
    assert facts["here"] is None


def test_get_shows_the_licence_and_the_folder(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "download", lambda name, root: f"{root}/{name}")
    status, out, _ = run(capsys, "datasets", "get", "msd_task09", "--dir", tmp_path)
    assert status == 0
    assert "Licence: CC-BY-SA-4.0" in out
    assert out.splitlines()[-1] == f"{tmp_path}/msd_task09"


def test_leaks_between_two_folders_end_with_status_1(capsys, folders):
    status, out, _ = run(
        capsys,
        "datasets",
        "check-split",
        folders / "train",
        folders / "test",
        "--group",
        "(P[0-9]+)_",
    )
    assert status == 1
    assert f"LEAK  P2_a.png ({folders / 'train'}) and P2_b.png" in out
    assert "are both of group P2" in out
    assert f"LEAK  P1_a.png ({folders / 'train'}) and P3_a.png" in out
    assert "2 leak(s) between" in out


def test_clean_folders_end_with_status_0(capsys, folders):
    words = ["datasets", "check-split", folders / "train", folders / "good"]
    status, out, _ = run(capsys, *words)
    assert status == 0
    assert "no leak between" in out
    assert "Patients were not compared" in out
    status, out, _ = run(capsys, *words, "--json")
    assert json.loads(out) == {"ok": True, "leaks": []}


def test_a_folder_is_divided_by_a_file(capsys, folders):
    split = folders / "split.csv"
    split.write_text("id,group,split\nP1_a,P1,train\nP2_a,P2,val\n")
    words = ["datasets", "check-split", folders / "train", "--split", split]
    assert run(capsys, *words)[0] == 0
    split.write_text("id,group,split\nP1_a,P1,train\nP2_a,P1,val\n")
    status, out, _ = run(capsys, *words, "--json")
    assert status == 1
    (leak,) = json.loads(out)["leaks"]
    assert leak["kind"] == "group"
    assert leak["distance"] is None
    split.write_text("id,split\nP1_a,train\nP9_a,val\n")
    status, _, error = run(capsys, *words)
    assert status == 2
    assert "lacks 1 of the 2 images" in error
    assert "P9_a" in error


def test_too_little_to_compare_says_what_is_needed(capsys, folders):
    status, _, error = run(capsys, "datasets", "check-split", folders / "train")
    assert status == 2
    assert "needs two or more folders" in error
    status, _, error = run(capsys, "datasets", "info")
    assert "needs a name: dsb2018, isbi2012" in error
