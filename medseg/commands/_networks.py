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

# What is written beside the weights, and of which kind.
COMMON = {"network": str, "in_channels": int, "out_channels": int, "widths": list}
KINDS: dict[str, dict[str, Any]] = {
    "unet": {**COMMON, "size": int},
    "unet3d": {
        **COMMON,
        "patch": list,
        "spacing": list,
        "orientation": str,
        "fingerprint": dict | None,
    },
}


def build(settings: dict[str, Any]) -> nn.Module:
    """The network of some settings, with new weights."""
    channels = settings["in_channels"], settings["out_channels"]
    if settings["network"] == "unet3d":
        # Few patches make a batch: too few for batch norm.
        options: dict[str, Any] = {"norm": "instance", "spatial_dims": 3}
        return UNet(*channels, widths=settings["widths"], **options)
    return UNet(*channels, widths=settings["widths"])


def load_network(
    path: Path, device: torch.device, *, volumes: bool = False
) -> tuple[nn.Module, dict[str, Any]]:
    """The network that ``train`` wrote, and its settings.

    Raises:
        FileNotFoundError: One of the two files is not there.
        ValueError: They are damaged, do not belong together, or are of a network for
            scans where ``volumes`` does not allow one.
    """
    state = load_checkpoint(path)
    settings = read_settings(path.with_suffix(".json"))
    if settings["network"] == "unet3d" and not volumes:
        raise ValueError(
            f"{path} is a network for scans, in 3D; this takes one for images."
        )
    model = build(settings)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit its settings in {path.with_suffix('.json')}. Was one "
            "of them replaced? Use the two files of one training."
        ) from error
    return model.to(device).eval(), settings


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that ``train`` writes beside the weights.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}: the network's settings, which `medseg train` writes "
            "beside the weights. Copy it to the same place."
        )
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        kinds = KINDS[settings["network"]]
        good = all(isinstance(settings[key], kind) for key, kind in kinds.items())
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise ValueError(
            f"{path} does not hold the settings of a network "
            f"({', '.join(KINDS['unet'])}), which `medseg train` writes."
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
