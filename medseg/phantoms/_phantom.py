"""What a phantom is, and the door of the functions that draw one."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class _Parts(NamedTuple):
    image: Array
    labels: NDArray[np.int32]
    spacing: tuple[float, ...] | None
    names: tuple[str, ...]


class Phantom(_Parts):
    """An image, and what is in it: unpacks into image, labels, spacing and names.

    Attributes:
        image: ``(*spatial)``, with an axis of channels or of time in front, or of
            colours at the end, where the function says so. uint8, or float32 in HU
            for CT and in units of its own for MRI.
        labels: int32, class indices or instance numbers from 1.
        spacing: mm along each spatial axis; None where unknown.
        names: ``names[label]`` for classes; empty for instances.
        facts: What else is known exactly, such as volumes, as the function says.
    """

    facts: Mapping[str, Any]

    def __new__(
        cls,
        image: Array,
        labels: NDArray[np.int32],
        spacing: Sequence[float] | None,
        names: Sequence[str],
        facts: Mapping[str, Any] | None = None,
    ) -> "Phantom":
        """Join the parts."""
        spacing = None if spacing is None else tuple(map(float, spacing))
        self = super().__new__(cls, image, labels, spacing, tuple(names))
        self.facts = dict(facts or {})
        return self


def check_size(size: tuple[int, ...], axes: tuple[int, ...] = (2,)) -> None:
    """Accept whole numbers of pixels, 16 or more along each of that many axes."""
    if len(size) not in axes or not all(int(n) == n and n >= 16 for n in size):
        forms = {2: "(height, width)", 3: "(depth, height, width)"}
        wanted = " or ".join(forms[n] for n in axes)
        raise ValueError(
            f"size must be {wanted} in whole pixels, each 16 or more, got {size}."
        )


def check_count(name: str, value: int, least: int = 1) -> None:
    if int(value) != value or value < least:
        raise ValueError(
            f"{name} must be a whole number, {least} or more, got {value}."
        )


def check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must lie between {low:g} and {high:g}, got {value}.")
