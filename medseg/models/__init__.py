"""The networks of the book, one family a file, each readable top to bottom.

A module is loaded when it is first used: ``from medseg import models`` and then
``models.unet.UNet(1, 2)``.
"""

from importlib import import_module
from types import ModuleType

__all__ = [
    "deeplab",
    "deepmedic",
    "fcn",
    "highresnet",
    "layers",
    "nnunet",
    "resnet",
    "summary",
    "unet",
    "unet_variants",
    "vgg",
    "weights",
    "xception",
]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
