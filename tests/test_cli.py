"""The command line: files go in and come out, and bad input is named in one line."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from skimage.io import imread, imsave

import medseg
from medseg import commands, phantoms
from medseg.checkpoints import load_checkpoint
from medseg.cli import main
from medseg.commands import _demo, _doctor, _train
from medseg.inference import predict_probabilities
from medseg.models.unet import UNet
from medseg.transforms import make_val_transform

TINY = ["--widths", "4", "8", "--size", "32", "--epochs", "1", "--batch-size", "4"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Ten drawn images of 32 x 40 pixels with their masks."""
    return phantoms.write_cells(tmp_path_factory.mktemp("data"), 10, size=(32, 40))


@pytest.fixture(scope="module")
def model(folders, tmp_path_factory):
    """A network that was trained for an epoch."""
    out = tmp_path_factory.mktemp("model") / "net.pth"
    assert main(["train", *map(str, folders), *TINY, "--out", str(out)]) == 0
    return out


def run(capsys, *words):
    """Exit status, standard output and standard error of a command."""
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def refused(capsys, *words):
    """The one line that a command says when it refuses its input."""
    status, out, err = run(capsys, *words)
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"medseg {words[0]}: error: ")
    return err


def save(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    imsave(path, np.array(rows, np.uint8), check_contrast=False)


# train, predict, evaluate


def test_train_writes_weights_settings_and_what_resuming_needs(model):
    assert sorted(path.name for path in model.parent.iterdir()) == [
        "net.json",
        "net.last.pth",
        "net.pth",
    ]
    assert json.loads(model.with_suffix(".json").read_text()) == {
        "network": "unet",
        "in_channels": 3,
        "out_channels": 1,
        "widths": [4, 8],
        "size": 32,
    }


def test_train_predict_evaluate_is_a_round_trip(folders, model, tmp_path, capsys):
    images, masks = folders
    status, out, _ = run(capsys, "predict", model, images, "--out", tmp_path / "p")
    assert status == 0
    assert out == f"10 masks (0 and 255) in {tmp_path / 'p'}\n"
    written = sorted((tmp_path / "p").iterdir())
    assert [p.name for p in written] == [p.name for p in sorted(images.iterdir())]
    for path in written:
        mask = imread(path)
        assert mask.shape == (32, 40)  # of the image, not of the network
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 255}
    status, out, _ = run(capsys, "evaluate", tmp_path / "p", masks, "--json")
    assert status == 0
    report = json.loads(out)
    assert [case["name"] for case in report["images"]] == [p.name for p in written]
    scores = [case["dice"] for case in report["images"]]
    assert report["dice"]["mean"] == pytest.approx(np.mean(scores))


def test_predict_agrees_with_the_packages_own_functions(folders, model, tmp_path):
    path = sorted(folders[0].iterdir())[0]
    assert main(["predict", str(model), str(path), "--out", str(tmp_path)]) == 0
    mask = imread(tmp_path / path.name)

    network = UNet(3, 1, widths=(4, 8))
    network.load_state_dict(load_checkpoint(model))
    image = np.repeat(imread(path)[..., None], 3, axis=-1)
    tensor = make_val_transform(32)(image=image)["image"]
    probability = predict_probabilities(network, tensor[None])[0, 0]
    near = np.rint(np.linspace(0, 31, 40)).astype(int)  # nearest column of the network
    coarse = 255 * (probability.numpy()[:, near] > 0.5)
    assert (coarse == mask).mean() > 0.9


def test_a_network_with_classes_writes_class_numbers(folders, tmp_path, capsys):
    images, masks = folders
    for path in masks.iterdir():
        mask = imread(path) // 255
        mask[:, :20] *= 2  # three classes: left, right, background
        save(tmp_path / "masks" / path.name, mask)
    net = tmp_path / "net.pth"
    words = [*TINY, "--classes", 3, "--channels", 1, "--out", net]
    assert run(capsys, "train", images, tmp_path / "masks", *words)[0] == 0
    status, out, _ = run(capsys, "predict", net, images, "--out", tmp_path / "p")
    assert status == 0
    assert "10 masks (classes 0..2)" in out
    assert max(imread(path).max() for path in (tmp_path / "p").iterdir()) <= 2
    args = ("evaluate", tmp_path / "p", tmp_path / "masks", "--classes", 3)
    assert run(capsys, *args)[0] == 0


def test_validation_images_are_chosen_by_name_and_stay_when_others_come(folders):
    settings = {"in_channels": 1, "out_channels": 1, "widths": [4, 8], "size": 32}
    parts = _train.split(*folders, fraction=0.3, settings=settings)
    train, val = (
        [part.dataset.image_paths[i].stem for i in part.indices] for part in parts
    )
    assert len(val) == 3
    assert sorted(train + val) == [f"cells_{i:03d}" for i in range(10)]
    assert max(map(_train.hash_of, val)) < min(map(_train.hash_of, train))
    # The training part is augmented, the validation part is not.
    kinds = [type(t).__name__ for t in parts[0].dataset.transform]
    assert "Rotate" in kinds
    assert "Rotate" not in [type(t).__name__ for t in parts[1].dataset.transform]


def test_resume_goes_on_after_the_last_epoch(folders, tmp_path, capsys):
    words = ["train", *folders, *TINY, "--out", tmp_path / "net.pth"]
    _, first, _ = run(capsys, *words)
    assert "epoch   1" in first
    status, second, _ = run(capsys, *words, "--epochs", 2, "--resume")
    assert status == 0
    assert "epoch   1" not in second
    assert "epoch   2" in second
    message = refused(capsys, *words, "--size", 48, "--resume")
    assert "is of another network: size 32 (now 48)" in message


def test_train_replaces_no_network_unless_told_to(folders, tmp_path, capsys):
    out = tmp_path / "net.pth"
    out.write_bytes(b"precious")
    words = ["train", *folders, *TINY, "--out", out]
    assert "exists. Add --resume to go on with it, --force" in refused(capsys, *words)
    assert out.read_bytes() == b"precious"
    assert run(capsys, *words, "--force")[0] == 0
    assert out.read_bytes() != b"precious"


def test_separate_validation_folders_are_used(folders, tmp_path, capsys):
    val = phantoms.write_cells(tmp_path / "val", 3, seed=5, size=(32, 32))
    words = ["--val-images", val[0], "--val-masks", val[1], "--out", tmp_path / "n.pth"]
    status, out, _ = run(capsys, "train", *folders, *TINY, *words)
    assert status == 0
    assert "10 images to train on, 3 to validate on" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--val-images", "x"], "--val-images and --val-masks go together"),
        (["--val-fraction", "1.5"], "--val-fraction must lie between 0 and 1, got 1.5"),
        (["--out", "net.txt"], "--out must end in .pth, got net.txt"),
        (["--widths", "8"], "widths"),
        (["--device", "banana"], "--device banana cannot be used here"),
    ],
)
def test_train_refuses_options_with_the_reason(folders, capsys, words, message):
    assert message in refused(capsys, "train", *folders, *words)


def test_train_names_a_missing_folder_and_unpaired_files(folders, tmp_path, capsys):
    images, masks = folders
    assert "nowhere is not a folder" in refused(capsys, "train", images, "nowhere")
    save(tmp_path / "one" / "a.png", np.zeros((32, 32)))
    assert "do not pair up" in refused(capsys, "train", tmp_path / "one", masks)
    save(tmp_path / "mask" / "a.png", np.zeros((32, 32)))
    message = refused(capsys, "train", tmp_path / "one", tmp_path / "mask")
    assert "holds one image; to train and to validate takes two" in message


def test_predict_overwrites_no_mask_unless_told_to(folders, model, tmp_path, capsys):
    words = ["predict", model, folders[0], "--out", tmp_path]
    save(tmp_path / "cells_003.png", [[7]])
    assert "1 of 10 masks exist" in refused(capsys, *words)
    assert imread(tmp_path / "cells_003.png") == 7
    assert run(capsys, *words, "--force")[0] == 0
    assert len(list(tmp_path.iterdir())) == 10  # no unfinished file


def test_predict_says_what_is_wrong_with_a_network(folders, model, tmp_path, capsys):
    def reason(path):
        return refused(capsys, "predict", path, folders[0], "--out", tmp_path / "p")

    assert "there is no checkpoint" in reason(tmp_path / "net.pth")
    copy = tmp_path / "copy.pth"
    copy.write_bytes(model.read_bytes())
    assert "copy.json: the network's settings" in reason(copy)
    copy.with_suffix(".json").write_text("{")
    assert "does not hold the settings of a network" in reason(copy)
    settings = json.loads(model.with_suffix(".json").read_text())
    copy.with_suffix(".json").write_text(json.dumps({**settings, "widths": [4, 16]}))
    assert "does not fit its settings" in reason(copy)
    copy.write_bytes(b"junk")
    assert "copy.pth cannot be read as a checkpoint" in reason(copy)
    assert not (tmp_path / "p").exists()


def test_predict_refuses_missing_images_and_names_that_collide(model, tmp_path, capsys):
    words = ["predict", model, tmp_path / "in", "--out", tmp_path / "out"]
    assert "in does not exist" in refused(capsys, *words)
    for ending in ("png", "bmp"):
        save(tmp_path / "in" / f"a.{ending}", np.zeros((20, 20)))
    assert "would get the mask a.png" in refused(capsys, *words)


def test_evaluate_gives_hand_worked_scores(tmp_path, capsys):
    cases = {
        "half": ([[255, 255, 0, 0]], [[255, 0, 0, 0]]),  # Dice 2/3, IoU 1/2
        "missed": ([[0, 0, 0, 0]], [[255, 0, 0, 0]]),  # 0
        "nothing": ([[0, 0, 0, 0]], [[0, 0, 0, 0]]),  # undefined
        "right": ([[0, 0, 0, 255]], [[0, 0, 0, 255]]),  # 1
    }
    for name, (pred, truth) in cases.items():
        save(tmp_path / "pred" / f"{name}.png", pred)
        save(tmp_path / "truth" / f"{name}_mask.png", truth)
    words = ["evaluate", tmp_path / "pred", tmp_path / "truth"]
    status, out, _ = run(capsys, *words, "--json")
    assert status == 0
    report = json.loads(out)
    assert [case["dice"] for case in report["images"]] == pytest.approx(
        [2 / 3, 0, None, 1]
    )
    assert [case["iou"] for case in report["images"]] == pytest.approx(
        [1 / 2, 0, None, 1]
    )
    assert report["dice"]["mean"] == pytest.approx(5 / 9)
    assert report["dice"]["low"] <= 5 / 9 <= report["dice"]["high"]
    assert (report["missed"], report["undefined"], report["dice"]["n"]) == (1, 1, 3)

    _, text, _ = run(capsys, *words)
    assert re.search(r"half\.png +0\.6667 +0\.5000", text)
    assert re.search(r"Dice +0\.556 \[.*\] \(n = 3, 1 undefined\)", text)
    assert "missed: 1" in text

    pair = [tmp_path / "pred/half.png", tmp_path / "truth/half_mask.png"]
    status, out, _ = run(capsys, "evaluate", *pair, "--json")
    assert json.loads(out)["dice"]["mean"] == pytest.approx(2 / 3)


def test_evaluate_averages_over_the_classes_of_an_image(tmp_path, capsys):
    save(tmp_path / "pred.png", [[0, 1, 1, 2, 0]])
    save(tmp_path / "truth.png", [[0, 1, 0, 0, 3]])
    pair = [tmp_path / "pred.png", tmp_path / "truth.png"]
    _, out, _ = run(capsys, "evaluate", *pair, "--classes", 5, "--json")
    report = json.loads(out)
    # Class 1: 2/3; 2: only predicted, 0; 3: missed, 0; 4: in neither, undefined.
    assert report["images"][0]["dice"] == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert (report["missed"], report["undefined"]) == (1, 1)


def test_evaluate_refuses_what_cannot_be_compared(folders, tmp_path, capsys):
    save(tmp_path / "a.png", [[255, 0]])
    save(tmp_path / "b.png", [[255, 0, 0]])
    save(tmp_path / "c.png", [[7, 99]])
    a, b, c = (tmp_path / f"{name}.png" for name in "abc")
    assert "two folders or two files" in refused(capsys, "evaluate", a, folders[1])
    message = refused(capsys, "evaluate", a, b)
    assert "(1, 2) pixels, but its reference" in message
    assert "c.png" in refused(capsys, "evaluate", a, c)
    assert "missing.png" in refused(capsys, "evaluate", a, tmp_path / "missing.png")


# demo, describe, datasets, doctor


def test_demo_leaves_a_picture_a_report_and_a_network(tmp_path, capsys):
    out = tmp_path / "demo"
    words = ["demo", "--out", out, "--epochs", 1, "--count", 6]
    status, text, _ = run(capsys, *words)
    assert status == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(_demo.DEMO_FILES)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    picture = imread(out / "overlay.png")
    assert picture.shape[1] > 800
    assert (picture[..., :3] == 255).all(axis=-1).mean() < 0.5  # it is not empty
    report = json.loads((out / "report.json").read_text())
    assert len(report["test_dice_per_image"]) == 6
    assert report["test_dice"]["text"] in text
    assert str(out / "overlay.png") in text

    # The network that it leaves is one that predict reads.
    predict = re.search(r"medseg (predict .*)", text)[1].split()
    assert run(capsys, *predict)[0] == 0

    (out / "mine.txt").write_text("mine")
    assert "not an empty folder" in refused(capsys, *words)
    assert run(capsys, *words, "--force")[0] == 0
    assert (out / "mine.txt").read_text() == "mine"
    assert (out / "predicted").is_dir()


def test_an_interrupted_demo_leaves_nothing(tmp_path, monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(_train.training, "train", interrupt)
    status, _, err = run(capsys, "demo", "--out", tmp_path / "demo", "--count", 2)
    assert status == 130
    assert "medseg demo: interrupted" in err
    assert list(tmp_path.iterdir()) == []


def test_describe_prints_the_papers_numbers(capsys):
    words = ["describe", "unet2015", "--channels", 1, "--classes", 2]
    status, out, _ = run(capsys, *words)
    assert status == 0
    assert "31,030,658" in out
    assert "388x388" in out
    assert "100" in refused(capsys, *words, "--size", 100)
    _, out, _ = run(capsys, "describe", "--widths", 4, 8, "--size", 32)
    assert "input 1x3x32x32" in out


def test_datasets_are_listed_explained_and_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MEDSEG_DATA", str(tmp_path))
    _, out, _ = run(capsys, "datasets", "list")
    assert [line.split()[0] for line in out.splitlines()][:2] == ["dsb2018", "isbi2012"]
    assert "not here" in out
    _, out, _ = run(capsys, "datasets", "info", "dsb2018")
    assert "CC0-1.0" in out
    assert "10.1038/s41592-019-0612-7" in out
    assert "needs a name: dsb2018, isbi2012" in refused(capsys, "datasets", "get")
    message = refused(capsys, "datasets", "info", "dsb2019")
    assert "'dsb2018', 'isbi2012'," in message
    assert "got 'dsb2019'" in message
    assert "by hand" in refused(capsys, "datasets", "get", "isbi2012")


def test_doctor_finds_nothing_wrong_here(capsys):
    status, out, _ = run(capsys, "doctor", "--json")
    report = json.loads(out)
    assert (status, report["ok"]) == (0, True)
    names = [check["name"] for check in report["checks"]]
    assert {"torch", "albumentations", "device", "free disk", "data dsb2018"} <= {
        *names
    }
    status, out, _ = run(capsys, "doctor")
    assert out.endswith("all is well\n")


def test_doctor_says_what_is_missing_or_too_old(monkeypatch, capsys):
    wanted = ["torch>=99", "nosuchpackage>=1", "pytest>=99; extra == 'test'"]
    monkeypatch.setattr(_doctor.importlib.metadata, "requires", lambda name: wanted)
    status, out, _ = run(capsys, "doctor")
    assert status == 1
    assert re.search(r"BAD +torch +.*; torch>=99 is needed", out)
    assert re.search(r"BAD +nosuchpackage +not installed; pip install", out)
    assert "pytest" not in out


# The command itself


def test_help_of_every_command_has_examples(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    names = re.findall(r"^    (\w+) ", text, re.MULTILINE)
    assert names == [
        "demo",
        "train",
        "predict",
        "evaluate",
        "export",
        "describe",
        "datasets",
        "doctor",
    ]
    for name in names:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        text = capsys.readouterr().out
        assert f"examples:\n  medseg {name}" in text
        assert max(map(len, text.splitlines())) <= 90


def test_no_command_shows_the_help(capsys):
    status, out, err = run(capsys)
    assert (status, out) == (2, "")
    assert "see it work" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fly"], "invalid choice: 'fly'"),
        (["train", "a", "b", "--epochs", "0"], "'0' is not a whole number from 1"),
        (["train", "a", "b", "--lr", "-1"], "'-1' is not a positive number"),
        (["predict", "net.pth", "x"], "required: --out"),
    ],
)
def test_options_that_make_no_sense_end_with_status_2(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_a_bug_is_not_passed_off_as_bad_input(monkeypatch):
    def broken(**options):
        raise TypeError("a bug")

    monkeypatch.setattr(commands, "doctor", broken)
    with pytest.raises(TypeError, match="a bug"):
        main(["doctor"])


def test_python_m_medseg_prints_the_version_without_loading_torch():
    code = (
        "import runpy, sys; sys.argv = ['medseg', '--version']\n"
        "try: runpy.run_module('medseg', run_name='__main__')\n"
        "finally: print('torch' in sys.modules)"
    )
    for words in (["-m", "medseg", "--version"], ["-c", code]):
        result = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 0
        lines = result.stdout.split("\n")
        assert lines[0] == f"medseg {medseg.__version__}"
    assert lines[1] == "False"
