"""The runner of the notebooks: what it keeps, and what it refuses."""

import importlib.util
import json
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("runner", ROOT / "scripts/notebooks.py")
runner = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runner)

HEAD = "# 99 Test\n\n- **Run time** <!-- run-time --><!-- /run-time -->"


def write(path, *code, head=HEAD):
    cells = [nbformat.v4.new_markdown_cell(head)]
    cells += [nbformat.v4.new_code_cell(source) for source in code]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "99_test.ipynb"
    code = """import sys
print(6)
print('noise', file=sys.stderr, flush=True)
print(7)"""
    write(path, code, "1 + 1")
    runner.run(path)
    return path


def test_a_run_keeps_outputs_counts_and_a_record(recorded):
    notebook = runner.read(recorded)
    first, second = notebook.cells[1:]
    assert [output.get("text") for output in first.outputs] == ["6\n7\n"]
    assert (first.execution_count, second.execution_count) == (1, 2)
    record = notebook.metadata["medseg"]
    assert record["code"] == runner.code_hash(notebook)
    assert {"python", "torch", "numpy", "medseg"} <= set(record["versions"])
    assert "CPU cores" in record["device"] or "NVIDIA" in record["device"]
    assert 0 < record["peak_gib"] < 100
    assert "GiB of memory, measured on" in notebook.cells[0].source
    assert "execution" not in json.dumps(notebook.cells[1].metadata)


def test_a_recorded_run_is_fresh(recorded):
    assert runner.check([recorded]) == 0


def test_changed_code_is_stale_and_changed_prose_is_not(recorded, tmp_path, capsys):
    notebook = runner.read(recorded)
    path = tmp_path / "99_test.ipynb"
    notebook.cells[0].source += "\n\nMore prose."
    runner.write(notebook, path)
    assert runner.check([path]) == 0
    notebook.cells[2].source = "1 + 2"
    runner.write(notebook, path)
    assert runner.check([path]) == 1
    assert "has changed since its recorded run" in capsys.readouterr().err


def test_a_notebook_saved_by_an_editor_is_not_in_the_normal_form(recorded, tmp_path):
    notebook = runner.read(recorded)
    notebook.cells[1].metadata["execution"] = {"iopub.status.busy": "2026-01-01"}
    path = tmp_path / "99_test.ipynb"
    nbformat.write(notebook, path)
    assert runner.check([path]) == 1


def test_a_failing_cell_leaves_the_file_as_it_was(tmp_path):
    path = write(tmp_path / "99_test.ipynb", "1 / 0")
    before = path.read_bytes()
    with pytest.raises(Exception, match="ZeroDivisionError"):
        runner.run(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def move_to_a_new_place(root, monkeypatch):
    (root / "_config.yml").write_text(
        "repository: {url: 'https://github.com/new/place', branch: main}"
    )
    (root / "pyproject.toml").write_text(
        '[project.urls]\nHomepage = "https://github.com/old/name"'
    )
    (root / "README.md").write_text(
        "git clone https://github.com/old/name && https://github.com/old/name-tools"
    )
    monkeypatch.setattr(runner, "ROOT", root)


def test_the_address_is_written_into_link_and_setup_and_keeps_the_run_fresh(
    tmp_path, monkeypatch
):
    head = HEAD + (
        "\n\n[Open in Colab](https://colab.research.google.com/github/old/name/blob/"
        "trunk/notebooks/wrong.ipynb)"
    )
    setup = '%pip install -q "medseg @ git+https://github.com/old/name@trunk"'
    path = write(tmp_path / "99_test.ipynb", setup, head=head)
    notebook = runner.read(path)
    notebook.metadata["medseg"] = {"code": runner.code_hash(notebook)}
    runner.write(runner.normalise(notebook), path)
    move_to_a_new_place(tmp_path, monkeypatch)
    runner.address([path])
    notebook = runner.read(path)
    assert (
        "github/new/place/blob/main/notebooks/99_test.ipynb)"
        in notebook.cells[0].source
    )
    assert 'git+https://github.com/new/place@main"' in notebook.cells[1].source
    assert (tmp_path / "README.md").read_text() == (
        "git clone https://github.com/new/place && https://github.com/old/name-tools"
    )
    assert "new/place" in (tmp_path / "pyproject.toml").read_text()
    assert runner.check([path]) == 0


def test_the_address_does_not_freshen_a_stale_notebook(tmp_path, monkeypatch):
    path = write(tmp_path / "99_test.ipynb", "1 + 1")
    notebook = runner.read(path)
    notebook.metadata["medseg"] = {"code": "another"}
    runner.write(runner.normalise(notebook), path)
    move_to_a_new_place(tmp_path, monkeypatch)
    runner.address([path])
    assert runner.is_stale(runner.read(path))


def test_tracebacks_name_no_folder_of_the_machine():
    cell = nbformat.v4.new_code_cell("1 / 0")
    line = f"File {runner.ROOT}/medseg/checks.py:1"
    cell.outputs = [
        nbformat.v4.new_output("error", ename="E", evalue="", traceback=[line])
    ]
    runner.strip_noise(nbformat.v4.new_notebook(cells=[cell]))
    assert cell.outputs[0].traceback == ["File medseg/checks.py:1"]
