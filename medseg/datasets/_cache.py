"""Scans made ready for training: in memory, or as files that are mapped into it."""

import hashlib
import json
import os
import tempfile
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.datasets._cases import CaseFiles, VolumeCase, check_case

MAX_POINTS = 10_000  # voxels of each class that a patch may be centred on
Preprocess = Callable[[VolumeCase], VolumeCase]


@dataclass(frozen=True, eq=False)
class Ready:
    """A scan from which patches can be cut."""

    image: NDArray[Any]  # (C, D, H, W)
    labels: NDArray[Any]  # (D, H, W), the smallest unsigned integers
    lowest: list[float]  # of each channel: what lies beyond the border
    points: NDArray[np.int32]  # (N, 3), voxels of the foreground, sorted by class
    ends: list[int]  # points[ends[i - 1]:ends[i]] belong to the i-th class there is
    top: int  # the largest label


def make_ready(case: VolumeCase, preprocess: Preprocess | None) -> Ready:
    """Preprocess a case, and look up where its classes are."""
    if preprocess is not None:
        name, case = case.name, preprocess(case)
        if not isinstance(case, VolumeCase):
            raise TypeError(
                f"preprocess returned {type(case).__name__} for case {name}; expected "
                "a VolumeCase, such as case._replace(image=...)."
            )
    check_case(case)
    image, labels = case.image.array, case.labels.array
    image = image[None] if image.ndim == 3 else image
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ValueError(
            f"the image of case {case.name} holds NaN or infinite values. Replace them "
            "in preprocess, or leave the case out."
        )
    top = int(labels.max())
    rng = np.random.default_rng(0)  # which points are kept is always the same
    points: list[NDArray[np.int32]] = [np.empty((0, 3), np.int32)]
    ends: list[int] = []
    for label in np.unique(labels):
        if label > 0:
            flat = np.flatnonzero(labels == label)
            if flat.size > MAX_POINTS:
                flat = np.sort(rng.choice(flat, MAX_POINTS, replace=False))
            found = np.stack(np.unravel_index(flat, labels.shape), axis=1)
            points.append(found.astype(np.int32))
            ends.append(flat.size + (ends[-1] if ends else 0))
    return Ready(
        image=np.ascontiguousarray(image),
        labels=labels.astype(np.min_scalar_type(top)),
        lowest=[float(channel.min()) for channel in image],
        points=np.concatenate(points),
        ends=ends,
        top=top,
    )


def make_stored(
    case: VolumeCase | CaseFiles,
    preprocess: Preprocess | None,
    identity: str,
    root: Path,
) -> Path:
    """Return the folder of the cache that holds a case; make it if need be."""
    folder = root / _key(case, identity)
    try:
        open_stored(folder)
        return folder
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged
        pass
    ready = make_ready(in_memory(case), preprocess)
    facts = {
        "case": case.name,
        "preprocess": identity,
        "lowest": ready.lowest,
        "ends": ready.ends,
        "top": ready.top,
    }
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=root) as name:
            draft = Path(name) / "case"
            draft.mkdir()
            for field in ("image", "labels", "points"):
                np.save(draft / f"{field}.npy", getattr(ready, field))
            (draft / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
            if folder.exists():  # damaged
                os.replace(folder, Path(name) / "damaged")
            try:
                os.replace(draft, folder)
            except OSError:  # another process was faster
                open_stored(folder)
    except OSError as error:
        raise OSError(
            f"the cache {root} could not be written for case {case.name} ({error}). "
            "Nothing half-written was left. Make room, or give another folder."
        ) from error
    return folder


def open_stored(folder: Path) -> Ready:
    """Map the files of a case; only what is used is read.

    Raises:
        OSError: They are not there.
        ValueError: They are damaged.
    """
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    image, labels, points = (
        np.load(folder / f"{field}.npy", mmap_mode="r")
        for field in ("image", "labels", "points")
    )
    if image.shape[1:] != labels.shape or len(points) != (facts["ends"] or [0])[-1]:
        raise ValueError(f"the files in {folder} do not belong together.")
    return Ready(image, labels, facts["lowest"], points, facts["ends"], facts["top"])


def in_memory(case: VolumeCase | CaseFiles) -> VolumeCase:
    found = case.read() if isinstance(case, CaseFiles) else case
    if not isinstance(found, VolumeCase):
        raise TypeError(
            f"case {case.name} is an image; VolumeDataset takes volumes. Use "
            "CaseDataset."
        )
    return found


def _key(case: VolumeCase | CaseFiles, identity: str) -> str:
    """Name of a case and all that decides what it looks like: files, preprocessing."""
    digest = hashlib.sha256(f"1:{identity}".encode())
    if isinstance(case, CaseFiles):
        for path in case.files:
            inside = sorted(path.iterdir()) if path.is_dir() else [path]
            for file in inside:
                facts = file.stat()
                digest.update(
                    f"{file.resolve()}:{facts.st_size}:{facts.st_mtime_ns}\n".encode()
                )
    else:
        for volume in (case.image, case.labels):
            array = np.ascontiguousarray(volume.array)
            digest.update(f"{array.dtype}:{array.shape}".encode())
            digest.update(array.data)
            digest.update(volume.affine.tobytes())
    safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in case.name)
    return f"{safe[:60]}-{digest.hexdigest()[:16]}"


def identity_of(function: Any, seen: frozenset[Any] = frozenset()) -> str:
    """Describe a function so that another one, or other code, gives another text.

    What it reads counts as well: its defaults, what it closes over, and the numbers,
    texts, arrays and functions of its own module that it names.

    Raises:
        ValueError: It cannot be told from its text: an object without a telling repr.
    """
    if function is None:
        return "none"
    if isinstance(function, partial):
        parts = [identity_of(function.func), *map(_value_of, function.args)]
        named = sorted(function.keywords.items())
        parts += [f"{key}={_value_of(value)}" for key, value in named]
        return f"partial({', '.join(parts)})"
    if isinstance(function, types.FunctionType):
        kept = [_value_of(cell.cell_contents) for cell in function.__closure__ or ()]
        defaults = [_value_of(value) for value in function.__defaults__ or ()]
        more = sorted((function.__kwdefaults__ or {}).items())
        defaults += [f"{key}={_value_of(value)}" for key, value in more]
        code = hashlib.sha256(_code_of(function.__code__)).hexdigest()[:12]
        inner = ", ".join(kept + defaults + _globals_of(function, seen | {function}))
        return f"{function.__module__}.{function.__qualname__}:{code}({inner})"
    return _value_of(function)


PLAIN = (bool, int, float, str, bytes, tuple, list, dict, np.ndarray, np.generic)


def _globals_of(function: types.FunctionType, seen: frozenset[Any]) -> list[str]:
    """Values of the module that a function names, and functions written beside it."""
    found = []
    for name in sorted(_names_in(function.__code__)):
        value = function.__globals__.get(name)
        if isinstance(value, PLAIN):
            found.append(f"{name}={_value_of(value)}")
        elif (
            isinstance(value, types.FunctionType)
            and value.__module__ == function.__module__
            and value not in seen
        ):
            found.append(f"{name}={identity_of(value, seen)}")
    return found


def _names_in(code: types.CodeType) -> set[str]:
    inner = [value for value in code.co_consts if isinstance(value, types.CodeType)]
    return set(code.co_names).union(*map(_names_in, inner))


def _code_of(code: types.CodeType) -> bytes:
    constants = [
        _code_of(value) if isinstance(value, types.CodeType) else repr(value).encode()
        for value in code.co_consts
    ]
    return b"|".join([code.co_code, repr(code.co_names).encode(), *constants])


def _value_of(value: Any) -> str:
    if isinstance(value, types.FunctionType | partial):
        return identity_of(value)
    if isinstance(value, np.ndarray):
        return f"array:{hashlib.sha256(value.tobytes()).hexdigest()[:12]}"
    text = repr(value)
    if " at 0x" in text:
        raise ValueError(
            f"nobody can tell from {text} whether the cache fits a later run. Give "
            "cache_key, such as 'spacing 1 mm, version 2', and change it whenever the "
            "preprocessing changes."
        )
    return text
