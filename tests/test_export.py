"""A network goes into a file and comes out saying the same, without its code."""

import json
import os
import sys

import numpy as np
import pytest
import torch
from torch import nn

from medseg.checkpoints import save_checkpoint
from medseg.cli import main
from medseg.export import (
    ExportedModel,
    Metadata,
    _files,
    check_exported,
    export_onnx,
    export_program,
    load_exported,
    verify_exported,
)
from medseg.inference import predict, predict_probabilities, sliding_window
from medseg.models.unet import UNet, UNet2015

METADATA = Metadata(
    channel_names=("ct",),
    class_names=("background", "liver", "tumour"),
    spacing=(0.8, 0.7),
    patch_size=(16, 16),
    window=(-160.0, 240.0),
    mean=(0.4,),
    std=(0.2,),
    description="drawn for a test",
)


def network(seed=0):
    """A U-Net whose batch norm has statistics that are not 0 and 1."""
    torch.manual_seed(seed)
    model = UNet(1, 3, widths=(4, 6))
    for name, value in model.named_buffers():
        if "running_var" in name:
            value.copy_(torch.rand_like(value) + 0.5)
    return model


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "net.pt2"
    export_program(network(), path, torch.rand(1, 1, 10, 12), METADATA)
    return path


@pytest.fixture(scope="module")
def onnx(tmp_path_factory):
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="pip install medseg[export]")
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    export_onnx(network(), path, torch.rand(1, 1, 10, 12), METADATA)
    return path


@pytest.fixture(params=["program", "onnx"])
def exported(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def loaded_program(program):
    return load_exported(program)


@pytest.fixture(scope="module")
def loaded_onnx(onnx):
    return load_exported(onnx)


@pytest.fixture(params=["loaded_program", "loaded_onnx"])
def loaded(request):
    return request.getfixturevalue(request.param)


def test_the_file_says_what_the_network_says_at_every_size(loaded):
    model = network().eval()
    for shape in [(1, 1, 10, 12), (3, 1, 16, 8), (2, 1, 7, 13)]:
        images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = model(images)
        assert expected.std() > 0.1
        torch.testing.assert_close(loaded(images), expected, rtol=1e-4, atol=1e-4)


def test_the_check_passes_the_network_and_no_other(exported):
    images = torch.rand(2, 1, 9, 8)
    assert check_exported(exported, network(), images) < 1e-5
    assert check_exported(exported, network(seed=1), images) > 1e-2


def test_the_metadata_come_back(loaded):
    assert loaded.metadata == METADATA
    assert loaded.axes == "HW"
    assert loaded.size is None
    assert loaded.multiple == (2, 2)
    assert loaded.record["classes"] == 3


def test_what_is_stored_is_where_other_programs_look(onnx):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(onnx)
    props = session.get_modelmeta().custom_metadata_map
    assert json.loads(props["medseg"])["metadata"]["spacing"] == [0.8, 0.7]
    assert session.get_inputs()[0].name == "images"
    assert [output.name for output in session.get_outputs()] == ["logits"]
    batch, channels, height, width = session.get_inputs()[0].shape
    assert channels == 1
    assert all(isinstance(free, str) for free in (batch, height, width))


def test_it_goes_where_networks_go(loaded):
    images = torch.randn(1, 1, 21, 30)
    torch.testing.assert_close(
        predict_probabilities(loaded, images),
        predict_probabilities(network(), images),
        rtol=0,
        atol=1e-5,
    )
    assert torch.equal(predict(loaded, images), predict(network(), images))
    windows = [
        sliding_window(model, images, patch_size=16) for model in (loaded, network())
    ]
    torch.testing.assert_close(*windows, rtol=0, atol=1e-5)


def test_a_file_is_verified_without_its_network(exported):
    assert verify_exported(exported) < 1e-5


def test_exporting_leaves_the_network_as_it_was_and_nothing_unfinished(program):
    assert [path.name for path in program.parent.iterdir()] == ["net.pt2"]
    model = network()
    model.encoder[0][1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_exported(program, model, torch.rand(1, 1, 8, 8))
    assert model.training
    assert not model.encoder[0][1].training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_an_interrupted_export_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "net.pt2"
    path.write_text("old")

    def half(program, file, **_):
        file.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(_files, "trace_network", lambda *_: (None, {}))
    monkeypatch.setattr(torch.export, "save", half)
    with pytest.raises(KeyboardInterrupt):
        export_program(nn.Identity(), path, torch.rand(1, 1, 8, 8))
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["net.pt2"]


def test_a_network_of_one_size_says_which(tmp_path):
    torch.manual_seed(0)
    model, path = UNet2015(1, 2, widths=(2, 3)), tmp_path / "valid.pt2"
    images = torch.rand(1, 1, 20, 24)
    export_program(model, path, images)
    loaded = load_exported(path)
    assert loaded.size == (20, 24)
    assert check_exported(path, model, torch.rand(3, 1, 20, 24)) < 1e-5
    with pytest.raises(ValueError, match=r"exported for images of \(20, 24\).*patch"):
        loaded(torch.rand(1, 1, 24, 24))


class ByBatch(nn.Module):
    """Something that tracing takes for constant: the batch as a Python number."""

    def forward(self, images):
        return images * float(len(images) * images.shape[2])


def test_what_the_trace_fixes_is_not_promised(tmp_path):
    path = tmp_path / "fixed.pt2"
    export_program(ByBatch(), path, torch.rand(2, 1, 4, 4))
    loaded = load_exported(path)
    image = torch.rand(1, 1, 4, 4)
    torch.testing.assert_close(loaded(image), image * 4)
    if loaded.size is None:  # traced with free sizes: then they must be right
        image = torch.rand(1, 1, 6, 4)
        torch.testing.assert_close(loaded(image), image * 6)


class Three(nn.Module):
    def forward(self, images):
        return [images, images]


@pytest.mark.parametrize(
    ("model", "images", "error", "message"),
    [
        (Three(), torch.rand(1, 1, 4, 4), TypeError, "returned a list, expected one"),
        (nn.Identity(), torch.rand(1, 4, 4), ValueError, r"unsqueeze\(0\)"),
        (nn.Identity(), torch.rand(1, 1, 4, 4).double(), TypeError, "must be float32"),
        (nn.Identity(), torch.full((1, 1, 2, 2), torch.nan), ValueError, "4 NaN"),
        (nn.Identity(), np.zeros((1, 1, 4, 4)), TypeError, "torch.from_numpy"),
    ],
)
def test_what_cannot_be_exported(model, images, error, message, tmp_path):
    with pytest.raises(error, match=message):
        export_program(model, tmp_path / "a.pt2", images)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"class_names": ("a", "b")}, r"class_names has 2 entries.*1 class"),
        ({"channel_names": ("a", "b")}, r"channel_names has 2 entries.*1 channel"),
        ({"spacing": (1.0,)}, "spacing has 1 values"),
        ({"spacing": (1.0, -1.0)}, "spacing must be positive"),
        ({"patch_size": (1, 2, 3)}, "patch_size has 3 entries"),
        ({"input_size": (1,)}, "input_size has 1 entries"),
        ({"mean": (0.1, 0.2)}, "mean has 2 entries"),
        ({"std": (0.0,)}, "std must be positive"),
        ({"window": (3.0, 3.0)}, r"window must be \(low, high\)"),
        ({"threshold": 1.5}, "threshold must lie in"),
    ],
)
def test_metadata_that_do_not_fit(fields, message, tmp_path):
    path, images = tmp_path / "a.pt2", torch.rand(1, 1, 4, 4)
    with pytest.raises(ValueError, match=message):
        export_program(nn.Identity(), path, images, Metadata(**fields))


def test_intensities_are_prepared_as_in_training():
    images = torch.tensor([[-1000.0, 40.0, 240.0, 3000.0]]).reshape(1, 1, 2, 2)
    expected = torch.tensor([-2.0, 0.5, 3.0, 3.0]).reshape(1, 1, 2, 2)
    torch.testing.assert_close(METADATA.prepare(images), expected)
    assert torch.equal(Metadata().prepare(images.int()), images)
    colour = Metadata(mean=(1.0, 2.0, 3.0))
    prepared = colour.prepare(torch.full((1, 3, 1, 1), 5))
    assert prepared.flatten().tolist() == [4.0, 3.0, 2.0]


def test_names_and_files_that_are_none(tmp_path, program):
    images = torch.rand(1, 1, 4, 4)
    for export, suffix in ((export_program, "pt2"), (export_onnx, "onnx")):
        with pytest.raises(ValueError, match=f"must end in .{suffix}"):
            export(nn.Identity(), tmp_path / "a.pth", images)
        with pytest.raises(ValueError, match="no folder"):
            export(nn.Identity(), tmp_path / "b" / f"a.{suffix}", images)
    with pytest.raises(FileNotFoundError, match="medseg export"):
        load_exported(tmp_path / "none.onnx")
    (tmp_path / "net.pth").touch()
    with pytest.raises(ValueError, match=r"must end in \.onnx or \.pt2"):
        load_exported(tmp_path / "net.pth")
    cut = tmp_path / "cut.pt2"
    cut.write_bytes(program.read_bytes()[:3000])
    with pytest.raises(ValueError, match="damaged, cut short"):
        load_exported(cut)


def test_a_file_of_another_program_is_refused(tmp_path):
    path = tmp_path / "foreign.pt2"
    other = torch.export.export(nn.Identity(), (torch.rand(1, 1, 4, 4),))
    torch.export.save(other, path)
    with pytest.raises(ValueError, match="no metadata of medseg"):
        load_exported(path)
    torch.export.save(other, path, extra_files={"medseg.json": '{"format": 1}'})
    with pytest.raises(ValueError, match="cannot read: 'metadata'"):
        load_exported(path)


def test_an_onnx_file_that_is_damaged_is_refused(onnx, tmp_path):
    path = tmp_path / "cut.onnx"
    path.write_bytes(onnx.read_bytes()[:2000])
    with pytest.raises(ValueError, match="damaged, cut short"):
        load_exported(path)


def test_images_that_an_exported_network_does_not_take(loaded_program):
    loaded = loaded_program
    with pytest.raises(ValueError, match="takes 1 image channel"):
        loaded(torch.rand(1, 2, 8, 8))
    with pytest.raises(TypeError, match="floating point"):
        loaded(torch.zeros(1, 1, 8, 8, dtype=torch.int16))
    # Without the padding that was found to be the network's own: only what fits.
    strict = ExportedModel(lambda images: images, loaded.record | {"pads": False})
    assert strict(torch.rand(1, 1, 8, 8)).shape == (1, 1, 8, 8)
    with pytest.raises(ValueError, match=r"Pad the images to \(8, 10\)"):
        strict(torch.rand(1, 1, 8, 9))


# medseg export


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "net.pth"
    torch.manual_seed(0)
    save_checkpoint(UNet(1, 2, widths=(2, 4)).state_dict(), path)
    settings = {
        "network": "unet",
        "in_channels": 1,
        "out_channels": 2,
        "widths": [2, 4],
        "size": 16,
    }
    path.with_suffix(".json").write_text(json.dumps(settings))
    return path


def run(capsys, *words):
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_command_exports_checks_and_verifies(checkpoint, tmp_path, capsys):
    out = tmp_path / "new" / "cells.pt2"
    words = ["export", checkpoint, "--format", "program", "--out", out]
    status, said, _ = run(capsys, *words, "--check", "--class-names", "none", "cell")
    assert status == 0
    assert "largest difference to the network: " in said
    assert "at most 0.0001" in said
    assert [path.name for path in out.parent.iterdir()] == ["cells.pt2"]
    metadata = load_exported(out).metadata
    assert metadata.class_names == ("none", "cell")
    assert metadata.input_size == (16, 16)
    assert metadata.prepare(torch.tensor([[[[0, 255]]]])).tolist() == [[[[-1.0, 1.0]]]]

    status, said, _ = run(capsys, "export", "--verify", out)
    assert status == 0
    assert "1 channel(s), 2 class(es), HW, images of any size" in said
    assert "class_names   ('none', 'cell')" in said

    status, _, err = run(capsys, *words)
    assert status == 2
    assert "Add --force" in err


def test_what_disagrees_is_not_written(checkpoint, tmp_path, capsys, monkeypatch):
    out = tmp_path / "net.onnx"
    _export = sys.modules["medseg.commands._export"]

    monkeypatch.setattr(_export, "export_onnx", lambda *_: None)
    monkeypatch.setattr(_export, "check_exported", lambda *_: 2e-3)
    status, said, _ = run(capsys, "export", checkpoint, "--out", out, "--check")
    assert status == 1
    assert "2.0e-03 (MORE THAN 0.0001)" in said
    assert "was not written" in said
    assert os.listdir(tmp_path) == []


def test_a_file_that_says_something_else_fails_verification(program, tmp_path, capsys):
    path = tmp_path / "changed.pt2"
    record = load_exported(program).record
    record["probe"]["logits"][0] += 1.0
    torch.export.save(
        torch.export.load(program),
        path,
        extra_files={"medseg.json": json.dumps(record)},
    )
    status, said, _ = run(capsys, "export", "--verify", path)
    assert status == 1
    assert "MORE THAN" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give the network to export, or --verify FILE"),
        (["net.pth", "--verify", "a.onnx"], "--verify FILE stands alone"),
        (["net.pth", "--out", "a.pt2"], "must end in .onnx for --format onnx"),
        (["none.pth"], "there is no checkpoint none.pth"),
        (["--verify", "none.onnx"], "there is no exported network none.onnx"),
    ],
)
def test_what_the_command_refuses(words, message, capsys):
    status, out, err = run(capsys, "export", *words)
    assert status == 2
    assert out == ""
    assert err.startswith("medseg export: error: ")
    assert message in err


def test_class_names_that_do_not_fit_are_refused(checkpoint, tmp_path, capsys):
    words = ["export", checkpoint, "--out", tmp_path / "a.onnx"]
    status, _, err = run(capsys, *words, "--class-names", "a", "b", "c")
    assert status == 2
    assert "class_names has 3 entries" in err
    assert os.listdir(tmp_path) == []
