"""Writing a network to a file, and holding the file against the network."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg.export._loaded import KEY, load_exported, need, quiet
from medseg.export._metadata import Metadata
from medseg.export._trace import difference, pattern, spread, trace_network
from medseg.inference import evaluation_mode


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    images: Tensor,
    metadata: Metadata | None = None,
) -> None:
    """Write a network as an ONNX file, with its metadata in ``metadata_props``.

    The input is called ``images`` and the output ``logits``. The batch is left free,
    and so are the sizes, as multiples of the network's ``stride``, if it works at
    another size too, which is tried; if not, it takes the size of ``images`` alone.
    The file is whole or not there.

    Args:
        model: Any network that maps images to logits ``(B, K, *spatial)``. It is
            exported in evaluation mode, from the CPU, and left as it was.
        path: The file, ending in ``.onnx``; one that is there is replaced.
        images: An example, ``(B, C, H, W)`` or ``(B, C, D, H, W)``, float32.
        metadata: What else to store.

    Raises:
        ImportError: ``medseg[export]`` is not installed.
        TypeError: The images are not float32, or the network returns something else
            than one tensor.
        ValueError: The metadata do not fit the network, the name of the file does not
            end in ``.onnx``, or PyTorch cannot export the network.
    """
    path = _check_path(path, ".onnx")
    need("onnxscript")
    program, record = trace_network(model, images, metadata or Metadata())
    with quiet():
        onnx: Any = torch.onnx.export(
            program,
            (),
            input_names=["images"],
            output_names=["logits"],
            dynamo=True,
            verbose=False,
        )
    onnx.model.metadata_props[KEY] = json.dumps(record)
    _write(path, lambda unfinished: onnx.save(unfinished))


def export_program(
    model: nn.Module,
    path: str | os.PathLike[str],
    images: Tensor,
    metadata: Metadata | None = None,
) -> None:
    """Write a network as a program of ``torch.export``, with its metadata inside.

    Batch and sizes are left free as in ``export_onnx``. The file is whole or not
    there.

    Args:
        model: Any network that maps images to logits ``(B, K, *spatial)``.
        path: The file, ending in ``.pt2``; one that is there is replaced.
        images: An example, ``(B, C, H, W)`` or ``(B, C, D, H, W)``, float32.
        metadata: What else to store.

    Raises:
        TypeError: The images are not float32, or the network returns something else
            than one tensor.
        ValueError: The metadata do not fit the network, the name of the file does not
            end in ``.pt2``, or PyTorch cannot export the network.
    """
    path = _check_path(path, ".pt2")
    program, record = trace_network(model, images, metadata or Metadata())
    extra = {f"{KEY}.json": json.dumps(record)}
    with quiet():
        _write(path, lambda file: torch.export.save(program, file, extra_files=extra))


@torch.no_grad()
def check_exported(
    path: str | os.PathLike[str], model: nn.Module, images: Tensor
) -> float:
    """Run a file and the network it came from on the same images.

    Args:
        path: What ``export_onnx`` or ``export_program`` wrote.
        model: The network.
        images: ``(B, C, *spatial)``, float32, of a size that the file takes.

    Returns:
        The largest difference between two logits, divided by the largest logit if
        that is above 1. In float32 it should stay below 1e-4.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read, or does not take these images.
    """
    exported = load_exported(path)
    device = next((weight.device for weight in model.parameters()), images.device)
    with evaluation_mode(model):
        expected = model(images.to(device)).float().cpu()
    return difference(exported(images), expected)


def verify_exported(path: str | os.PathLike[str]) -> float:
    """Run a file on the test pattern that it was exported with.

    The file keeps some logits that the network gave for it, so that no weights are
    needed: a file that was sent, converted or is read by another version can be
    checked where it runs.

    Args:
        path: What ``export_onnx`` or ``export_program`` wrote.

    Returns:
        As ``check_exported``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read.
    """
    exported = load_exported(path)
    probe = exported.record["probe"]
    logits = exported(pattern(probe["shape"])).flatten()
    kept = torch.tensor(probe["logits"])
    return difference(logits[spread(logits.numel())], kept)


def _check_path(path: str | os.PathLike[str], suffix: str) -> Path:
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"the file must end in {suffix}, got {path}.")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent}; make it first.")
    return path


def _write(path: Path, save: Callable[[Path], None]) -> None:
    """Write to another name in the same folder, and move."""
    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    try:
        save(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
