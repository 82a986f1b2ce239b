"""Augmentation and normalisation, as albumentations ``Compose`` objects.

    train_transform    resize, turn, mirror, normalise, to tensor    chapters 1, 22
    val_transform      resize, normalise, to tensor                  chapters 1, 22

Called with ``image=`` and ``mask=``, both change the two together; masks are never
interpolated. Chance: a ``Compose`` draws from a generator of its own, which
``torch.manual_seed`` does not reach and which every worker of a ``DataLoader`` gets a
copy of. The data sets of ``medseg.datasets`` mend this, see ``sample_from``.
"""

import os

# Without it the import asks the package index for a newer version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
from albumentations.pytorch import ToTensorV2

from medseg.checks import check_choice


def make_train_transform(
    size: int = 256, *, channels: int = 3, seed: int | None = None
) -> A.Compose:
    """Resize, rotate by up to 35 degrees, mirror left-right, normalise, to tensor.

    Every image is rotated, by an angle drawn evenly from -35 to 35 degrees; half of
    them are mirrored. The corners that a rotation uncovers are filled with mirrored
    image and mask: black corners would be labelled background, and a network learns
    them. (Black is albumentations' default since version 2; before, it mirrored.)

    Args:
        size: Height and width of the result in pixels, at least 1. An image that is
            not square is squeezed into it.
        channels: Channels C of the image, 3 or 1; see :func:`make_val_transform`.
        seed: Start of the random stream when the transform is called directly. None:
            a different one each time, or, in a data set of this package, the one of
            ``torch.manual_seed``.

    Returns:
        A transform from an image ``(H, W, C)`` uint8 and a mask ``(H, W)`` to tensors
        ``(C, size, size)`` float32 and ``(size, size)`` of the mask's dtype.

    Raises:
        TypeError: ``size`` is not a whole number.
        ValueError: ``size`` is less than 1, or ``channels`` neither 3 nor 1.
    """
    turn = A.Rotate(
        limit=35,
        interpolation=cv2.INTER_LINEAR,
        mask_interpolation=cv2.INTER_NEAREST,
        border_mode=cv2.BORDER_REFLECT_101,
        p=1.0,
    )
    return A.Compose(
        [_resize(size), turn, A.HorizontalFlip(p=0.5), *_finish(channels)], seed=seed
    )


def make_val_transform(size: int = 256, *, channels: int = 3) -> A.Compose:
    """Resize, normalise, to tensor: no chance in it.

    Three channels are normalised with the mean and standard deviation of ImageNet,
    what pretrained encoders expect; one channel from 0..255 to -1..1.

    Args:
        size: Height and width of the result in pixels, at least 1.
        channels: Channels C of the image, 3 or 1.

    Returns:
        A transform from an image ``(H, W, C)`` uint8 and a mask ``(H, W)`` to tensors
        ``(C, size, size)`` float32 and ``(size, size)`` of the mask's dtype.

    Raises:
        TypeError: ``size`` is not a whole number.
        ValueError: ``size`` is less than 1, or ``channels`` neither 3 nor 1.

    Example:
        >>> import numpy as np
        >>> black = np.zeros((4, 4, 1), dtype=np.uint8)
        >>> out = make_val_transform(2, channels=1)(image=black, mask=black[..., 0])
        >>> out["image"]
        tensor([[[-1., -1.],
                 [-1., -1.]]])
    """
    return A.Compose([_resize(size), *_finish(channels)])


def _resize(size: int) -> A.Resize:
    if not isinstance(size, int) or isinstance(size, bool):
        raise TypeError(f"size must be a whole number of pixels, got {size!r}.")
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}.")
    return A.Resize(
        size,
        size,
        interpolation=cv2.INTER_LINEAR,
        mask_interpolation=cv2.INTER_NEAREST,
        # Averaging: bilinear sampling of a large image skips pixels.
        area_for_downscale="image",
    )


def _finish(channels: int) -> list[A.BasicTransform]:
    check_choice(channels, "channels", (3, 1))
    if channels == 3:
        return [A.Normalize(), ToTensorV2()]
    return [A.Normalize(mean=(0.5,), std=(0.5,)), ToTensorV2()]


train_transform = make_train_transform()
val_transform = make_val_transform()
