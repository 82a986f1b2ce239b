"""Logs hold each epoch once, also when a run was broken off."""

import builtins
import csv
import math
import warnings

import pytest

from medseg import logs
from medseg.training import EpochRecord


def record(epoch, dice=0.5, **more):
    return EpochRecord(epoch, 0.25, 0.5, dice, 12.5, 1e-3, **more)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_line_for_each_epoch(tmp_path):
    log = logs.csv_log(tmp_path / "run.csv")
    log(record(1, dice_per_class=(0.5, math.nan), scores={"iou": 0.4}))
    log(record(2, dice=math.nan, dice_per_class=(1.0, 0.5), scores={"iou": 0.6}))
    assert (tmp_path / "run.csv").read_text() == (
        "epoch,train_loss,val_loss,val_dice,seconds,learning_rate,dice_1,dice_2,iou\n"
        "1,0.25,0.5,0.5,12.5,0.001,0.5,,0.4\n"
        "2,0.25,0.5,,12.5,0.001,1.0,0.5,0.6\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["run.csv"]


def test_csv_of_a_resumed_run_holds_each_epoch_once(tmp_path):
    path = tmp_path / "run.csv"
    first = logs.csv_log(path)
    for epoch in (1, 2, 3):
        first(record(epoch))
    logs.csv_log(path)(record(3, dice=0.75))  # it was killed before epoch 3 was saved
    assert [row["epoch"] for row in rows(path)] == ["1", "2", "3"]
    assert rows(path)[2]["val_dice"] == "0.75"
    logs.csv_log(path)(record(1))  # a new run
    assert len(rows(path)) == 1


def test_csv_replaces_no_other_table(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("name,score\nx,1\n")
    with pytest.raises(ValueError, match=r"mine\.csv is no table of epochs"):
        logs.csv_log(path)(record(2))
    assert path.read_text() == "name,score\nx,1\n"
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        logs.csv_log(tmp_path / "none" / "run.csv")


def test_tensorboard_gets_the_curves(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reading = pytest.importorskip(
            "tensorboard.backend.event_processing.event_accumulator"
        )
        log = logs.tensorboard_log(tmp_path)
        log(record(1, scores={"iou": 0.4}))
        log(record(2, dice=math.nan))
        logs.tensorboard_log(tmp_path)(record(2, dice=0.75))  # resumed
        events = reading.EventAccumulator(str(tmp_path)).Reload()
    assert {"train_loss", "val_dice", "iou"} <= set(events.Tags()["scalars"])
    points = [(event.step, event.value) for event in events.Scalars("val_dice")]
    assert points == [(1, 0.5), (2, 0.75)]


def test_without_tensorboard_the_cure_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'medseg\[logs\]'"):
        logs.tensorboard_log(tmp_path)


def test_the_plot_is_one_picture_that_is_replaced(monkeypatch, capsys):
    calls = []

    class Handle:
        def update(self, figure):
            calls.append(("update", len(figure.axes[0].lines[0].get_xdata())))

    def display(figure, display_id):
        assert display_id is True
        calls.append(("display", len(figure.axes[0].lines[0].get_xdata())))
        return Handle()

    monkeypatch.setattr(logs, "get_ipython", lambda: object())
    monkeypatch.setattr(logs, "display", display)
    log = logs.live_plot()
    for epoch in (1, 2, 3):
        log(record(epoch))
    assert calls == [("display", 1), ("update", 2), ("update", 3)]
    assert capsys.readouterr() == ("", "")
    assert logs.plt.get_fignums() == []


def test_outside_of_notebooks_the_plot_prints(capsys):
    logs.live_plot()(record(7))
    assert capsys.readouterr().out == f"{record(7)}\n"
