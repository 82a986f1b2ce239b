"""Logs of training: functions that take each epoch's record.

    csv_log          a table in a file, one line an epoch
    tensorboard_log  curves in TensorBoard
    live_plot        curves in a notebook, drawn anew after each epoch

``training.train(..., log=[print, logs.csv_log("run.csv"), logs.live_plot()])``. A run
that is resumed goes on in the same files, and no epoch is in them twice.
"""

import csv
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from IPython.core.getipython import get_ipython
from IPython.display import display

from medseg import plots
from medseg.training import EpochRecord

Log = Callable[[EpochRecord], None]


def csv_log(path: str | os.PathLike[str]) -> Log:
    """Write a table with a line for each epoch, to be read by a spreadsheet or pandas.

    Columns: those of ``EpochRecord``; ``dice_1``, ``dice_2``, ... for the classes, and
    the names of further metrics. Undefined values are empty.

    Args:
        path: The file. Epochs that are in it already are replaced, later ones
            dropped: a run that is resumed goes on, a new run begins anew.

    Returns:
        A function for ``log=`` of ``training.train``.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: When it is called: the file is the table of something else.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} for {path.name}.")

    def write(record: EpochRecord) -> None:
        row = dict(_values(record))
        kept = [] if record.epoch == 1 else _rows_before(record.epoch, path)
        names = list(row) + [name for name in (kept or [row])[0] if name not in row]
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, names, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows([*kept, row])
        unfinished = path.with_name(path.name + ".tmp")
        try:
            unfinished.write_text(text.getvalue(), encoding="utf-8")
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    return write


def tensorboard_log(folder: str | os.PathLike[str]) -> Log:
    """Write curves for TensorBoard: ``tensorboard --logdir FOLDER`` shows them.

    Args:
        folder: One for each run; it is made. Epochs of a resumed run replace those
            that are there from the same number on.

    Returns:
        A function for ``log=`` of ``training.train``.

    Raises:
        ModuleNotFoundError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415
    except ImportError as error:
        raise ModuleNotFoundError(
            "tensorboard_log needs TensorBoard, which is not installed: "
            "pip install 'medseg[logs]'. Or take csv_log, which needs nothing."
        ) from error
    writer: Any = None

    def write(record: EpochRecord) -> None:
        nonlocal writer
        if writer is None:
            writer = SummaryWriter(str(folder), purge_step=record.epoch)
        for name, value in _values(record):
            if name != "epoch" and value != "":
                writer.add_scalar(name, value, record.epoch)
        writer.flush()

    return write


def live_plot() -> Log:
    """Draw the curves of loss and Dice in a notebook, anew after each epoch.

    One picture, which is replaced; no widget, so the last one stays in the saved
    notebook. Outside of notebooks each record is printed.

    Returns:
        A function for ``log=`` of ``training.train``.
    """
    records: list[EpochRecord] = []
    shown: Any = None

    def write(record: EpochRecord) -> None:
        nonlocal shown
        if get_ipython() is None:
            print(record)
            return
        records.append(record)
        figure = plots.training_curves(records)
        if shown is None:
            shown = display(figure, display_id=True)
        else:
            shown.update(figure)
        plt.close(figure)  # else the notebook shows it once more

    return write


def _values(record: EpochRecord) -> Iterator[tuple[str, float | int | str]]:
    """Names and numbers of a record; undefined ones are empty."""
    for name in EpochRecord._fields[:6]:
        yield name, _number(getattr(record, name))
    if len(record.dice_per_class) > 1:
        for label, dice in enumerate(record.dice_per_class, start=1):
            yield f"dice_{label}", _number(dice)
    for name, score in record.scores.items():
        yield name, _number(score)


def _number(value: float) -> float | int | str:
    return value if value == value else ""  # nan is not equal to itself


def _rows_before(epoch: int, path: Path) -> list[dict[str, Any]]:
    """The lines of a table that are of earlier epochs."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if rows and not rows[0].get("epoch", "").isdecimal():
        raise ValueError(
            f"{path} is no table of epochs. Give csv_log another path, or move it away."
        )
    return [row for row in rows if int(row["epoch"]) < epoch]
