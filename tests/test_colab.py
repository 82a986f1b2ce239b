"""The chapters run where a reader opens them: with the wheel and what it declares.

Colab's own image is not at hand here. What stands in for it is a bare environment with
what the wheel asks for, at any depth, and the kernel, linked file by file from this
one. What the package uses but does not declare is missing there.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import distribution
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
REPOSITORY = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]
VERSIONS = """\
import json, numpy, torch
print(json.dumps([torch.__version__, numpy.__version__]))"""

pytestmark = pytest.mark.slow


def closure(*requirements):
    """The installed distributions that these requirements lead to, at any depth."""
    todo, done = [Requirement(text) for text in requirements], {}
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        extras = set(requirement.extras) - done.setdefault(name, set())
        if done[name] and not extras:
            continue
        done[name] |= extras | {""}
        for text in distribution(name).requires or []:
            needed = Requirement(text)
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in extras | {""}
            ):
                todo.append(needed)
    return sorted(done)


def link(name, site):
    """Link one distribution's packages and metadata into another folder."""
    files = distribution(name).files or []
    for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
        if not (site / top).exists():
            (site / top).symlink_to(distribution(name).locate_file(top))


def clean_environment(**extra):
    """Nothing of this project's, and nothing found in the reader's home."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("MEDSEG_", "PYTHON", "JUPYTER", "GIT_", "VIRTUAL_ENV"))
    }
    return {
        **kept,
        "MEDSEG_PROFILE": "quick",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        **extra,
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The package as a repository with one commit, from the files as they are now."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "medseg", folder / "medseg", ignore=ignored)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (
        ["init", "-q", "-b", REPOSITORY["branch"]],
        ["add", "."],
        ["commit", "-q", "-m", "now"],
    ):
        subprocess.run(
            [*git, *command], cwd=folder, check=True, env=clean_environment()
        )
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index"]
        + ["--no-build-isolation", "--wheel-dir", folder, source],
        check=True,
    )
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def declared(wheel, tmp_path_factory):
    """What the wheel asks for, as its own metadata says it."""
    folder = tmp_path_factory.mktemp("metadata")
    shutil.unpack_archive(wheel, folder, "zip")
    metadata = next(folder.glob("*.dist-info/METADATA")).read_text(encoding="utf-8")
    found = re.findall(r"^Requires-Dist: (.+)$", metadata, re.MULTILINE)
    return [text for text in found if "extra ==" not in text]


@pytest.fixture(scope="module")
def dependencies(declared, tmp_path_factory):
    """A folder with what a reader's machine has before the package comes."""
    folder = tmp_path_factory.mktemp("dependencies")
    for name in closure(*declared, "ipykernel", "pip", "setuptools"):
        link(name, folder)
    return folder


def bare_environment(folder, dependencies):
    """Make an environment that sees these dependencies, but can only add to them."""
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    paths = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    (site / "dependencies.pth").write_text(str(dependencies))
    scripts = Path(sysconfig.get_path("scripts", "venv", paths))
    return scripts / Path(sys.executable).name


@pytest.fixture(scope="module")
def colab(wheel, dependencies, tmp_path_factory):
    """The Python of an environment with the wheel."""
    python = bare_environment(tmp_path_factory.mktemp("colab"), dependencies)
    subprocess.run(
        [python, "-P", "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel],
        check=True,
        env=clean_environment(),
    )
    return python


def ask(python, code):
    command = [python, "-P", "-c", code]  # -P: not from the folder this runs in
    run = subprocess.run(
        command, check=True, capture_output=True, env=clean_environment()
    )
    return json.loads(run.stdout)


def execute(notebook, python, folder, **environment):
    """Run a notebook, cell by cell, in a kernel of that Python, from that folder."""
    spec = folder / "kernels" / "bare" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    description = {"argv": argv, "display_name": "bare", "language": "python"}
    spec.write_text(json.dumps(description))
    client = NotebookClient(
        notebook,
        kernel_name="bare",
        timeout=300,
        resources={"metadata": {"path": str(folder)}},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        client.execute(
            env=clean_environment(HOME=str(python.parents[1]), **environment)
        )


def printed(notebook):
    return "".join(
        output.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


def test_the_bare_environment_holds_the_wheel_and_not_this_checkout(colab):
    code = "import json, medseg; print(json.dumps(medseg.__file__))"
    assert Path(ask(colab, code)).is_relative_to(colab.parents[1])
    tools = "sphinx", "pytest", "yaml", "nbformat"
    code = (
        "import json; from importlib.util import find_spec; "
        f"print(json.dumps([name for name in {tools} if find_spec(name)]))"
    )
    assert ask(colab, code) == ["yaml"]  # albumentations asks for it


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_runs_with_the_wheel_from_another_folder(path, colab, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    execute(notebook, colab, tmp_path)
    assert "profile 'quick'" in printed(notebook)


def test_the_setup_cell_installs_the_package_and_leaves_torch_and_numpy(
    source, dependencies, tmp_path
):
    python = bare_environment(tmp_path / "without", dependencies)
    before = ask(python, VERSIONS)
    notebook = nbformat.read(CHAPTERS[0], as_version=4)
    setup = next(cell for cell in notebook.cells if cell.cell_type == "code")
    probe = nbformat.v4.new_code_cell("import medseg\nprint(medseg.__file__)")
    notebook.cells = [setup, probe]
    execute(
        notebook,
        python,
        tmp_path,
        # git is told that the address is the folder; pip needs no network to build.
        GIT_CONFIG_COUNT="1",
        GIT_CONFIG_KEY_0=f"url.{source.as_uri()}.insteadOf",
        GIT_CONFIG_VALUE_0=REPOSITORY["url"],
        PIP_NO_BUILD_ISOLATION="0",
        PIP_NO_INDEX="1",
    )
    assert str(tmp_path / "without") in printed(notebook)
    assert "medseg 0" in printed(notebook)
    assert ask(python, VERSIONS) == before
