"""``medseg predict``: a mask for each image."""

import os
from pathlib import Path

import numpy as np
from skimage.io import imsave
from tqdm import tqdm

from medseg.commands._networks import load_network, pick_device, segment
from medseg.commands._reports import files_of
from medseg.imagefiles import read_image, shorten


def predict(
    *, model: Path, images: Path, out: Path, threshold: float, force: bool, device: str
) -> int:
    """Write a mask for each image."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"--threshold must lie between 0 and 1, got {threshold}.")
    network, settings = load_network(model, pick_device(device))
    paths = files_of(images)
    targets = [out / f"{path.stem}.png" for path in paths]
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
    binary = settings["out_channels"] == 1
    for path, target in zip(tqdm(paths, disable=None), targets, strict=True):
        pixels = read_image(path, settings["in_channels"])
        labels = segment(network, settings, pixels, threshold)
        mask = (labels * 255 if binary else labels).astype(np.uint8)
        unfinished = target.with_name(f".{target.stem}.unfinished.png")
        try:
            imsave(unfinished, mask, check_contrast=False)
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)
    kind = "0 and 255" if binary else f"classes 0..{settings['out_channels'] - 1}"
    print(f"{len(paths)} masks ({kind}) in {out}")
    return 0
