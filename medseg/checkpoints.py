"""Checkpoints: files that are whole or not there, and all that a resumed run needs.

    save_checkpoint    write a file whole or not at all
    load_checkpoint    read one, without running code from it
    snapshot           weights, optimizer, schedule and random numbers, as one dict
    restore            put a snapshot back, into the run that it belongs to
    random_state       the random numbers to come, of every generator
    data_hash          a short name for what a data set holds

``medseg.training.train`` calls all but the second.
"""

import hashlib
import io
import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

FORMAT = 2  # of what `snapshot` returns


def save_checkpoint(state: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a file whole or not at all.

    Args:
        state: Tensors, numbers and text, in dicts, lists and tuples: what
            ``load_checkpoint`` reads without running code from the file.
        path: The file. One that is there is replaced once the new one is complete.

    Raises:
        OSError: The disk is full, or the folder may not be written to. What was there
            before is there still.
    """
    path = Path(path)
    unfinished = path.with_name(path.name + ".tmp")
    try:
        with unfinished.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException as error:  # Ctrl-C and a full disk as well
        unfinished.unlink(missing_ok=True)
        # torch reports a failed write as a RuntimeError of its archive; the cause
        # hangs on it.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError) or not isinstance(error, Exception):
            raise
        raise OSError(
            cause.errno,
            f"{path} cannot be written ({cause.strerror}). What was there before is "
            "kept. Free some disk space, or give a path that you may write to; then "
            "go on with resume=True",
        ) from error


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
    parts: Mapping[str, Any],
    records: list[dict[str, Any]],
    processes: list[dict[str, Any]],
    config: Mapping[str, object],
) -> dict[str, Any]:
    """All that decides how training goes on, as ``restore`` takes it.

    Args:
        parts: What has a ``state_dict``: network, optimizer, ...; None where the run
            does without.
        records: One for each epoch that is complete.
        processes: Of each process its ``random_state`` and how far it is.
        config: Settings that a resumed run must share, by name.
    """
    states = {
        name: None if part is None else part.state_dict()
        for name, part in parts.items()
    }
    own = {"records": records, "processes": processes, "config": dict(config)}
    return {"format": FORMAT, **states, **own}


def restore(
    path: Path, parts: Mapping[str, Any], config: Mapping[str, object]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Put a ``snapshot`` back into its parts.

    Args:
        path: The file with it.
        parts: As given to ``snapshot``; their states are replaced.
        config: Settings of this run. They must be those of the file.

    Returns:
        The records and the processes of the snapshot; both are empty if there is no
        file. Random numbers are left to the caller: ``set_random_state``.

    Raises:
        ValueError: The file is damaged, or belongs to another run than this: the
            settings that differ are named.
    """
    if not path.exists():
        return [], []
    state = load_checkpoint(path)
    advice = (
        f"{path} belongs to another run: build network, optimizer, scheduler and "
        "loaders as in that run, or start anew with resume=False."
    )
    if set(state) != {"format", *parts, "records", "processes", "config"}:
        raise ValueError(f"{advice} (It is no checkpoint of this version.)")
    if differing := _differences(state["config"], config):
        raise ValueError(f"{advice} What differs: {'; '.join(differing)}.")
    for name, part in parts.items():
        if (part is None) != (state[name] is None):
            has = "none" if state[name] is None else "one"
            raise ValueError(f"{advice} It has {has} for {name!r}.")
    for name, part in parts.items():
        if not state[name]:  # nothing, or a scaler that was not in use
            continue
        try:
            part.load_state_dict(state[name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ValueError(f"{advice} ({name}: {error})") from error
    return list(state["records"]), list(state["processes"])


def _differences(
    known: Mapping[str, object], now: Mapping[str, object], prefix: str = ""
) -> list[str]:
    """What two nested settings do not share, one text for each.

    Example:
        >>> _differences({"size": 64, "data": {"n": 1}}, {"size": 32, "data": {"n": 1}})
        ['size was 64, is 32']
    """
    found: list[str] = []
    for key in [*known, *(key for key in now if key not in known)]:
        was, new = known.get(key, "not set"), now.get(key, "not set")
        if isinstance(was, Mapping) and isinstance(new, Mapping):
            found += _differences(was, new, f"{prefix}{key}.")
        elif _plain(was) != _plain(new):
            found.append(f"{prefix}{key} was {was}, is {new}")
    return found


def _plain(value: object) -> object:
    """A value as a file gives it back: there a list and a tuple are alike."""
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def random_state(generators: list[torch.Generator]) -> dict[str, Any]:
    """The random numbers to come: of PyTorch, NumPy and Python, and of generators.

    Args:
        generators: Those besides the global ones, as from ``generators_of``.
    """
    numpy: Any = np.random.get_state()  # noqa: NPY002 - a transform may use it
    cuda: list[torch.Tensor] = []
    if torch.cuda.is_initialized():
        # One of several processes has one GPU, and leaves the others alone.
        alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
        cuda = torch.cuda.get_rng_state_all() if alone else [torch.cuda.get_rng_state()]
    return {
        "generators": [generator.get_state() for generator in generators],
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": (numpy[0], numpy[1].tolist(), *numpy[2:]),
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any], generators: list[torch.Generator]) -> None:
    """Put a ``random_state`` back.

    Raises:
        ValueError: It was taken of another number of generators.
    """
    if len(state["generators"]) != len(generators):
        raise ValueError(
            f"the checkpoint holds {len(state['generators'])} random generators, the "
            f"loaders have {len(generators)}. Build them as in the run that wrote it, "
            "with or without generator=, or start anew with resume=False."
        )
    for generator, saved in zip(generators, state["generators"], strict=True):
        generator.set_state(saved)
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    elif len(state["cuda"]) == 1 and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    random.setstate(state["python"])


def generators_of(*loaders: object) -> list[torch.Generator]:
    """Random generators that loaders and their samplers were given, each once."""
    found: list[torch.Generator] = []
    for loader in loaders:
        for owner in _owners(loader):
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator) and all(
                generator is not known for known in found
            ):
                found.append(generator)
    return found


def _owners(loader: object) -> Iterator[object]:
    """A loader, its samplers, and theirs."""
    yield loader
    for name in ("sampler", "batch_sampler"):
        inner = getattr(loader, name, None)
        if inner is not None:
            yield from _owners(inner)


def data_hash(dataset: object) -> str:
    """A short name for what a data set holds: 12 hexadecimal digits, from SHA-256.

    Of files in ``image_paths`` and ``mask_paths`` it takes names and sizes, not what
    is in them: a second, not an hour. Of cases in ``cases`` it takes their names, and
    their files likewise, of tensors in ``tensors`` all values, of a ``Subset`` its
    indices and the whole. Of anything else it knows only the length.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> zeros, ones = TensorDataset(torch.zeros(3)), TensorDataset(torch.ones(3))
        >>> data_hash(zeros) == data_hash(ones)
        False
    """
    digest = hashlib.sha256()
    for item in _facts(dataset):
        digest.update(item if isinstance(item, bytes) else repr(item).encode())
    return digest.hexdigest()[:12]


def _facts(dataset: Any) -> Iterator[object]:
    """What ``data_hash`` takes of a data set."""
    if hasattr(dataset, "__len__"):
        yield len(dataset)
    if hasattr(dataset, "indices") and hasattr(dataset, "dataset"):  # a Subset
        yield [int(index) for index in dataset.indices]
        yield from _facts(dataset.dataset)
    for part in getattr(dataset, "datasets", []):  # a ConcatDataset
        yield from _facts(part)
    for name in ("image_paths", "mask_paths"):
        for path in map(Path, getattr(dataset, name, [])):
            yield path.name, path.stat().st_size
    for tensor in getattr(dataset, "tensors", []):
        if isinstance(tensor, torch.Tensor):
            yield tuple(tensor.shape), str(tensor.dtype)
            values = tensor.detach().cpu().contiguous().flatten()
            yield values.view(torch.uint8).numpy().tobytes()
    for case in getattr(dataset, "cases", []):
        yield getattr(case, "name", str(case) if isinstance(case, str | Path) else "")
        for path in getattr(case, "files", []):
            yield path.name, path.stat().st_size
