"""Volumes, and patches of them, as samples."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from medseg.datasets._cache import (
    Preprocess,
    Ready,
    identity_of,
    in_memory,
    make_ready,
    make_stored,
    open_stored,
)
from medseg.datasets._cases import CaseFiles, VolumeCase
from medseg.datasets._chance import SeededDataset, Transform, reseed
from medseg.datasets._samples import Sample, as_tensor, binary_target, check_classes


class VolumeDataset(SeededDataset):
    """Volumes, or patches cut from them.

    An epoch has ``len(cases) * patches_per_volume`` samples; sample ``i`` is of case
    ``i // patches_per_volume``. A patch is centred on a foreground voxel with
    probability ``foreground``, on one of a class that is drawn first, so that small
    structures come as often as large ones; else it lies anywhere. At the border it is
    moved inside; beyond the border of a volume smaller than the patch lie each
    channel's lowest value and label 0.

    Where it matters that all is the same with any number of workers, give a ``seed``
    and call ``set_epoch`` before each epoch.

    Args:
        cases: What :func:`load` or :func:`list_cases` returns.
        patch_size: Voxels along D, H and W; a whole number for a cube. None: whole
            volumes, which a ``DataLoader`` can only batch if all have one size.
        transform: Called with ``image=`` (C, D, H, W) float32 and ``mask=`` (D, H, W)
            of integers, and with ``rng=``, a NumPy generator, if it takes one; returns
            a dict of both.
        num_classes: Classes K, with the background. 1: binary, all that is not 0 is
            foreground.
        patches_per_volume: Samples of each case in an epoch.
        foreground: Share of the patches that are centred on foreground, 0 to 1.
        preprocess: What is done once to each case, without chance, such as resampling
            and normalising: from a :class:`VolumeCase` to another.
        cache: Where prepared cases are kept. None: cases in memory stay there, files
            are read each time. "memory": all are read now. A folder: all are prepared
            now, as ``.npy`` files of which only the patches are read later; a further
            run finds them. What is there is used only for the same files (path, size,
            time) and the same ``preprocess``.
        cache_key: What ``preprocess`` is and does, where its code does not tell.
        seed: Start of all chance. None: torch's.

    Raises:
        TypeError: A case is no volume, or ``preprocess`` returns none.
        ValueError: There are no cases, an argument is out of range, an image holds NaN,
            a label is not below ``num_classes``, or a file is damaged.
        OSError: The cache cannot be written; nothing half-written is left.

    Example:
        >>> from medseg.volumes import Volume
        >>> image = Volume(np.arange(64.0).reshape(4, 4, 4), np.eye(4))
        >>> labels = image.with_array((image.array == 21).astype(int))
        >>> case = VolumeCase("a", "patient 1", image, labels)
        >>> data = VolumeDataset([case], patch_size=2, foreground=1.0)
        >>> image, mask = data[0]
        >>> image.shape, mask.shape, mask.sum().item()
        (torch.Size([1, 2, 2, 2]), torch.Size([1, 2, 2, 2]), 1.0)
    """

    def __init__(
        self,
        cases: Sequence[VolumeCase | CaseFiles],
        patch_size: int | Sequence[int] | None = None,
        transform: Transform | None = None,
        num_classes: int = 1,
        *,
        patches_per_volume: int = 1,
        foreground: float = 1 / 3,
        preprocess: Preprocess | None = None,
        cache: str | Path | None = None,
        cache_key: str | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed)
        check_classes(num_classes)
        if not cases:
            raise ValueError("there are no cases: a data set needs at least one.")
        if not isinstance(patches_per_volume, int) or patches_per_volume < 1:
            raise ValueError(
                f"patches_per_volume must be at least 1, got {patches_per_volume!r}."
            )
        if not 0 <= foreground <= 1:
            raise ValueError(f"foreground is a share from 0 to 1, got {foreground}.")
        self.cases = list(cases)
        self.patch_size = _size(patch_size)
        self.transform = transform
        self.num_classes = num_classes
        self.patches_per_volume = patches_per_volume if self.patch_size else 1
        self.foreground = foreground
        self.preprocess = preprocess
        self._takes_rng = transform is not None and _takes_rng(transform)
        self._kept: list[Ready | Path | None] = []
        identity = ""
        if cache not in (None, "memory"):
            identity = identity_of(preprocess) if cache_key is None else cache_key
        for case in self.cases:
            if cache is None and isinstance(case, CaseFiles):
                self._kept.append(None)
            elif cache is None or cache == "memory":
                self._kept.append(make_ready(in_memory(case), preprocess))
            else:
                self._kept.append(make_stored(case, preprocess, identity, Path(cache)))
        for index, kept in enumerate(self._kept):
            if kept is not None:
                self._ready(index)  # checks the labels

    def __len__(self) -> int:
        return len(self.cases) * self.patches_per_volume

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no sample {index} of {len(self)}.")
        index %= len(self)
        ready = self._ready(index // self.patches_per_volume)
        seed = self._seed_of(index)
        rng = np.random.default_rng(seed)
        if self.patch_size is None:
            image, mask = ready.image, ready.labels
        else:
            start = _draw_start(ready, self.patch_size, self.foreground, rng)
            image, mask = _cut(ready, start, self.patch_size)
        image = image.astype(np.float32)  # a copy, whatever it was
        mask = mask > 0 if self.num_classes == 1 else mask
        mask = mask.astype(np.uint8)
        return self._finish(image, mask, seed, rng)

    def _finish(
        self,
        image: NDArray[np.float32],
        mask: NDArray[np.uint8],
        seed: int,
        rng: Generator,
    ) -> Sample:
        result: dict[str, Any] = {"image": image, "mask": mask}
        if self.transform is not None:
            reseed(self.transform, seed, always=self.seed is not None)
            more = {"rng": rng} if self._takes_rng else {}
            result = self.transform(**result, **more)
        pixels, labels = as_tensor(result["image"]).float(), as_tensor(result["mask"])
        if labels.shape != pixels.shape[1:]:
            raise ValueError(
                f"the transform returned an image {tuple(pixels.shape)} with a mask "
                f"{tuple(labels.shape)}; expected (C, D, H, W) with (D, H, W)."
            )
        return pixels, (
            labels.long() if self.num_classes > 1 else binary_target(labels)
        )

    def _ready(self, number: int) -> Ready:
        kept = self._kept[number]
        if kept is None:
            kept = make_ready(in_memory(self.cases[number]), self.preprocess)
        elif isinstance(kept, Path):
            kept = open_stored(kept)
        if self.num_classes > 1 and kept.top >= self.num_classes:
            raise ValueError(
                f"the labels of case {self.cases[number].name} reach {kept.top}, but "
                f"num_classes={self.num_classes} allows 0..{self.num_classes - 1}. "
                "Renumber the labels, or raise num_classes."
            )
        return kept


def _draw_start(
    ready: Ready, size: tuple[int, int, int], foreground: float, rng: Generator
) -> tuple[int, ...]:
    """Draw where a patch begins; negative where the volume is smaller."""
    shape = ready.labels.shape
    # All numbers are drawn, needed or not: what comes later stays the same.
    on_foreground, choice, where = rng.random() < foreground, *rng.random(2)
    anywhere = rng.random(3)
    room = [n - s for n, s in zip(shape, size, strict=True)]
    if on_foreground and ready.ends:
        number = int(choice * len(ready.ends))
        first = ready.ends[number - 1] if number else 0
        point = ready.points[first + int(where * (ready.ends[number] - first))]
        wanted = [int(p) - s // 2 for p, s in zip(point, size, strict=True)]
        return tuple(
            min(max(w, 0), r) if r >= 0 else -(-r // 2)
            for w, r in zip(wanted, room, strict=True)
        )
    return tuple(
        int(a * (r + 1)) if r >= 0 else -(-r // 2)
        for a, r in zip(anywhere, room, strict=True)
    )


def _cut(
    ready: Ready, start: tuple[int, ...], size: tuple[int, int, int]
) -> tuple[NDArray[Any], NDArray[Any]]:
    shape = ready.labels.shape
    inside = tuple(
        slice(max(s, 0), min(s + n, full))
        for s, n, full in zip(start, size, shape, strict=True)
    )
    image, labels = ready.image[(slice(None), *inside)], ready.labels[inside]
    if labels.shape == size:
        return image, labels
    place = tuple(
        slice(max(-s, 0), max(-s, 0) + n)
        for s, n in zip(start, labels.shape, strict=True)
    )
    whole = np.empty((len(image), *size), image.dtype)
    whole[:] = np.reshape(ready.lowest, (-1, 1, 1, 1))
    whole[(slice(None), *place)] = image
    marked = np.zeros(size, labels.dtype)
    marked[place] = labels
    return whole, marked


def _size(patch_size: int | Sequence[int] | None) -> tuple[int, int, int] | None:
    if patch_size is None:
        return None
    sizes = (patch_size,) * 3 if isinstance(patch_size, int) else tuple(patch_size)
    if len(sizes) != 3 or not all(isinstance(n, int) and n >= 1 for n in sizes):
        raise ValueError(
            f"patch_size must be one or three whole numbers from 1, got {patch_size!r}."
        )
    return sizes


def _takes_rng(transform: Transform) -> bool:
    try:
        return "rng" in inspect.signature(transform).parameters
    except (TypeError, ValueError):
        return False
