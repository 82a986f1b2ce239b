"""A module of the package imports only from lower layers."""

import ast
from pathlib import Path

import pytest

import medseg

PACKAGE = Path(medseg.__file__).parent
LAYERS = [
    ["checks"],
    ["artefacts"],
    ["losses", "metrics", "statistics", "classical", "volumes", "phantoms"]
    + ["checkpoints", "imagefiles", "archives", "permutohedral"]
    + ["schedules", "distributed"]
    + ["models.layers", "models.weights"],
    ["dicom"],
    ["models.vgg", "models.resnet", "models.xception"],
    ["models.fcn", "models.unet", "models.deeplab", "models.summary"]
    + ["measures", "transforms", "inference", "crf"],
    ["models.nnunet", "models.unet_variants", "models.deepmedic", "models.highresnet"],
    ["datasets", "training", "plots"],
    ["export", "report", "logs"],
    ["recipes", "commands"],
    ["course", "cli"],
    ["ledger"],
    ["__main__"],
]
LAYER = {name: depth for depth, names in enumerate(LAYERS) for name in names}
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# A subject of several files: `metrics/__init__.py` is `metrics`, and the private files
# beside it, `metrics/_surface.py`, lie just below it.
for name in LAYER:
    if f"{name}.__init__" in FILES:
        FILES[name] = FILES.pop(f"{name}.__init__")
MODULES = [name for name in FILES if not name.endswith("__init__")]
LAYER |= {
    name: LAYER[package] - 0.5
    for name in MODULES
    for package in [name.partition("._")[0]]
    if package != name and package in LAYER
}


def imported_modules(node):
    """Modules of the package that one import statement names, as 'models.unet'."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: write the full name, from medseg"
        names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    else:
        return set()
    inside = {name.removeprefix("medseg.") for name in names if "medseg." in name}
    return {name for name in inside if name in FILES}


def problems(name, source):
    """What is wrong with the imports of a module, one line for each."""
    tree = ast.parse(source)
    found = [
        f"{name} imports {other}, which is not in a lower layer"
        for node in ast.walk(tree)
        for other in sorted(imported_modules(node))
        if LAYER[other] >= LAYER[name] and not _are_one_subject(name, other)
    ]
    found += [
        f"{name}:{node.lineno} imports *"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
    ]
    found += [
        f"{name}:{node.lineno} imports {', '.join(imported_modules(node))} late"
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
        if imported_modules(node)
    ]
    return found


def _are_one_subject(name, other):
    """Whether both are private files of the same folder."""
    return (
        "._" in name and "._" in other and name.split("._")[0] == other.split("._")[0]
    )


def test_every_module_has_a_layer_and_a_name_that_says_what_it_holds():
    assert set(MODULES) <= set(LAYER)
    assert not {"utils", "helpers", "misc"} & {name.split(".")[-1] for name in FILES}


@pytest.mark.parametrize("name", MODULES)
def test_module_imports_only_from_lower_layers(name):
    assert problems(name, FILES[name].read_text()) == []


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("from medseg.training import train", "not in a lower layer"),
        ("from medseg import training", "not in a lower layer"),
        ("import medseg.inference", "not in a lower layer"),  # its own layer
        ("from medseg.checks import *", r"inference:1 imports \*"),
        ("def f():\n    from medseg import checks", "inference:2 imports checks late"),
    ],
)
def test_the_test_sees(source, problem):
    found = problems("inference", source)
    with pytest.raises(AssertionError, match=problem):
        assert not found, found
