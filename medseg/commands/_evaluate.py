"""``medseg evaluate``: masks against a reference."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from json import loads
from pathlib import Path
from typing import Any

from medseg import volumes
from medseg.commands._reports import files_of, patient_of, to_json, write_text
from medseg.commands._volumes import is_volume, pair_volumes, stem
from medseg.imagefiles import pair_files, read_mask
from medseg.report import Case, report

OVERLAP = ("dice", "iou", "sensitivity", "precision")  # need no spacing


def evaluate(
    *,
    pred: Path,
    truth: Path,
    classes: int,
    spacing: list[float] | None,
    tolerance: float | None,
    patients: str | None,
    names: list[str] | None,
    csv: Path | None,
    json: bool,
) -> int:
    """Score masks against a reference, image by image."""
    for path in (pred, truth):
        if not path.exists():
            raise FileNotFoundError(
                f"{path} does not exist (looked for from {Path.cwd()})."
            )
    if pred.is_dir() != truth.is_dir():
        raise ValueError(f"give two folders or two files, got {pred} and {truth}.")
    scans = is_volume(pred)
    pairs: Sequence[tuple[Path, Path]]
    if not pred.is_dir():
        pairs = [(files_of(pred)[0], files_of(truth)[0])]
    elif scans:
        pairs = pair_volumes(pred, truth)
    else:
        pairs = list(zip(*pair_files(pred, truth), strict=True))
    if scans and spacing:
        raise ValueError("--spacing is for images: scans have their own.")
    if tolerance is not None and not (scans or spacing):
        raise ValueError("--tolerance is a distance: give --spacing, too.")
    found = report(
        _cases(pairs, classes, spacing, patients, scans),
        classes,
        names=names or (),
        metrics=None if scans or spacing else OVERLAP,
        tolerance=tolerance,
        progress=os.isatty(2),
    )
    content = loads(found.to_json())
    if not (scans or spacing):  # then nothing in mm is known
        del content["summary"]["spacings"]
        for row in content["rows"]:
            for key in [key for key in row if "_mm" in key]:
                del row[key]
    if csv is not None:
        _write_csv(csv, content["rows"])
    print(to_json(content) if json else found)
    return 0


def _cases(
    pairs: Sequence[tuple[Path, Path]],
    classes: int,
    spacing: list[float] | None,
    patients: str | None,
    scans: bool,
) -> Iterator[Case]:
    """One case at a time, as the report takes them."""
    listed = _listed(Path(patients)) if patients and Path(patients).is_file() else None
    for pred_path, truth_path in pairs:
        name = stem(pred_path)
        patient = None
        if listed is not None:
            if name not in listed:
                raise ValueError(f"{patients} names no patient for {name}.")
            patient = listed[name]
        elif patients:
            patient = patient_of(name, patients)
        if scans:
            ours, theirs = (
                volumes.to_labels(volumes.read_volume(path))
                for path in (pred_path, truth_path)
            )
            volumes.check_same_geometry(ours, theirs)
            yield Case(name, ours.array, theirs.array, ours.spacing, patient)
        else:
            mask, reference = (read_mask(p, classes) for p in (pred_path, truth_path))
            if mask.shape != reference.shape:
                raise ValueError(
                    f"{pred_path} has {mask.shape} pixels, but its reference "
                    f"{truth_path} has {reference.shape}. Resize the prediction to "
                    "the reference."
                )
            # Without a spacing, nothing is asked that depends on it.
            yield Case(name, mask, reference, spacing or (1.0, 1.0), patient)


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())


def _listed(path: Path) -> dict[str, str]:
    """Patients by the names of their images, from a table with these two columns."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"name", "patient"} <= set(rows[0]):
        raise ValueError(f"{path} needs two columns, name and patient, and some lines.")
    return {stem(Path(row["name"])): row["patient"] for row in rows}
