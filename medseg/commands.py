"""What the commands of ``medseg`` do, a few lines each around public functions.

Each function is one command: keyword arguments are its options (described in
``medseg COMMAND --help``), and it prints its result and returns the exit status. Bad
input is a ``ValueError`` or an ``OSError``, which ``medseg.cli`` turns into one line.
"""

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from skimage.io import imsave
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

import medseg
from medseg import datasets as registry
from medseg import phantoms, plots, training
from medseg.checkpoints import load_checkpoint
from medseg.datasets import MedicalImageDataset
from medseg.imagefiles import images_in, pair_files, read_image, read_mask, shorten
from medseg.inference import predict_probabilities, to_labels
from medseg.losses import cross_entropy_dice
from medseg.metrics import dice_score, iou_score
from medseg.models.summary import describe as describe_model
from medseg.models.unet import UNet, UNet2015
from medseg.statistics import Interval, bootstrap_interval
from medseg.transforms import make_train_transform, make_val_transform

DEMO_FILES = (
    "train",
    "test",
    "best_model.pth",
    "best_model.last.pth",
    "best_model.json",
    "overlay.png",
    "curves.png",
    "report.json",
)


def demo(*, out: Path, force: bool, device: str, epochs: int, count: int) -> int:
    """Draw cells, train, test on others, and write pictures and a report."""
    where = _device(device)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not force)):
        raise ValueError(
            f"{out} exists and is not an empty folder. Give another name with --out, "
            "or let --force replace the files of an earlier demo in it."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as name:
        draft = Path(name)
        _run_demo(draft, where, epochs, count)
        out.mkdir(exist_ok=True)
        for item in DEMO_FILES:
            _remove(out / item)
            (draft / item).rename(out / item)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    print(
        f"\ntest Dice {report['test_dice']['text']}\n"
        "  the mean over images that the network has not seen, and its 95 % interval;\n"
        "  these images are drawn, and easier than real ones\n\n"
        f"{out / 'overlay.png'}  outlines, from the worst image to the best\n"
        f"{out / 'curves.png'}  loss and validation Dice\n"
        f"{out / 'report.json'}  the figures\n"
        f"{out / 'best_model.pth'}  the network; to try it:\n"
        f"  medseg predict {out / 'best_model.pth'} {out / 'test' / 'images'} "
        f"--out {out / 'predicted'}"
    )
    return 0


def _run_demo(folder: Path, device: torch.device, epochs: int, count: int) -> None:
    settings: dict[str, Any] = {
        "network": "unet",
        "in_channels": 1,
        "out_channels": 1,
        "widths": [8, 16, 32, 64],
        "size": 128,
    }
    size = (settings["size"], settings["size"])
    print(f"drawing {count} images to train on, and as many to test on")
    train_dirs = phantoms.write_cells(folder / "train", count, seed=0, size=size)
    test_dirs = phantoms.write_cells(folder / "test", count, seed=1, size=size)
    data = _split(*train_dirs, fraction=0.2, settings=settings)
    out = folder / "best_model.pth"
    records = _fit(data, settings, out, device, epochs=epochs, lr=3e-3, batch_size=8)

    model, _ = _load_network(out, device)
    cases = []
    for path, mask_path in zip(*pair_files(*test_dirs), strict=True):
        image, truth = read_image(path, channels=1), read_mask(mask_path)
        pred = _segment(model, settings, image)
        cases.append((dice_score(pred, truth), image, truth, pred))
    dice, images, truths, preds = (list(part) for part in zip(*cases, strict=True))
    interval = bootstrap_interval(dice)
    order = np.argsort(dice)  # an undefined score, nan, comes last
    shown = dict.fromkeys(order[np.linspace(0, len(order) - 1, 8).astype(int)].tolist())

    plots.set_style()
    figure = plots.panel(
        [images[i] for i in shown],
        [f"Dice {dice[i]:.3f}" for i in shown],
        truths=[truths[i] for i in shown],
        preds=[preds[i] for i in shown],
    )
    figure.savefig(folder / "overlay.png")
    plt.close(figure)
    figure = plots.training_curves(records)
    figure.savefig(folder / "curves.png")
    plt.close(figure)
    report = {
        "medseg": medseg.__version__,
        "torch": torch.__version__,
        "device": str(device),
        "data": "drawn images of cells (phantoms)",
        "images": {"train and validation": count, "test": count},
        "epochs": epochs,
        "seconds": round(sum(record.seconds for record in records), 1),
        "test_dice": _summary(interval),
        "test_dice_per_image": [_number(value) for value in dice],
    }
    _write_json(folder / "report.json", report)


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
    where = _device(device)
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
        data = _split(images, masks, fraction=val_fraction, settings=settings)
    else:
        data = (
            _dataset(images, masks, settings, train=True),
            _dataset(val_images, val_masks, settings, train=False),
        )
    _check_output(out, settings, resume=resume, force=force)
    records = _fit(
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


def predict(
    *, model: Path, images: Path, out: Path, threshold: float, force: bool, device: str
) -> int:
    """Write a mask for each image."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"--threshold must lie between 0 and 1, got {threshold}.")
    network, settings = _load_network(model, _device(device))
    paths = _files(images)
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
        labels = _segment(network, settings, pixels, threshold)
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


def evaluate(*, pred: Path, truth: Path, classes: int, json: bool) -> int:
    """Score masks against a reference, image by image."""
    if pred.is_dir() != truth.is_dir():
        raise ValueError(f"give two folders or two files, got {pred} and {truth}.")
    if pred.is_dir():
        preds, truths = pair_files(pred, truth)
    else:
        preds, truths = _files(pred), _files(truth)
    table, missed = [], 0  # (images, foreground classes, 2)
    for pred_path, truth_path in zip(preds, truths, strict=True):
        ours, theirs = read_mask(pred_path, classes), read_mask(truth_path, classes)
        if ours.shape != theirs.shape:
            raise ValueError(
                f"{pred_path} has {ours.shape} pixels, but its reference {truth_path} "
                f"has {theirs.shape}. Resize the prediction to the reference."
            )
        row = []
        for label in range(1, max(classes, 2)):
            pair = ours == label, theirs == label
            row.append((dice_score(*pair), iou_score(*pair)))
            missed += bool(pair[1].any() and not pair[0].any())
        table.append(row)
    scores = np.array(table)
    undefined = int(np.isnan(scores[..., 0]).sum())
    defined = ~np.isnan(scores)
    sums = np.where(defined, scores, 0).sum(axis=1)  # (images, 2)
    counts = defined.sum(axis=1)
    means = np.where(counts, sums / np.maximum(counts, 1), np.nan)
    intervals = [bootstrap_interval(column) for column in means.T]
    if json:
        report = {
            "dice": _summary(intervals[0]),
            "iou": _summary(intervals[1]),
            "missed": missed,
            "undefined": undefined,
            "images": [
                {"name": path.name, "dice": _number(dice), "iou": _number(iou)}
                for path, (dice, iou) in zip(preds, means, strict=True)
            ],
        }
        print(_to_json(report))
        return 0
    wide = max(len(path.name) for path in preds)
    print(f"{'image':{wide}}    Dice     IoU")
    for path, (dice, iou) in zip(preds, means, strict=True):
        print(f"{path.name:{wide}}  {dice:6.4f}  {iou:6.4f}")
    print(
        f"\nDice  {intervals[0]}\nIoU   {intervals[1]}\n"
        "mean over images, with its 95 % bootstrap interval\n"
        f"missed: {missed} (in the reference, and not found; scored 0)\n"
        f"undefined: {undefined} (empty in both; left out)"
    )
    return 0


def describe(
    *, network: str, size: int | None, widths: list[int], channels: int, classes: int
) -> int:
    """Print the layers of a network."""
    if network == "unet2015":
        model: nn.Module = UNet2015(channels, classes, widths=widths)
        size = size or 572
    else:
        model = UNet(channels, classes, widths=widths)
        size = size or 256
    print(describe_model(model, (1, channels, size, size)))
    return 0


def datasets(*, action: str, name: str | None, dir: Path | None) -> int:
    """List the public data sets, print what is known of one, or download it."""
    if action == "list":
        for known in registry.names():
            about = registry.info(known)
            here = "here" if registry.is_available(known, dir) else "not here"
            print(
                f"{known:10} {here:9} {about.size_bytes / 1e6:5.0f} MB  {about.title}"
            )
        return 0
    if name is None:
        raise ValueError(
            f"`medseg datasets {action}` needs a name: {', '.join(registry.names())}."
        )
    if action == "info":
        for field, value in asdict(registry.info(name)).items():
            print(f"{field:11} {'not known' if value is None else value}")
        available = registry.is_available(name, dir)
        print(f"{'here':11} {registry.find(name, dir) if available else 'no'}")
        return 0
    print(registry.download(name, dir))
    return 0


def doctor(*, json: bool) -> int:
    """Check versions, device, data and disk; 1 if something is wrong."""
    checks = [("python", sys.version_info >= (3, 11), platform.python_version())]
    for line in importlib.metadata.requires("medseg") or []:
        if "extra ==" not in line:
            checks.append(_check_version(line))
    checks.append(("medseg", True, medseg.__version__))
    where = _device("auto")
    about = torch.cuda.get_device_name() if where.type == "cuda" else platform.machine()
    checks.append(("device", True, f"{where}, {about}"))
    checks.append(("threads", True, str(torch.get_num_threads())))
    try:
        model = UNet(1, 1, widths=(4, 8)).to(where)
        model(torch.zeros(2, 1, 16, 16, device=where)).sum().backward()
        checks.append(("training", True, f"a step works on {where}"))
    except RuntimeError as error:
        checks.append(("training", False, f"a step fails on {where}: {error}"))
    root = registry.data_root()
    for known in registry.names():
        here = registry.is_available(known)
        text = str(registry.find(known)) if here else f"not in {root} (optional)"
        checks.append((f"data {known}", True, text))
    disk = next(
        folder for folder in (root, *root.absolute().parents) if folder.is_dir()
    )
    free = shutil.disk_usage(disk).free / 1e9
    checks.append(("free disk", free >= 1, f"{free:.1f} GB at {disk} (1 GB needed)"))
    fine = all(good for _, good, _ in checks)
    if json:
        listed = [{"name": n, "ok": good, "found": text} for n, good, text in checks]
        print(_to_json({"ok": fine, "checks": listed}))
    else:
        for title, good, text in checks:
            print(f"{'ok ' if good else 'BAD'}  {title:16} {text}")
        print("all is well" if fine else "something is wrong: see the lines with BAD")
    return 0 if fine else 1


# Training on folders.


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


def _split(
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
    order = sorted(range(len(names)), key=lambda i: _hash(names[i]))
    held = min(max(1, round(fraction * len(names))), len(names) - 1)
    return (
        Subset(parts[0], sorted(order[held:])),
        Subset(parts[1], sorted(order[:held])),
    )


def _hash(name: str) -> str:
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
        known = _read_settings(sidecar)
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


def _fit(
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
    _write_json(out.with_suffix(".json"), settings)
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


# Networks and masks.


def _load_network(path: Path, device: torch.device) -> tuple[nn.Module, dict[str, Any]]:
    """The network that ``train`` wrote, and its settings."""
    state = load_checkpoint(path)
    settings = _read_settings(path.with_suffix(".json"))
    model = UNet(
        settings["in_channels"], settings["out_channels"], widths=settings["widths"]
    )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit its settings in {path.with_suffix('.json')}. Was one "
            "of them replaced? Use the two files of one training."
        ) from error
    return model.to(device).eval(), settings


def _read_settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}: the network's settings, which `medseg train` writes "
            "beside the weights. Copy it to the same place."
        )
    kinds = {
        "network": str,
        "in_channels": int,
        "out_channels": int,
        "widths": list,
        "size": int,
    }
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        good = all(isinstance(settings[key], kind) for key, kind in kinds.items())
    except (ValueError, KeyError, TypeError):
        good = False
    if not good or settings["network"] != "unet":
        raise ValueError(
            f"{path} does not hold the settings of a network ({', '.join(kinds)}), "
            "which `medseg train` writes."
        )
    return {key: settings[key] for key in kinds}


@torch.no_grad()
def _segment(
    model: nn.Module,
    settings: dict[str, Any],
    image: NDArray[np.uint8],
    threshold: float = 0.5,
) -> NDArray[np.int64]:
    """Labels ``(H, W)`` of an image ``(H, W, C)``, at the image's own size."""
    transform = make_val_transform(settings["size"], channels=settings["in_channels"])
    device = next(model.parameters()).device
    batch = transform(image=image)["image"][None].to(device)
    probabilities = nn.functional.interpolate(
        predict_probabilities(model, batch),
        size=image.shape[:2],
        mode="bilinear",
        align_corners=False,
    )
    labels: NDArray[np.int64] = (
        to_labels(probabilities, threshold=threshold)[0].cpu().numpy()
    )
    return labels


def _files(path: Path) -> list[Path]:
    """The images of a folder, or the one file."""
    if path.is_file():
        return [path]
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist (looked for from {Path.cwd()})."
        )
    return images_in(path)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"--device {name} cannot be used here: {str(error).splitlines()[0]} "
            "Try --device cpu."
        ) from error
    return device


# Reports.


def _check_version(requirement: str) -> tuple[str, bool, str]:
    """Compare a requirement such as ``numpy>=2`` with what is installed."""
    name, _, least = requirement.split(";")[0].strip().partition(">=")
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return name, False, f"not installed; pip install '{requirement}'"
    numbers = [
        [int(n) for n in re.findall(r"\d+", text.split("+")[0])[:3]]
        for text in (found, least)
    ]
    good = numbers[0] >= numbers[1]
    return name, good, found if good else f"{found}; {requirement} is needed"


def _number(value: float) -> float | None:
    """A number for JSON, which has no nan."""
    return None if math.isnan(value) else float(value)


def _summary(interval: Interval) -> dict[str, Any]:
    low, high = _number(interval.low), _number(interval.high)
    return {
        "mean": _number(interval.mean),
        "low": low,
        "high": high,
        "n": interval.n,
        "undefined": interval.undefined,
        "text": str(interval),
    }


def _to_json(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False)


def _write_json(path: Path, value: Any) -> None:
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(_to_json(value) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
