"""Whether anything that was trained on is tested on."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from medseg.datasets._cases import CaseFiles, ImageCase, VolumeCase
from medseg.imagefiles import images_in, read_image, to_uint8
from medseg.volumes import read_nifti

SIDE = 16  # a hash has SIDE x SIDE bits
Item = str | Path | CaseFiles | ImageCase | VolumeCase
Bits = NDArray[np.bool_]


class Leak(NamedTuple):
    """Two cases on two sides of a split that should be on one."""

    kind: str  # "group": of one patient; "image": nearly the same picture
    first: str
    second: str
    splits: tuple[str, str]  # where they are
    group: str  # the group that they share; "" for images
    distance: float  # bits of 256 in which the pictures differ; nan for groups

    def __str__(self) -> str:
        where = f"{self.first} ({self.splits[0]}) and {self.second} ({self.splits[1]})"
        if self.kind == "group":
            return f"{where} are both of group {self.group}"
        return f"{where} are nearly the same image: {self.distance:g} of 256 bits"


def find_leaks(
    splits: Mapping[str, str | Path | Iterable[Item]],
    *,
    group: str | Mapping[str, str] | None = None,
    max_distance: float = 10,
    turned: bool = False,
) -> list[Leak]:
    """Look for patients and pictures that are on two sides of a split.

    A picture is reduced to :func:`image_hash`, 256 bits that survive another size,
    format, brightness or contrast. Copies differ in 0 to 10 bits; different chest
    films, which look very much alike, in 17 or more, most other pictures in 50 or
    more. Crops, neighbouring slices and other images of one patient are **not** found
    in this way: for them the group must be known.

    Args:
        splits: For each split, such as "train" and "test", a folder of images (or of
            NIfTI volumes), or cases, or paths of files.
        group: How to tell the patient. Of files: a regular expression whose first
            group in brackets is the patient in the name, such as ``r"(P\\d+)_"``, or a
            dict from names (without ending) to patients. None: groups of files are not
            compared. Cases know their group.
        max_distance: Two pictures with at most so many different bits are reported.
        turned: Also find copies that were mirrored or turned by 90 degrees; eight times
            the work, and more chance of a false alarm.

    Returns:
        One :class:`Leak` for each group on two sides, then one for each pair of
        images, the nearest first. Empty: nothing was found, which is no proof.

    Raises:
        FileNotFoundError: A folder is not there.
        ValueError: Fewer than two splits, one is empty, a name has no group, or a file
            is damaged.

    Example:
        >>> picture = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
        >>> labels = np.zeros((64, 64), np.int32)
        >>> brighter = ImageCase("b", "P2", picture // 2 + 120, labels)
        >>> for leak in find_leaks({
        ...     "train": [ImageCase("a", "P1", picture, labels)], "test": [brighter]
        ... }):
        ...     print(leak)
        a (train) and b (test) are nearly the same image: 1 of 256 bits
    """
    if len(splits) < 2:
        raise ValueError(f"there are {len(splits)} splits; expected two or more.")
    listed = {split: _items(items) for split, items in splits.items()}
    if empty := [split for split, items in listed.items() if not items]:
        raise ValueError(f"the split {empty[0]!r} is empty.")
    found: dict[str, list[tuple[str, str, Bits]]] = {}
    for split, items in listed.items():
        found[split] = [_look(item, group, turned) for item in items]
    leaks = []
    for one, other in combinations(found, 2):
        leaks += _shared_groups(found, one, other)
    near = []
    for one, other in combinations(found, 2):
        near += _near_pairs(found, one, other, max_distance)
    return leaks + sorted(near, key=lambda leak: leak.distance)


def image_hash(image: NDArray[Any]) -> Bits:
    """Return the difference hash (dHash) of an image.

    The image is shrunk to 16 rows of 17 grey pixels by averaging; each bit says whether
    a pixel is darker than its right neighbour.

    Args:
        image: ``(H, W)`` or ``(H, W, C)``, any numbers.

    Returns:
        256 booleans. Of an image of one colour, all are False.

    Raises:
        ValueError: A value is NaN or infinite, or the shape another.

    Example:
        >>> ramp = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
        >>> int(image_hash(ramp).sum()), int(image_hash(ramp[:, ::-1]).sum())
        (256, 0)
    """
    grey = to_uint8(image, channels=1)[..., 0].astype(np.float32)
    small = cv2.resize(grey, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)
    return (small[:, 1:] > small[:, :-1]).ravel()


def _items(items: str | Path | Iterable[Item]) -> list[Item]:
    if not isinstance(items, str | Path):
        return list(items)
    volumes: list[Item] = [
        path
        for path in sorted(Path(items).glob("*.nii*"))
        if not path.name.startswith(".")
    ]
    return volumes or list(images_in(items))


def _look(
    item: Item, group: str | Mapping[str, str] | None, turned: bool
) -> tuple[str, str, Bits]:
    """Return name, group and hashes ``(turns, bits)`` of an item."""
    if isinstance(item, str | Path):
        path = Path(item)
        is_volume = path.name.endswith((".nii", ".nii.gz"))
        name = path.name.removesuffix(".gz").rpartition(".")[0]
        pictures = (
            _slices(read_nifti(path).array)
            if is_volume
            else [read_image(path, 1)[..., 0]]
        )
        return path.name, _group_of(name, group), _hashes(pictures, turned)
    case = item.read() if isinstance(item, CaseFiles) else item
    pictures = (
        _slices(case.image.array) if isinstance(case, VolumeCase) else [case.image]
    )
    return item.name, item.group, _hashes(pictures, turned)


def _group_of(name: str, group: str | Mapping[str, str] | None) -> str:
    if group is None:
        return ""
    if not isinstance(group, str):
        if name not in group:
            raise ValueError(f"{name} has no group in the list.")
        return group[name]
    match = re.search(group, name)
    if not match or not match.groups():
        raise ValueError(
            f"the expression {group!r} finds no patient in the name {name!r}; put the "
            "part that names the patient in brackets, such as (P[0-9]+)_."
        )
    return match.group(1)


def _slices(volume: NDArray[Any]) -> list[NDArray[Any]]:
    """The three slices through the middle of a volume, of its first channel."""
    array = volume[0] if volume.ndim == 4 else volume
    return [array.take(n // 2, axis=axis) for axis, n in enumerate(array.shape)]


def _hashes(pictures: list[NDArray[Any]], turned: bool) -> Bits:
    """Hashes of the pictures side by side, one row for each way to turn them."""
    rows = []
    for turns in range(4 if turned else 1):
        for mirrored in (False, True) if turned else (False,):
            row = []
            for picture in pictures:
                seen = np.rot90(picture, turns)
                row.append(image_hash(seen[:, ::-1] if mirrored else seen))
            rows.append(np.concatenate(row))
    return np.array(rows)


def _shared_groups(
    found: dict[str, list[tuple[str, str, Bits]]], one: str, other: str
) -> list[Leak]:
    members: dict[str, dict[str, str]] = defaultdict(dict)
    for split in (one, other):
        for name, group, _ in found[split]:
            if group:
                members[group].setdefault(split, name)
    return [
        Leak("group", names[one], names[other], (one, other), group, float("nan"))
        for group, names in sorted(members.items())
        if len(names) == 2
    ]


def _near_pairs(
    found: dict[str, list[tuple[str, str, Bits]]],
    one: str,
    other: str,
    max_distance: float,
) -> list[Leak]:
    """Pairs of images that hardly differ; pictures without content are passed over."""
    leaks = []
    by_length: dict[int, list[tuple[str, Bits]]] = defaultdict(list)
    for name, _, bits in found[other]:
        by_length[bits.shape[1]].append((name, bits[0]))
    tables = {n: np.array([b for _, b in rows]) for n, rows in by_length.items()}
    for name, _, bits in found[one]:
        table = tables.get(bits.shape[1])
        if table is None or not bits[0].any():
            continue
        differing = np.min([(table != row).sum(axis=1) for row in bits], axis=0)
        distances = differing * (SIDE * SIDE / bits.shape[1])
        for number in np.flatnonzero(distances <= max_distance):
            partner = by_length[bits.shape[1]][number][0]
            distance = float(distances[number])
            leaks.append(Leak("image", name, partner, (one, other), "", distance))
    return leaks
