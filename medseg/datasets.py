"""Images with their masks: from two folders, from memory, from public data sets.

    MedicalImageDataset    pairs of files in two folders          chapters 1, 22
    CaseDataset            the same samples from arrays           chapters 1, 13
    load                   a public data set, in fixed splits     chapters 1, 13, 21

Both data sets yield ``(image, mask)``: an image ``(C, H, W)`` float32, and a mask as
the loss needs it, float32 ``(1, H, W)`` in {0, 1} for ``num_classes=1``, otherwise
int64 ``(H, W)`` in 0..K-1. Public data lie in ``data_root()``, or are downloaded to it.
"""

import csv
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from medseg.archives import fetch
from medseg.checks import check_choice
from medseg.imagefiles import (
    class_mask,
    images_in,
    pair_files,
    read_image,
    read_labels,
    read_mask,
    shorten,
    to_uint8,
)

Sample = tuple[Tensor, Tensor]
Transform = Callable[..., dict[str, Any]]
Arrays = tuple[NDArray[np.uint8], NDArray[np.int32]]
Reader = Callable[[], Arrays]


class ImageCase(NamedTuple):
    """One image with its reference, in memory."""

    name: str
    group: str  # patient, animal or mosaic: a split never cuts through one
    image: NDArray[np.uint8]  # (H, W) or (H, W, 3)
    labels: NDArray[np.int32]  # (H, W): class indices, or instance numbers from 1


class MedicalImageDataset(Dataset[Sample]):
    """Images and masks from two folders, paired by name.

    Pairs and their order come from :func:`medseg.imagefiles.pair_files`, pixels from
    :func:`~medseg.imagefiles.read_image` and :func:`~medseg.imagefiles.read_mask`: any
    mix of png, jpg, tif and bmp; grey, colour or alpha; images of more than 8 bits are
    scaled by their own smallest and largest value.

    Chance in the transform follows ``torch.manual_seed``: its generator is seeded from
    torch's before each sample. Left alone, all workers of a ``DataLoader`` would work
    on copies of one generator, the same copies in each epoch, and repeat each other's
    augmentations. A ``Compose`` made with a ``seed`` keeps its own stream, except in
    workers.

    Args:
        images_dir: Folder with the images.
        masks_dir: Another folder, with one mask an image, of the image's size.
        transform: An albumentations ``Compose``, called with ``image=`` (H, W, C) uint8
            and ``mask=`` (H, W). None: the image is divided by 255.
        num_classes: Classes K, with the background. 1: binary, one foreground.
        channels: Channels C that the network takes, 3 or 1.

    Attributes:
        image_paths: The image files, in the order of the samples.
        mask_paths: The mask files, in the same order.

    Raises:
        FileNotFoundError: A folder does not exist.
        ValueError: A folder is empty or both are the same, files have no partner or
            several, or an argument is out of range. Reading a sample: a file is
            damaged, sizes differ, or a mask holds other values.

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
    ) -> None:
        _check_options(num_classes, channels)
        self.image_paths, self.mask_paths = pair_files(images_dir, masks_dir)
        self.transform = transform
        self.num_classes = num_classes
        self.channels = channels

    def __len__(self) -> int:
        return len(self.image_paths)

    def __getitem__(self, index: int) -> Sample:
        image_path, mask_path = self.image_paths[index], self.mask_paths[index]
        image = read_image(image_path, self.channels)
        mask = read_mask(mask_path, self.num_classes)
        if image.shape[:2] != mask.shape:
            raise ValueError(
                f"image {image_path} has {image.shape[:2]} pixels (height, width), but "
                f"its mask {mask_path} has {mask.shape}. Was one of them resized, or "
                "does it belong to another image?"
            )
        return _sample(image, mask, self.transform, self.num_classes)


class CaseDataset(Dataset[Sample]):
    """The samples of :class:`MedicalImageDataset`, from cases in memory.

    For ``num_classes=1`` every label above 0 is foreground, so that instance numbers
    become a binary mask. The cases are never changed.

    Args:
        cases: What :func:`load` returns.
        transform: As in :class:`MedicalImageDataset`.
        num_classes: Classes K, with the background. 1: binary.
        channels: Channels C that the network takes, 3 or 1.

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
        cases: Sequence[ImageCase],
        transform: Transform | None = None,
        num_classes: int = 1,
        *,
        channels: int = 3,
    ) -> None:
        _check_options(num_classes, channels)
        if not cases:
            raise ValueError("there are no cases: a data set needs at least one.")
        for case in cases:
            _check_case(case)
        self.cases = list(cases)
        self.transform = transform
        self.num_classes = num_classes
        self.channels = channels

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Sample:
        case = self.cases[index]
        image = to_uint8(case.image, self.channels, f"the image of case {case.name}")
        if self.num_classes == 1:
            mask = (case.labels > 0).astype(np.uint8)
        else:
            name = f"the labels of case {case.name}"
            mask = class_mask(case.labels, self.num_classes, name)
        return _sample(image, mask, self.transform, self.num_classes)


def _sample(
    image: NDArray[np.uint8],
    mask: NDArray[Any],
    transform: Transform | None,
    num_classes: int,
) -> Sample:
    """Transform an image ``(H, W, C)`` with its mask ``(H, W)``; return tensors."""
    result: dict[str, Any] = {"image": image, "mask": mask}
    if transform is not None:
        _reseed(transform)
        result = transform(**result)
    pixels, labels = result["image"], _tensor(result["mask"])
    if not isinstance(pixels, Tensor):  # no ToTensorV2 at the end
        pixels = pixels if pixels.ndim == 3 else pixels[..., None]
        pixels = _tensor(pixels.transpose(2, 0, 1))  # (C, H, W)
    pixels = pixels / 255 if pixels.dtype == torch.uint8 else pixels.float()
    if labels.shape != pixels.shape[1:]:
        raise ValueError(
            f"the transform returned an image {tuple(pixels.shape)} with a mask "
            f"{tuple(labels.shape)}: height and width must stay the same. Does it have "
            "a step that changes the image alone?"
        )
    if num_classes > 1:
        return pixels, labels.long()
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError(
            "the transform put values other than 0 and 1 into a binary mask "
            f"({labels.min().item():g}..{labels.max().item():g}). Use "
            "mask_interpolation=cv2.INTER_NEAREST and fill_mask=0."
        )
    return pixels, labels.float().unsqueeze(0)


def _tensor(array: Any) -> Tensor:
    if isinstance(array, Tensor):
        return array
    return torch.from_numpy(np.array(array, order="C"))  # also of negative strides


def _reseed(transform: Transform) -> None:
    """Start the generators of an albumentations ``Compose`` from torch's."""
    own_stream = getattr(transform, "seed", None) is not None
    if own_stream and get_worker_info() is None:
        return
    if hasattr(transform, "set_random_state"):
        seed = int(torch.randint(2**62, ()))
        transform.set_random_state(np.random.default_rng(seed), random.Random(seed))


def _check_options(num_classes: int, channels: int) -> None:
    if not isinstance(num_classes, int) or not 1 <= num_classes <= 256:
        raise ValueError(
            "num_classes must be a whole number from 1 (binary) to 256, got "
            f"{num_classes!r}."
        )
    check_choice(channels, "channels", (3, 1))


def _check_case(case: ImageCase) -> None:
    if case.image.shape[:2] != case.labels.shape:
        raise ValueError(
            f"case {case.name} has an image of shape {case.image.shape} and labels of "
            f"shape {case.labels.shape}; expected (H, W) or (H, W, 3) with (H, W)."
        )
    if (
        not np.issubdtype(case.labels.dtype, np.integer)
        or case.labels.min(initial=0) < 0
    ):
        raise ValueError(
            f"the labels of case {case.name} must be integers from 0, got "
            f"{case.labels.dtype} from {case.labels.min(initial=0)}."
        )


# Public data sets


@dataclass(frozen=True)
class DatasetInfo:
    """What one must know of a public data set before using it."""

    name: str
    title: str
    task: str
    modality: str
    licence: str
    citation: str
    page: str  # where people read about it and get it
    url: str | None  # what download() fetches; None: by hand only
    size_bytes: int  # of the download, roughly
    disk_bytes: int  # needed while it is unpacked, roughly
    sha256: str | None  # None: not published; recorded at the first download
    folder: str  # below data_root()
    layout: str  # what that folder holds
    notes: str


_REGISTRY = {
    "dsb2018": DatasetInfo(
        name="dsb2018",
        title="Data Science Bowl 2018 nuclei (BBBC038v1), stage 1 training images",
        task="instance and binary segmentation of cell nuclei, 2D",
        modality="light microscopy, mostly fluorescence, some stained tissue",
        licence="CC0-1.0",
        citation="Caicedo et al. Nucleus segmentation across imaging experiments: the "
        "2018 Data Science Bowl. Nature Methods 16:1247-1253 (2019). "
        "doi:10.1038/s41592-019-0612-7",
        page="https://bbbc.broadinstitute.org/BBBC038",
        url="https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip",
        size_bytes=83_000_000,
        disk_bytes=400_000_000,
        sha256=None,
        folder="dsb2018_nuclei",
        layout="stage1_train/<ImageId>/{images,masks}/*.png, or images/<ImageId>.png "
        "with masks/<ImageId>.png of nucleus numbers",
        notes="523 of the 670 images are used: 328 to train, 84 to validate, 111 to "
        "test. The others are withheld for a hidden test. Crops of one mosaic are one "
        "group, found from continuing image borders. The archive lacks the community's "
        "later corrections of masks.",
    ),
    "isbi2012": DatasetInfo(
        name="isbi2012",
        title="ISBI 2012 challenge: neuronal structures in electron microscopy",
        task="binary segmentation of cell interior and membrane, slices of a stack",
        modality="serial section transmission electron microscopy, 4 x 4 x 50 nm",
        licence="free for non-commercial segmentation software, with citation",
        citation="Cardona et al. An integrated micro- and macroarchitectural analysis "
        "of the Drosophila brain. PLoS Biology 8(10):e1000502 (2010); "
        "Arganda-Carreras et al. Crowdsourcing the creation of image segmentation "
        "algorithms for connectomics. Frontiers in Neuroanatomy 9:142 (2015). "
        "doi:10.3389/fnana.2015.00142",
        page="https://imagej.net/events/isbi-2012-segmentation-challenge",
        url=None,
        size_bytes=16_000_000,
        disk_bytes=16_000_000,
        sha256=None,
        folder="isbi2012_em_membrane",
        layout="train-volume.tif with train-labels.tif, or images/<00..29>.png with "
        "masks/<00..29>.png",
        notes="24 of the 30 labelled slices are used, in blocks along the stack: 0-15 "
        "to train, 16-19 to validate, 20-23 to test; 24-29 are withheld for a hidden "
        "test. Label 1 is cell interior, 0 membrane. One animal, one stack.",
    ),
}


def data_root() -> Path:
    """Return the folder of all data: ``MEDSEG_DATA`` if set, or ~/.cache/medseg."""
    return Path(os.environ.get("MEDSEG_DATA") or "~/.cache/medseg").expanduser()


def names() -> tuple[str, ...]:
    """Return the names of the public data sets.

    Example:
        >>> names()
        ('dsb2018', 'isbi2012')
    """
    return tuple(_REGISTRY)


def info(name: str) -> DatasetInfo:
    """Return source, licence, size and caveats of a public data set.

    Raises:
        ValueError: There is no data set of this name.
    """
    check_choice(name, "name", names())
    return _REGISTRY[name]


def find(name: str, root: str | Path | None = None) -> Path:
    """Return the folder of a data set on this machine.

    Args:
        name: One of :func:`names`.
        root: Folder that holds the data set's folder, or that folder itself. None:
            :func:`data_root`.

    Raises:
        FileNotFoundError: It is not there; the message says how to get it.
        ValueError: There is no data set of this name.
    """
    return _locate(name, root)[0]


def is_available(name: str, root: str | Path | None = None) -> bool:
    """Return whether :func:`find` finds the data set. Never uses the network."""
    try:
        find(name, root)
    except FileNotFoundError:
        return False
    return True


def load(
    name: str, split: str, root: str | Path | None = None, limit: int | None = None
) -> list[ImageCase]:
    """Read one split of a public data set into memory, sorted by name.

    The splits are fixed, and the same for each layout on the disk. Whole groups are
    in one split; images in no list are never read (see ``info(name).notes``).

    ========  ==================  ==============================================
    name      image               labels
    ========  ==================  ==============================================
    dsb2018   (H, W, 3), colour   nucleus numbers 1..N; a pixel claimed twice has
                                  the lower one
    isbi2012  (512, 512), grey    1 cell interior, 0 membrane
    ========  ==================  ==============================================

    Args:
        name: One of :func:`names`.
        split: "train", "val" or "test".
        root: As for :func:`find`.
        limit: Read this many cases only, evenly spread over the sorted split: number
            ``i * n // limit`` of n, for i from 0. More than n: all.

    Raises:
        FileNotFoundError: The data set, or a case of it, is not there.
        ValueError: Another name or split, ``limit`` below 1, or a damaged file.
    """
    check_choice(name, "name", names())
    check_choice(split, "split", ("train", "val", "test"))
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, or None for all; got {limit}.")
    rows = [row for row in _split_rows(name) if row["split"] == split]
    if limit is not None:
        limit = min(limit, len(rows))
        rows = [rows[i * len(rows) // limit] for i in range(limit)]
    folder, readers = _locate(name, root)
    if missing := [row["id"] for row in rows if row["id"] not in readers]:
        raise FileNotFoundError(
            f"{folder} is not complete: of the {len(rows)} cases of {name} "
            f"asked for, {len(missing)} are missing ({shorten(missing)}). Remove the "
            f"folder, and get it again. {_how_to_get(name)}"
        )
    cases = []
    for row in rows:
        image, labels = readers[row["id"]]()
        cases.append(ImageCase(row["id"], row["group"], image, labels))
        _check_case(cases[-1])
    return cases


def _split_rows(name: str) -> list[dict[str, str]]:
    """Read medseg/splits/<name>.csv: id, group, split, sorted by id."""
    text = (files("medseg") / "splits" / f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _how_to_get(name: str) -> str:
    about = info(name)
    place = f"Put it into {data_root() / about.folder}, as {about.layout}"
    if about.url is None:
        return f"Get it by hand, under its terms, from {about.page}. {place}."
    return (
        f"Run `medseg datasets get {name}` (about {about.size_bytes / 1e6:.0f} MB), or "
        "set MEDSEG_DATA to the folder that has it."
    )


def _locate(name: str, root: str | Path | None) -> tuple[Path, dict[str, Reader]]:
    """Return a data set's folder, and a reader for each case that lies in it."""
    folder = info(name).folder
    place = data_root() if root is None else Path(root).expanduser()
    for candidate in (place / folder, place):
        if readers := _READERS[name](candidate):
            return candidate, readers
    raise FileNotFoundError(
        f"the data set {name} is not in {place / folder}. {_how_to_get(name)}"
    )


def download(name: str, root: str | Path | None = None) -> Path:
    """Get a data set from its publisher, unless it is there already.

    Args:
        name: One of :func:`names`.
        root: Folder that the data set's folder is made in. None: :func:`data_root`.

    Returns:
        The data set's folder, as :func:`find` returns it.

    Raises:
        OSError: The disk is too full, or the download failed (``ConnectionError``).
        ValueError: There is no data set of this name, it has no download (the message
            says where to get it), or the archive is damaged or another one.
    """
    if is_available(name, root):
        return find(name, root)
    about = info(name)
    if about.url is None:
        raise ValueError(f"{name} cannot be downloaded from here. {_how_to_get(name)}")
    place = data_root() if root is None else Path(root).expanduser()
    target = place / about.folder / PurePosixPath(about.url).stem
    fetch(
        about.url,
        target,
        about.disk_bytes,
        about.sha256,
        accept=lambda folder: bool(_READERS[name](folder)),
    )
    return find(name, root)


# One layout on the disk after the other


def _dsb2018_readers(folder: Path) -> dict[str, Reader]:
    """Find the cases by the first 12 digits of their ImageId."""
    known = {row["id"] for row in _split_rows("dsb2018")}
    packed = {path.stem[:12]: path for path in folder.glob("images/*.png")}
    if known & set(packed):
        return {
            case: partial(_read_packed_nuclei, path, folder / "masks" / path.name)
            for case, path in packed.items()
        }
    for tree in (folder / "stage1_train", folder):
        cases = {path.parent.name[:12]: path.parent for path in tree.glob("*/images")}
        if known & set(cases):
            return {
                case: partial(_read_kaggle_case, path) for case, path in cases.items()
            }
    return {}


def _read_packed_nuclei(image_path: Path, mask_path: Path) -> Arrays:
    return read_image(image_path), read_labels(mask_path)


def _read_kaggle_case(folder: Path) -> Arrays:
    """Read ``images/*.png`` and number the nuclei in ``masks/*.png``, one a file."""
    image = read_image(images_in(folder / "images")[0])
    labels = np.zeros(image.shape[:2], dtype=np.int32)
    for number, path in enumerate(images_in(folder / "masks"), start=1):
        mask = read_mask(path)
        if mask.shape != labels.shape:
            raise ValueError(
                f"mask {path} has the shape {mask.shape}, but its image "
                f"{labels.shape}. Remove the folder {folder}, and get the data again."
            )
        labels[(mask == 1) & (labels == 0)] = number
    return image, labels


def _isbi2012_readers(folder: Path) -> dict[str, Reader]:
    known = [row["id"] for row in _split_rows("isbi2012")]
    if (folder / "train-volume.tif").is_file():
        return {case: partial(_read_isbi_slice, folder, int(case)) for case in known}
    return {
        case: partial(_read_isbi_pair, folder, case)
        for case in known
        if (folder / "images" / f"{case}.png").is_file()
    }


def _read_isbi_pair(folder: Path, case: str) -> Arrays:
    image = read_image(folder / "images" / f"{case}.png", channels=1)[..., 0]
    return image, read_mask(folder / "masks" / f"{case}.png").astype(np.int32)


def _read_isbi_slice(folder: Path, index: int) -> Arrays:
    volume, labels = (
        tifffile.imread(folder / f"train-{kind}.tif") for kind in ("volume", "labels")
    )
    if volume.ndim != 3 or volume.shape != labels.shape or len(volume) <= index:
        raise ValueError(
            f"the stacks in {folder} have the shapes {volume.shape} (train-volume.tif) "
            f"and {labels.shape} (train-labels.tif); expected (30, 512, 512) twice."
        )
    return volume[index], (labels[index] > 127).astype(np.int32)


_READERS: dict[str, Callable[[Path], dict[str, Reader]]] = {
    "dsb2018": _dsb2018_readers,
    "isbi2012": _isbi2012_readers,
}
