"""The common thread: one data set, one split, every method of the book in one table.

thread   the images that all chapters share: skin lesions at 128 x 128 pixels
keep     a method's scores, patient by patient, join the table
rows     what the chapters so far have measured
table    the same, to be read

Rows of earlier chapters come with the package, from the recorded runs of these
chapters; rows of the chapter that runs are measured as it runs.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from IPython.display import Markdown

from medseg import course, statistics
from medseg.datasets import ImageCase

DATASET = "isic2017"
SIZE = 128
FOLDER_VARIABLE = "MEDSEG_LEDGER"  # where a recorded run writes its rows


@dataclass(frozen=True)
class Row:
    """One method on the test images of the common thread."""

    chapter: str  # "03"
    method: str
    dice: dict[str, float]  # by image; nan where there was nothing to find
    seconds: float  # of training, 0 for a method that does not learn
    parameters: int = 0  # that were learned
    seed: int = 0
    record: dict[str, Any] = field(default_factory=dict)  # device, date, versions


def thread(split: str, limit: int | None = None) -> list[ImageCase]:
    """Load the images of the common thread, at one size.

    Every image is brought to 128 x 128 pixels, whatever its sides, and every mask to
    those pixels of which the lesion covers more than half. So the methods of all
    chapters work on the same grid and are scored on it.

    Args:
        split: ``"train"`` (104 lesions), ``"val"`` (24) or ``"test"`` (32).
        limit: At most so many; all where None.

    Returns:
        Cases with images ``(128, 128, 3)``, uint8, and labels ``(128, 128)`` in
        {0, 1}. Where the data set is not to be had they are drawn, said aloud.

    Raises:
        ValueError: Another split.
    """
    return [_small(case) for case in course.cases(DATASET, split, limit)]


def _small(case: ImageCase) -> ImageCase:
    image = case.image if case.image.ndim == 3 else np.stack([case.image] * 3, axis=2)
    share = np.asarray(case.labels > 0, np.float32)
    small = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    share = np.asarray(cv2.resize(share, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
    return case._replace(
        image=np.asarray(small, np.uint8), labels=(share > 0.5).astype(np.int32)
    )


_session: list[Row] = []


def keep(
    chapter: str,
    method: str,
    dice: Mapping[str, float],
    *,
    seconds: float = 0.0,
    parameters: int = 0,
    seed: int = 0,
) -> Row:
    """Add a method to the table of this session; the same name replaces it.

    In a recorded run (``scripts/notebooks.py run``) the chapter's rows are stored as
    well, and become part of the package.

    Args:
        chapter: Its number, ``"03"``.
        method: A name that stands alone in a table.
        dice: Dice of each test image, by the name of the case.
        seconds: What the training took.
        parameters: What was learned, in numbers.
        seed: Of the run.

    Raises:
        ValueError: No scores, or a score outside [0, 1].
    """
    if not dice:
        raise ValueError(f"{method!r} has no scores; give a Dice for each test image.")
    wrong = {case: value for case, value in dice.items() if not _is_dice(value)}
    if wrong:
        raise ValueError(
            f"Dice lies in [0, 1], or is nan where nothing was to be found; {method!r} "
            f"has {wrong}."
        )
    scores = {case: float(value) for case, value in dice.items()}
    row = Row(chapter, method, scores, float(seconds), int(parameters), seed)
    _session[:] = [
        other
        for other in _session
        if (other.chapter, other.method) != (chapter, method)
    ]
    _session.append(row)
    if folder := os.environ.get(FOLDER_VARIABLE):
        _store(Path(folder), chapter)
    return row


def _is_dice(value: float) -> bool:
    return bool(np.isnan(value) or 0 <= value <= 1)


def _store(folder: Path, chapter: str) -> None:
    rows = [asdict(row) for row in _session if row.chapter == chapter]
    for row in rows:
        row["dice"] = {
            case: None if np.isnan(value) else round(value, 4)
            for case, value in row["dice"].items()
        }
        row["seconds"] = round(row["seconds"], 1)
        del row["record"]  # one for the whole chapter, added when the run has ended
    path = folder / f"thread_{chapter}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


@cache
def _recorded() -> tuple[Row, ...]:
    folder = files("medseg").joinpath("results")
    if not folder.is_dir():
        return ()
    found = []
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if not (file.name.startswith("thread_") and file.name.endswith(".json")):
            continue
        content = json.loads(file.read_text(encoding="utf-8"))
        for row in content["rows"]:
            dice = {
                case: np.nan if value is None else value
                for case, value in row["dice"].items()
            }
            found.append(Row(**{**row, "dice": dice, "record": content["record"]}))
    return tuple(found)


def rows(before: str | None = None) -> list[Row]:
    """Return the recorded rows of earlier chapters, then those of this session.

    Args:
        before: Leave out recorded rows of this chapter and later ones; None for the
            first chapter of this session, or for all where it has kept nothing.
    """
    if before is None:
        before = min((row.chapter for row in _session), default="99")
    return [row for row in _recorded() if row.chapter < before] + list(_session)


def table(chosen: Sequence[Row] | None = None) -> Markdown:
    """Return all methods so far as a table: mean Dice over the test images, interval.

    The interval is a bootstrap over images with seed 0. Of each image the data set
    names no patient: it counts as one.

    Args:
        chosen: Rows to show; ``rows()`` where None.
    """
    chosen = rows() if chosen is None else chosen
    lines = [
        "| chapter | method | Dice, mean [95 %] | worst image | learned numbers "
        "| training |",
        "|---|---|---|---|---|---|",
    ]
    for row in chosen:
        scores = np.array(list(row.dice.values()))
        interval = statistics.bootstrap_interval(scores)
        lines.append(
            f"| {row.chapter} | {row.method} | {interval.mean:.3f} "
            f"[{interval.low:.3f}, {interval.high:.3f}] | {np.nanmin(scores):.2f} "
            f"| {row.parameters:,} | {_duration(row.seconds)} |"
        )
    sets = {frozenset(row.dice) for row in chosen}
    if len(sets) > 1:
        lines += [
            "",
            "**The rows are not of the same images** (this run had fewer, or drawn "
            "ones): compare only those that are.",
        ]
    return Markdown("\n".join(lines))


def _duration(seconds: float) -> str:
    if seconds == 0:
        return "none"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
