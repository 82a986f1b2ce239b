"""``medseg datasets``: the public data sets, and a check of any split."""

import json as json_format
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medseg import datasets as registry


def datasets(
    *,
    action: str,
    names: list[str],
    dir: Path | None = None,
    split: Path | None = None,
    group: str | None = None,
    max_distance: float = 10,
    turned: bool = False,
    json: bool = False,
) -> int:
    """List public data sets, show or download one, or look for leaks in a split."""
    if action == "list":
        return _list(dir, json)
    if action == "check-split":
        return _check_split(names, dir, split, group, max_distance, turned, json)
    if len(names) != 1:
        raise ValueError(
            f"`medseg datasets {action}` needs a name: {', '.join(registry.names())}."
        )
    if action == "info":
        return _info(names[0], dir, json)
    about = registry.info(names[0])
    folder = registry.download(names[0], dir)
    print(f"{about.title}\nLicence: {about.licence}\nCite: {about.citation}\n{folder}")
    return 0


def _list(dir: Path | None, json: bool) -> int:
    found = []
    for known in registry.names():
        about = registry.info(known)
        here = registry.is_available(known, dir)
        found.append({"name": known, "here": here, "bytes": about.size_bytes})
        found[-1] |= {"title": about.title, "licence": about.licence}
        if not json:
            where = "here" if here else "not here"
            print(f"{known:10} {where:9} {_size(about.size_bytes):>9}  {about.title}")
    if json:
        print(json_format.dumps(found, indent=1))
    return 0


def _info(name: str, dir: Path | None, json: bool) -> int:
    about = registry.info(name)
    here = registry.is_available(name, dir)
    facts: dict[str, Any] = {
        "name": about.name,
        "title": about.title,
        "task": about.task,
        "modality": about.modality,
        "classes": list(about.classes),
        "licence": about.licence,
        "citation": about.citation,
        "page": about.page,
        "downloads": [
            {
                "url": part.url,
                "bytes": part.size_bytes,
                "checksum": part.checksum,
                "checksum at second hand": bool(part.checksum) and not part.trusted,
            }
            for part in about.downloads
        ],
        "bytes": about.size_bytes,
        "disk bytes": about.disk_bytes,
        "folder": about.folder,
        "layout": about.layout,
        "notes": about.notes,
        "here": str(registry.find(name, dir)) if here else None,
    }
    if json:
        print(json_format.dumps(facts, indent=1))
        return 0
    facts["classes"] = ", ".join(f"{i} {c}" for i, c in enumerate(about.classes))
    facts["bytes"] = f"about {_size(about.size_bytes)} to download"
    facts["disk bytes"] = f"about {_size(about.disk_bytes)} of disk while unpacking"
    facts["here"] = facts["here"] or "no"
    parts = facts.pop("downloads")
    for field, value in facts.items():
        print(f"{field:11} {value}")
    for part in parts:
        size = "size not known" if part["bytes"] is None else _size(part["bytes"])
        checksum = part["checksum"] or (
            "no published checksum: recorded at the first download"
        )
        if part["checksum at second hand"]:
            checksum += " (at second hand)"
        print(f"{'download':11} {part['url']} ({size}; {checksum})")
    if not parts:
        print(f"{'download':11} by hand only, under its terms, from the page")
    return 0


def _check_split(
    names: list[str],
    dir: Path | None,
    split: Path | None,
    group: str | None,
    max_distance: float,
    turned: bool,
    json: bool,
) -> int:
    """Print what is on two sides of a split; exit status 1 if there is anything."""
    splits: dict[str, str | Path | Iterable[Any]]
    groups: str | dict[str, str] | None = group
    if split is not None:
        splits, groups = _from_file(names, split, group)
    elif len(names) == 1 and names[0] in registry.names():
        splits = {
            part: registry.list_cases(names[0], part, dir)
            for part in ("train", "val", "test")
        }
    elif len(names) >= 2:
        splits = {name: Path(name) for name in names}
    else:
        raise ValueError(
            "`medseg datasets check-split` needs two or more folders, such as TRAIN "
            "TEST, or a folder with --split FILE, or the name of a data set."
        )
    leaks = registry.find_leaks(
        splits, group=groups, max_distance=max_distance, turned=turned
    )
    if json:
        listed = [leak._asdict() for leak in leaks]
        for leak in listed:  # JSON has no nan
            leak["distance"] = leak["distance"] if leak["kind"] == "image" else None
        print(json_format.dumps({"ok": not leaks, "leaks": listed}, indent=1))
        return 1 if leaks else 0
    for found in leaks:
        print(f"LEAK  {found}")
    counted = "no leak" if not leaks else f"{len(leaks)} leak(s)"
    print(f"{counted} between {', '.join(splits)}")
    if groups is None and not leaks and len(names) != 1:
        print("Patients were not compared: name them with --group.")
    return 1 if leaks else 0


def _from_file(
    names: list[str], split: Path, group: str | None
) -> tuple[dict[str, str | Path | Iterable[Any]], str | dict[str, str] | None]:
    """The files of one folder, divided by a CSV with the columns id and split."""
    if len(names) != 1:
        raise ValueError("--split divides the images of one folder; give its path.")
    rows = registry.read_split(split)
    folder = Path(names[0])
    by_name = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        by_name[path.name.removesuffix(".gz").rpartition(".")[0]] = path
    if missing := [row.id for row in rows if row.id not in by_name]:
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} of the {len(rows)} images that {split} "
            f"lists: {', '.join(missing[:10])}."
        )
    splits: dict[str, Any] = {}
    for row in rows:
        splits.setdefault(row.split, []).append(by_name[row.id])
    return splits, group or {row.id: row.group for row in rows}


def _size(count: int) -> str:
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB"
