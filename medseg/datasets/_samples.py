"""Two-dimensional samples: from two folders, or from cases."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.checks import check_choice
from medseg.datasets._cases import CaseFiles, ImageCase, check_case
from medseg.datasets._chance import SeededDataset, Transform, reseed
from medseg.imagefiles import (
    class_mask,
    pair_files,
    read_image,
    read_mask,
    to_uint8,
)

Sample = tuple[Tensor, Tensor]


class MedicalImageDataset(SeededDataset):
    """Images and masks from two folders, paired by name.

    Pairs and their order come from :func:`medseg.imagefiles.pair_files`, pixels from
    :func:`~medseg.imagefiles.read_image` and :func:`~medseg.imagefiles.read_mask`: any
    mix of png, jpg, tif and bmp; grey, colour or alpha; images of more than 8 bits are
    scaled by their own smallest and largest value.

    Chance in the transform follows ``torch.manual_seed``: its generator is seeded from
    torch's before each sample. Left alone, all workers of a ``DataLoader`` would work
    on copies of one generator, the same copies in each epoch, and repeat each other's
    augmentations. A ``Compose`` made with a ``seed`` keeps its own stream, except in
    workers. With a ``seed`` given here, sample ``i`` of an epoch is the same with any
    number of workers; then call ``set_epoch`` before each epoch, or all will be alike.

    Args:
        images_dir: Folder with the images.
        masks_dir: Another folder, with one mask an image, of the image's size.
        transform: An albumentations ``Compose``, called with ``image=`` (H, W, C) uint8
            and ``mask=`` (H, W). None: the image is divided by 255.
        num_classes: Classes K, with the background. 1: binary, one foreground.
        channels: Channels C that the network takes, 3 or 1.
        pattern: Which image files count, such as ``"ISIC_???????.jpg"`` in a folder
            that holds other files besides. Masks without an image are an error still.
        cache: Decode each file once, now, and keep all in memory: H W (C + 1) bytes a
            pair. Made before the workers start, it is shared by them (by fork).
        seed: Start of all chance. None: torch's.

    Attributes:
        image_paths: The image files, in the order of the samples.
        mask_paths: The mask files, in the same order.

    Raises:
        FileNotFoundError: A folder does not exist.
        ValueError: A folder is empty or both are the same, files have no partner or
            several, or an argument is out of range. Reading a sample (with ``cache``,
            now): a file is damaged, sizes differ, or a mask holds other values.

    Example:
        >>> import shutil, tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for kind in ("images", "masks"):
        ...     (folder / kind).mkdir()
        ...     Image.new("L", (3, 2), color=255).save(folder / kind / "cell.png")
        >>> data = MedicalImageDataset(folder / "images", folder / "masks")
        >>> image, mask = data[0]
        >>> image.shape, mask.shape
        (torch.Size([3, 2, 3]), torch.Size([1, 2, 3]))
        >>> shutil.rmtree(folder)
    """

    def __init__(
        self,
        images_dir: str | Path,
        masks_dir: str | Path,
        transform: Transform | None = None,
        num_classes: int = 1,
        *,
        channels: int = 3,
        pattern: str = "*",
        cache: bool = False,
        seed: int | None = None,
    ) -> None:
        check_classes(num_classes)
        check_choice(channels, "channels", (3, 1))
        super().__init__(seed)
        self.image_paths, self.mask_paths = pair_files(images_dir, masks_dir, pattern)
        self.transform = transform
        self.num_classes = num_classes
        self.channels = channels
        self._kept: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = []
        if cache:
            self._kept = [self._read(index) for index in range(len(self))]

    def __len__(self) -> int:
        return len(self.image_paths)

    def __getitem__(self, index: int) -> Sample:
        if self._kept:
            image, mask = (array.copy() for array in self._kept[index])
        else:
            image, mask = self._read(index)
        return _sample(image, mask, self, index)

    def check(self) -> None:
        """Read every file once, before a training of hours meets the bad one.

        Raises:
            ValueError: Some cannot be used; all of them are listed, with the reason.
        """
        problems = []
        for index in range(len(self)):
            try:
                self._read(index)
            except (OSError, ValueError) as error:
                problems.append(str(error))
        if problems:
            raise ValueError(
                f"{len(problems)} of {len(self)} pairs cannot be used:\n"
                + "\n".join(problems)
            )

    def _read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image_path, mask_path = self.image_paths[index], self.mask_paths[index]
        image = read_image(image_path, self.channels)
        mask = read_mask(mask_path, self.num_classes)
        if image.shape[:2] != mask.shape:
            raise ValueError(
                f"image {image_path} has {image.shape[:2]} pixels (height, width), but "
                f"its mask {mask_path} has {mask.shape}. Was one of them resized, or "
                "does it belong to another image?"
            )
        return image, mask


class CaseDataset(SeededDataset):
    """The samples of :class:`MedicalImageDataset`, from cases in memory.

    For ``num_classes=1`` every label above 0 is foreground, so that instance numbers
    become a binary mask. The cases are never changed.

    Args:
        cases: What :func:`load` returns, or what :func:`list_cases` returns, which is
            read from the disk each time it is asked for.
        transform: As in :class:`MedicalImageDataset`.
        num_classes: Classes K, with the background. 1: binary.
        channels: Channels C that the network takes, 3 or 1.
        seed: As in :class:`MedicalImageDataset`.

    Raises:
        ValueError: There are no cases, image and labels of one differ in size, a label
            is negative or not below ``num_classes``, or an argument is out of range.

    Example:
        >>> image, labels = np.full((2, 2), 51, np.uint8), np.array([[0, 7], [0, 9]])
        >>> case = ImageCase("a", "patient 1", image, labels)
        >>> image, mask = CaseDataset([case], channels=1)[0]
        >>> image
        tensor([[[0.2000, 0.2000],
                 [0.2000, 0.2000]]])
        >>> mask
        tensor([[[0., 1.],
                 [0., 1.]]])
    """

    def __init__(
        self,
        cases: Sequence[ImageCase | CaseFiles],
        transform: Transform | None = None,
        num_classes: int = 1,
        *,
        channels: int = 3,
        seed: int | None = None,
    ) -> None:
        check_classes(num_classes)
        check_choice(channels, "channels", (3, 1))
        super().__init__(seed)
        if not cases:
            raise ValueError("there are no cases: a data set needs at least one.")
        for case in cases:
            if isinstance(case, ImageCase):
                check_case(case)
        self.cases = list(cases)
        self.transform = transform
        self.num_classes = num_classes
        self.channels = channels

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Sample:
        case: Any = self.cases[index]
        if isinstance(case, CaseFiles):
            case = case.read()
        if not isinstance(case, ImageCase):
            raise TypeError(
                f"case {case.name} is a volume; CaseDataset takes images. Use "
                "VolumeDataset."
            )
        image = to_uint8(case.image, self.channels, f"the image of case {case.name}")
        if self.num_classes == 1:
            mask = (case.labels > 0).astype(np.uint8)
        else:
            name = f"the labels of case {case.name}"
            mask = class_mask(case.labels, self.num_classes, name)
        return _sample(image, mask, self, index)


def _sample(
    image: NDArray[np.uint8],
    mask: NDArray[Any],
    dataset: MedicalImageDataset | CaseDataset,
    index: int,
) -> Sample:
    """Transform an image ``(H, W, C)`` with its mask ``(H, W)``; return tensors."""
    result: dict[str, Any] = {"image": image, "mask": mask}
    if dataset.transform is not None:
        seed = dataset._seed_of(index)
        reseed(dataset.transform, seed, always=dataset.seed is not None)
        result = dataset.transform(**result)
    pixels, labels = result["image"], as_tensor(result["mask"])
    if not isinstance(pixels, Tensor):  # no ToTensorV2 at the end
        pixels = pixels if pixels.ndim == 3 else pixels[..., None]
        pixels = as_tensor(pixels.transpose(2, 0, 1))  # (C, H, W)
    pixels = pixels / 255 if pixels.dtype == torch.uint8 else pixels.float()
    if labels.shape != pixels.shape[1:]:
        raise ValueError(
            f"the transform returned an image {tuple(pixels.shape)} with a mask "
            f"{tuple(labels.shape)}: height and width must stay the same. Does it have "
            "a step that changes the image alone?"
        )
    if dataset.num_classes > 1:
        return pixels, labels.long()
    return pixels, binary_target(labels)


def binary_target(labels: Tensor) -> Tensor:
    """Return a mask ``(*spatial)`` of 0 and 1 as ``(1, *spatial)`` float32.

    Raises:
        ValueError: There are other values: a transform has blurred the mask.
    """
    if not _is_zero_or_one(labels):
        raise ValueError(
            "the transform put values other than 0 and 1 into a binary mask "
            f"({labels.min().item():g}..{labels.max().item():g}). Use "
            "mask_interpolation=cv2.INTER_NEAREST and fill_mask=0."
        )
    return labels.float().unsqueeze(0)


def _is_zero_or_one(labels: Tensor) -> bool:
    if labels.dtype == torch.uint8 and labels.device.type == "cpu":
        return int(labels.numpy().max(initial=0)) <= 1  # many times faster
    return bool(((labels == 0) | (labels == 1)).all())


def as_tensor(array: Any) -> Tensor:
    """Return a tensor of its own memory for an array, a tensor as it is."""
    if isinstance(array, Tensor):
        return array
    return torch.from_numpy(np.array(array, order="C"))  # also of negative strides


def check_classes(num_classes: int) -> None:
    """Accept a number of classes, from 1 (binary) to 256."""
    if not isinstance(num_classes, int) or not 1 <= num_classes <= 256:
        raise ValueError(
            "num_classes must be a whole number from 1 (binary) to 256, got "
            f"{num_classes!r}."
        )
