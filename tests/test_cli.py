"""The command line: files go in and come out, and bad input is named in one line."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from skimage.io import imread, imsave

import medseg
from medseg import commands, phantoms, volumes
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
    assert [row["case"] for row in report["rows"]] == [p.stem for p in written]
    scores = [row["dice"] for row in report["rows"]]
    mean = report["summary"]["scores"]["class 1"]["dice"]["mean"]
    assert mean == pytest.approx(np.mean(scores))


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


def test_training_options_reach_training(folders, tmp_path, monkeypatch, capsys):
    given = {}

    def scripted(*args, scheduler, **options):
        given.update(options, scheduler=scheduler, optimizer=args[4])
        return [_train.training.EpochRecord(1, 0.5, 0.5, 0.5, 1.0, 0.1)]

    monkeypatch.setattr(_train.training, "train", scripted)
    words = ["--schedule", "poly", "--warm-up", 1, "--epochs", 5, "--accumulate", 2]
    words += ["--clip", 0.5, "--ema", 0.9, "--patience", 3, "--checkpoint-every", 7]
    words += ["--precision", "float32", "--csv", tmp_path / "run.csv", "--lr", 0.1]
    words += ["--out", tmp_path / "net.pth"]
    assert run(capsys, "train", *folders, *words)[0] == 0
    assert given["scheduler"].get_last_lr() == [0.05]  # half, in the warm-up
    expected = {
        "accumulate": 2,
        "clip_norm": 0.5,
        "ema_decay": 0.9,
        "patience": 3,
        "checkpoint_every": 7,
        "precision": "float32",
        "resume": False,
    }
    assert {name: given[name] for name in expected} == expected
    assert given["config"]["learning rate"] == 0.1
    assert len(given["log"]) == 2  # print, and the table


def test_train_leaves_a_table_and_prints_json(folders, tmp_path, capsys):
    words = [*TINY, "--epochs", 2, "--out", tmp_path / "net.pth"]
    words += ["--csv", tmp_path / "run.csv", "--tensorboard", tmp_path / "curves"]
    status, out, err = run(capsys, "train", *folders, *words, "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert [line["epoch"] for line in found["epochs"]] == [1, 2]
    assert found["best_epoch"] in (1, 2)
    assert len((tmp_path / "run.csv").read_text().splitlines()) == 3
    assert len(list((tmp_path / "curves").iterdir())) == 1
    # Another learning rate is another run, and it is said which.
    again = [*words, "--resume", "--lr", "0.5", "--json"]
    message = refused(capsys, "train", *folders, *again)
    assert "learning rate was 0.001, is 0.5" in message


def test_no_patient_is_on_both_sides(folders):
    names = [f"p{patient}_{image}" for patient in range(4) for image in "abc"]
    kept, held = _train.choose(names, 0.25, folders[0], "(p[0-9])_")
    assert sorted(kept + held) == list(range(12))
    assert len(held) == 3
    assert len({names[i][:2] for i in held}) == 1
    with pytest.raises(ValueError, match="holds one patient"):
        _train.choose(["a_1", "a_2"], 0.5, folders[0], "(a)_")


def test_ctrl_c_in_training_says_how_to_go_on(folders, tmp_path, monkeypatch, capsys):
    epoch = _train.training._loop.train_one_epoch

    def interrupted(*args, after_step, **options):
        def pressed(tally):
            os.kill(os.getpid(), signal.SIGINT)
            after_step(tally)

        return epoch(*args, after_step=pressed, **options)

    out = tmp_path / "net.pth"
    words = ["train", *folders, *TINY, "--out", out]
    with monkeypatch.context() as patched:
        patched.setattr(_train.training._loop, "train_one_epoch", interrupted)
        status, _, err = run(capsys, *words)
    assert status == 130
    assert "net.last.pth holds all so far: resume=True goes on from there" in err
    status, text, _ = run(capsys, *words, "--resume")
    assert status == 0
    assert "epoch   1" in text


def test_a_folder_that_may_not_be_written_to(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may all
    status, _, err = run(capsys, "train", *folders, *TINY, "--out", tmp_path / "n.pth")
    assert status == 2
    assert "may not be written to" in err
    assert not (tmp_path / "n.pth").exists()


@pytest.mark.parametrize("error", [MemoryError("out of memory"), OSError(28, "full")])
def test_memory_and_disk_that_run_out_end_in_one_line(
    folders, tmp_path, monkeypatch, capsys, error
):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(_train.training, "train", fail)
    out = tmp_path / "net.pth"
    status, _, err = run(capsys, "train", *folders, *TINY, "--out", out)
    assert status == 2
    assert err == f"medseg train: error: {error}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--schedule", "poly", "--warm-up", "20"], "must be less than --epochs 20"),
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
    (tmp_path / "empty").mkdir()
    empty = ["predict", model, tmp_path / "empty", "--out", tmp_path / "out"]
    assert "empty" in refused(capsys, *empty)
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
    assert [row["dice"] for row in report["rows"]] == pytest.approx([2 / 3, 0, None, 1])
    assert [row["iou"] for row in report["rows"]] == pytest.approx([1 / 2, 0, None, 1])
    (found,) = report["summary"]["scores"].values()
    assert found["dice"]["mean"] == pytest.approx(5 / 9)
    assert found["dice"]["low"] <= 5 / 9 <= found["dice"]["high"]
    assert (found["dice"]["n"], found["dice"]["undefined"]) == (3, 1)
    (structures,) = report["summary"]["structures"].values()
    assert structures == {"both": 2, "missed": 1, "invented": 0, "absent": 1}
    # Without a spacing there is no distance and no area.
    assert not [key for key in report["rows"][0] if "hd" in key or "mm" in key]

    status, text, _ = run(capsys, *words)
    assert status == 0
    assert re.search(r"class 1 +0\.556 +\[.*\]", text)

    pair = [tmp_path / "pred/half.png", tmp_path / "truth/half_mask.png"]
    spacing = ["--spacing", 1, 0.5, "--tolerance", 0.1]
    _, out, _ = run(capsys, "evaluate", *pair, *spacing, "--json")
    (row,) = json.loads(out)["rows"]
    assert row["dice"] == pytest.approx(2 / 3)
    assert row["hd95"] == pytest.approx(0.475)  # one pixel of 0.5 mm: 95 % between


@pytest.mark.parametrize("how", ["table", "expression"])
def test_evaluate_draws_patients_not_images(tmp_path, capsys, how):
    for name, pred in (
        ("p1_a", [[255, 0]]),
        ("p1_b", [[255, 255]]),
        ("p2_a", [[0, 0]]),
    ):
        save(tmp_path / "pred" / f"{name}.png", pred)
        save(tmp_path / "truth" / f"{name}.png", [[255, 0]])
    which = "(p[0-9])_"
    if how == "table":
        which = tmp_path / "patients.csv"
        which.write_text("name,patient\np1_a.png,x\np1_b,x\np2_a.png,y\n")
    words = ["evaluate", tmp_path / "pred", tmp_path / "truth", "--patients", which]
    _, out, _ = run(capsys, *words, "--json", "--csv", tmp_path / "scores.csv")
    report = json.loads(out)
    assert report["summary"]["patients"] == 2
    assert [row["patient"] for row in report["rows"]] == (
        ["x", "x", "y"] if how == "table" else ["p1", "p1", "p2"]
    )
    (found,) = report["summary"]["scores"].values()
    # Patients are drawn whole: the mean of one alone is 0 or 5 / 6.
    assert found["dice"]["high"] == pytest.approx(5 / 6)
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 4


def test_evaluate_says_what_is_wrong_with_the_patients(tmp_path, capsys):
    for kind in ("pred", "truth"):
        save(tmp_path / kind / "a.png", [[255, 0]])
    words = ["evaluate", tmp_path / "pred", tmp_path / "truth", "--patients"]
    assert "finds no patient in the name 'a'" in refused(capsys, *words, "case_(.*)")
    assert "is no expression" in refused(capsys, *words, "(")
    table = tmp_path / "patients.csv"
    table.write_text("name,patient\nb,x\n")
    assert "names no patient for a" in refused(capsys, *words, table)
    table.write_text("file,who\na,x\n")
    assert "needs two columns, name and patient" in refused(capsys, *words, table)


def test_evaluate_scores_the_classes_of_an_image(tmp_path, capsys):
    save(tmp_path / "pred.png", [[0, 1, 1, 2, 0]])
    save(tmp_path / "truth.png", [[0, 1, 0, 0, 3]])
    pair = [tmp_path / "pred.png", tmp_path / "truth.png"]
    names = ["--names", "background", "liver", "spleen", "tumour", "vessel"]
    _, out, _ = run(capsys, "evaluate", *pair, "--classes", 5, "--json", *names)
    rows = {row["class"]: row["dice"] for row in json.loads(out)["rows"]}
    # 2 is only predicted, 3 is missed, 4 is in neither: undefined.
    assert rows == {
        "liver": pytest.approx(2 / 3),
        "spleen": 0,
        "tumour": 0,
        "vessel": None,
    }


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


# Scans


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Five bright cubes in noise, two of them turned, with their masks."""
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    for number in range(5):
        labels = np.zeros((8, 14, 12), np.uint8)
        labels[2:6, 3 + number : 9 + number, 3:9] = 1
        image = 100 + 50 * labels + rng.normal(0, 5, labels.shape)
        affine = volumes.grid_affine((2.0, 1.0, 1.0))
        for kind, array in (("images", image.astype(np.float32)), ("masks", labels)):
            volume = volumes.Volume(array, affine)
            if number > 2:
                volume = volumes.reorient(volume, "ASR")
            (folder / kind).mkdir(exist_ok=True)
            volumes.write_nifti(volume, folder / kind / f"s{number}.nii.gz")
    (folder / "images" / "._s0.nii.gz").write_bytes(b"left by a Mac")
    return folder


TINY3D = [
    "--widths",
    "4",
    "8",
    "--patch",
    "8",
    "8",
    "8",
    "--epochs",
    "8",
    "--lr",
    ".02",
]


@pytest.mark.parametrize("modality", ["mr", "ct"])
def test_scans_are_trained_on_predicted_and_scored(scans, tmp_path, capsys, modality):
    net, images, masks = tmp_path / "net.pth", scans / "images", scans / "masks"
    words = [*TINY3D, "--modality", modality, "--out", net, "--json"]
    status, out, err = run(capsys, "train", images, masks, *words)
    assert (status, err) == (0, "")
    assert len(json.loads(out)["epochs"]) == 8
    settings = json.loads(net.with_suffix(".json").read_text())
    assert settings["spacing"] == [2.0, 1.0, 1.0]
    assert (settings["fingerprint"] is None) == (modality == "mr")

    status, out, _ = run(capsys, "predict", net, images, "--out", tmp_path / "p")
    assert (status, out) == (0, f"5 masks (0 and 1) in {tmp_path / 'p'}\n")
    for number in (0, 4):  # each in the grid of its scan, turned or not
        mask, scan = (
            volumes.read_nifti(folder / f"s{number}.nii.gz")
            for folder in (tmp_path / "p", images)
        )
        volumes.check_same_geometry(mask, scan)
    status, out, _ = run(capsys, "evaluate", tmp_path / "p", masks, "--json")
    found = json.loads(out)
    assert found["summary"]["scores"]["class 1"]["dice"]["mean"] > 0.6
    assert found["rows"][0]["hd95"] is not None

    assert "is a network for scans" in refused(capsys, "export", net)
    message = refused(capsys, "predict", net, tmp_path, "--out", tmp_path / "q")
    assert "holds no scan" in message


def test_a_network_for_images_takes_no_scans(scans, model, tmp_path, capsys):
    words = ["predict", model, scans / "images", "--out", tmp_path / "p"]
    assert "holds scans, but" in refused(capsys, *words)
    assert not (tmp_path / "p").exists()


def test_scans_that_do_not_fit_are_named(scans, tmp_path, capsys):
    (tmp_path / "masks").mkdir()
    words = ["train", scans / "images", tmp_path / "masks"]
    assert "holds no scan" in refused(capsys, *words)
    source = scans / "masks" / "s0.nii.gz"
    (tmp_path / "masks" / "x.nii.gz").write_bytes(source.read_bytes())
    message = refused(capsys, *words)
    assert "no mask for s0.nii.gz, s1.nii.gz" in message
    assert "no image for x.nii.gz" in message
    assert "there is no folder" in refused(capsys, "train", scans / "images", "nowhere")

    other = tmp_path / "other"
    other.mkdir()
    for number in range(5):
        labels = volumes.Volume(np.ones((4, 4, 4), np.uint8), np.eye(4))
        volumes.write_nifti(labels, other / f"s{number}_mask.nii.gz")
    message = refused(capsys, "train", scans / "images", other, *TINY3D)
    assert "s0.nii.gz" in message  # a mask of another size: both are printed
    cut = (scans / "images" / "s1.nii.gz").read_bytes()[:300]
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "s1.nii.gz").write_bytes(cut)
    net = tmp_path / "net.pth"
    assert run(capsys, "train", scans / "images", scans / "masks", *TINY3D[:-4],
               "--epochs", 1, "--out", net)[0] == 0  # fmt: skip
    message = refused(capsys, "predict", net, tmp_path / "cut", "--out", tmp_path / "p")
    assert "s1.nii.gz" in message
    assert list((tmp_path / "p").iterdir()) == []


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
    wanted += ["nosuchlog>=1; extra == 'logs'", "pandas>=99; extra == 'tables'"]
    monkeypatch.setattr(_doctor.importlib.metadata, "requires", lambda name: wanted)
    status, out, _ = run(capsys, "doctor")
    assert status == 1
    assert re.search(r"BAD +torch +.*; torch>=99 is needed", out)
    assert re.search(r"BAD +nosuchpackage +not installed; pip install", out)
    assert "pytest" not in out
    assert re.search(r"ok +nosuchlog \(logs\) +not installed \(optional\)", out)
    assert re.search(r"BAD +pandas \(tables\) +.*99", out)


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
