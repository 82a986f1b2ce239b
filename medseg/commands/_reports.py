"""What commands read and write beside images: file lists and JSON."""

import json
import math
import os
import re
from pathlib import Path
from typing import Any

from medseg.imagefiles import images_in
from medseg.statistics import Interval


def files_of(path: Path) -> list[Path]:
    """The images of a folder, or the one file."""
    if path.is_file():
        return [path]
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist (looked for from {Path.cwd()})."
        )
    return images_in(path)


def patient_of(name: str, pattern: str) -> str:
    """Patient in the name of a file: what the brackets of an expression find.

    Example:
        >>> patient_of("case_017_slice_3", "case_([0-9]+)")
        '017'

    Raises:
        ValueError: The expression is none, or finds nothing.
    """
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise ValueError(
            f"--patients {pattern!r} is no expression: {error}."
        ) from error
    if not match or not match.groups():
        raise ValueError(
            f"--patients {pattern!r} finds no patient in the name {name!r}; put the "
            "part that names the patient in brackets, such as 'case_([0-9]+)'."
        )
    return match.group(1)


def number(value: float) -> float | None:
    """A number for JSON, which has no nan."""
    return None if math.isnan(value) else float(value)


def summary(interval: Interval) -> dict[str, Any]:
    low, high = number(interval.low), number(interval.high)
    return {
        "mean": number(interval.mean),
        "low": low,
        "high": high,
        "n": interval.n,
        "undefined": interval.undefined,
        "text": str(interval),
    }


def to_json(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, to_json(value) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text, whole or not at all."""
    unfinished = path.with_name(path.name + ".tmp")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
