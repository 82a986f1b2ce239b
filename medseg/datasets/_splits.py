"""Splits: by group, stratified, fixed by a rule and not by a random generator."""

import csv
import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

SPLITS = ("train", "val", "test")


class SplitRow(NamedTuple):
    """One line of a split: a case and where it belongs."""

    id: str
    group: str  # patient: all cases of one are in one split
    split: str  # train, val, test; withheld: never used
    stratum: str = ""


def make_split(
    groups: Mapping[str, str] | Sequence[str],
    name: str,
    *,
    strata: Mapping[str, str] | None = None,
    val: float = 0.15,
    test: float = 0.2,
) -> list[SplitRow]:
    """Divide cases into train, val and test: whole groups, the same on every machine.

    Groups are put in the order of ``sha256("medseg-2024:<name>:test:<group>")``, and
    taken for the test set until it has ``round(test * n)`` of the n cases of their
    stratum, or more if the last group is large. Of the others, in the order of
    ``"...:val:<group>"``, come ``round(val * n)`` for validation; the rest is for
    training. No random generator is involved: anyone can repeat it in any language.

    Args:
        groups: The group, such as the patient, of each case; or a list of cases that
            are each a group of their own.
        name: The data set's name, which goes into the hash.
        strata: What should be alike in all splits, such as the diagnosis, for each
            case. A group belongs to the stratum of its first case by name.
        val: Share of the cases for validation, 0 to 1.
        test: Share for testing; both together less than 1.

    Returns:
        One row a case, sorted by its name.

    Raises:
        ValueError: There are no cases, a name comes twice, a share is out of range, or
            a case has no stratum.

    Example:
        >>> patients = {"a1": "a", "a2": "a", "b1": "b", "c1": "c", "d1": "d"}
        >>> for row in make_split(patients, "demo", val=0.2, test=0.2):
        ...     print(row.id, row.group, row.split)
        a1 a test
        a2 a test
        b1 b train
        c1 c val
        d1 d train
    """
    if not isinstance(groups, Mapping):
        if len(set(groups)) < len(groups):
            twice = sorted({case for case in groups if list(groups).count(case) > 1})
            raise ValueError(f"cases come twice: {', '.join(twice[:10])}.")
        groups = {case: case for case in groups}
    if not groups:
        raise ValueError("there are no cases to split.")
    if not (0 <= val <= 1 and 0 <= test <= 1 and val + test < 1):
        raise ValueError(
            f"val and test are shares of the cases, together less than 1; got "
            f"val={val}, test={test}."
        )
    if strata is not None and (missing := sorted(set(groups) - set(strata))):
        raise ValueError(f"{len(missing)} cases have no stratum: {missing[:10]}.")
    members: dict[str, list[str]] = defaultdict(list)
    for case in sorted(groups):
        members[groups[case]].append(case)
    in_stratum: dict[str, list[str]] = defaultdict(list)
    for group, cases in members.items():
        in_stratum["" if strata is None else strata[cases[0]]].append(group)

    split_of = dict.fromkeys(groups, "train")
    for own in in_stratum.values():
        count = sum(len(members[group]) for group in own)
        for split, share in (("test", test), ("val", val)):
            wanted, taken = round(share * count), 0
            left = [group for group in own if split_of[members[group][0]] == "train"]
            for group in sorted(left, key=lambda g: _order(name, split, g)):
                if taken >= wanted:
                    break
                taken += len(members[group])
                split_of.update(dict.fromkeys(members[group], split))
    return [
        SplitRow(
            case, groups[case], split_of[case], "" if strata is None else strata[case]
        )
        for case in sorted(groups)
    ]


def _order(name: str, split: str, group: str) -> str:
    return hashlib.sha256(f"medseg-2024:{name}:{split}:{group}".encode()).hexdigest()


def write_split(rows: Iterable[SplitRow], path: str | Path) -> Path:
    """Write a split as text (CSV), so that it can be read, compared and committed.

    Raises:
        OSError: The folder is missing, full or not writable; nothing is left behind.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(SplitRow._fields)
    writer.writerows(rows)
    path = Path(path)
    draft = path.with_name(f".{path.name}.tmp")
    try:
        draft.write_text(text.getvalue(), encoding="utf-8")
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return path


def read_split(path: str | Path) -> list[SplitRow]:
    """Read what :func:`write_split` wrote, or any CSV with columns id and split.

    Without a column ``group``, each case is a group of its own.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A column is missing, or a case comes twice.
    """
    return _parse(Path(path).read_text(encoding="utf-8"), str(path))


def stored_split(name: str) -> list[SplitRow] | None:
    """Read medseg/splits/<name>.csv; None where the data set has no stored list."""
    file = files("medseg") / "splits" / f"{name}.csv"
    if not file.is_file():
        return None
    return _parse(file.read_text(encoding="utf-8"), f"medseg/splits/{name}.csv")


def _parse(text: str, path: str) -> list[SplitRow]:
    reader = csv.DictReader(text.splitlines())
    columns = reader.fieldnames or []
    if not {"id", "split"} <= set(columns):
        raise ValueError(
            f"{path} has the columns {', '.join(columns)}; expected id and split, and "
            "group where several cases belong together."
        )
    rows = [
        SplitRow(
            line["id"],
            line.get("group") or line["id"],
            line["split"],
            line.get("stratum") or "",
        )
        for line in reader
    ]
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise ValueError(f"{path} lists {row.id} twice.")
        seen.add(row.id)
    return rows
