"""``medseg demo``: phantoms, a short training, a picture and a report."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

import medseg
from medseg import phantoms, plots
from medseg.commands._networks import load_network, pick_device, segment
from medseg.commands._reports import number, summary, write_json
from medseg.commands._train import fit, split
from medseg.imagefiles import pair_files, read_image, read_mask
from medseg.metrics import dice_score
from medseg.statistics import bootstrap_interval

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
    where = pick_device(device)
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
    data = split(*train_dirs, fraction=0.2, settings=settings)
    out = folder / "best_model.pth"
    records = fit(data, settings, out, device, epochs=epochs, lr=3e-3, batch_size=8)

    model, _ = load_network(out, device)
    cases = []
    for path, mask_path in zip(*pair_files(*test_dirs), strict=True):
        image, truth = read_image(path, channels=1), read_mask(mask_path)
        pred = segment(model, settings, image)
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
        "test_dice": summary(interval),
        "test_dice_per_image": [number(value) for value in dice],
    }
    write_json(folder / "report.json", report)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
