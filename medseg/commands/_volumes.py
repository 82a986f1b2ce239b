"""Scans on the command line: their files, how they are prepared, and their masks."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from medseg import volumes
from medseg.datasets import CaseFiles, VolumeCase, VolumeDataset
from medseg.imagefiles import shorten
from medseg.inference import predict_volume, sliding_window
from medseg.transforms import make_volume_transform
from medseg.volumes import IntensityFingerprint, Volume

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
ENDINGS = ("", "_mask", "_seg", "_label", "_labels", "_segmentation")
LARGEST_PATCH = 64  # voxels along an axis, unless told otherwise


def is_volume(path: Path) -> bool:
    """Whether a file is a scan, or a folder holds some."""
    return bool(volume_files(path))


def volume_files(path: Path) -> list[Path]:
    """The scans of a folder, or the one file, sorted by name; hidden ones are no."""
    found = (
        [path] if path.is_file() else sorted(path.glob("*")) if path.exists() else []
    )
    return [
        file
        for file in found
        if file.name.lower().endswith(SUFFIXES) and not file.name.startswith(".")
    ]


def stem(path: Path) -> str:
    """Name of a scan without its ending, which may have two parts.

    Example:
        >>> stem(Path("a.b.nii.gz")), stem(Path("a.png"))
        ('a.b', 'a')
    """
    name = path.name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem


def pair_volumes(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Each scan with its mask, by name.

    Raises:
        FileNotFoundError: A folder does not exist.
        ValueError: A folder is empty, or a file has no partner: they are listed.
    """
    for folder in (images, masks):
        if not folder.exists():
            raise FileNotFoundError(f"there is no folder {folder}.")
        if not volume_files(folder):
            raise ValueError(f"{folder} holds no scan ({', '.join(SUFFIXES)}).")
    by_stem = {stem(path): path for path in volume_files(masks)}
    pairs, without = [], []
    for image in volume_files(images):
        names = [stem(image) + ending for ending in ENDINGS]
        mask = next((by_stem.pop(name) for name in names if name in by_stem), None)
        if mask is None:
            without.append(image.name)
        else:
            pairs.append((image, mask))
    if without or by_stem:
        rest = [path.name for path in by_stem.values()]
        raise ValueError(
            f"{images} and {masks} do not pair up: no mask for "
            f"{shorten(without) or 'none'}; no image for {shorten(rest) or 'none'}. "
            "The mask of x.nii.gz is x.nii.gz, or x_mask, x_seg, x_label."
        )
    return pairs


def read_cases(pairs: Sequence[tuple[Path, Path]]) -> list[CaseFiles]:
    """Cases that are read when they are needed."""
    return [
        CaseFiles(
            stem(image),
            stem(image),
            "",
            (image, mask),
            partial(_read, image, mask),
            True,
        )
        for image, mask in pairs
    ]


def _read(image: Path, mask: Path) -> tuple[Volume, Volume]:
    scan, labels = volumes.read_volume(image), volumes.read_volume(mask)
    return scan, volumes.to_labels(labels)


def measure(
    cases: Sequence[CaseFiles], patch: Sequence[int] | None, modality: str
) -> dict[str, Any]:
    """What the training scans decide: grid, patch, intensities.

    Returns:
        The settings that :func:`prepare` and ``medseg predict`` need: orientation of
        the first scan, the median spacing, the patch, and, for CT, the fingerprint.
    """
    spacings, shapes, samples = [], [], []
    orientation, channels = "", 0
    for files in cases:
        case = files.read()
        assert isinstance(case, VolumeCase)
        if not orientation:
            orientation = case.image.orientation
            channels = case.image.array.shape[0] if case.image.array.ndim == 4 else 1
        image = volumes.reorient(case.image, orientation)
        spacings.append(image.spacing)
        shapes.append(image.array.shape[-3:])
        if modality == "ct":
            samples.append((case.image.array, case.labels.array))
    spacing = np.median(spacings, axis=0)
    sizes = np.array(shapes) * np.array(spacings) / spacing  # voxels at that spacing
    usual = np.minimum(np.median(sizes, axis=0).round(), LARGEST_PATCH)
    fingerprint = volumes.intensity_fingerprint(samples) if modality == "ct" else None
    return {
        "in_channels": channels,
        "patch": list(patch) if patch else usual.astype(int).tolist(),
        "spacing": [round(float(mm), 4) for mm in spacing],
        "orientation": orientation,
        "fingerprint": asdict(fingerprint) if fingerprint else None,
    }


def prepare_image(image: Volume, settings: dict[str, Any]) -> Volume:
    """A scan with the axes and the intensities of training, in its own spacing."""
    image = volumes.reorient(image, settings["orientation"])
    values = image.array if image.array.ndim == 4 else image.array[None]
    if len(values) != settings["in_channels"]:
        raise ValueError(
            f"{image.name} has {len(values)} channel(s), but the network takes "
            f"{settings['in_channels']}."
        )
    if settings["fingerprint"] is None:
        normal = np.stack([volumes.normalise_mr(channel) for channel in values])
    else:
        known = IntensityFingerprint(**settings["fingerprint"])
        normal = volumes.normalise_ct(values, known)
    return image.with_array(normal)


def prepare(case: VolumeCase, settings: dict[str, Any]) -> VolumeCase:
    """A case on the grid of training."""
    image = prepare_image(case.image, settings)
    labels = volumes.reorient(case.labels, settings["orientation"])
    return case._replace(
        image=volumes.resample(image, settings["spacing"], order=1),
        labels=volumes.resample_labels(labels, settings["spacing"]),
    )


def volume_data(
    cases: Sequence[CaseFiles], settings: dict[str, Any], *, train: bool, seed: int
) -> VolumeDataset:
    """Patches of the prepared cases; to validate, the same in every epoch."""
    transform = make_volume_transform(settings["spacing"]) if train else None
    return VolumeDataset(
        cases,
        settings["patch"],
        transform,
        settings["out_channels"],
        patches_per_volume=4 if train else 2,
        preprocess=partial(prepare, settings=settings),
        cache="memory",
        seed=seed,
    )


def segment_volume(
    model: nn.Module, settings: dict[str, Any], image: Volume, threshold: float
) -> Volume:
    """Labels of a scan, in its own grid."""
    ready = prepare_image(image, settings)
    labels: NDArray[np.int16] = predict_volume(
        model,
        ready.array,
        ready.spacing,
        training_spacing=settings["spacing"],
        predictor=partial(sliding_window, patch_size=settings["patch"]),
        threshold=threshold,
        antialias=False,  # as in `prepare`
    )
    back = ready.with_array(labels.astype(np.uint8))
    return volumes.reorient(back, image.orientation)
