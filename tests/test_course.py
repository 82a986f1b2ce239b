"""What the notebooks rely on."""

import pytest
import torch
from torch import nn

from medseg import course, datasets, losses


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setenv("MEDSEG_PROFILE", "quick")


def test_setup_prints_versions_and_device_and_seeds(quick, capsys):
    device = course.setup(seed=3)
    first = torch.rand(1)
    printed = capsys.readouterr().out
    course.setup(seed=3)
    assert torch.equal(first, torch.rand(1))
    assert device.type in printed.lower()
    assert torch.__version__ in printed
    assert "'quick'" in printed


def test_budget_follows_the_profile(monkeypatch):
    for name, value in (("quick", 1), ("cpu", 8), ("gpu", 60)):
        monkeypatch.setenv("MEDSEG_PROFILE", name)
        assert course.budget(quick=1, cpu=8, gpu=60) == value


def test_profile_without_the_variable_follows_the_device(monkeypatch):
    monkeypatch.delenv("MEDSEG_PROFILE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert course.profile() == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert course.profile() == "gpu"


def test_an_unknown_profile_is_refused_with_the_choices(monkeypatch):
    monkeypatch.setenv("MEDSEG_PROFILE", "fast")
    with pytest.raises(ValueError, match="'quick', 'cpu', 'gpu', got 'fast'"):
        course.profile()


@pytest.mark.parametrize(("name", "split"), [("dsb2018", "val"), ("isbi2012", "test")])
def test_without_data_the_cases_are_drawn_and_said_to_be(
    name, split, quick, monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("MEDSEG_DATA", str(tmp_path))
    found = course.cases(name, split, limit=2)
    assert len(found) == 2
    assert "DRAWN" in capsys.readouterr().out
    assert all(case.labels.max() >= 1 for case in found)
    again = course.cases(name, split, limit=2)
    assert (found[0].image == again[0].image).all()


@pytest.mark.parametrize("name", sorted(set(course.DRAWN) - {"dsb2018", "isbi2012"}))
def test_every_kind_of_drawing_has_the_classes_of_its_data_set(
    name, quick, monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("MEDSEG_DATA", str(tmp_path))
    (case,) = course.cases(name, "train", limit=1)
    about = datasets.info(name)
    assert "1 DRAWN" in capsys.readouterr().out
    labels = case.labels if about.spatial_dims == 2 else case.labels.array
    assert labels.ndim == about.spatial_dims
    found = set(labels.ravel().tolist())
    if name == "vnc":  # of its nine classes, the drawing has two
        assert found == {0, 8}
    else:
        assert found == set(range(len(about.classes)))
    if name == "msd_task01":
        assert case.image.array.shape[0] == 4


def test_without_a_drawing_of_its_kind_the_reader_is_told_how_to_get_it(
    quick, monkeypatch, tmp_path
):
    monkeypatch.setenv("MEDSEG_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="medseg datasets get msd_task10"):
        course.cases("msd_task10", "train")


def test_large_data_sets_are_never_downloaded_by_a_chapter(
    monkeypatch, tmp_path, capsys
):
    def fail(name):
        raise AssertionError("downloads 29 GB")

    monkeypatch.setenv("MEDSEG_DATA", str(tmp_path))
    monkeypatch.setenv("MEDSEG_PROFILE", "gpu")
    monkeypatch.setattr(datasets, "download", fail)
    course.cases("msd_task03", "val", limit=1)
    assert "DRAWN volumes" in capsys.readouterr().out


def test_drawn_splits_share_no_image(quick, monkeypatch, tmp_path):
    monkeypatch.setenv("MEDSEG_DATA", str(tmp_path))
    train, test = (
        course.cases("dsb2018", split, limit=4) for split in ("train", "test")
    )
    assert not {case.name for case in train} & {case.name for case in test}
    assert not any((a.image == b.image).all() for a in train for b in test)


def test_an_unknown_data_set_is_no_reason_to_draw(quick):
    with pytest.raises(ValueError, match="dsb2018"):
        course.cases("dsb2081", "train")
    with pytest.raises(ValueError, match="split must be one of"):
        course.cases("msd_task03", "all")


def test_a_damaged_data_set_is_no_reason_to_draw(quick, monkeypatch):
    def damaged(*args, **kwargs):
        raise ValueError("masks/00.png is damaged")

    monkeypatch.setattr(datasets, "load", damaged)
    with pytest.raises(ValueError, match="is damaged"):
        course.cases("isbi2012", "train")


def test_without_a_network_the_cases_are_drawn(monkeypatch, tmp_path, capsys):
    def offline(name):
        raise ConnectionError("no network")

    monkeypatch.setenv("MEDSEG_DATA", str(tmp_path))
    monkeypatch.setenv("MEDSEG_PROFILE", "cpu")
    monkeypatch.setattr(datasets, "download", offline)
    course.cases("dsb2018", "val", limit=1)
    assert "DRAWN images (phantoms): no network" in capsys.readouterr().out


def test_quick_never_downloads(quick, monkeypatch, tmp_path):
    def fail(name):
        raise AssertionError("downloads in the quick profile")

    monkeypatch.setenv("MEDSEG_DATA", str(tmp_path))
    monkeypatch.setattr(datasets, "download", fail)
    course.cases("dsb2018", "val", limit=1)


def test_show_returns_the_source():
    code = course.show(losses.dice_loss)
    assert "def dice_loss(" in code.data
    assert "def cross_entropy" not in code.data


class Pair(nn.Module):
    def __init__(self, width=4, swapped=False):
        super().__init__()
        self.one = nn.Conv2d(1, width, 3, padding=1)
        self.two = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(2 * width)
        self.head = nn.Conv2d(2 * width, 1, 1)
        self.swapped = swapped

    def forward(self, images):
        parts = [self.one(images), self.two(images)]
        x = torch.cat(parts[::-1] if self.swapped else parts, dim=1)
        return self.head(self.norm(x))


def test_the_same_network_passes_whatever_its_weights_were(capsys):
    course.assert_same(Pair(), Pair(), torch.randn(2, 1, 8, 8))
    assert "105 parameters" in capsys.readouterr().out


def test_the_packages_network_keeps_its_weights():
    ours = Pair()
    before = [value.clone() for value in ours.parameters()]
    course.assert_same(Pair(), ours, torch.randn(2, 1, 8, 8))
    assert all(map(torch.equal, before, ours.parameters()))


def test_a_swapped_concatenation_is_caught():
    with pytest.raises(AssertionError, match="not close"):
        course.assert_same(Pair(swapped=True), Pair(), torch.randn(2, 1, 8, 8))


def test_another_width_is_named():
    with pytest.raises(AssertionError, match=r"'one.weight'.*\(3, 1, 3, 3\)"):
        course.assert_same(Pair(width=3), Pair(), torch.randn(2, 1, 8, 8))


def test_a_missing_layer_is_named():
    with pytest.raises(AssertionError, match="you have 2 weights"):
        course.assert_same(
            nn.Conv2d(1, 4, 3, padding=1), Pair(), torch.randn(1, 1, 8, 8)
        )


def test_two_modes_are_not_compared():
    with pytest.raises(AssertionError, match="training mode"):
        course.assert_same(Pair().eval(), Pair(), torch.randn(2, 1, 8, 8))


def test_functions_are_compared_too():
    course.assert_same(torch.relu, nn.ReLU(), torch.randn(5))
    with pytest.raises(AssertionError):
        course.assert_same(torch.relu, torch.abs, torch.tensor([-1.0]))


def test_interactive_figures_ask_nothing_of_the_network():
    html = course.interactive("transposed_convolution").data
    assert "<svg" in html or "createElementNS" in html
    for outside in ("src=", "@import", "fetch(", "XMLHttpRequest", 'href="http'):
        assert outside not in html


def test_an_unknown_interactive_figure_lists_those_there_are():
    with pytest.raises(FileNotFoundError, match="transposed_convolution"):
        course.interactive("nothing")
