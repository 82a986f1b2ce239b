"""A network as a traced program, with as many free axes as it permits."""

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import medseg
from medseg.checks import check_finite, check_images
from medseg.export._loaded import ExportedModel, Run, missing, quiet
from medseg.export._metadata import Metadata

AXES = {2: "HW", 3: "DHW"}
SAMPLES = 64  # logits that a file keeps of its own network


def trace_network(
    model: nn.Module, images: Tensor, metadata: Metadata
) -> tuple[ExportedProgram, dict[str, Any]]:
    """The traced network, and what its file says about it, for JSON."""
    dims = images.ndim - 2 if isinstance(images, Tensor) else 2
    check_images(images, images.shape[1] if dims in (2, 3) else 0, max(2, min(dims, 3)))
    if images.dtype != torch.float32:
        raise TypeError(f"images must be float32, got {images.dtype}.")
    check_finite(images, "images")
    network = copy.deepcopy(model).cpu().eval()
    size = tuple(images.shape[2:])
    probe = pattern((1, *images.shape[1:]))
    with torch.no_grad():
        logits = network(probe)
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"{type(model).__name__} returned a {type(logits).__name__}, expected one "
            "tensor of logits. Wrap it in a module that returns the one to export."
        )
    metadata.check(images.shape[1], logits.shape[1], dims)
    record: dict[str, Any] = {
        "format": 1,
        "medseg": medseg.__version__,
        "torch": torch.__version__,
        "metadata": asdict(metadata),
        "axes": AXES[dims],
        "channels": images.shape[1],
        "classes": logits.shape[1],
        "output": "logits",
        "probe": {
            "shape": list(probe.shape),
            "logits": logits.flatten()[spread(logits.numel())].tolist(),
        },
    }
    program, free = _trace(network, probe)
    record |= {"size": list(size), "multiple": None, "batch": 1, "pads": False} | free
    return program, record


def _trace(network: nn.Module, probe: Tensor) -> tuple[ExportedProgram, dict[str, Any]]:
    """Trace with as many free axes as the network permits, and say which they are."""
    channels, size = probe.shape[1], tuple(probe.shape[2:])
    batch = {0: Dim("batch")}
    stride: Any = getattr(network, "stride", 1)
    multiple = (stride,) * len(size) if isinstance(stride, int) else tuple(stride)
    attempts: list[tuple[Any, tuple[int, ...], dict[str, Any]]] = []
    if not hasattr(network, "output_size"):  # a network of valid convolutions
        axes: dict[int, Any] = {
            axis: step * Dim(f"{name}_steps", min=2) if step > 1 else Dim(name, min=2)
            for axis, (name, step) in enumerate(
                zip(AXES[len(size)], multiple, strict=True), start=2
            )
        }
        fits = tuple(n + m for n, m in zip(size, missing(size, multiple), strict=True))
        free = {"size": None, "multiple": list(multiple), "batch": None}
        attempts.append((batch | axes, fits, free))
    attempts += [(batch, size, {"batch": None}), (None, size, {})]

    reason: Exception | None = None
    for shapes, length, found in attempts:
        # An example of one image would make torch.export take 1 for a constant.
        example = pattern((1 if shapes is None else 2, channels, *length))
        try:
            with quiet(), torch.no_grad():
                program = torch.export.export(
                    network, (example,), dynamic_shapes=shapes and (shapes,)
                )
                run: Run = program.module()
                if shapes is None:
                    return program, found
                if not _holds(network, run, length, channels, multiple, found):
                    continue
            if found.get("size", size) is None:
                record = {"channels": channels, "axes": AXES[len(size)], **found}
                found["pads"] = _pads(network, run, record, length)
        except Exception as error:  # what tracing cannot do, it says in many ways
            reason = error
            continue
        return program, found
    raise ValueError(
        f"torch.export cannot trace {type(network).__name__}: "
        f"{str(reason).splitlines()[0] if str(reason) else type(reason).__name__}"
    ) from reason


def _holds(
    network: nn.Module,
    run: Run,
    length: Sequence[int],
    channels: int,
    multiple: Sequence[int],
    found: dict[str, Any],
) -> bool:
    """Whether the traced network is right for another batch, and other sizes too."""
    if found.get("multiple"):
        length = [
            before + (1 + axis) * step  # another one for each axis
            for axis, (before, step) in enumerate(zip(length, multiple, strict=True))
        ]
    other = pattern((3, channels, *length))
    return difference(run(other), network(other)) < 1e-4


def _pads(
    network: nn.Module, run: Run, record: dict[str, Any], length: Sequence[int]
) -> bool:
    """Whether padding by repetition is what the network does to other sizes itself."""
    if max(record["multiple"]) == 1:
        return False  # every size fits, but for a single row
    metadata = asdict(Metadata())
    exported = ExportedModel(run, {**record, "metadata": metadata, "pads": True})
    odd = pattern((1, record["channels"], *(n + 1 for n in length)))
    with torch.no_grad():
        try:
            return difference(exported(odd), network(odd)) < 1e-4
        except (ValueError, RuntimeError):
            return False


def pattern(shape: Sequence[int]) -> Tensor:
    """Numbers between -1 and 1 without visible order, the same on every machine."""
    count = math.prod(shape)
    scattered = torch.arange(1, count + 1) * 2654435761 % 2**32
    return (scattered.double() / 2**31 - 1).float().reshape(tuple(shape))


def spread(count: int) -> Tensor:
    """Positions of some values among so many, evenly spread."""
    return torch.linspace(0, count - 1, min(count, SAMPLES), dtype=torch.float64).long()


def difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return math.inf
    largest = float((found - expected).abs().max())
    scale = max(1.0, float(expected.abs().max()))
    return largest / scale if math.isfinite(largest) else math.inf
