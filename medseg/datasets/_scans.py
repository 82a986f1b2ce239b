"""True layouts of 3D data sets: Medical Segmentation Decathlon and CHAOS."""

import json
import re
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from medseg.checks import check_choice
from medseg.datasets._cases import CaseFiles
from medseg.dicom import read_series
from medseg.imagefiles import images_in, read_labels, shorten
from medseg.volumes import Volume, read_nifti, to_index, to_labels

# Grey values of the CHAOS MR masks (lowest excluded, highest included).
CHAOS_MR_VALUES = {
    1: (55, 70),  # liver, written as 63
    2: (110, 135),  # right kidney, 126
    3: (175, 200),  # left kidney, 189
    4: (240, 255),  # spleen, 252
}
CHAOS_MR_SERIES = {
    "t1in": ("T1DUAL", "DICOM_anon/InPhase"),
    "t1out": ("T1DUAL", "DICOM_anon/OutPhase"),
    "t2": ("T2SPIR", "DICOM_anon"),
}


def decathlon_cases(folder: str | Path) -> list[CaseFiles]:
    """Find the scans with a reference of a Medical Segmentation Decathlon task.

    ``dataset.json`` says which; files that it does not name, such as the ``._`` files
    of macOS, are not looked at. Images of several sequences (tasks 1 and 5) have their
    channels last in the file and first in the volume. Labels stored as floating
    point become integers, and none may exceed those of ``dataset.json``.

    Args:
        folder: A task's folder, such as ``Task04_Hippocampus``.

    Returns:
        The cases, sorted by name. Each is a group of its own, as patients are not
        named. None where there is no ``dataset.json``.

    Raises:
        ValueError: ``dataset.json`` is damaged, or names files outside the folder.
        FileNotFoundError: Files that it names are not there; they are listed.
    """
    folder = Path(folder)
    if not (folder / "dataset.json").is_file():
        return []
    facts = _read_facts(folder / "dataset.json")
    top = max(int(label) for label in facts["labels"])
    channels = len(facts["modality"])
    cases = []
    for pair in facts["training"]:
        image, labels = (_inside(folder, pair[kind]) for kind in ("image", "label"))
        if image.name.startswith((".", "_")):
            continue
        name = image.name.removesuffix(".gz").removesuffix(".nii")
        reader = partial(_read_decathlon, image, labels, channels, top)
        cases.append(CaseFiles(name, name, "", (image, labels), reader, is_volume=True))
    missing = [
        path.relative_to(folder).as_posix()
        for case in cases
        for path in case.files
        if not path.is_file()
    ]
    if missing:
        raise FileNotFoundError(
            f"{folder} is not complete: {len(missing)} files that dataset.json names "
            f"are missing ({shorten(missing)}). Unpack the archive again."
        )
    return sorted(cases, key=lambda case: case.name)


def _read_facts(path: Path) -> dict[str, Any]:
    """Read a ``dataset.json``: the keys that count, and no others.

    ``release`` is misspelt in Task04; nobody needs it.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        wrong = [key for key in ("labels", "modality") if not facts[key]]
        pairs = [(pair["image"], pair["label"]) for pair in facts["training"]]
        [int(label) for label in facts["labels"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no dataset.json of the Decathlon ({type(error).__name__}: "
            f"{error}); expected modality, labels and training, a list of image and "
            "label. Unpack the archive again."
        ) from error
    if wrong or not pairs:
        raise ValueError(f"{path} has no {wrong[0] if wrong else 'training'} in it.")
    return facts


def _inside(folder: Path, name: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(
            f"{folder / 'dataset.json'} names {name!r}, which is not inside the "
            "folder. Do not trust it."
        )
    return folder / path


def _read_decathlon(
    image: Path, labels: Path, channels: int, top: int
) -> tuple[Volume, Volume]:
    scan, reference = read_nifti(image), to_labels(read_nifti(labels))
    found = scan.array.shape[0] if scan.array.ndim == 4 else 1
    if found != channels:
        raise ValueError(
            f"{image} has {found} channel(s), but dataset.json names {channels}."
        )
    if reference.array.ndim == 4 and reference.array.shape[0] == 1:
        reference = reference.with_array(reference.array[0])
    if int(reference.array.max()) > top:
        raise ValueError(
            f"{labels} holds labels up to {int(reference.array.max())}, but "
            f"dataset.json names none above {top}."
        )
    return scan, reference


def chaos_cases(folder: str | Path, modality: str) -> list[CaseFiles]:
    """Find the scans of the CHAOS training set.

    A CT patient is one case, an MR patient three: ``_t1in``, ``_t1out`` (the phases of
    T1-DUAL, which share a reference) and ``_t2`` (T2-SPIR), all of the patient's group.
    A series is what lies in its folder, whatever the UIDs say. Slices lie where
    ``ImagePositionPatient`` says. A mask belongs to the slice of its own name, else
    to the one at the same place in the order of names; then names and positions must
    run alike, or the case is refused.

    Labels of CT: 1 liver. Of MR: 1 liver, 2 right kidney, 3 left kidney, 4 spleen.

    Args:
        folder: Holds ``Train_Sets/``, or is that folder.
        modality: "CT" or "MR".

    Returns:
        The cases, sorted by name, which is such as ``CT_6`` or ``MR_34_t1in``; none
        where the layout is another one.

    Raises:
        ValueError: ``modality`` is another one. Reading a case: a mask has no slice or
            several, another size, or values that are no label.
    """
    check_choice(modality, "modality", ("CT", "MR"))
    cases = []
    for tree in (Path(folder) / "Train_Sets", Path(folder)):
        if not (tree / modality).is_dir():
            continue
        for patient in sorted((tree / modality).iterdir()):
            if not (patient.is_dir() and patient.name.isdecimal()):
                continue
            series = {"": ("", "DICOM_anon")} if modality == "CT" else CHAOS_MR_SERIES
            group = f"{modality}_{patient.name}"
            for kind, (sub, slices) in series.items():
                paths = (patient / sub / slices, patient / sub / "Ground")
                if all(path.is_dir() for path in paths):
                    name = f"{group}_{kind}" if kind else group
                    reader = partial(_read_chaos, *paths, modality)
                    cases.append(
                        CaseFiles(name, group, "", paths, reader, is_volume=True)
                    )
        break
    return sorted(cases, key=lambda case: case.name)


def _read_chaos(folder: Path, masks_dir: Path, modality: str) -> tuple[Volume, Volume]:
    scan = read_series(folder, ignore_uids=True)
    positions = _positions(folder)
    masks = images_in(masks_dir)
    labels = np.zeros(scan.array.shape, np.uint8)
    filled: dict[int, Path] = {}
    for path, mask in _pair_slices(positions, masks, folder, masks_dir):
        depth, row, column = np.rint(to_index(scan, positions[path])).astype(int)
        pixels = _chaos_labels(mask, modality)
        if (row, column) != (0, 0) or pixels.shape != labels.shape[1:]:
            raise ValueError(
                f"mask {mask} has {pixels.shape} pixels, its slice {path.name} has "
                f"{labels.shape[1:]}."
            )
        if depth in filled:
            raise ValueError(f"{mask} and {filled[depth]} are masks of one slice.")
        filled[int(depth)] = mask
        labels[depth] = pixels
    return scan, scan.with_array(labels)


def _positions(folder: Path) -> dict[Path, NDArray[np.float64]]:
    """Where the first pixel of each slice lies, in mm, RAS."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            header = pydicom.dcmread(path, stop_before_pixels=True)
            x, y, z = (float(value) for value in header.ImagePositionPatient)
            found[path] = np.array([-x, -y, z])  # DICOM counts x and y the other way
    return found


def _pair_slices(
    positions: dict[Path, NDArray[np.float64]],
    masks: list[Path],
    folder: Path,
    masks_dir: Path,
) -> list[tuple[Path, Path]]:
    """Find the slice of each mask: by name, or else by the order of names."""
    slices = sorted(positions, key=lambda path: _natural(path.name))
    by_stem = {path.stem: path for path in slices}
    if all(mask.stem in by_stem for mask in masks) and len(masks) == len(slices):
        return [(by_stem[mask.stem], mask) for mask in masks]
    if len(slices) != len(masks):
        raise ValueError(
            f"{folder} has {len(slices)} slices, but {masks_dir} {len(masks)} masks; "
            "expected one a slice."
        )
    steps = np.diff([positions[path] for path in slices], axis=0)
    along = steps @ (positions[slices[-1]] - positions[slices[0]])
    if not (along > 0).all():
        raise ValueError(
            f"the names of the slices in {folder} do not run along the patient, and "
            f"the masks in {masks_dir} have other names: nobody can say which mask "
            "belongs to which slice. Get the data again."
        )
    return list(zip(slices, sorted(masks, key=lambda p: _natural(p.name)), strict=True))


def _natural(name: str) -> list[int | str]:
    """Sort 2 before 10, whether or not names have leading zeros."""
    return [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name)]


def _chaos_labels(path: Path, modality: str) -> NDArray[np.uint8]:
    values = read_labels(path)
    if modality == "CT":
        return (values > 0).astype(np.uint8)
    labels = np.zeros(values.shape, np.uint8)
    for label, (low, high) in CHAOS_MR_VALUES.items():
        labels[(values > low) & (values <= high)] = label
    if (wrong := (labels == 0) & (values > 0)).any():
        raise ValueError(
            f"mask {path} holds {shorten(np.unique(values[wrong]).tolist())}, which "
            "are no labels of CHAOS (63 liver, 126 and 189 kidneys, 252 spleen)."
        )
    return labels
