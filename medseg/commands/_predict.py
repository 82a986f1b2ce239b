"""``medseg predict``: a mask for each image or scan."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from skimage.io import imsave
from torch import nn
from tqdm import tqdm

from medseg import volumes
from medseg.commands._networks import load_network, pick_device, segment
from medseg.commands._reports import files_of, to_json
from medseg.commands._volumes import (
    SUFFIXES,
    is_volume,
    segment_volume,
    stem,
    volume_files,
)
from medseg.imagefiles import read_image, shorten


def predict(
    *,
    model: Path,
    images: Path,
    out: Path,
    threshold: float,
    force: bool,
    device: str,
    json: bool = False,
) -> int:
    """Write a mask for each image."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"--threshold must lie between 0 and 1, got {threshold}.")
    network, settings = load_network(model, pick_device(device), volumes=True)
    if settings["network"] == "unet3d":
        paths, ending, write = _scans(images), ".nii.gz", _write_scan
    elif is_volume(images):
        raise ValueError(
            f"{images} holds scans, but {model} takes images. Train a network on "
            "scans: `medseg train SCANS MASKS` with two folders of them."
        )
    else:
        paths, ending, write = files_of(images), ".png", _write_image
    targets = [out / f"{stem(path)}{ending}" for path in paths]
    if twice := sorted({t.name for t in targets if targets.count(t) > 1}):
        raise ValueError(
            f"several images in {images} would get the mask {shorten(twice)}: their "
            "names differ in the ending only. Rename them."
        )
    if not force and (there := [t.name for t in targets if t.exists()]):
        raise ValueError(
            f"{len(there)} of {len(targets)} masks exist in {out} already "
            f"({shorten(there, 3)}). Give another --out, or --force to replace them."
        )
    out.mkdir(parents=True, exist_ok=True)
    _write_all(write, network, settings, threshold, paths, targets)
    classes = settings["out_channels"]
    if json:
        masks = [
            {"image": str(path), "mask": str(target)}
            for path, target in zip(paths, targets, strict=True)
        ]
        print(to_json({"model": str(model), "classes": classes, "masks": masks}))
        return 0
    kind = f"classes 0..{classes - 1}"
    if classes == 1:
        kind = "0 and 255" if ending == ".png" else "0 and 1"
    print(f"{len(paths)} masks ({kind}) in {out}")
    return 0


def _write_all(
    write: Callable[..., None],
    network: nn.Module,
    settings: dict[str, Any],
    threshold: float,
    paths: list[Path],
    targets: list[Path],
) -> None:
    bar = tqdm(paths, disable=None, file=sys.stderr)  # None: on a terminal alone
    for path, target in zip(bar, targets, strict=True):
        write(network, settings, threshold, path, target)


def _write_image(
    network: nn.Module,
    settings: dict[str, Any],
    threshold: float,
    path: Path,
    target: Path,
) -> None:
    """A PNG of the image's own size: 0 and 255, or class numbers."""
    pixels = read_image(path, settings["in_channels"])
    labels = segment(network, settings, pixels, threshold)
    mask = labels * 255 if settings["out_channels"] == 1 else labels
    unfinished = target.with_name(f".{target.stem}.unfinished.png")
    try:
        imsave(unfinished, mask.astype(np.uint8), check_contrast=False)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_scan(
    network: nn.Module,
    settings: dict[str, Any],
    threshold: float,
    path: Path,
    target: Path,
) -> None:
    """A NIfTI file in the scan's own grid, with class numbers."""
    scan = volumes.read_volume(path)
    volumes.write_nifti(segment_volume(network, settings, scan, threshold), target)


def _scans(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist (looked for from {Path.cwd()})."
        )
    if not (found := volume_files(path)):
        raise ValueError(
            f"{path} holds no scan ({', '.join(SUFFIXES)}), which this network takes."
        )
    return found
