"""What only the notebooks need: set-up, budgets, data with a fallback, and proofs.

setup         seeds, figure style, and one line on what the chapter runs on
profile       quick (tests), cpu (a laptop) or gpu
budget        the number that belongs to the profile
cases         real cases where they can be had, else drawn ones, said aloud
show          the package's source, for reading
assert_same   what a chapter built computes what the package computes
interactive   a figure that reacts, drawn by the browser
"""

import inspect
import os
import platform
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from typing import Any, TypeVar

import numpy as np
import torch
from IPython.display import HTML, Markdown
from torch import Tensor, nn

import medseg
from medseg import datasets, phantoms, plots
from medseg.checks import check_choice
from medseg.volumes import Volume, grid_affine

PROFILES = ("quick", "cpu", "gpu")

Value = TypeVar("Value")


def setup(seed: int = 0) -> torch.device:
    """Seed PyTorch and NumPy, set the figure style, and say what this runs on.

    Args:
        seed: Given to ``torch.manual_seed`` and ``np.random.seed``.

    Returns:
        ``cuda`` where a GPU can be used, else ``cpu``.
    """
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - albumentations and scikit-image may use it
    plots.set_style()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        where = f"the GPU {torch.cuda.get_device_name()}"
    else:
        where = f"the CPU, {torch.get_num_threads()} thread(s)"
    print(
        f"medseg {medseg.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}; profile {profile()!r}, on {where}"
    )
    return device


def profile() -> str:
    """Return how much work a chapter does: ``quick``, ``cpu`` or ``gpu``.

    The environment variable ``MEDSEG_PROFILE`` decides; without it, the device.

    Raises:
        ValueError: ``MEDSEG_PROFILE`` has another value.
    """
    chosen = os.environ.get("MEDSEG_PROFILE") or (
        "gpu" if torch.cuda.is_available() else "cpu"
    )
    check_choice(chosen, "MEDSEG_PROFILE", PROFILES)
    return chosen


def budget(*, quick: Value, cpu: Value, gpu: Value) -> Value:
    """Return the value that belongs to the profile.

    Args:
        quick: What the tests use: under a minute for the whole notebook.
        cpu: What a laptop without a GPU uses: under five minutes.
        gpu: What a GPU in Colab or a laboratory uses.
    """
    return {"quick": quick, "cpu": cpu, "gpu": gpu}[profile()]


def cases(name: str, split: str, limit: int | None = None) -> list[Any]:
    """Load cases of a data set, or draw some of its kind where it is not to be had.

    Looks where ``MEDSEG_DATA`` points and in the cache; downloads what is missing, can
    be downloaded and is no larger than 200 MB, except in the quick profile. Prints what
    it found, so that no reader takes a drawing for a photograph.

    Drawn are nuclei for ``dsb2018``, membranes for ``isbi2012`` and ``vnc``, moles for
    ``isic*``, chest films for ``montgomery``, an abdomen in CT for ``chaos_*`` and
    Decathlon tasks 3 and 9, a chest in CT for task 6, and a head with a tumour for task
    1. Task 4 gets such a head, too, with the oedema as class 1 and the rest of the
    tumour as class 2. Labels are those of ``datasets.info(name).classes``, as far as
    the drawing has them.

    Args:
        name: A name of ``medseg.datasets.names()``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        limit: At most so many cases; all where None.

    Returns:
        ``ImageCase``, or ``VolumeCase`` for volumes, always in the same order.

    Raises:
        ValueError: Another name or split, or the data set is damaged.
        FileNotFoundError: It is not there, and there is no drawing of its kind.
    """
    about = datasets.info(name)
    kind = "images" if about.spatial_dims == 2 else "volumes"
    try:
        wanted = about.url is not None and about.size_bytes <= DOWNLOADED_BYTES
        if wanted and profile() != "quick" and not datasets.is_available(name):
            datasets.download(name)
        found = datasets.load(name, split, limit=limit)
        print(f"{name}, {split}: {len(found)} real {kind}")
        return found
    except OSError as error:  # not there, and no way to fetch it
        if name not in DRAWN:
            raise
        first_line = str(error).splitlines()[0]
        found = _drawn_cases(name, split, limit)
        print(f"{name}, {split}: {len(found)} DRAWN {kind} (phantoms): {first_line}")
        return found


DOWNLOADED_BYTES = 200_000_000  # no chapter makes a reader wait for more

_ABDOMEN = partial(phantoms.abdomen_ct, (48, 96, 96))
_HEAD = partial(phantoms.brain_mr, (48, 64, 64))
_MANY = {"train": 64, "val": 16, "test": 24}
_FEW = {"train": 16, "val": 4, "test": 4}
_VOLUMES = {"train": 8, "val": 2, "test": 4}

# How it is drawn, what becomes of its classes (None: they stay), and how many.
DRAWN: dict[
    str,
    tuple[Callable[..., phantoms.Phantom], dict[str, int] | None, dict[str, int]],
] = {
    "dsb2018": (phantoms.cells, None, _MANY),
    "isbi2012": (phantoms.em_membranes, None, _FEW),
    "vnc": (phantoms.em_membranes, {"cell": 8}, _FEW),
    "montgomery": (phantoms.chest_xray, {"right lung": 1, "left lung": 1}, _MANY),
    **dict.fromkeys(
        ("isic2016", "isic2017", "isic2018"), (phantoms.skin_lesion, None, _MANY)
    ),
    "chaos_ct": (_ABDOMEN, {"liver": 1, "tumour": 1}, _VOLUMES),
    "chaos_mr": (
        _ABDOMEN,
        {"liver": 1, "tumour": 1, "right kidney": 2, "left kidney": 3, "spleen": 4},
        _VOLUMES,
    ),
    "msd_task01": (
        partial(_HEAD, sequences=("FLAIR", "T1", "T1c", "T2")),
        {"oedema": 1, "necrotic core": 2, "enhancing tumour": 3},
        _VOLUMES,
    ),
    "msd_task03": (_ABDOMEN, {"liver": 1, "tumour": 2}, _VOLUMES),
    "msd_task04": (
        partial(_HEAD, sequences="T1c"),
        {"oedema": 1, "necrotic core": 2, "enhancing tumour": 2},
        _VOLUMES,
    ),
    "msd_task06": (
        partial(phantoms.lung_nodules, (48, 96, 96)),
        {"nodule": 1},
        _VOLUMES,
    ),
    "msd_task09": (_ABDOMEN, {"spleen": 1}, _VOLUMES),
}


def _drawn_cases(name: str, split: str, limit: int | None) -> list[Any]:
    draw, classes, count = DRAWN[name]
    check_choice(split, "split", tuple(count))
    first_seed = {"train": 0, "val": 10_000, "test": 20_000}[split]
    drawn: list[Any] = []
    for index in range(min(count[split], limit or count[split])):
        phantom = draw(seed=first_seed + index)
        labels = phantom.labels
        if classes is not None:
            table = np.array([classes.get(part, 0) for part in phantom.names], np.int32)
            labels = table[labels]
        case = f"phantom_{first_seed + index:05d}"
        if labels.ndim == 2:
            drawn.append(datasets.ImageCase(case, case, phantom.image, labels))
        else:
            assert phantom.spacing is not None
            image = Volume(phantom.image, grid_affine(phantom.spacing), case)
            reference = image.with_array(labels)
            drawn.append(datasets.VolumeCase(case, case, image, reference))
    return drawn


def show(thing: Any) -> Markdown:
    """Return the source of a function, class or module of the package, to be read.

    Args:
        thing: Something that Python code defines.

    Raises:
        TypeError: It has no Python source, as a value or a compiled function.
    """
    return Markdown(f"```python\n{inspect.getsource(thing).rstrip()}\n```")


def assert_same(
    mine: Callable[..., Any], ours: Callable[..., Any], *inputs: Tensor
) -> None:
    """Check that what a chapter built computes what the package computes.

    Two networks get the same weights first, matched by order: attributes may have
    other names, but layers must be created in the same order. Compare in training
    mode: there batch norm depends on every activation, and a swapped concatenation
    changes the output by much more than in evaluation mode.

    Args:
        mine: A function or network of the chapter; a network's weights are replaced.
        ours: The package's.
        *inputs: What both are called with.

    Raises:
        AssertionError: The two differ; the message says where and by how much.
    """
    if isinstance(mine, nn.Module) and isinstance(ours, nn.Module):
        if mine.training != ours.training:
            raise AssertionError("one network is in training mode, the other is not")
        names, weights = list(mine.state_dict()), list(ours.state_dict().values())
        my_shapes = [tuple(value.shape) for value in mine.state_dict().values()]
        our_shapes = [tuple(value.shape) for value in weights]
        if my_shapes != our_shapes:
            raise AssertionError(_first_difference(names, my_shapes, our_shapes))
        copies = [value.clone() for value in weights]
        mine.load_state_dict(dict(zip(names, copies, strict=True)))
    outputs = []
    for call in (mine, ours):
        torch.manual_seed(0)  # the same dropout for both
        outputs.append(call(*inputs))
    torch.testing.assert_close(*outputs)
    if isinstance(mine, nn.Module):
        count = sum(value.numel() for value in mine.parameters())
        print(f"The same: {count:,} parameters, output {tuple(outputs[0].shape)}.")
    else:
        print("The same.")


def _first_difference(
    names: list[str],
    mine: list[tuple[int, ...]],
    ours: list[tuple[int, ...]],
) -> str:
    for name, my_shape, our_shape in zip(names, mine, ours, strict=False):
        if my_shape != our_shape:
            return (
                f"weights differ first at {name!r}: yours has shape {my_shape}, the "
                f"package's {our_shape}. Create the layers in the package's order."
            )
    return f"you have {len(mine)} weights, the package has {len(ours)}"


def interactive(name: str) -> HTML:
    """Return a figure that reacts to the reader, for the page, Colab and JupyterLab.

    The figure is plain SVG and JavaScript in ``medseg/widgets/<name>.html`` and asks
    nothing of the network. GitHub's viewer shows nothing in its place: draw a static
    figure with the same message before it.

    Args:
        name: The file's name without ``.html``.

    Raises:
        FileNotFoundError: There is no such figure; the message lists those there are.
    """
    folder = files("medseg") / "widgets"
    found = sorted(
        file.name[:-5] for file in folder.iterdir() if file.name[-5:] == ".html"
    )
    if name not in found:
        raise FileNotFoundError(f"no interactive figure {name!r}; there are {found}")
    return HTML((folder / f"{name}.html").read_text(encoding="utf-8"))
