"""True layouts of 2D data sets: one function a layout, each returns its cases."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from medseg.datasets._cases import CaseFiles
from medseg.datasets._splits import make_split
from medseg.imagefiles import images_in, read_image, read_labels, read_mask, shorten

Arrays = tuple[NDArray[np.uint8], NDArray[np.int32]]

VNC_CODES = (0, 32, 64, 96, 128, 159, 191, 223, 255)

ISIC_PARTS = {
    "2016": {
        "train": (
            "ISBI2016_ISIC_Part1_Training_Data",
            "ISBI2016_ISIC_Part1_Training_GroundTruth",
        ),
        "test": (
            "ISBI2016_ISIC_Part1_Test_Data",
            "ISBI2016_ISIC_Part1_Test_GroundTruth",
        ),
    },
    "2017": {
        "train": ("ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth"),
        "val": ("ISIC-2017_Validation_Data", "ISIC-2017_Validation_Part1_GroundTruth"),
        "test": ("ISIC-2017_Test_v2_Data", "ISIC-2017_Test_v2_Part1_GroundTruth"),
    },
    "2018": {
        "train": (
            "ISIC2018_Task1-2_Training_Input",
            "ISIC2018_Task1_Training_GroundTruth",
        ),
        "val": (
            "ISIC2018_Task1-2_Validation_Input",
            "ISIC2018_Task1_Validation_GroundTruth",
        ),
        "test": ("ISIC2018_Task1-2_Test_Input", "ISIC2018_Task1_Test_GroundTruth"),
    },
}


def packed_cases(
    folder: Path, read_reference: Callable[[Path], NDArray[Any]], channels: int
) -> list[CaseFiles]:
    """``images/<name>.*`` with ``masks/<name>.png``; nothing where there is no such."""
    if not (folder / "images").is_dir():
        return []
    masks = folder / "masks"
    return [
        _case(p.stem, p, masks / f"{p.stem}.png", read_reference, channels)
        for p in images_in(folder / "images")
    ]


def _case(
    name: str,
    image: Path,
    mask: Path,
    read_reference: Callable[[Path], NDArray[Any]],
    channels: int = 3,
    split: str = "",
) -> CaseFiles:
    reader = partial(_read_pair, image, mask, read_reference, channels)
    return CaseFiles(name, name, split, (image, mask), reader)


def _read_pair(
    image: Path,
    mask: Path,
    read_reference: Callable[[Path], NDArray[Any]],
    channels: int,
) -> Arrays:
    pixels = read_image(image, channels)
    labels = read_reference(mask).astype(np.int32)
    if pixels.shape[:2] != labels.shape:
        raise ValueError(
            f"image {image} has {pixels.shape[:2]} pixels (height, width), but its "
            f"mask {mask} has {labels.shape}. Get the data again."
        )
    return (pixels if channels == 3 else pixels[..., 0]), labels


def dsb2018_cases(folder: str | Path) -> list[CaseFiles]:
    """Find the cases of the Data Science Bowl 2018, in Kaggle's layout.

    ``<ImageId>/images/<ImageId>.png`` is the image, and each file of
    ``<ImageId>/masks/`` one nucleus. A case is named by the first 12 digits of its id;
    its labels number the nuclei in the order of the files, a pixel claimed twice has
    the lower number.

    Args:
        folder: Holds ``stage1_train/``, or is that folder.

    Returns:
        The cases, sorted by name; none where the layout is another one.
    """
    for tree in (Path(folder) / "stage1_train", Path(folder)):
        found = [path.parent for path in sorted(tree.glob("*/images"))]
        if found := [path for path in found if (path / "masks").is_dir()]:
            return [
                CaseFiles(
                    path.name[:12],
                    path.name[:12],
                    "",
                    (path / "images", path / "masks"),
                    partial(_read_kaggle_case, path),
                )
                for path in found
            ]
    return []


def _read_kaggle_case(folder: Path) -> Arrays:
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


def isbi2012_cases(folder: str | Path) -> list[CaseFiles]:
    """Find the 30 slices of ISBI 2012 in ``train-volume.tif``, ``train-labels.tif``.

    Args:
        folder: Holds the two files.

    Returns:
        The slices "00" to "29", of one group; none where the files are not there.
    """
    stacks = tuple(Path(folder) / f"train-{kind}.tif" for kind in ("volume", "labels"))
    if not all(path.is_file() for path in stacks):
        return []
    return [
        CaseFiles(
            f"{i:02d}", "stack", "", stacks, partial(_read_isbi_slice, Path(folder), i)
        )
        for i in range(30)
    ]


def _read_isbi_slice(folder: Path, index: int) -> Arrays:
    volume, labels = (
        _read_stack(folder / f"train-{kind}.tif") for kind in ("volume", "labels")
    )
    if volume.ndim != 3 or volume.shape != labels.shape or len(volume) <= index:
        raise ValueError(
            f"the stacks in {folder} have the shapes {volume.shape} (train-volume.tif) "
            f"and {labels.shape} (train-labels.tif); expected (30, 512, 512) twice."
        )
    return volume[index], (labels[index] > 127).astype(np.int32)


def _read_stack(path: Path) -> NDArray[Any]:
    try:
        return tifffile.imread(path)
    except OSError:
        raise
    except Exception as error:  # damage shows as a dozen kinds of error
        raise ValueError(
            f"{path} cannot be read as a stack of images ({error}). It may be cut off: "
            "get it again."
        ) from error


def vnc_cases(folder: str | Path) -> list[CaseFiles]:
    """Find the slices of the nerve cord data set, ``stack1/raw``, ``stack1/labels``.

    The nine grey values of a label file become class indices 0..8 in their order; the
    classes' names are ``info("vnc").classes``.

    Args:
        folder: Holds ``stack1/``, or is that folder.

    Returns:
        The slices "00" to "19", of one group; none where the layout is another one.
    """
    for tree in (Path(folder) / "stack1", Path(folder)):
        if (tree / "raw").is_dir() and (tree / "labels").is_dir():
            return [
                _case(
                    path.stem,
                    path,
                    tree / "labels" / f"labels{int(path.stem):08d}.png",
                    read_vnc_labels,
                    channels=1,
                )
                for path in images_in(tree / "raw", "[0-9][0-9].tif")
            ]
    return []


def read_vnc_labels(path: Path) -> NDArray[np.int32]:
    """Read a label file of the nerve cord data set as class indices 0..8."""
    codes = read_labels(path)
    labels = np.searchsorted(VNC_CODES, codes).clip(0, len(VNC_CODES) - 1)
    if (wrong := np.asarray(VNC_CODES)[labels] != codes).any():
        raise ValueError(
            f"mask {path} holds {shorten(np.unique(codes[wrong]).tolist())}; expected "
            f"the codes {', '.join(map(str, VNC_CODES))}."
        )
    return labels.astype(np.int32)


def isic_cases(folder: str | Path, year: int | str) -> list[CaseFiles]:
    """Find the cases of an ISIC challenge, in the folders of its zip files.

    Only ``ISIC_???????.jpg`` are images: the folders also hold superpixels, text and
    tables. The mask of ``ISIC_0000000.jpg`` is ``ISIC_0000000_segmentation.png``,
    with a capital S in 2016. The challenge's parts are the splits; 2016 has no
    validation part, so 15 % of its training images become one, by
    :func:`make_split`.

    Args:
        folder: Holds the unpacked folders, such as ``ISIC-2017_Training_Data``.
        year: 2016, 2017 or 2018.

    Returns:
        The cases of all parts that are there, images and masks both, sorted by name.

    Raises:
        ValueError: The year is another one, or images of a part have no mask.
    """
    if str(year) not in ISIC_PARTS:
        raise ValueError(f"year must be 2016, 2017 or 2018, got {year!r}.")
    ending = "_Segmentation" if str(year) == "2016" else "_segmentation"
    cases = []
    for split, parts in ISIC_PARTS[str(year)].items():
        images_dir, masks_dir = (_unpacked(Path(folder), part) for part in parts)
        if not (images_dir.is_dir() and masks_dir.is_dir()):
            continue
        images = sorted(images_dir.glob("ISIC_???????.jpg"))
        masks = {path.name for path in masks_dir.glob("ISIC_*.png")}
        if lonely := [p.name for p in images if f"{p.stem}{ending}.png" not in masks]:
            raise ValueError(
                f"{len(lonely)} of {len(images)} images in {images_dir} have no mask "
                f"<name>{ending}.png in {masks_dir}: {shorten(lonely)}. Unpack the "
                "archive again."
            )
        for path in images:
            mask = masks_dir / f"{path.stem}{ending}.png"
            cases.append(_case(path.stem, path, mask, read_mask, split=split))
    if str(year) == "2016":
        cases = _with_validation(cases, "isic2016")
    return sorted(cases, key=lambda case: case.name)


def _unpacked(folder: Path, name: str) -> Path:
    """A part's folder; some tools unpack a zip file into a folder of its name."""
    doubled = folder / name / name
    return doubled if doubled.is_dir() else folder / name


def _with_validation(cases: list[CaseFiles], name: str) -> list[CaseFiles]:
    train = [case.name for case in cases if case.split == "train"]
    if not train:
        return cases
    split_of = {row.id: row.split for row in make_split(train, name, test=0.0)}
    return [
        CaseFiles(
            case.name,
            case.group,
            split_of.get(case.name, case.split),
            case.files,
            case.reader,
        )
        for case in cases
    ]


def montgomery_cases(folder: str | Path) -> list[CaseFiles]:
    """Find the Montgomery chest X-rays, with the masks of both lungs.

    Images are in ``CXR_png/``, masks in ``ManualMask/leftMask/`` and ``rightMask/``
    under the same names. The two masks are merged; above 127 is lung. Images of 12
    bits come as 8 bits, scaled by their own range.

    Args:
        folder: Holds ``MontgomerySet/``, or is that folder.

    Returns:
        The cases, sorted by name; none where the layout is another one. Those of
        :func:`load` also know which two films are of one patient.
    """
    for tree in (
        Path(folder) / "NLM-MontgomeryCXRSet" / "MontgomerySet",
        Path(folder) / "MontgomerySet",
        Path(folder),
    ):
        if (tree / "CXR_png").is_dir() and (tree / "ManualMask").is_dir():
            cases = []
            for path in images_in(tree / "CXR_png", "MCUCXR_*"):
                sides = tuple(
                    tree / "ManualMask" / f"{side}Mask" / path.name
                    for side in ("left", "right")
                )
                reader = partial(_read_montgomery, path, sides)
                files = (path, *sides)
                cases.append(CaseFiles(path.stem, path.stem, "", files, reader))
            return cases
    return []


def _read_montgomery(path: Path, sides: tuple[Path, ...]) -> Arrays:
    image = read_image(path, channels=1)[..., 0]
    labels = np.zeros(image.shape, np.int32)
    for side in sides:
        mask = read_mask(side)
        if mask.shape != labels.shape:
            raise ValueError(
                f"mask {side} has the shape {mask.shape}, but its image {path} "
                f"{labels.shape}. Get the data again."
            )
        labels |= mask
    return image, labels
