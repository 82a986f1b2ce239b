"""``medseg train``: a U-Net on a folder of images and a folder of masks."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from medseg import training
from medseg.commands._networks import pick_device, read_settings
from medseg.commands._reports import write_json
from medseg.datasets import MedicalImageDataset
from medseg.losses import cross_entropy_dice
from medseg.models.unet import UNet
from medseg.transforms import make_train_transform, make_val_transform


def train(
    *,
    images: Path,
    masks: Path,
    val_images: Path | None,
    val_masks: Path | None,
    val_fraction: float,
    epochs: int,
    lr: float,
    batch_size: int,
    size: int,
    widths: list[int],
    channels: int,
    classes: int,
    seed: int,
    workers: int,
    out: Path,
    resume: bool,
    force: bool,
    device: str,
) -> int:
    """Train a U-Net on folders, and keep the weights of the best epoch."""
    where = pick_device(device)
    settings = {
        "network": "unet",
        "in_channels": channels,
        "out_channels": classes,
        "widths": widths,
        "size": size,
    }
    if (val_images is None) != (val_masks is None):
        raise ValueError(
            "--val-images and --val-masks go together: give both, or none."
        )
    if val_images is None or val_masks is None:
        data = split(images, masks, fraction=val_fraction, settings=settings)
    else:
        data = (
            _dataset(images, masks, settings, train=True),
            _dataset(val_images, val_masks, settings, train=False),
        )
    _check_output(out, settings, resume=resume, force=force)
    records = fit(
        data,
        settings,
        out,
        where,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        seed=seed,
        workers=workers,
        resume=resume,
    )
    best = max(records, key=lambda r: (np.nan_to_num(r.val_dice, nan=-1), -r.val_loss))
    print(
        f"best: epoch {best.epoch}, validation Dice {best.val_dice:.4f}\n"
        f"{out}  its weights\n"
        f"{out.with_suffix('.json')}  its settings; `medseg predict` reads both"
    )
    return 0


def _dataset(
    images: Path, masks: Path, settings: dict[str, Any], *, train: bool
) -> MedicalImageDataset:
    make = make_train_transform if train else make_val_transform
    channels = settings["in_channels"]
    return MedicalImageDataset(
        images,
        masks,
        make(settings["size"], channels=channels),
        num_classes=settings["out_channels"],
        channels=channels,
    )


def split(
    images: Path, masks: Path, *, fraction: float, settings: dict[str, Any]
) -> tuple[Dataset[Any], Dataset[Any]]:
    """Training and validation data from one folder, by a hash of the names.

    So an image stays on its side when others are added, and order means nothing.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"--val-fraction must lie between 0 and 1, got {fraction}.")
    parts = [_dataset(images, masks, settings, train=train) for train in (True, False)]
    names = [path.stem for path in parts[0].image_paths]
    if len(names) < 2:
        raise ValueError(
            f"{images} holds one image; to train and to validate takes two or more."
        )
    order = sorted(range(len(names)), key=lambda i: hash_of(names[i]))
    held = min(max(1, round(fraction * len(names))), len(names) - 1)
    return (
        Subset(parts[0], sorted(order[held:])),
        Subset(parts[1], sorted(order[:held])),
    )


def hash_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _check_output(
    out: Path, settings: dict[str, Any], *, resume: bool, force: bool
) -> None:
    """Never overwrite a network by mistake, nor resume another one."""
    if out.suffix != ".pth":
        raise ValueError(f"--out must end in .pth, got {out}.")
    last, sidecar = out.with_name(f"{out.stem}.last.pth"), out.with_suffix(".json")
    there = [path for path in (out, last, sidecar) if path.exists()]
    if resume and sidecar.exists():
        known = read_settings(sidecar)
        if wrong := {k: v for k, v in known.items() if settings[k] != v}:
            listed = ", ".join(f"{k} {v} (now {settings[k]})" for k, v in wrong.items())
            raise ValueError(
                f"{out} is of another network: {listed}. Give the same options to "
                "--resume it, or another --out."
            )
    elif there and not (resume or force):
        raise ValueError(
            f"{there[0]} exists. Add --resume to go on with it, --force to replace it, "
            "or give another --out."
        )
    elif not resume:
        for path in there:  # no weights may stay behind beside another's settings
            path.unlink()


def fit(
    data: tuple[Dataset[Any], Dataset[Any]],
    settings: dict[str, Any],
    out: Path,
    device: torch.device,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    seed: int = 0,
    workers: int = 0,
    resume: bool = False,
) -> list[training.EpochRecord]:
    """Train the U-Net of these settings, and write them beside the weights."""
    torch.manual_seed(seed)
    model = UNet(
        settings["in_channels"], settings["out_channels"], widths=settings["widths"]
    )
    shuffle = torch.Generator().manual_seed(seed)
    options: dict[str, Any] = {"batch_size": batch_size, "num_workers": workers}
    train_loader = DataLoader(data[0], shuffle=True, generator=shuffle, **options)
    val_loader = DataLoader(data[1], **options)
    num_images, num_val = (len(part) for part in data)  # type: ignore[arg-type]
    num_weights = sum(weight.numel() for weight in model.parameters())
    print(
        f"{num_images} images to train on, {num_val} to validate on; U-Net with "
        f"{num_weights:,} parameters on {device}"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out.with_suffix(".json"), settings)
    return training.train(
        model,
        train_loader,
        val_loader,
        cross_entropy_dice,
        torch.optim.Adam(model.parameters(), lr=lr),
        epochs,
        device,
        checkpoint=out,
        resume=resume,
        progress=sys.stderr.isatty(),
    )
