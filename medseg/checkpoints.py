"""Checkpoints: files that are whole or not there, and all that a resumed run needs.

    save_checkpoint   write a file whole or not at all
    load_checkpoint   read one, without running code from it
    snapshot          weights, optimizer, schedule and random numbers, as one dict
    restore           put a snapshot back

``medseg.training.train`` calls all but the second.
"""

import io
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch


def save_checkpoint(state: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a file whole or not at all.

    Args:
        state: Tensors, numbers and text, in dicts, lists and tuples: what
            ``load_checkpoint`` reads without running code from the file.
        path: The file. One that is there is replaced once the new one is complete.
    """
    path = Path(path)
    unfinished = path.with_name(path.name + ".tmp")
    try:
        with unfinished.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:  # Ctrl-C and a full disk as well
        unfinished.unlink(missing_ok=True)
        raise


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what ``save_checkpoint`` wrote, tensors onto the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or holds other things than a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {path}. Train first, or give the path of a file "
            "that medseg.training.train has written."
        )
    content = io.BytesIO(path.read_bytes())
    try:
        state = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows in many ways, an OSError among them
        raise ValueError(
            f"{path} cannot be read as a checkpoint: it is damaged, cut short, or not "
            "written by medseg.training. Delete it and train again, or put back a "
            f"copy. ({type(error).__name__})"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(
            f"{path} holds a {type(state).__name__}, expected the dict of a "
            "checkpoint. Save model.state_dict(), not the model."
        )
    return state


def snapshot(
    parts: dict[str, Any],
    generators: list[torch.Generator],
    records: list[dict[str, Any]],
) -> dict[str, Any]:
    """All that decides how training goes on, as ``restore`` takes it."""
    states = {
        name: None if part is None else part.state_dict()
        for name, part in parts.items()
    }
    numpy: Any = np.random.get_state()  # noqa: NPY002 - a transform may use it
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        **states,
        "generators": [generator.get_state() for generator in generators],
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": (numpy[0], numpy[1].tolist(), *numpy[2:]),
        "python": random.getstate(),
        "records": records,
    }


def restore(
    path: Path, parts: dict[str, Any], generators: list[torch.Generator]
) -> list[dict[str, Any]]:
    """Put back a ``snapshot``, and return its records; none if there is no file.

    Raises:
        ValueError: The file is damaged, or belongs to another run than this.
    """
    if not path.exists():
        return []
    state = load_checkpoint(path)
    advice = (
        f"{path} belongs to another run: build network, optimizer, scheduler and "
        "loaders as in that run, or start anew with resume=False."
    )
    known = {*parts, "generators", "torch", "cuda", "numpy", "python", "records"}
    if set(state) != known or len(state["generators"]) != len(generators):
        raise ValueError(advice)
    for name, part in parts.items():
        if (part is None) != (state[name] is None):
            has = "none" if state[name] is None else "one"
            raise ValueError(f"{advice} It has {has} for {name!r}.")
        if not state[name]:  # nothing, or a scaler that was not in use
            continue
        try:
            part.load_state_dict(state[name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"{advice} ({name}: {error})") from error
    for generator, saved in zip(generators, state["generators"], strict=True):
        generator.set_state(saved)
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    random.setstate(state["python"])
    return list(state["records"])


def generators_of(*loaders: object) -> list[torch.Generator]:
    """Random generators that loaders and their samplers were given, each once."""
    found: list[torch.Generator] = []
    for loader in loaders:
        for owner in (loader, getattr(loader, "sampler", None)):
            generator = getattr(owner, "generator", None)
            if generator is not None and all(generator is not g for g in found):
                found.append(generator)
    return found
