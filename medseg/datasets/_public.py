"""Public data sets on this machine: find, list, read, download."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medseg.archives import check_space, fetch
from medseg.checks import check_choice
from medseg.datasets._cases import Case, CaseFiles
from medseg.datasets._images import (
    dsb2018_cases,
    isbi2012_cases,
    isic_cases,
    montgomery_cases,
    packed_cases,
    read_vnc_labels,
    vnc_cases,
)
from medseg.datasets._registry import data_root, info, names
from medseg.datasets._scans import chaos_cases, decathlon_cases
from medseg.datasets._splits import SPLITS, SplitRow, make_split, stored_split
from medseg.imagefiles import read_labels, read_mask, shorten

Layout = Callable[[Path], list[CaseFiles]]


def find(name: str, root: str | Path | None = None) -> Path:
    """Return the folder of a data set on this machine.

    Args:
        name: One of :func:`names`.
        root: Folder that holds the data set's folder, or that folder itself. None:
            :func:`data_root`.

    Raises:
        FileNotFoundError: It is not there; the message says how to get it.
        ValueError: There is no data set of this name.
    """
    return _locate(name, root)[0]


def is_available(name: str, root: str | Path | None = None) -> bool:
    """Return whether :func:`find` finds the data set. Never uses the network."""
    try:
        find(name, root)
    except FileNotFoundError:
        return False
    return True


def list_cases(
    name: str, split: str, root: str | Path | None = None, limit: int | None = None
) -> list[CaseFiles]:
    """Return one split of a public data set, not yet read, sorted by name.

    For sets that do not fit into memory: :class:`CaseDataset` and
    :class:`VolumeDataset` take the list as it is. Splits and ``limit`` are those of
    :func:`load`.

    Args:
        name: One of :func:`names`.
        split: "train", "val" or "test".
        root: As for :func:`find`.
        limit: As for :func:`load`.

    Raises:
        FileNotFoundError: The data set, or a case of it, is not there.
        ValueError: Another name or split, or ``limit`` below 1.
    """
    check_choice(name, "name", names())
    check_choice(split, "split", SPLITS)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, or None for all; got {limit}.")
    folder, found = _locate(name, root)
    cases = _with_splits(name, found)
    chosen = [case for case in cases if case.split == split]
    if not chosen:
        raise FileNotFoundError(
            f"{folder} has no images of the {split} part of {name}, with masks. "
            f"{_how_to_get(name)}"
        )
    if limit is not None:
        limit = min(limit, len(chosen))
        chosen = [chosen[i * len(chosen) // limit] for i in range(limit)]
    if missing := [case.name for case in chosen if not case.files]:
        raise FileNotFoundError(
            f"{folder} is not complete: of the {len(chosen)} cases of {name} "
            f"asked for, {len(missing)} are missing ({shorten(missing)}). Remove the "
            f"folder, and get it again. {_how_to_get(name)}"
        )
    return chosen


def load(
    name: str, split: str, root: str | Path | None = None, limit: int | None = None
) -> list[Any]:
    """Read one split of a public data set into memory, sorted by name.

    The splits are fixed, and whole groups are in one split. Those of ``dsb2018``,
    ``isbi2012``, ``vnc``, ``montgomery`` and ``msd_task04`` are lists in the package,
    and images in no list are never read; ``isic*`` have the parts of the challenge;
    ``chaos_*`` and the other tasks of the Decathlon are divided by
    :func:`make_split`. See ``info(name).notes``.

    ==========  ==================  ==============================================
    name        image               labels
    ==========  ==================  ==============================================
    dsb2018     (H, W, 3), colour   nucleus numbers 1..N; a pixel claimed twice
                                    has the lower one
    isbi2012    (512, 512), grey    1 cell interior, 0 membrane
    vnc         (1024, 1024), grey  0..8, see ``info("vnc").classes``
    montgomery  (H, W), grey        1 lung
    isic*       (H, W, 3), colour   1 lesion
    chaos_ct    volume, HU          1 liver
    chaos_mr    volume              1..4, see ``info("chaos_mr").classes``
    msd_task*   volume              as in ``info(name).classes``
    ==========  ==================  ==============================================

    Args:
        name: One of :func:`names`.
        split: "train", "val" or "test".
        root: As for :func:`find`.
        limit: Read this many cases only, evenly spread over the sorted split: number
            ``i * n // limit`` of n, for i from 0. More than n: all.

    Returns:
        A list of :class:`ImageCase`, or of :class:`VolumeCase` for volumes. What is
        too much for the memory is listed with :func:`list_cases` instead.

    Raises:
        FileNotFoundError: The data set, or a case of it, is not there.
        ValueError: Another name or split, ``limit`` below 1, or a damaged file.
    """
    cases: list[Case] = [case.read() for case in list_cases(name, split, root, limit)]
    return cases


def _with_splits(name: str, found: list[CaseFiles]) -> list[CaseFiles]:
    """Give each case its group and split; a listed case without files is missing."""
    if any(case.split for case in found):  # the publisher's own parts
        return found
    rows = stored_split(name)
    if rows is None:
        rows = make_split({case.name: case.group for case in found}, name)
    by_name = {case.name: case for case in found}
    return [_joined(row, by_name.get(row.id)) for row in rows]


def _joined(row: SplitRow, case: CaseFiles | None) -> CaseFiles:
    if case is None:
        return CaseFiles(row.id, row.group, row.split, (), tuple)
    return CaseFiles(
        case.name, row.group, row.split, case.files, case.reader, case.is_volume
    )


def _how_to_get(name: str) -> str:
    about = info(name)
    place = f"Put it into {data_root() / about.folder}, as {about.layout}"
    if about.url is None:
        return f"Get it by hand, under its terms, from {about.page}. {place}."
    return (
        f"Run `medseg datasets get {name}` (about {about.size_bytes / 1e6:,.0f} MB), "
        "or set MEDSEG_DATA to the folder that has it."
    )


def _locate(name: str, root: str | Path | None) -> tuple[Path, list[CaseFiles]]:
    """Return a data set's folder, and the cases that lie in it."""
    about = info(name)
    place = data_root() if root is None else Path(root).expanduser()
    known = {row.id for row in stored_split(name) or ()}
    for candidate in (place / about.folder, place):
        for layout in _LAYOUTS[name]:
            cases = layout(candidate)
            if any(case.split or not known or case.name in known for case in cases):
                return candidate, cases
    raise FileNotFoundError(
        f"the data set {name} is not in {place / about.folder}. {_how_to_get(name)}"
    )


def download(name: str, root: str | Path | None = None) -> Path:
    """Get a data set from its publisher, unless it is there already.

    A download that was interrupted goes on where it stopped; see
    :func:`medseg.archives.fetch`.

    Args:
        name: One of :func:`names`.
        root: Folder that the data set's folder is made in. None: :func:`data_root`.

    Returns:
        The data set's folder, as :func:`find` returns it.

    Raises:
        OSError: The disk is too full, or the download failed (``ConnectionError``).
        ValueError: There is no data set of this name, it has no download (the message
            says where to get it), or the archive is damaged or another one.
    """
    about = info(name)
    place = data_root() if root is None else Path(root).expanduser()
    folder = place / about.folder
    wanted = [part for part in about.downloads if not (folder / part.folder).exists()]
    complete = not wanted or len(wanted) == len(about.downloads)
    if is_available(name, root) and complete:  # downloaded, or put there by hand
        return find(name, root)
    if about.url is None:
        raise ValueError(f"{name} cannot be downloaded from here. {_how_to_get(name)}")
    place.mkdir(parents=True, exist_ok=True)
    check_space(place, about.disk_bytes * len(wanted) // len(about.downloads))
    for part in wanted:
        alone = len(about.downloads) == 1
        fetch(
            part.url,
            folder / part.folder,
            about.disk_bytes if alone else 2 * (part.size_bytes or 0),
            part.checksum,
            trusted=part.trusted,
            accept=partial(_holds, pattern=part.holds),
        )
    return find(name, root)


def _holds(folder: Path, pattern: str) -> bool:
    return next(folder.glob(pattern), None) is not None


def _decathlon_layout(folder: Path, name: str) -> list[CaseFiles]:
    task = info(name).downloads[0].folder
    known = (task, info(name).folder)
    if (
        folder.name.lower().startswith(("task", "msd_task"))
        and folder.name not in known
    ):
        return []  # of another task
    return decathlon_cases(folder / task) or decathlon_cases(folder)


def _chaos_layout(folder: Path, modality: str) -> list[CaseFiles]:
    return chaos_cases(folder / "CHAOS_Train_Sets", modality) or chaos_cases(
        folder, modality
    )


def _packed(
    read_reference: Callable[[Path], NDArray[Any]], channels: int
) -> Callable[[Path], list[CaseFiles]]:
    return partial(packed_cases, read_reference=read_reference, channels=channels)


def _dsb2018_packed(folder: Path) -> list[CaseFiles]:
    """The packed copy names its files by the whole ImageId."""
    return [
        CaseFiles(case.name[:12], case.group[:12], "", case.files, case.reader)
        for case in packed_cases(folder, read_labels, 3)
    ]


_LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "dsb2018": (_dsb2018_packed, dsb2018_cases),
    "isbi2012": (isbi2012_cases, _packed(read_mask, 1)),
    "vnc": (vnc_cases, _packed(read_vnc_labels, 1)),
    "montgomery": (montgomery_cases, _packed(read_mask, 1)),
    "isic2016": (partial(isic_cases, year="2016"),),
    "isic2017": (partial(isic_cases, year="2017"), _packed(read_mask, 3)),
    "isic2018": (partial(isic_cases, year="2018"),),
    "chaos_ct": (partial(_chaos_layout, modality="CT"),),
    "chaos_mr": (partial(_chaos_layout, modality="MR"),),
    **{
        name: (partial(_decathlon_layout, name=name),)
        for name in names()
        if name.startswith("msd_task")
    },
}
