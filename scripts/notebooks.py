"""Run the chapters and keep their outputs; check that what is kept is fresh.

usage: python scripts/notebooks.py run [--stale] [NOTEBOOK ...]
       python scripts/notebooks.py check [NOTEBOOK ...]
       python scripts/notebooks.py address

run      executes notebooks from top to bottom, stores their outputs, writes the
         measured run time into the head, and records in the metadata a hash of the
         code, the versions, the device and the date. A notebook whose cell fails is
         left as it was. The figure of a cell tagged ``picture`` goes to book/static,
         and the rows that the chapter adds to the common table to medseg/results.
         --stale runs only those whose code has changed since.
check    fails when code has changed after the recorded run, or a file is not in the
         normal form (stable metadata, no widgets, no timings).
address  writes the repository's address, from _config.yml, wherever it is named.
"""

import argparse
import base64
import hashlib
import json
import os
import platform
import re
import sys
import tempfile
import time
import tomllib
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "medseg" / "results"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
NAMES_ADDRESS = ("*.md", "LICENSE-TEXT", "CITATION.cff", "pyproject.toml", "book/*.md")
CELL_METADATA = ("tags", "mystnb")
FACTS = """
import json, os, resource, torch
print(json.dumps({
    "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    "device": torch.cuda.get_device_name() if torch.cuda.is_available()
    else f"{os.cpu_count()} CPU cores",
}))
"""
RUN_TIME = re.compile(r"(<!-- run-time -->).*?(<!-- /run-time -->)", re.DOTALL)


def code_hash(notebook: Any) -> str:
    """Hash of what decides the outputs: the code cells, in their order."""
    code = "\n# %%\n".join(
        cell.source.strip() for cell in notebook.cells if cell.cell_type == "code"
    )
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def normalise(notebook: Any) -> Any:
    """Reduce metadata to what the book needs, so that diffs show only real changes."""
    record = notebook.metadata.get("medseg")
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": KERNEL,
            "language_info": {"name": "python"},
            **({"medseg": record} if record else {}),
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    count = 0
    for cell in notebook.cells:
        kept = {
            key: cell.metadata[key] for key in CELL_METADATA if key in cell.metadata
        }
        cell.metadata = nbformat.from_dict(kept)
        cell.source = cell.source.rstrip()
        if cell.cell_type != "code":
            continue
        count += 1
        if cell.execution_count is not None:
            cell.execution_count = count
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = count
            output.pop("transient", None)
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
    return notebook


def write(notebook: Any, path: Path) -> None:
    write_text(text_of(notebook), path)


def write_text(text: str, path: Path) -> None:
    """Write to a temporary name and move, so that a killed run costs nothing."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def text_of(notebook: Any) -> str:
    return nbformat.writes(notebook).rstrip() + "\n"


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def is_stale(notebook: Any) -> bool:
    return notebook.metadata.get("medseg", {}).get("code") != code_hash(notebook)


def run(path: Path) -> None:
    """Execute one notebook and store it with its outputs and its record."""
    notebook = read(path)
    profile = os.environ.get("MEDSEG_PROFILE", "by device")
    client = NotebookClient(
        notebook,
        timeout=7200,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    environment = {**os.environ}
    ledger = tempfile.TemporaryDirectory()
    if os.environ.get("MEDSEG_DATA") and profile != "quick":
        environment["MEDSEG_LEDGER"] = ledger.name
    start = time.perf_counter()
    with ledger, client.setup_kernel(env=environment):
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
        seconds = time.perf_counter() - start
        facts = kernel_facts(client)
        kept = {
            file.name: json.loads(file.read_text())["rows"]
            for file in Path(ledger.name).iterdir()
        }
    strip_noise(notebook)
    minutes = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
    text = (
        f"{minutes} and {facts['peak_gib']:.1f} GiB of memory, "
        f"measured on {facts['device']}"
    )
    head = notebook.cells[0]
    if not RUN_TIME.search(head.source):
        raise SystemExit(f"{path}: the head has no <!-- run-time --> markers")
    head.source = RUN_TIME.sub(rf"\g<1>{text}\g<2>", head.source)
    notebook.metadata["medseg"] = {
        "code": code_hash(notebook),
        "date": date.today().isoformat(),
        "seconds": round(seconds),
        "profile": profile,
        "data": "real" if os.environ.get("MEDSEG_DATA") else "cache or phantoms",
        **facts,
        "versions": {
            "python": platform.python_version(),
            **{
                name: version(name)
                for name in (
                    "medseg",
                    "torch",
                    "numpy",
                    "scikit-image",
                    "albumentations",
                )
            },
        },
    }
    write(normalise(notebook), path)
    for name, rows in kept.items():
        content = {"record": notebook.metadata["medseg"], "rows": rows}
        write_text(json.dumps(content, indent=1) + "\n", RESULTS / name)
    export_picture(notebook, path)
    print(f"{path.name}: {text}", flush=True)


def export_picture(notebook: Any, path: Path) -> None:
    """Store the figure of the cell tagged ``picture`` where README and book find it."""
    for cell in notebook.cells:
        if "picture" in cell.metadata.get("tags", []):
            data = cell.outputs[0]["data"]["image/jpeg"]
            target = ROOT / "book" / "static" / f"{path.stem}.jpg"
            temporary = target.with_suffix(".tmp")
            temporary.write_bytes(base64.b64decode(data))
            os.replace(temporary, target)


def kernel_facts(client: NotebookClient) -> dict[str, Any]:
    """Ask the kernel for its peak memory and its device, in a cell that is not kept."""
    cells = client.nb.cells
    cells.append(nbformat.v4.new_code_cell(FACTS))
    client.execute_cell(cells[-1], len(cells) - 1)
    return dict(json.loads(cells.pop().outputs[0]["text"]))


def strip_noise(notebook: Any) -> None:
    """Drop chatter on stderr and local paths; join what ``print`` wrote in pieces."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        kept: list[Any] = []
        for output in cell.outputs:
            if output.get("name") == "stderr":
                continue
            if "traceback" in output:  # where the recording machine keeps the project
                output.traceback = [
                    line.replace(f"{ROOT}/", "") for line in output.traceback
                ]
            if kept and output.get("name") == kept[-1].get("name") == "stdout":
                kept[-1].text += output.text
            else:
                kept.append(output)
        cell.outputs = kept


def check(paths: list[Path]) -> int:
    """Print what is wrong with the notebooks as they stand; return the count."""
    faults = []
    for path in paths:
        notebook = read(path)
        if is_stale(notebook):
            faults.append(f"{path}: the code has changed since its recorded run")
        ledger = RESULTS / f"thread_{path.name[:2]}.json"
        if ledger.is_file():
            record = json.loads(ledger.read_text(encoding="utf-8"))["record"]
            if record != notebook.metadata.get("medseg"):
                faults.append(f"{ledger}: not of the recorded run of {path}")
        if path.read_text(encoding="utf-8") != text_of(normalise(notebook)):
            faults.append(f"{path}: not in the normal form")
    for fault in faults:
        print(f"{fault}; run `make notebooks`", file=sys.stderr)
    return len(faults)


def address(paths: list[Path]) -> None:
    """Write the address from _config.yml wherever the project names its repository.

    The address it had is read from pyproject.toml.
    """
    repository = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]
    slug = repository["url"].removeprefix("https://github.com/").rstrip("/")
    branch = repository["branch"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    former = project["urls"]["Homepage"].removeprefix("https://github.com/")
    for name in NAMES_ADDRESS:
        for file in sorted(ROOT.glob(name)):
            text = file.read_text(encoding="utf-8")
            changed = re.sub(
                rf"(?<=github\.com/){re.escape(former)}(?![\w-])", slug, text
            )
            write_text(changed, file)
    for path in paths:
        notebook = read(path)
        fresh = not is_stale(notebook)
        for cell in notebook.cells[:2]:
            cell.source = re.sub(
                r"(?<=colab\.research\.google\.com/github/)[^)\s]+",
                f"{slug}/blob/{branch}/notebooks/{path.name}",
                cell.source,
            )
            cell.source = re.sub(
                r"(?<=git\+https://github\.com/)[^\"\s]+",
                f"{slug}@{branch}",
                cell.source,
            )
        if fresh:  # the address decides no output: what was recorded stays valid
            notebook.metadata["medseg"]["code"] = code_hash(notebook)
        write(normalise(notebook), path)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("run", "check", "address"))
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--stale", action="store_true", help="run only changed ones")
    args = parser.parse_args()
    paths = args.notebooks or sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if missing := [str(path) for path in paths if not path.is_file()]:
        parser.error(f"no such notebook: {', '.join(missing)}")
    if args.command == "check":
        return int(check(paths) > 0)
    if args.command == "address":
        address(paths)
        return 0
    for path in paths:
        if not args.stale or is_stale(read(path)):
            run(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
