"""The network that ``medseg train`` wrote, its settings, and where it runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medseg.checkpoints import load_checkpoint
from medseg.inference import predict_probabilities, to_labels
from medseg.models.unet import UNet
from medseg.transforms import make_val_transform


def load_network(path: Path, device: torch.device) -> tuple[nn.Module, dict[str, Any]]:
    """The network that ``train`` wrote, and its settings."""
    state = load_checkpoint(path)
    settings = read_settings(path.with_suffix(".json"))
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


def read_settings(path: Path) -> dict[str, Any]:
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
def segment(
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


def pick_device(name: str) -> torch.device:
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
