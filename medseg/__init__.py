"""medseg: the code behind the course, written to be read.

Shapes are written with one alphabet everywhere, in docstrings and in comments:

    B batch    C image channels    K classes    D, H, W depth, height, width

Models take images ``(B, C, *spatial)`` and return logits ``(B, K, *spatial)`` of the
same spatial size. Labels are integers ``(B, *spatial)``. ``K = 1`` is the binary
shorthand: one foreground logit, and a sigmoid. Distances are in millimetres and need
the voxel ``spacing``, in the order of the array's axes.

Each public name has one home and one import path: ``medseg.losses.dice_loss``.
``import medseg`` loads nothing else; a module is loaded when it is first used.
"""

from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - in the order of the layers
    "checks",
    "artefacts",
    "losses",
    "metrics",
    "statistics",
    "classical",
    "phantoms",
    "volumes",
    "dicom",
    "permutohedral",
    "checkpoints",
    "schedules",
    "distributed",
    "models",
    "crf",
    "transforms",
    "inference",
    "datasets",
    "training",
    "plots",
    "export",
    "report",
    "logs",
    "course",
    "ledger",
    "commands",
    "cli",
]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
