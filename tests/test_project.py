"""The project holds together: one address, one version, complete lists, honest pins."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
URL, BRANCH = CONFIG["repository"]["url"], CONFIG["repository"]["branch"]
OWNER, NAME = URL.removeprefix("https://github.com/").split("/")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
# The project may be a download without .git, so its files are found, not asked for.
TEXTS = sorted(
    path
    for pattern in (
        *("*.md", "*.cff", "*.toml", "Makefile", ".github/**/*.yml", "book/**/*.md"),
        *("notebooks/*.ipynb", "medseg/**/*.py", "scripts/*.py"),
    )
    for path in ROOT.glob(pattern)
)


def strange_addresses(text):
    """Addresses in a text that name this project at another place or branch."""
    repository = (
        r"(?:github\.com|colab\.research\.google\.com/github)/([\w.-]+)/([\w-]+)"
    )
    faults = [
        found[0]
        for found in re.finditer(repository, text)
        if found[2].removesuffix(".git") == NAME and found[1] != OWNER
    ]
    own = re.escape(f"{OWNER}/{NAME}")
    for found in re.finditer(rf"{own}(?:@|/(?:blob|tree|raw|edit)/)([\w.-]+)", text):
        if found[1] != BRANCH:
            faults.append(found[0])
    for found in re.finditer(r"colab\.research\.google\.com/github/([\w./-]*)", text):
        if not found[1].startswith(f"{OWNER}/{NAME}/blob/{BRANCH}/notebooks/"):
            faults.append(found[0])
    return faults


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_to_the_project_names_its_one_address(path):
    assert strange_addresses(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        f"https://github.com/someone-else/{NAME}",
        f"git+https://github.com/{OWNER}/{NAME}@old-branch",
        f"https://github.com/{OWNER}/{NAME}/blob/old-branch/README.md",
        "https://colab.research.google.com/github/a/b/blob/main/notebooks/01.ipynb",
        f"https://colab.research.google.com/github/{OWNER}/{NAME}/blob/{BRANCH}/01.ipynb",
    ],
)
def test_a_strange_address_is_noticed(text):
    assert strange_addresses(f"See [here]({text}).")


def test_the_address_stands_where_tools_look_for_it():
    assert PROJECT["urls"]["Homepage"] == URL
    assert CITATION["repository-code"] == URL
    assert f"git clone {URL}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_version_is_the_same_everywhere():
    source = (ROOT / "medseg/__init__.py").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f'__version__ = "{PROJECT["version"]}"' in source
    assert str(CITATION["version"]) == PROJECT["version"]
    assert (
        re.findall(r"^## \[(\d.*?)\]", changes, re.MULTILINE)[0] == PROJECT["version"]
    )


def test_every_page_and_chapter_is_in_the_table_of_contents():
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    listed = re.findall(r"(?:file|root): (\S+)", toc)
    written = [*ROOT.glob("book/**/*.md"), *ROOT.glob("notebooks/*.ipynb")]
    names = [path.relative_to(ROOT).with_suffix("").as_posix() for path in written]
    assert sorted(listed) == sorted([*names, "genindex"])


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_every_pin_is_exact_and_names_no_machine():
    assert [pin for pin in pins() if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []


def test_what_pyproject_asks_for_is_pinned_to_a_version_it_accepts():
    pinned = dict(pin.split("==") for pin in pins())
    pinned = {canonicalize_name(name): version for name, version in pinned.items()}
    extras = PROJECT["optional-dependencies"].values()
    for text in [
        *PROJECT["dependencies"],
        *(line for lines in extras for line in lines),
    ]:
        wanted = Requirement(text)
        if wanted.name != NAME:
            version = pinned.get(canonicalize_name(wanted.name))
            assert version, f"{wanted.name} is not in constraints.txt"
            assert wanted.specifier.contains(version), (
                f"{text}, but pinned to {version}"
            )


def test_the_package_asks_for_lower_bounds_only():
    """Else pip, in Colab, would replace what is there, and want a restart."""
    for text in PROJECT["dependencies"]:
        assert {part.operator for part in Requirement(text).specifier} == {">="}, text


def test_the_package_declares_what_it_imports():
    declared = {
        canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]
    }
    homes = packages_distributions()
    undeclared = {}
    for path in sorted(ROOT.glob("medseg/**/*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:  # what is imported inside a function is optional
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module]
            else:
                continue
            for module in {name.split(".")[0] for name in modules}:
                if module in sys.stdlib_module_names or module == NAME:
                    continue
                if not {canonicalize_name(home) for home in homes[module]} & declared:
                    undeclared.setdefault(module, []).append(path.name)
    assert undeclared == {}


def test_ci_and_the_workflow_call_make_and_nothing_else():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    documented = set(re.findall(r"^#   make ([a-z]+) ", makefile, re.MULTILINE))
    assert documented == targets
    gates = (ROOT / ".ci/run").read_text(encoding="utf-8")
    called = re.search(r"for target in (.*); do", gates)[1].split()
    assert set(called) == {"check", "test", "book", "web"}
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert ".ci/run" in workflow


def test_the_gates_are_a_valid_script():
    subprocess.run(["bash", "-n", ROOT / ".ci/run"], check=True)
