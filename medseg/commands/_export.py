"""``medseg export``: a trained network as a file for other programs."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from medseg.commands._networks import load_network
from medseg.export import (
    Metadata,
    check_exported,
    export_onnx,
    export_program,
    load_exported,
    verify_exported,
)

SUFFIX = {"onnx": ".onnx", "program": ".pt2"}
TOLERANCE = 1e-4  # relative to the largest logit, in float32
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def export(
    *,
    model: Path | None,
    format: str,
    out: Path | None,
    check: bool,
    class_names: list[str] | None,
    force: bool,
    verify: Path | None,
) -> int:
    """Export a network, or run an exported one on its test pattern."""
    if verify is not None:
        if model is not None or out is not None or check or class_names or force:
            raise ValueError("--verify FILE stands alone: it reads nothing else.")
        return _verify(verify)
    if model is None:
        raise ValueError("give the network to export, or --verify FILE.")
    suffix = SUFFIX[format]
    out = model.with_suffix(suffix) if out is None else out
    if out.suffix != suffix:
        raise ValueError(
            f"--out must end in {suffix} for --format {format}, got {out}."
        )
    if out.exists() and not force:
        raise ValueError(f"{out} exists. Add --force to replace it, or give --out.")

    network, settings = load_network(model, torch.device("cpu"))
    size, channels = settings["size"], settings["in_channels"]
    classes = settings["out_channels"]
    default = ["background", *(f"class {label}" for label in range(1, classes))]
    metadata = Metadata(
        channel_names=("red", "green", "blue") if channels == 3 else ("grey",),
        class_names=tuple(class_names or (default if classes > 1 else ["foreground"])),
        input_size=(size, size),
        window=(0.0, 255.0),
        **(IMAGENET if channels == 3 else {"mean": (0.5,), "std": (0.5,)}),
        description=f"medseg train: U-Net, widths {settings['widths']}",
    )
    images = torch.rand(
        (2, channels, size, size), generator=torch.Generator().manual_seed(0)
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write = export_onnx if format == "onnx" else export_program
    # What fails the check must not lie where the good file is expected.
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.stem}-") as folder:
        draft = Path(folder) / out.name
        try:
            write(network, draft, images, metadata)
            difference = check_exported(draft, network, images) if check else None
        except ImportError as error:
            raise ValueError(str(error)) from error
        if difference is not None and not _is_close(difference, "the network"):
            print(f"{out} was not written")
            return 1
        os.replace(draft, out)
    print(f"{out}  {out.stat().st_size / 1e6:.1f} MB")
    return 0


def _verify(path: Path) -> int:
    try:
        exported = load_exported(path)
        difference = verify_exported(path)
    except ImportError as error:
        raise ValueError(str(error)) from error
    free = "any size" if exported.record["pads"] else str(exported.size)
    print(
        f"{path}: {exported.record['channels']} channel(s), "
        f"{exported.record['classes']} class(es), {exported.axes}, images of {free}"
    )
    for name, value in vars(exported.metadata).items():
        if value not in (None, (), ""):
            print(f"  {name:13} {value}")
    return 0 if _is_close(difference, "what the network said") else 1


def _is_close(difference: float, other: str) -> bool:
    close = difference <= TOLERANCE
    print(
        f"largest difference to {other}: {difference:.1e} "
        f"({'at most' if close else 'MORE THAN'} {TOLERANCE:g})"
    )
    return close
