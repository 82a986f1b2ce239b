"""A network out of a file, as one that ``medseg.inference`` takes."""

import importlib
import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import medseg
from medseg.checks import check_images
from medseg.export._metadata import to_metadata

KEY = "medseg"  # under which the metadata stand in a file
Run = Callable[[Tensor], Tensor]


class ExportedModel(nn.Module):
    """A network out of a file: called with images, it returns logits.

    It goes wherever a network goes that is not trained: into ``predict``,
    ``sliding_window``, ``predict_volume``.

    ``metadata`` says what it expects of an image, ``axes`` is ``"HW"`` or ``"DHW"``.
    ``size`` is the only size of images that it takes, or None if there are several;
    then it was exported for multiples of ``multiple``. Images of other sizes are
    padded at their end by repeating the border, if that is what the network did
    itself, as those of this package do, and the logits are cropped back.

    Raises:
        TypeError: The images are not floating point (when called).
        ValueError: Other axes, channels or sizes than those it takes.
    """

    def __init__(self, run: Run, record: dict[str, Any]) -> None:
        super().__init__()
        self._run = (run,)  # in a tuple, so that train() and eval() pass it by
        self.record = record
        self.metadata = to_metadata(record["metadata"])
        self.axes: str = record["axes"]
        self.size = _ints(record["size"])
        self.multiple = _ints(record["multiple"])

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(B, C, *spatial)`` to logits ``(B, K, *spatial)``, float32."""
        record, dims = self.record, len(self.axes)
        check_images(images, record["channels"], dims)
        size = tuple(images.shape[2:])
        images = images.detach().float().cpu()
        if self.size is not None and size != self.size:
            raise ValueError(
                f"this network was exported for images of {self.size}, got {size}. "
                f"Use sliding_window with patch_size={self.size}, or export it with "
                "images of that size."
            )
        padding = [0] * dims
        if self.multiple is not None:
            padding = missing(size, self.multiple)
        if any(padding):
            if not record["pads"]:
                raise ValueError(
                    f"this network was exported for sizes from twice {self.multiple} "
                    f"in multiples of it, got {size}. Pad the images to "
                    f"{tuple(n + more for n, more in zip(size, padding, strict=True))}."
                )
            ends = [end for after in reversed(padding) for end in (0, after)]
            images = F.pad(images, ends, mode="replicate")
        (run,) = self._run
        if record["batch"] is None:
            logits = run(images)
        else:
            logits = torch.cat([run(image[None]) for image in images])
        if any(padding):
            for axis, length in enumerate(size, start=2):
                logits = logits.narrow(axis, 0, length)
        return logits


def load_exported(path: str | os.PathLike[str]) -> ExportedModel:
    """Read what ``export_onnx`` or ``export_program`` wrote.

    Take programs (``.pt2``) only from those whom you trust: reading one can run code.
    An ONNX file only computes.

    Args:
        path: A file ending in ``.onnx`` or ``.pt2``.

    Returns:
        A network on the CPU, with its ``metadata``.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: For ONNX, if onnxruntime is not installed.
        ValueError: The file is damaged, or not written by this module.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no exported network {path}. Write one with `medseg export`."
        )
    if path.suffix not in (".onnx", ".pt2"):
        raise ValueError(
            f"{path} must end in .onnx or .pt2, the names of exported networks."
        )
    read = _read_onnx if path.suffix == ".onnx" else _read_program
    if path.suffix == ".onnx":
        need("onnxruntime")
    try:
        run, text = read(path)
    except Exception as error:  # damage shows in many ways
        raise ValueError(
            f"{path} cannot be read: it is damaged, cut short, or no exported network. "
            f"Export it again. ({type(error).__name__})"
        ) from error
    if not text:
        raise ValueError(
            f"{path} holds no metadata of medseg: it was written by another program. "
            "Export the network with medseg.export."
        )
    try:
        return ExportedModel(run, json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} holds metadata that this version of medseg, {medseg.__version__}, "
            f"cannot read: {error}. Export the network again."
        ) from error


def _read_program(path: Path) -> tuple[Run, str]:
    extra: dict[str, Any] = {f"{KEY}.json": ""}
    with quiet():
        program = torch.export.load(path, extra_files=extra)
    text = extra[f"{KEY}.json"]
    module: Run = program.module()
    return module, text.decode() if isinstance(text, bytes) else text


def _read_onnx(path: Path) -> tuple[Run, str]:
    import onnxruntime  # noqa: PLC0415 - an extra

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(None, {name: images.contiguous().numpy()})
        return torch.from_numpy(logits)

    return run, session.get_modelmeta().custom_metadata_map.get(KEY, "")


def missing(size: Sequence[int], multiple: Sequence[int]) -> list[int]:
    """Pixels to add so that each axis is a multiple, and at least twice it."""
    return [
        max(2, math.ceil(length / step)) * step - length
        for length, step in zip(size, multiple, strict=True)
    ]


def _ints(values: list[int] | None) -> tuple[int, ...] | None:
    return None if values is None else tuple(values)


def need(module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"ONNX needs {module}: pip install 'medseg[export]'."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without what PyTorch's exporters say about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
