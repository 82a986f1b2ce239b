"""The boundary loss, and the signed distances it is made of."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medseg.checks import as_spacing, check_finite
from medseg.losses._door import soft_masks


def boundary_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    spacing: Sequence[float] | None = None,
    distances: Tensor | None = None,
    include_background: bool = False,
    ignore_index: int | None = None,
) -> Tensor:
    r"""Wrong probability, each pixel of it at its distance from the true boundary.

    .. math:: \frac{1}{K N} \sum_k \sum_i \phi_{ki} \, (p_{ki} - g_{ki})
        = \frac{1}{K N} \sum_k \sum_i |\phi_{ki}| \, |p_{ki} - g_{ki}|

    phi is the signed distance of `signed_distance_maps`, in mm. A false island far
    away costs more than a boundary that is off by a pixel. Alone it has little to say
    near the boundary: add it, with a small weight, to a loss of regions, as the paper
    does. See `combined_loss`.

    For a class that does not occur every pixel is as far from it as the image is
    wide: its false positives cost the most.

    Args:
        logits: Scores before softmax or sigmoid, ``(B, K, *spatial)``.
        labels: Class indices ``(B, *spatial)``; for K = 1 also a mask of zeros and
            ones ``(B, 1, *spatial)``.
        spacing: Size of a pixel along each axis in mm. The distances are computed from
            the labels then, on the CPU, at every call.
        distances: Or the distances, made beforehand by `signed_distance_maps`,
            ``(B, K, *spatial)``. Give either these or the spacing.
        include_background: Let class 0 count as one of the K classes. For K = 2 its
            distances are those of class 1 with the other sign. Without effect for
            K = 1.
        ignore_index: A label whose pixels are not in the sum, and in no class.

    Returns:
        A scalar in mm, in ``[0, inf)``, at least float32; 0 for a perfect prediction,
        and where every pixel is ignored.

    Raises:
        TypeError: As `dice_loss`.
        ValueError: As `dice_loss`; or spacing or distances do not fit, or not exactly
            one of them is given.

    Source:
        kervadec2019boundary. The paper leaves out the sum of phi g, which has no
        gradient: its loss is lower by a constant, and can be negative. Its code and
        MONAI's ``BoundaryLoss`` take one pixel less inside, and MONAI's 0 for a class
        that does not occur, whose false positives are then free.

    Example:
        One false pixel, 2 mm from the mask, of four pixels:

        >>> logits = torch.tensor([[[[50.0, -50, 50, -50]]]])
        >>> labels = torch.tensor([[[1, 0, 0, 0]]])
        >>> boundary_loss(logits, labels, spacing=(1, 1)).item()
        0.5
    """
    if (spacing is None) == (distances is None):
        raise ValueError(
            "boundary_loss needs either the spacing in mm or distances made by "
            "signed_distance_maps, and not both."
        )
    masks = soft_masks(
        logits,
        labels,
        ignore_index=ignore_index,
        include_background=include_background,
    )
    if distances is None:
        assert spacing is not None
        steps = as_spacing(spacing, logits.ndim - 2)
        distances = _signed_distances(masks.truth > 0, steps)
    else:
        if distances.shape != logits.shape:
            raise ValueError(
                f"distances have shape {tuple(distances.shape)}, but logits "
                f"{tuple(logits.shape)}. Make them with signed_distance_maps, and crop "
                "and flip them together with the labels."
            )
        check_finite(distances, "distances")
        distances = distances[:, -masks.probs.shape[1] :]
    distances = distances.to(masks.probs)
    off = (masks.probs - masks.truth).flatten(2)
    costs = (distances.flatten(2) * off).sum((0, 2))  # (classes,)
    return costs.mean() / masks.counted.sum().clamp(min=1)


def signed_distance_maps(
    labels: Tensor, num_classes: int, *, spacing: Sequence[float]
) -> Tensor:
    """Distance of every pixel from the boundary of every class: negative inside.

    Outside a class it is the distance to its nearest pixel, inside minus the distance
    to the nearest pixel outside, between centres of pixels, in mm. The two sides of a
    boundary are at equal distance, plus and minus one step.

    Where a class does not occur, or fills the image, there is no boundary: the
    distance is the diagonal of the image, plus in the first case and minus in the
    second.

    Args:
        labels: Class indices ``(B, *spatial)``, integers. Values that are no class,
            such as an ignored one, are outside every class.
        num_classes: K; with 1, the map of the foreground alone.
        spacing: Size of a pixel along each axis in mm.

    Returns:
        ``(B, K, *spatial)``, float32, on the labels' device.

    Raises:
        TypeError: The labels are not a tensor of integers.
        ValueError: There is no pixel or no class, or the spacing has another length.

    Source:
        kervadec2019boundary.

    Example:
        >>> labels = torch.tensor([[[0, 1, 1, 0]]])
        >>> signed_distance_maps(labels, 1, spacing=(1, 0.5))
        tensor([[[[ 0.5000, -0.5000, -0.5000,  0.5000]]]])
    """
    if not isinstance(labels, Tensor) or labels.is_floating_point():
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be a tensor of integers, got {kind}.")
    if labels.ndim < 2 or labels.numel() == 0 or num_classes < 1:
        raise ValueError(
            f"labels must have shape (B, *spatial) with a pixel in it, and num_classes "
            f"be at least 1, got {tuple(labels.shape)} and {num_classes}."
        )
    steps = as_spacing(spacing, labels.ndim - 1)
    classes = [1] if num_classes == 1 else list(range(num_classes))
    truth = torch.stack([labels == k for k in classes], dim=1)
    return _signed_distances(truth, steps)


def _signed_distances(truth: Tensor, spacing: tuple[float, ...]) -> Tensor:
    """Signed distances of masks ``(B, classes, *spatial)``."""
    masks = truth.detach().cpu().numpy()
    maps = np.empty(masks.shape, np.float32)
    for image in np.ndindex(masks.shape[:2]):
        maps[image] = _signed_distance(masks[image], spacing)
    return torch.from_numpy(maps).to(truth.device)


def _signed_distance(
    mask: NDArray[np.bool_], spacing: tuple[float, ...]
) -> NDArray[np.float64]:
    if not mask.any() or mask.all():
        sides = [size * step for size, step in zip(mask.shape, spacing, strict=True)]
        diagonal = math.hypot(*sides)
        return np.full(mask.shape, -diagonal if mask.any() else diagonal)
    distance = ndimage.distance_transform_edt(~mask, spacing)
    # Of a pixel inside, the nearest one outside lies at most one beyond the box.
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    box = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
    distance[box] -= ndimage.distance_transform_edt(mask[box], spacing)
    return distance
