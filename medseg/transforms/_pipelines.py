"""Ready pipelines: the source text's two, stronger ones, and those for HU."""

from collections.abc import Mapping

import albumentations as A
import cv2
from albumentations.pytorch import ToTensorV2

from medseg.checks import check_choice
from medseg.transforms._elastic import ElasticGrid
from medseg.transforms._intensity import BiasField, Gamma, WindowJitter


def make_train_transform(
    size: int = 256,
    *,
    channels: int = 3,
    seed: int | None = None,
    additional_targets: Mapping[str, str] | None = None,
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
        additional_targets: Further arrays that move with the image, by name, and as
            what: ``{"weights": "mask"}`` for a weight map, of the nearest pixel's
            value; ``"image"`` for another image.

    Returns:
        A transform from an image ``(H, W, C)`` uint8 and a mask ``(H, W)`` to tensors
        ``(C, size, size)`` float32 and ``(size, size)`` of the mask's dtype.

    Raises:
        TypeError: ``size`` is not a whole number.
        ValueError: ``size`` is less than 1, ``channels`` neither 3 nor 1, or a target
            neither "mask" nor "image".
    """
    turn = A.Rotate(
        limit=35,
        interpolation=cv2.INTER_LINEAR,
        mask_interpolation=cv2.INTER_NEAREST,
        border_mode=cv2.BORDER_REFLECT_101,
        p=1.0,
    )
    return A.Compose(
        [_resize(size), turn, A.HorizontalFlip(p=0.5), *_finish(channels)],
        seed=seed,
        additional_targets=_targets(additional_targets),
    )


def make_val_transform(
    size: int = 256,
    *,
    channels: int = 3,
    additional_targets: Mapping[str, str] | None = None,
) -> A.Compose:
    """Resize, normalise, to tensor: no chance in it.

    Three channels are normalised with the mean and standard deviation of ImageNet,
    what pretrained encoders expect; one channel from 0..255 to -1..1.

    Args:
        size: Height and width of the result in pixels, at least 1.
        channels: Channels C of the image, 3 or 1.
        additional_targets: As in :func:`make_train_transform`.

    Returns:
        A transform from an image ``(H, W, C)`` uint8 and a mask ``(H, W)`` to tensors
        ``(C, size, size)`` float32 and ``(size, size)`` of the mask's dtype.

    Raises:
        TypeError: ``size`` is not a whole number.
        ValueError: ``size`` is less than 1, ``channels`` neither 3 nor 1, or a target
            neither "mask" nor "image".

    Example:
        >>> import numpy as np
        >>> black = np.zeros((4, 4, 1), dtype=np.uint8)
        >>> out = make_val_transform(2, channels=1)(image=black, mask=black[..., 0])
        >>> out["image"]
        tensor([[[-1., -1.],
                 [-1., -1.]]])
    """
    return A.Compose(
        [_resize(size), *_finish(channels)],
        additional_targets=_targets(additional_targets),
    )


def make_strong_transform(
    size: int = 256,
    *,
    channels: int = 3,
    seed: int | None = None,
    additional_targets: Mapping[str, str] | None = None,
) -> A.Compose:
    """Augmentation for small data sets: any turn, other sizes, bent, lit otherwise.

    After resizing: mirrored and turned by right angles; half are turned further,
    scaled by 0.75 to 1.35 and sheared a little; a third are bent by
    :class:`ElasticGrid`, of a size that suits the image; then, each for some, gamma,
    brightness and contrast, uneven illumination, blur and noise. For images without
    an up and a down, such as cells; where there is one (a chest), take
    :func:`make_train_transform`.

    Args:
        size: Height and width of the result in pixels, at least 1.
        channels: Channels C of the image, 3 or 1; see :func:`make_val_transform`.
        seed: As in :func:`make_train_transform`.
        additional_targets: As in :func:`make_train_transform`.

    Returns:
        A transform from an image ``(H, W, C)`` uint8 and a mask ``(H, W)`` to tensors
        ``(C, size, size)`` float32 and ``(size, size)`` of the mask's dtype.

    Raises:
        TypeError: ``size`` is not a whole number.
        ValueError: ``size`` is less than 1, ``channels`` neither 3 nor 1, or a target
            neither "mask" nor "image".
    """
    return A.Compose(
        [
            _resize(size),
            A.D4(p=1.0),
            _affine(rotate=45, scale=(0.75, 1.35), shear=8, p=0.5),
            # The paper's 10 pixels belong to images of 512.
            ElasticGrid(sd=10 * size / 512, p=0.33),
            Gamma((0.6, 1.6), p=0.3),
            A.RandomBrightnessContrast(0.2, 0.25, p=0.3),
            BiasField((0.0, 0.4), p=0.2),
            A.GaussianBlur(blur_limit=0, sigma_limit=(0.4, 1.2), p=0.15),
            A.GaussNoise(std_range=(0.01, 0.06), p=0.2),
            *_finish(channels),
        ],
        seed=seed,
        additional_targets=_targets(additional_targets),
    )


def make_ct_train_transform(
    size: int = 256,
    *,
    level: float,
    width: float,
    jitter: float = 0.1,
    mirror: bool = False,
    seed: int | None = None,
    additional_targets: Mapping[str, str] | None = None,
) -> A.Compose:
    """Augmentation of CT slices in HU, which end in a window as values from -1 to 1.

    After resizing, slices are turned by up to 15 degrees and scaled by 0.85 to 1.2,
    half are bent, and then seen through a window that changes a little from slice to
    slice, so that the network does not depend on single HU. Air fills the corners;
    masks and weights are 0 there.

    Args:
        size: Height and width of the result in pixels, at least 1.
        level: Middle of the window in HU, such as 40 for the abdomen.
        width: Its width in HU, such as 400.
        jitter: How much width and level change, as a fraction of the width, 0 to 0.5.
        mirror: Whether to mirror left-right, too. A mirrored patient has the liver on
            the wrong side: False for organs.
        seed: As in :func:`make_train_transform`.
        additional_targets: As in :func:`make_train_transform`.

    Returns:
        A transform from an image ``(H, W, C)`` or ``(H, W)`` float32 in HU and a mask
        ``(H, W)`` to tensors ``(C, size, size)`` float32 from -1 to 1, and
        ``(size, size)``.

    Raises:
        TypeError: ``size`` is not a whole number, or an image not float32.
        ValueError: A number is out of its range.
    """
    _check_jitter(jitter)
    steps = [
        _resize(size),
        _affine(
            rotate=15,
            scale=(0.85, 1.2),
            shear=0,
            p=1.0,
            border_mode=cv2.BORDER_CONSTANT,
            fill=-1000,
        ),
        ElasticGrid(sd=10 * size / 512, p=0.5),
        WindowJitter(level, width, jitter=jitter),
        A.GaussNoise(std_range=(0.01, 0.04), p=0.3),
    ]
    if mirror:
        steps.insert(1, A.HorizontalFlip(p=0.5))
    return A.Compose(
        [*steps, _centre(), ToTensorV2()],
        seed=seed,
        additional_targets=_targets(additional_targets),
    )


def make_ct_val_transform(
    size: int = 256,
    *,
    level: float,
    width: float,
    additional_targets: Mapping[str, str] | None = None,
) -> A.Compose:
    """Resize, window, to tensor: no chance in it.

    Args:
        size: Height and width of the result in pixels, at least 1.
        level: Middle of the window in HU.
        width: Its width in HU.
        additional_targets: As in :func:`make_train_transform`.

    Returns:
        A transform as that of :func:`make_ct_train_transform`.

    Raises:
        TypeError: ``size`` is not a whole number, or an image not float32.
        ValueError: A number is out of its range.

    Example:
        >>> import numpy as np
        >>> slice_ = np.array([[-160.0, 40.0], [240.0, 999.0]], np.float32)
        >>> make_ct_val_transform(2, level=40, width=400)(image=slice_)["image"]
        tensor([[[-1.,  0.],
                 [ 1.,  1.]]])
    """
    return A.Compose(
        [_resize(size), WindowJitter(level, width, jitter=0), _centre(), ToTensorV2()],
        additional_targets=_targets(additional_targets),
    )


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


def _affine(
    *,
    rotate: float,
    scale: tuple[float, float],
    shear: float,
    p: float,
    border_mode: int = cv2.BORDER_REFLECT_101,
    fill: float = 0,
) -> A.Affine:
    return A.Affine(
        rotate=(-rotate, rotate),
        scale=scale,
        shear=(-shear, shear),
        keep_ratio=True,
        interpolation=cv2.INTER_LINEAR,
        mask_interpolation=cv2.INTER_NEAREST,
        border_mode=border_mode,
        fill=fill,
        p=p,
    )


def _finish(channels: int) -> list[A.BasicTransform]:
    check_choice(channels, "channels", (3, 1))
    if channels == 3:
        return [A.Normalize(), ToTensorV2()]
    return [A.Normalize(mean=(0.5,), std=(0.5,)), ToTensorV2()]


def _centre() -> A.Normalize:
    return A.Normalize(mean=(0.5,), std=(0.5,), max_pixel_value=1.0)


def _targets(targets: Mapping[str, str] | None) -> dict[str, str]:
    for name, kind in (targets or {}).items():
        check_choice(kind, f"additional_targets[{name!r}]", ("mask", "image"))
    return dict(targets or {})


def _check_jitter(jitter: float) -> None:
    if not 0 <= jitter <= 0.5:
        raise ValueError(f"jitter must lie between 0 and 0.5, got {jitter}.")
