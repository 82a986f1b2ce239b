"""Tables: as text, as HTML, as CSV and JSON files, whole or not at all."""

import csv
import io
import json
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame


class Section(NamedTuple):
    """A part of a printed table: head and rows, all text, of one length."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Tabular:
    """What has rows, and can be written and shown."""

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows, each a dict by column; nan where undefined."""
        raise NotImplementedError

    def summary(self) -> dict[str, Any]:
        """Return all results as plain dicts that JSON can hold."""
        raise NotImplementedError

    def to_dataframe(self) -> "DataFrame":
        """Return the rows as a pandas DataFrame.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        try:
            import pandas as pd  # noqa: PLC0415 - optional
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "to_dataframe needs pandas: pip install pandas, or use rows(), a list "
                "of dicts, or to_csv()."
            ) from None
        return pd.DataFrame(self.rows())

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the rows as CSV, whole or not at all; undefined cells are empty."""
        rows = self.rows()
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _cell(value) for key, value in row.items()})
        write_text(path, text.getvalue())

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return summary and rows as JSON; with a path, write them to it as well."""
        content = {"summary": self.summary(), "rows": self.rows()}
        text = json.dumps(plain(content), indent=1, allow_nan=False, ensure_ascii=False)
        if path is not None:
            write_text(path, text + "\n")
        return text

    def __str__(self) -> str:
        first, last = self._remarks()
        return "\n".join([*first, "", _as_text(self._sections()), "", *last])

    def _repr_html_(self) -> str:
        first, last = (
            "<br>".join(escape(line) for line in lines) for lines in self._remarks()
        )
        return f"<p>{first}</p>{_as_html(self._sections())}<p>{last}</p>"

    def _remarks(self) -> tuple[list[str], list[str]]:
        """Lines above and below the table."""
        raise NotImplementedError

    def _sections(self) -> list[Section]:
        raise NotImplementedError


def plain(value: Any) -> Any:
    """Return what JSON can hold: numbers of Python, and None for nan."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def number(value: float, unit: str) -> str:
    """Return a score as text: shares with three digits, mm with two."""
    if value is None or np.isnan(value):
        return "-"
    return f"{value:.2f}" if unit else f"{value:.3f}"


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file whole or not at all."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _cell(value: Any) -> Any:
    return "" if isinstance(value, float) and np.isnan(value) else value


def _as_text(sections: Sequence[Section]) -> str:
    """Names to the left, numbers to the right, each section with its own widths."""
    blocks = []
    for head, rows in sections:
        lines = [head, *rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        blocks.append(
            "\n".join(
                "  ".join(
                    cell.ljust(width) if i == 0 else cell.rjust(width)
                    for i, (cell, width) in enumerate(zip(line, widths, strict=True))
                ).rstrip()
                for line in lines
            )
        )
    return "\n\n".join(blocks)


def _as_html(sections: Sequence[Section]) -> str:
    tables = []
    for head, rows in sections:
        top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        tables.append(
            f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
        )
    return "".join(tables)
