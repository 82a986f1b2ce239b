"""What commands read and write beside images: file lists and JSON."""

import json
import math
import os
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
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(to_json(value) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
