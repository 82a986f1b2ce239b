"""``medseg train``: a U-Net on a folder of images or scans and a folder of masks."""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from medseg import logs, schedules, training
from medseg.commands._networks import build, pick_device, read_settings
from medseg.commands._reports import number, patient_of, to_json, write_json
from medseg.commands._volumes import (
    is_volume,
    measure,
    pair_volumes,
    read_cases,
    volume_data,
)
from medseg.datasets import MedicalImageDataset
from medseg.losses import cross_entropy_dice
from medseg.transforms import make_train_transform, make_val_transform

Data = tuple[Dataset[Any], Dataset[Any]]


def train(
    *,
    images: Path,
    masks: Path,
    val_images: Path | None,
    val_masks: Path | None,
    val_fraction: float,
    patients: str | None,
    epochs: int,
    lr: float,
    schedule: str,
    warm_up: int,
    batch_size: int | None,
    accumulate: int,
    clip: float | None,
    ema: float | None,
    patience: int | None,
    precision: str,
    size: int,
    patch: list[int] | None,
    modality: str,
    widths: list[int] | None,
    channels: int,
    classes: int,
    seed: int,
    workers: int,
    out: Path,
    checkpoint_every: int | None,
    csv: Path | None,
    tensorboard: Path | None,
    resume: bool,
    force: bool,
    device: str,
    json: bool,
) -> int:
    """Train a U-Net on folders, and keep the weights of the best epoch."""
    where = pick_device(device)
    if (val_images is None) != (val_masks is None):
        raise ValueError(
            "--val-images and --val-masks go together: give both, or none."
        )
    if warm_up >= epochs and schedule != "constant":
        raise ValueError(f"--warm-up {warm_up} must be less than --epochs {epochs}.")
    separate = (val_images, val_masks) if val_images and val_masks else None
    options: dict[str, Any] = {"fraction": val_fraction, "patients": patients}
    if is_volume(images):
        settings: dict[str, Any] = {
            "network": "unet3d",
            "out_channels": classes,
            "widths": widths or [16, 32, 64, 128],
        }
        data = _volume_split(
            images, masks, separate, settings, patch, modality, seed, **options
        )
    else:
        settings = {
            "network": "unet",
            "in_channels": channels,
            "out_channels": classes,
            "widths": widths or [16, 32, 64, 128, 256],
            "size": size,
        }
        if separate is None:
            data = split(images, masks, settings=settings, **options)
        else:
            data = (
                _dataset(images, masks, settings, train=True),
                _dataset(*separate, settings, train=False),
            )
    # Under torchrun only the first process writes.
    first = int(os.environ.get("RANK", 0)) == 0
    if first:
        _check_output(out, settings, resume=resume, force=force)
    log: list[Any] = [] if json else [print]
    log += [logs.csv_log(csv)] if csv and first else []
    log += [logs.tensorboard_log(tensorboard)] if tensorboard and first else []
    records = fit(
        data,
        settings,
        out,
        where,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size or (2 if "patch" in settings else 8),
        seed=seed,
        workers=workers,
        schedule=schedule,
        warm_up=warm_up,
        log=log,
        quiet=json or not first,
        resume=resume,
        accumulate=accumulate,
        clip_norm=clip,
        ema_decay=ema,
        patience=patience,
        precision=precision,
        checkpoint_every=checkpoint_every,
    )
    best = max(records, key=lambda r: (np.nan_to_num(r.val_dice, nan=-1), -r.val_loss))
    if json:
        lines = [
            {key: number(value) for key, value in record._asdict().items()
             if isinstance(value, int | float)}
            for record in records
        ]  # fmt: skip
        found = {"weights": str(out), "best_epoch": best.epoch, "epochs": lines}
        print(to_json(found))
    elif first:
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
    images: Path,
    masks: Path,
    *,
    fraction: float,
    settings: dict[str, Any],
    patients: str | None = None,
) -> Data:
    """Training and validation data from one folder of images."""
    parts = [_dataset(images, masks, settings, train=train) for train in (True, False)]
    names = [path.stem for path in parts[0].image_paths]
    kept, held = choose(names, fraction, images, patients)
    return Subset(parts[0], kept), Subset(parts[1], held)


def _volume_split(
    images: Path,
    masks: Path,
    separate: tuple[Path, Path] | None,
    settings: dict[str, Any],
    patch: list[int] | None,
    modality: str,
    seed: int,
    *,
    fraction: float,
    patients: str | None,
) -> Data:
    """The same of a folder of scans; what they decide is added to ``settings``."""
    cases = read_cases(pair_volumes(images, masks))
    if separate is None:
        names = [case.name for case in cases]
        kept, held = choose(names, fraction, images, patients)
        parts = [cases[i] for i in kept], [cases[i] for i in held]
    else:
        parts = cases, read_cases(pair_volumes(*separate))
    settings |= measure(parts[0], patch, modality)
    return (
        volume_data(parts[0], settings, train=True, seed=seed),
        volume_data(parts[1], settings, train=False, seed=seed),
    )


def choose(
    names: list[str], fraction: float, folder: Path, patients: str | None = None
) -> tuple[list[int], list[int]]:
    """Numbers to train on and to validate on, by a hash of the patients' names.

    So an image stays on its side when others are added, and order means nothing.
    Without ``patients`` each image is one.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"--val-fraction must lie between 0 and 1, got {fraction}.")
    groups = [patient_of(name, patients) if patients else name for name in names]
    unlike = sorted(set(groups), key=hash_of)
    if len(unlike) < 2:
        one = "image" if patients is None else "patient"
        raise ValueError(
            f"{folder} holds one {one}; to train and to validate takes two or more."
        )
    held = set(unlike[: min(max(1, round(fraction * len(unlike))), len(unlike) - 1)])
    numbers = range(len(names))
    return (
        [i for i in numbers if groups[i] not in held],
        [i for i in numbers if groups[i] in held],
    )


def hash_of(name: str) -> str:
    """What decides on which side of a split an image stands."""
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
        if wrong := {k: v for k, v in known.items() if settings.get(k) != v}:
            listed = ", ".join(
                f"{k} {v} (now {settings.get(k)})" for k, v in wrong.items()
            )
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
    data: Data,
    settings: dict[str, Any],
    out: Path,
    device: torch.device,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    seed: int = 0,
    workers: int = 0,
    schedule: str = "constant",
    warm_up: int = 0,
    log: Any = print,
    quiet: bool = False,
    **options: Any,
) -> list[training.EpochRecord]:
    """Train the U-Net of these settings, and write them beside the weights."""
    torch.manual_seed(seed)
    model = build(settings)
    shuffle = torch.Generator().manual_seed(seed)
    loading: dict[str, Any] = {"batch_size": batch_size, "num_workers": workers}
    train_loader = DataLoader(data[0], shuffle=True, generator=shuffle, **loading)
    val_loader = DataLoader(data[1], **loading)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    scheduler = None
    if schedule != "constant":
        make = schedules.cosine if schedule == "cosine" else schedules.polynomial
        scheduler = make(optimizer, epochs, warm_up=warm_up)
    num_images, num_val = (len(part) for part in data)  # type: ignore[arg-type]
    num_weights = sum(weight.numel() for weight in model.parameters())
    what = "patches" if "patch" in settings else "images"
    if not quiet:
        print(
            f"{num_images} {what} to train on, {num_val} to validate on; U-Net with "
            f"{num_weights:,} parameters on {device}"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    if int(os.environ.get("RANK", 0)) == 0:
        write_json(out.with_suffix(".json"), settings)
    return training.train(
        model,
        train_loader,
        val_loader,
        cross_entropy_dice,
        optimizer,
        epochs,
        device,
        checkpoint=out,
        scheduler=scheduler,
        config={"learning rate": lr, "seed": seed, "settings": settings},
        progress=None if sys.stderr.isatty() else False,
        log=log,
        **options,
    )
