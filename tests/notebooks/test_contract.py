"""Every chapter keeps the contract; and every check of the contract can fail."""

import ast
import base64
import copy
import re
from collections import defaultdict
from pathlib import Path

import contract
import nbformat
import pytest
import yaml
from contract import CHECKS, ROOT, Facts

CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


@pytest.fixture(scope="module")
def facts() -> Facts:
    repository = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]
    bib = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    public = set()
    for file in (ROOT / "medseg").rglob("*.py"):
        names = defined_in(file)
        if file.name.startswith("_"):  # what the folder's front shows of it
            names &= shown_by(file.with_name("__init__.py"))
        public |= names
    return Facts(
        slug=repository["url"].removeprefix("https://github.com/"),
        branch=repository["branch"],
        bib_keys=frozenset(re.findall(r"^@\w+\{(\w+),", bib, re.MULTILINE)),
        public=frozenset(public),
    )


def defined_in(file: Path) -> set[str]:
    """Functions and classes of a module that have no underscore."""
    return {
        node.name
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
    }


def shown_by(front: Path) -> set[str]:
    """What ``__all__`` of a folder lists."""
    for node in ast.parse(front.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def chapter(path: Path):
    return nbformat.read(path, as_version=4)


def test_public_names_are_those_that_the_package_shows(facts):
    assert {"dice_loss", "UNet", "cells", "surface_distances"} <= facts.public
    assert not {"check_level", "soft_masks"} & facts.public  # shared inside a folder


def test_there_are_chapters():
    assert len(CHAPTERS) >= 3


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_chapter_keeps_the_contract(path, check, facts):
    assert check(chapter(path), path, facts) == []


def test_every_chapter_has_figures_and_no_two_figures_share_a_name():
    names = []
    for path in CHAPTERS:
        found = [
            cell.metadata["mystnb"]["figure"]["name"]
            for cell in contract.code_cells(chapter(path))
            if "figure" in cell.metadata.get("mystnb", {})
        ]
        assert found, f"{path.name} has no figure"
        names += found
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_picture_of_the_book_is_the_figure_of_its_chapter(path):
    for cell in contract.code_cells(chapter(path)):
        if "picture" in contract.tags(cell):
            kept = ROOT / "book" / "static" / f"{path.stem}.jpg"
            data = cell.outputs[0]["data"]["image/jpeg"]
            assert base64.b64decode(data) == kept.read_bytes(), "run make notebooks"


def test_nothing_is_pasted_twice():
    """A function of ten lines or more stands in one chapter only."""
    homes = defaultdict(set)
    for path in CHAPTERS:
        for cell in contract.code_cells(chapter(path)):
            for node in contract.python_of(cell).body:
                if isinstance(node, ast.FunctionDef) and len(ast.unparse(node)) > 400:
                    homes[ast.dump(node)].add((path.name, node.name))
    assert [sorted(places) for places in homes.values() if len(places) > 1] == []


def test_the_setup_cell_reinstalls_nothing():
    """Its one install is guarded, and names the package alone."""
    assert contract.SETUP.count("pip") == 1
    assert contract.SETUP.index("find_spec") < contract.SETUP.index("pip")
    assert not re.search(r"pip install.*(torch|numpy|--upgrade|-U)", contract.SETUP)


# What each check must catch: a chapter that keeps the contract, with one thing broken.


def replace(cell, old, new):
    assert old in cell.source, f"{old!r} is not there to be broken"
    cell.source = cell.source.replace(old, new)


def in_prose(old, new):
    def break_it(notebook):
        hits = [
            c for c in notebook.cells if c.cell_type == "markdown" and old in c.source
        ]
        assert hits, f"{old!r} is not there to be broken"
        for cell in hits:
            cell.source = cell.source.replace(old, new)

    return break_it


def add_code(source):
    def break_it(notebook):
        cell = nbformat.v4.new_code_cell(source)
        cell.execution_count = len(contract.code_cells(notebook)) + 1
        notebook.cells.append(cell)

    return break_it


def figure_cell(notebook):
    return next(
        cell
        for cell in contract.code_cells(notebook)
        if "figure" in cell.metadata.get("mystnb", {})
        and any("image/" in mime for o in cell.outputs for mime in o.get("data", {}))
    )


def without_alt(notebook):
    figure_cell(notebook).metadata["mystnb"]["image"]["alt"] = "a.png"


def without_caption(notebook):
    del figure_cell(notebook).metadata["mystnb"]["figure"]


def with_error(notebook):
    contract.code_cells(notebook)[1].outputs = [
        nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[])
    ]


def with_stderr(notebook):
    contract.code_cells(notebook)[1].outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="10%|#")
    ]


def with_widget(notebook):
    data = {"application/vnd.jupyter.widget-view+json": {}}
    contract.code_cells(notebook)[1].outputs = [
        nbformat.v4.new_output("display_data", data=data)
    ]


def out_of_order(notebook):
    contract.code_cells(notebook)[1].execution_count = 7


def quick_run(notebook):
    notebook.metadata["medseg"]["profile"] = "quick"


BREAKS = [
    (contract.head, in_prose("# 09 ", "# 9 ")),
    (contract.head, in_prose("/notebooks/09_", "/notebooks/01_")),
    (contract.head, in_prose("**You need**", "You need")),
    (contract.head, in_prose("**Reading time** about", "Reading time")),
    (
        contract.setup,
        lambda nb: replace(contract.code_cells(nb)[0], "seed=0", "seed=1"),
    ),
    (contract.setup, lambda nb: contract.code_cells(nb)[0].metadata.update(tags=[])),
    (contract.headings, in_prose("## Failure lab", "## Failures")),
    (contract.predict, in_prose("**Predict, then run.**", "Look:")),
    (contract.figures, without_alt),
    (contract.figures, without_caption),
    (contract.sources, in_prose("dumoulin2016guide", "nobody2016nothing")),
    (contract.sources, in_prose("](https://", "](ftp://")),
    (
        contract.exercises,
        in_prose("<summary>Solution</summary>", "<summary>S</summary>"),
    ),
    (contract.quiz, in_prose("Right: ", "Wrong: ")),
    (contract.plain_markdown, in_prose("## Summary", "## Summary\n\n{cite}`x`")),
    (contract.plain_markdown, in_prose("## Summary", "## Summary\n\n![a](b.png)")),
    (contract.plain_markdown, in_prose("## Summary", "## Summary\n\n:::{note}")),
    (contract.plain_markdown, in_prose("<summary>A. ", "<summary>A. $x$ ")),
    (contract.outputs, with_error),
    (contract.outputs, with_stderr),
    (contract.outputs, with_widget),
    (contract.outputs, out_of_order),
    (contract.outputs, quick_run),
    (contract.drift, add_code("def dice_loss(logits, labels):\n    return 0")),
]


@pytest.mark.parametrize(
    ("check", "break_it"),
    BREAKS,
    ids=[f"{i}-{c.__name__}" for i, (c, _) in enumerate(BREAKS)],
)
def test_each_check_catches_what_it_is_for(check, break_it, facts):
    path = next(path for path in CHAPTERS if path.name.startswith("09_"))
    notebook = copy.deepcopy(chapter(path))
    assert check(notebook, path, facts) == []
    break_it(notebook)
    assert check(notebook, path, facts) != []
