"""Check the built book, _build/html: all pages there, no dead link, no raw markup.

usage: python scripts/check_book.py

Sphinx warns about most faults, and warnings stop the build. This finds the rest: a
page that was not built or is in no table of contents, a link to a file or an anchor
that does not exist, markup that was shown instead of obeyed, and a traceback where the
chapter wants none.
"""

import re
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
MADE_BY_SPHINX = {"index", "genindex", "py-modindex", "search"}
RAW_MARKUP = {
    "a MyST role": re.compile(r"\{[a-z:-]+\}`"),
    "a MyST directive": re.compile(r"(:::+|```+)\s*\{"),
    "raw maths": re.compile(r"\$[^$\n]+\$"),
    "raw Markdown": re.compile(r"\*\*[^*\n]+\*\*|\]\([^)\s]+\)|<!--|^#{1,6} ", re.M),
}


def pages_in_toc() -> set[str]:
    """The pages that _toc.yml names, without suffix."""
    text = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    toc = yaml.safe_load(text)

    def files(node: object) -> set[str]:
        if isinstance(node, list):
            return set().union(*map(files, node))
        if not isinstance(node, dict):
            return set()
        own = {node[key] for key in ("root", "file") if key in node}
        return own.union(*map(files, node.values()))

    return files(toc)


@cache
def parsed(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@cache
def anchors(path: Path) -> frozenset[str]:
    return frozenset(str(tag["id"]) for tag in parsed(path).find_all(id=True))


def missing_pages() -> list[str]:
    wanted = pages_in_toc() | MADE_BY_SPHINX
    found = {
        path.relative_to(HTML).with_suffix("").as_posix()
        for path in HTML.rglob("*.html")
        if "_static" not in path.parts and "_modules" not in path.parts
    }
    return [
        *(f"{name}: in _toc.yml, but not built" for name in sorted(wanted - found)),
        *(f"{name}: built, but not in _toc.yml" for name in sorted(found - wanted)),
    ]


def dead_links(page: Path) -> list[str]:
    faults = []
    for tag in parsed(page).find_all(["a", "img", "link", "script"]):
        target = str(tag.get("href") or tag.get("src") or "")
        parts = urlsplit(target)
        if parts.scheme or parts.netloc or not target:
            continue
        file = page
        if parts.path:
            file = (page.parent / unquote(parts.path)).resolve()
            file = file / "index.html" if file.is_dir() else file
        if not file.is_file():
            faults.append(f"links to {target}, which is not there")
        elif (
            parts.fragment
            and file.suffix == ".html"
            and unquote(parts.fragment) not in anchors(file)
        ):
            faults.append(f"links to {target}, where there is no such anchor")
    return faults


def raw_markup(page: Path) -> list[str]:
    article = parsed(page).find("article")
    if article is None or "_modules" in page.parts:
        return []
    article = BeautifulSoup(str(article), "html.parser")  # a copy, to cut from
    faults = [
        f"markup that failed: {tag.get_text()}"
        for tag in article.find_all(class_=["problematic", "system-message"])
    ]
    for tag in article.select("pre, code, script, style, svg, .math"):
        tag.decompose()
    for what, pattern in RAW_MARKUP.items():
        if found := pattern.search(article.get_text()):
            faults.append(f"{what} is shown to the reader: {found[0]!r}")
    return faults


def chapter_faults(page: Path) -> list[str]:
    """A chapter shows exactly the errors that its cells announce, and no test marks."""
    shown = len(parsed(page).select(".cell_output .traceback"))
    source = ROOT / page.relative_to(HTML).with_suffix(".ipynb")
    if not source.is_file():
        return [f"{shown} tracebacks on a page without cells"] if shown else []
    wanted = sum(
        output.output_type == "error"
        for cell in nbformat.read(source, as_version=4).cells
        if "raises-exception" in cell.metadata.get("tags", [])
        for output in cell.outputs
    )
    faults = []
    if shown != wanted:
        faults.append(f"{shown} tracebacks, but {wanted} announced")
    if "nbval" in parsed(page).get_text().lower():
        faults.append("the reader sees a mark meant for nbval: make it a cell tag")
    return faults


def main() -> int:
    pages = sorted(HTML.rglob("*.html"))
    pages = [page for page in pages if "_static" not in page.parts]
    faults = missing_pages()
    for page in pages:
        faults += [
            f"{page.relative_to(HTML)}: {fault}"
            for fault in dead_links(page) + raw_markup(page) + chapter_faults(page)
        ]
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(pages)} pages, {len(pages_in_toc())} of them in the table of contents")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
