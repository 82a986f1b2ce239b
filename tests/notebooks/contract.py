"""What a chapter must be, as functions that list what is wrong with one.

Each takes a notebook, its path and the project's facts, and returns sentences.
"""

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SETUP = """\
from importlib.util import find_spec

if find_spec("medseg") is None:
    %pip install -q "medseg @ git+https://github.com/{slug}@{branch}"

from medseg import course

device = course.setup(seed=0)"""
HEADINGS = (
    "The question",
    "Failure lab",
    "Exercises",
    "Quiz",
    "Summary",
    "Where next",
    "Sources",
)
MAX_BYTES = 1.5 * 2**20


@dataclass(frozen=True)
class Facts:
    """What the checks need to know of the project."""

    slug: str  # owner/name of the repository
    branch: str
    bib_keys: frozenset[str]
    public: frozenset[str]  # names that the package defines


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(notebook: Any) -> str:
    return "\n\n".join(
        cell.source for cell in notebook.cells if cell.cell_type == "markdown"
    )


def python_of(cell: Any) -> ast.Module:
    lines = [
        re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in cell.source.split("\n")
    ]
    return ast.parse("\n".join(lines))


def tags(cell: Any) -> list[str]:
    return cell.metadata.get("tags", [])


def section(notebook: Any, title: str) -> str:
    """The prose between one level-2 heading and the next."""
    parts = re.split(r"^## (.+)$", prose(notebook), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True)).get(title, "")


def head(notebook: Any, path: Path, facts: Facts) -> list[str]:
    text = notebook.cells[0].source
    number = path.name[:2]
    own = (
        f"[Open in Colab](https://colab.research.google.com/github/{facts.slug}/blob/"
        f"{facts.branch}/notebooks/{path.name})"
    )
    wanted = {
        f"a title that starts with '# {number} '": text.startswith(f"# {number} "),
        "a Colab link to its own file": own in text,
        "what you can do after it": "**After this chapter you can**" in text,
        "what you need first": "**You need**" in text,
        "the reading time": bool(
            re.search(r"\*\*Reading time\*\* about \d+ minutes", text)
        ),
        "the measured run time": bool(
            re.search(r"<!-- run-time -->.*\d.*<!-- /run-time -->", text)
        ),
    }
    return [f"the head lacks {what}" for what, there in wanted.items() if not there]


def setup(notebook: Any, path: Path, facts: Facts) -> list[str]:
    first = code_cells(notebook)[0]
    faults = []
    if first.source != SETUP.format(slug=facts.slug, branch=facts.branch):
        faults.append("the set-up cell is not the common one, to the letter")
    if "hide-cell" not in tags(first):
        faults.append("the set-up cell is not tagged hide-cell")
    return faults


def headings(notebook: Any, path: Path, facts: Facts) -> list[str]:
    found = re.findall(r"^## (.+)$", prose(notebook), flags=re.MULTILINE)
    there = [title for title in found if title in HEADINGS]
    if there != list(HEADINGS):
        return [f"level-2 headings must include {HEADINGS} in this order, got {there}"]
    return []


def predict(notebook: Any, path: Path, facts: Facts) -> list[str]:
    if "**Predict, then run.**" not in prose(notebook):
        return ["there is no 'Predict, then run.'"]
    return []


def figures(notebook: Any, path: Path, facts: Facts) -> list[str]:
    faults = []
    for cell in code_cells(notebook):
        if not any(
            mime.startswith("image/")
            for output in cell.outputs
            for mime in output.get("data", {})
        ):
            continue
        mystnb = cell.metadata.get("mystnb", {})
        alt = mystnb.get("image", {}).get("alt", "")
        caption = mystnb.get("figure", {}).get("caption", "")
        if len(alt.split()) < 5:
            faults.append(f"cell {cell.id}: its figure needs an alt text, got {alt!r}")
        if len(caption.split()) < 8:
            faults.append(f"cell {cell.id}: its figure needs a caption")
        if re.search(r"\{\w+\}`", caption):
            faults.append(f"cell {cell.id}: its caption holds a Sphinx role")
    return faults


def sources(notebook: Any, path: Path, facts: Facts) -> list[str]:
    items = re.findall(
        r"^- (.+(?:\n  .+)*)", section(notebook, "Sources"), re.MULTILINE
    )
    faults = [] if items else ["## Sources lists nothing"]
    for item in items:
        keys = re.findall(r"`(\w+)`\s*$", item)
        if not keys:
            faults.append(f"source without a bibliography key at its end: {item[:60]}")
        elif keys[0] not in facts.bib_keys:
            faults.append(f"source {keys[0]!r} is not in book/references.bib")
        if "](https://" not in item:
            faults.append(f"source without a DOI or arXiv link: {item[:60]}")
    return faults


def exercises(notebook: Any, path: Path, facts: Facts) -> list[str]:
    parts = re.split(
        r"^### Exercise \d+", section(notebook, "Exercises"), flags=re.MULTILINE
    )[1:]
    faults = [] if len(parts) >= 3 else [f"{len(parts)} exercises; three are the least"]
    for number, part in enumerate(parts, start=1):
        if not re.search(
            r"<details><summary>Solution</summary>\n\n.+\n\n</details>", part, re.DOTALL
        ):
            faults.append(f"exercise {number} has no folded solution")
    return faults


def quiz(notebook: Any, path: Path, facts: Facts) -> list[str]:
    questions = re.split(
        r"^\*\*\d+\.\*\*", section(notebook, "Quiz"), flags=re.MULTILINE
    )[1:]
    faults = (
        [] if len(questions) >= 4 else [f"{len(questions)} questions; four are few"]
    )
    for number, question in enumerate(questions, start=1):
        answers = re.findall(
            r"<details><summary>[A-Z]\. .+?</summary>\n\n(\w+): .+?\n\n</details>",
            question,
            re.DOTALL,
        )
        if answers.count("Right") != 1 or answers.count("Wrong") < 2:
            faults.append(
                f"question {number} needs one Right and two or more Wrong answers, "
                f"each with its reason, got {answers}"
            )
    return faults


def plain_markdown(notebook: Any, path: Path, facts: Facts) -> list[str]:
    text = re.sub(r"```.*?```", "", prose(notebook), flags=re.DOTALL)
    raw = {
        "a directive": r"^(```|:::)\{",
        "a role": r"\{[a-z:-]+\}`",
        "an image": r"!\[|<img",
        "maths in a summary": r"<summary>[^<]*\$",
        "a MyST target": r"^\([\w-]+\)=$",
        "a TODO": r"\bTODO\b|\bFIXME\b",
    }
    return [
        f"the prose holds {what}, which Colab or GitHub would show raw"
        for what, pattern in raw.items()
        if re.search(pattern, text, re.MULTILINE)
    ]


def outputs(notebook: Any, path: Path, facts: Facts) -> list[str]:
    faults = []
    cells = code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    if counts != list(range(1, len(cells) + 1)):
        faults.append(f"execution counts are {counts}: run it once, from the top")
    for cell in cells:
        for output in cell.outputs:
            wanted = "raises-exception" in tags(cell)
            if output.output_type == "error" and not wanted:
                faults.append(f"cell {cell.id} ended in {output.ename}")
            if output.get("name") == "stderr":
                faults.append(f"cell {cell.id} left output on stderr")
            if any("widget" in mime for mime in output.get("data", {})):
                faults.append(f"cell {cell.id} shows a widget, which needs a network")
    if notebook.metadata.get("medseg", {}).get("profile") == "quick":
        faults.append("the outputs come from the quick profile, which is for tests")
    if path.exists() and path.stat().st_size > MAX_BYTES:
        faults.append(f"{path.stat().st_size / 2**20:.1f} MiB; 1.5 are the most")
    return faults


def drift(notebook: Any, path: Path, facts: Facts) -> list[str]:
    """A name of the package that the chapter defines must be held against it."""
    defined, compared = set(), set()
    for cell in code_cells(notebook):
        for node in ast.walk(python_of(cell)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.Call) and getattr(
                node.func, "attr", getattr(node.func, "id", "")
            ) in ("assert_same", "assert_close", "assert_allclose"):
                compared |= {
                    name.id for name in ast.walk(node) if isinstance(name, ast.Name)
                }
    return [
        f"defines {name}, a name of the package, and never compares the two"
        for name in sorted(defined & facts.public - compared)
    ]


CHECKS = (
    head,
    setup,
    headings,
    predict,
    figures,
    sources,
    exercises,
    quiz,
    plain_markdown,
    outputs,
    drift,
)
