"""Image and mask files of any common kind, read into one form.

    read_image     8-bit, 3 or 1 channels                  chapters 1, 22
    read_mask      0 and 1, or class indices               chapters 1, 22
    read_labels    as many numbers as there are            chapter 1
    pair_files     which mask belongs to which image       chapter 22

Formats: png, jpg, tif, bmp. Every error names the file.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from medseg.checks import check_choice

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MASK_ENDINGS = ("", "_mask", "_Segmentation", "_segmentation")


def read_image(path: str | Path, channels: int = 3) -> NDArray[np.uint8]:
    """Read a grey or colour image; alpha is dropped.

    Args:
        path: File of 1, 8, 16 or 32 bits, integers or floating point.
        channels: 3 or 1, whatever the file has; see :func:`to_uint8`.

    Returns:
        ``(H, W, channels)`` uint8.

    Raises:
        FileNotFoundError: There is no such file.
        PermissionError: It may not be read.
        ValueError: The file is damaged, holds several images, or NaN.
    """
    return to_uint8(_read_pixels(Path(path)), channels, str(path))


def read_mask(path: str | Path, num_classes: int = 1) -> NDArray[np.uint8]:
    """Read a mask: 0 and 1 for ``num_classes=1``, otherwise class indices.

    A binary mask holds 0 and 1, or 0 and 255 with edges that may be soft: if the
    largest value exceeds 1, foreground is what exceeds 127. Label maps, which that rule
    would spoil, are refused. Of a palette image with class indices, the indices count
    and not the colours.

    Args:
        path: File with one value a pixel; colour only if it is grey in fact.
        num_classes: Classes K, with the background, at most 256. 1: binary.

    Returns:
        ``(H, W)`` uint8 in {0, 1}, or in 0..K-1.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, in colour, or holds other values.
    """
    if num_classes == 1:
        return _binary_mask(_one_channel(_read_pixels(Path(path)), path), path)
    return class_mask(read_labels(path), num_classes, f"mask {path}")


def read_labels(path: str | Path) -> NDArray[np.int32]:
    """Read a map of class indices or object numbers, as many as there are.

    Returns:
        ``(H, W)`` int32, 0 or more; of a palette image, the indices.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, in colour, or holds other values.
    """
    values = _one_channel(_read_pixels(Path(path), indices=True), path)
    labels = values.astype(np.int64) if np.isfinite(values).all() else values
    if labels.dtype.kind == "f" or (labels != values).any() or labels.min() < 0:
        raise ValueError(
            f"mask {path} holds {shorten(np.unique(values).tolist())}; expected whole "
            "numbers from 0. Save labels, not probabilities."
        )
    return labels.astype(np.int32)


def pair_files(
    images_dir: str | Path, masks_dir: str | Path, pattern: str = "*"
) -> tuple[list[Path], list[Path]]:
    """Find the mask of every image of a folder, by name.

    ``x.png`` belongs to ``x.png``, ``x_mask.png``, ``x_Segmentation.png`` or
    ``x_segmentation.png``, whatever the two formats. Hidden files, sub-folders and
    files of other formats are passed over.

    Args:
        images_dir: Folder with the images.
        masks_dir: Another folder, with the masks.
        pattern: What the name of an image file must match; ``?`` stands for one
            character, ``*`` for any. Upper and lower case count.

    Returns:
        The image files, sorted by name, and the mask file of each.

    Raises:
        FileNotFoundError: A folder does not exist.
        ValueError: A folder has no images, both are the same, or a file has no
            partner or several; all of them are listed.
    """
    images_dir, masks_dir = Path(images_dir), Path(masks_dir)
    images, masks = images_in(images_dir, pattern), images_in(masks_dir)
    if images_dir.resolve() == masks_dir.resolve():
        raise ValueError(
            f"{images_dir} is given for the images and for the masks: every image "
            "would be its own mask. Put the masks into a folder of their own."
        )
    by_stem = defaultdict(list)
    for mask in masks:
        by_stem[mask.stem].append(mask)
    found: list[list[Path]] = []  # the masks of each image
    for image in images:
        stems = (image.stem + ending for ending in MASK_ENDINGS)
        found.append(next((by_stem[stem] for stem in stems if stem in by_stem), []))
    used = Counter(mask for group in found for mask in group)
    without = [i.name for i, group in zip(images, found, strict=True) if not group]
    several = [i.name for i, group in zip(images, found, strict=True) if len(group) > 1]
    problems = {
        f"{len(without)} of {len(images)} images have no mask": without,
        f"{len(several)} images have several masks": several,
        "masks without an image": [m.name for m in masks if m not in used],
        "masks of several images": [m.name for m, times in used.items() if times > 1],
    }
    if any(problems.values()):
        listed = "; ".join(f"{k}: {shorten(v)}" for k, v in problems.items() if v)
        endings = ", ".join(f"x{ending}" for ending in MASK_ENDINGS)
        raise ValueError(
            f"the files in {images_dir} and {masks_dir} do not pair up. {listed}. "
            f"The mask of image x is named {endings}."
        )
    return images, [group[0] for group in found]


def images_in(folder: str | Path, pattern: str = "*") -> list[Path]:
    """Return the image files of a folder, sorted; hidden ones are passed over.

    Args:
        folder: Where to look; folders inside it are not searched.
        pattern: What the name of a file must match, as in :func:`pair_files`.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not a folder (looked for from {Path.cwd()}). Give the folder "
            "that holds the image files."
        )
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")
        and fnmatchcase(path.name, pattern)
        and path.is_file()
    ]
    if not found:
        named = "" if pattern == "*" else f" named {pattern}"
        raise ValueError(
            f"{folder} holds no image{named}: expected files ending in "
            f"{', '.join(IMAGE_SUFFIXES)}."
        )
    return found


def to_uint8(
    pixels: NDArray[Any], channels: int = 3, name: str = "image"
) -> NDArray[np.uint8]:
    """Return an image with 8 bits and the wanted number of channels.

    Alpha is dropped. What is not 8-bit is scaled so that its own smallest and largest
    value become 0 and 255: values in two images, such as HU, then no longer mean the
    same (and a constant image becomes 0). Grey becomes colour by repetition, colour
    becomes grey as 0.299 R + 0.587 G + 0.114 B.

    Args:
        pixels: ``(H, W)`` or ``(H, W, 1..4)``, numbers or booleans.
        channels: 3 or 1.
        name: What an error message calls it.

    Returns:
        ``(H, W, channels)`` uint8, a copy.

    Raises:
        ValueError: A value is NaN or infinite, the shape or ``channels`` another.

    Example:
        >>> to_uint8(np.array([[1000, 1500, 2000]]), channels=1)[..., 0]
        array([[  0, 128, 255]], dtype=uint8)
    """
    check_choice(channels, "channels", (3, 1))
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or not 1 <= pixels.shape[-1] <= 4 or pixels.size == 0:
        raise ValueError(
            f"{name} has shape {pixels.shape}; expected (H, W) or (H, W, C) with 1 to "
            "4 channels."
        )
    pixels = _without_alpha(pixels)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    elif pixels.dtype != np.uint8:
        values = pixels.astype(np.float64)
        if bad := int((~np.isfinite(values)).sum()):
            raise ValueError(
                f"{name} holds {bad} NaN or infinite value(s). Replace them, or leave "
                "the image out."
            )
        values -= values.min()
        pixels = np.rint(values * 255 / (values.max() or 1)).astype(np.uint8)
    if channels == 1 and pixels.shape[-1] == 3:
        grey = pixels @ np.array([0.299, 0.587, 0.114])
        pixels = np.rint(grey).astype(np.uint8)[..., None]
    return np.array(np.broadcast_to(pixels, (*pixels.shape[:2], channels)))


def class_mask(
    labels: NDArray[Any], num_classes: int, name: str = "mask"
) -> NDArray[np.uint8]:
    """Return class indices as uint8, the integers that albumentations can warp.

    Raises:
        ValueError: A value is not one of 0..K-1; those found are named.
    """
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        wrong = np.setdiff1d(labels, np.arange(num_classes))
        raise ValueError(
            f"{name} holds {shorten(wrong.tolist())}, outside the classes "
            f"0..{num_classes - 1} of num_classes={num_classes}. Renumber the labels; "
            "a binary mask of 0 and 255 goes with num_classes=1."
        )
    return labels.astype(np.uint8)


def shorten(values: Sequence[object], most: int = 10) -> str:
    """List values in a message, but not all of a thousand.

    Example:
        >>> shorten(range(100), most=3)
        '0, 1, 2 and 97 more'
    """
    shown = ", ".join(str(value) for value in values[:most])
    return f"{shown} and {len(values) - most} more" if len(values) > most else shown


def _without_alpha(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels[..., :-1] if pixels.shape[-1] in (2, 4) else pixels


def _one_channel(pixels: NDArray[Any], path: str | Path) -> NDArray[Any]:
    if pixels.ndim == 2:
        return pixels
    pixels = _without_alpha(pixels)
    if not (pixels == pixels[..., :1]).all():
        raise ValueError(
            f"mask {path} is a colour image; expected one value a pixel. Save it as "
            "grey: 0 and 255, or class indices for num_classes > 1."
        )
    return pixels[..., 0]


def _read_pixels(path: Path, *, indices: bool = False) -> NDArray[Any]:
    """Decode a file to ``(H, W)`` or ``(H, W, 1..4)``, in its own dtype.

    Of a palette image, return the ``indices``, or else the colours.
    """
    try:
        pixels, pages = _decode(path, indices)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise  # the system's own words name the file and the reason
    except Exception as error:  # decoders stumble over damage in a dozen ways
        raise ValueError(
            f"{path} cannot be read as an image ({error}). It may be cut off or "
            "damaged: open it in a viewer, get it again, or leave it and its partner "
            "out."
        ) from error
    if pages > 1 or pixels.ndim > 3 or (pixels.ndim == 3 and pixels.shape[-1] > 4):
        raise ValueError(
            f"{path} holds several images ({pages} page(s) of shape {pixels.shape}); "
            "expected one image a file. Save its slices as separate files."
        )
    return pixels


def _decode(path: Path, indices: bool) -> tuple[NDArray[Any], int]:
    """Return the pixels of the first page, and the number of pages."""
    try:
        with Image.open(path) as file:
            pages = getattr(file, "n_frames", 1)
            if file.mode in ("CMYK", "YCbCr", "LAB", "PA") or (
                file.mode == "P" and not indices
            ):
                return np.array(file.convert("RGB")), pages
            return np.array(file), pages
    except UnidentifiedImageError:
        if path.suffix.lower() not in (".tif", ".tiff"):
            raise
    # Colour of 16 bits a channel, which Pillow does not know.
    return tifffile.imread(path), 1


def _binary_mask(values: NDArray[Any], path: str | Path) -> NDArray[np.uint8]:
    """Return a mask of 0/1, or of 0/255 with soft edges, as uint8 in {0, 1}."""
    if values.dtype.kind == "f" or values.dtype.itemsize > 1:
        found = np.unique(values)
        if not np.isin(found, np.arange(256)).all():
            raise ValueError(
                f"mask {path} holds {shorten(found.tolist())} ({values.dtype}); "
                "expected 0 and 1, or 0 and 255. Binarise it, and save it with 8 bits."
            )
    mask = np.ascontiguousarray(values.astype(np.uint8))
    if mask.max() <= 1:
        return mask
    # Pixels of each value; numpy.bincount takes ten times as long.
    counts = cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel()
    # The soft edges of a 0/255 mask are few; most label numbers are below 224.
    if counts[224:].sum() <= 0.2 * counts[32:].sum():
        raise ValueError(
            f"mask {path} holds {shorten(np.flatnonzero(counts).tolist())}, which "
            "looks like label numbers rather than 0 and 255. For classes, give "
            "num_classes; for object numbers, save (labels > 0) * 255."
        )
    return (mask > 127).astype(np.uint8)
