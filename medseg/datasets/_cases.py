"""What a case is: an image with its reference, in memory or still on the disk."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medseg.volumes import Volume, check_same_geometry


class ImageCase(NamedTuple):
    """One image with its reference, in memory."""

    name: str
    group: str  # patient, animal or mosaic: a split never cuts through one
    image: NDArray[np.uint8]  # (H, W) or (H, W, 3)
    labels: NDArray[np.int32]  # (H, W): class indices, or instance numbers from 1


class VolumeCase(NamedTuple):
    """One scan with its reference, in memory."""

    name: str
    group: str  # patient: a split never cuts through one
    image: Volume  # array (D, H, W) or (C, D, H, W), numbers as the scanner wrote them
    labels: Volume  # array (D, H, W): class indices


Case = ImageCase | VolumeCase


@dataclass(frozen=True)
class CaseFiles:
    """A case that is still on the disk; :meth:`read` brings it into memory.

    A list of these costs nothing, so that a data set of 100 GB can be split, counted
    and trained on: :class:`CaseDataset` and :class:`VolumeDataset` take it as they
    take cases in memory.
    """

    name: str
    group: str
    split: str  # "train", "val", "test"; "" where the publisher has none
    files: tuple[Path, ...]  # all that read() opens
    reader: Callable[[], tuple[Any, ...]]  # the fields of a case after name and group
    is_volume: bool = False

    def read(self) -> Case:
        """Read image and labels, and check that they belong together.

        Raises:
            FileNotFoundError: A file is not there.
            ValueError: A file is damaged, or image and labels do not fit.
        """
        kind = VolumeCase if self.is_volume else ImageCase
        case: Case = kind(self.name, self.group, *self.reader())
        check_case(case)
        return case


def check_case(case: Case) -> None:
    """Accept a case whose image and labels fit.

    Raises:
        ValueError: The sizes or places differ, or a label is negative or no integer.
    """
    if isinstance(case, VolumeCase):
        check_same_geometry(case.image, case.labels)
        labels = case.labels.array
        fits, expected = labels.ndim == 3, "(C, D, H, W) or (D, H, W) with (D, H, W)"
        shapes = case.image.array.shape, labels.shape
    else:
        labels = case.labels
        shapes = case.image.shape, labels.shape
        fits = case.image.shape[:2] == labels.shape
        expected = "(H, W) or (H, W, 3) with (H, W)"
    if not fits:
        raise ValueError(
            f"case {case.name} has an image of shape {shapes[0]} and labels of shape "
            f"{shapes[1]}; expected {expected}."
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
        raise ValueError(
            f"the labels of case {case.name} must be integers from 0, got "
            f"{labels.dtype} from {labels.min(initial=0)}."
        )
