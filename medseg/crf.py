r"""Dense conditional random field: labels that follow the edges of the image.

    dense_crf        refine the logits of a network
    grid_search      its parameters, chosen on validation cases
    parameter_grid   the sets of parameters to try
    to_logits        for those who have probabilities

Every pixel is joined to every other one. Two pixels that lie near each other and look
alike (the appearance kernel), or just lie near each other (the smoothness kernel), pay
for having different labels. With x the labels, P the network's probabilities, p the
positions and I the intensities, the energy is

.. math:: E(x) = -\sum_i \log P(x_i) + \sum_{i < j} [x_i \ne x_j] \left(
    w_a \, e^{-|p_i - p_j|^2 / 2 \sigma_p^2 - |I_i - I_j|^2 / 2 \sigma_I^2}
    + w_s \, e^{-|p_i - p_j|^2 / 2 \sigma_s^2} \right)

and mean-field inference makes a probability Q of each pixel's own:

.. math:: Q_i(l) \propto P_i(l) \, \exp \sum_m w_m \sum_j \tilde k^m_{ij} Q_j(l),
    \qquad \tilde k_{ij} = \frac{k_{ij}}{\sqrt{\sum_a k_{ia} \sum_b k_{bj}}}

for all pixels at once, as often as ``iterations`` says, starting at Q = P. The sums
over j *include the pixel itself*, and each kernel is normalised symmetrically. This is
what the published code does and what the published weights presuppose; in the formula
of the paper the self term is left out and nothing is normalised. Without the
normalisation, a weight would mean something else for each image size and each sigma.

Source: krahenbuhl2011efficient; chen2015deeplab and chen2018deeplab for the parameters.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice, product
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medseg.checks import as_spacing, check_choice, check_finite
from medseg.permutohedral import (
    ExactGaussian,
    GaussianFilter,
    GridGaussian,
    PermutohedralLattice,
)

METHODS = ("lattice", "exact")


@dataclass(frozen=True)
class CRFParams:
    """Weights and standard deviations of the two kernels.

    Attributes:
        appearance_weight: At least 0; a number, or a scalar tensor to be learned.
        appearance_sigma_position: In pixels, or in mm where a spacing is given.
        appearance_sigma_intensity: In the units of the images. The published values
            are for three channels from 0 to 255; the distance sums over the channels.
        smoothness_weight: At least 0; a number, or a scalar tensor to be learned.
        smoothness_sigma: In pixels, or in mm where a spacing is given.

    Raises:
        TypeError: A value is no number.
        ValueError: A weight is negative, a sigma is not positive, or a value is not
            finite.
    """

    appearance_weight: float | Tensor
    appearance_sigma_position: float
    appearance_sigma_intensity: float
    smoothness_weight: float | Tensor
    smoothness_sigma: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            is_weight = name.endswith("weight")
            try:
                number = float(value.detach() if isinstance(value, Tensor) else value)
            except (TypeError, ValueError, RuntimeError) as error:
                raise TypeError(f"{name} must be one number, got {value!r}.") from error
            if not (
                math.isfinite(number) and (number >= 0 if is_weight else number > 0)
            ):
                raise ValueError(
                    f"{name} must be {'at least 0' if is_weight else 'positive'} and "
                    f"finite, got {number:g}. "
                    + (
                        "To learn a weight, make it an exponential."
                        if is_weight
                        else "To leave a kernel out, set its weight to 0."
                    )
                )


# From the scripts released with DeepLab, for RGB images of PASCAL VOC, 10 iterations.
DEEPLAB_V1 = CRFParams(5, 50, 3, 3, 3)
DEEPLAB_V2_VGG16 = CRFParams(4, 65, 3, 2, 2)
DEEPLAB_V2_RESNET101 = CRFParams(4, 67, 3, 3, 1)


def dense_crf(
    logits: Tensor,
    images: Tensor,
    *,
    params: CRFParams = DEEPLAB_V1,
    spacing: Sequence[float] | None = None,
    iterations: int = 10,
    method: str = "lattice",
) -> Tensor:
    """Refine a network's logits with a dense CRF: probabilities after mean field.

    The result has gradients with respect to the logits and to weights that are
    tensors; none flow to the images.

    Args:
        logits: Scores before sigmoid (K = 1) or softmax (K > 1), ``(B, K, *spatial)``,
            2D or 3D. Use `to_logits` where you have probabilities.
        images: ``(B, C, *spatial)``, any number of channels, intensities from 0 to 255
            for the published parameters: the images as they were *before* the
            network's normalisation.
        params: Weights and sigmas, such as ``DEEPLAB_V1``, ``DEEPLAB_V2_VGG16`` and
            ``DEEPLAB_V2_RESNET101``. None of them was chosen for medical images:
            `grid_search`.
        spacing: Voxel size in mm along each spatial axis, which makes the sigmas of
            positions mm. Without it they are pixels.
        iterations: Updates of all pixels; 0 returns the network's probabilities.
        method: ``"lattice"``, a permutohedral lattice, in time linear in the pixels;
            or ``"exact"``, all pairs of pixels, for images of some 100 x 100 pixels.
            The smoothness kernel is exact in both. Where no gradients are recorded,
            the lattice holds three classes or more in float16: probabilities differ
            by 1e-5 on average, a hundredth of what the lattice itself is off, and by
            a few hundredths at single pixels in doubt.

    Returns:
        Probabilities ``(B, K, *spatial)``, at least float32. K = 1 stays one
        foreground probability, the same as with two classes and logits (0, l).

    Raises:
        TypeError: Logits are not floating point, or images are no numbers.
        ValueError: The shapes do not belong together, there are no pixels, a value is
            NaN or infinite, or an argument is out of range.

    Warns:
        UserWarning: The intensities of all images differ by less than
            ``appearance_sigma_intensity``, so that every pixel looks the same.

    Source:
        krahenbuhl2011efficient.

    Example:
        A pixel in doubt goes with those that look like it:

        >>> logits = torch.tensor([[[[4.0, 4.0, 0.0, -4.0, -4.0]]]])
        >>> images = torch.tensor([[[[200.0, 200.0, 200.0, 20.0, 20.0]]]])
        >>> dense_crf(logits, images).flatten() > 0.99
        tensor([ True,  True,  True, False, False])
    """
    check_choice(method, "method", METHODS)
    _check_iterations(iterations)
    logits, images = _check_pair(logits, images)
    sizes = _voxel_size(spacing, logits.shape[2:])
    if images.amax() - images.amin() < params.appearance_sigma_intensity:
        warnings.warn(
            f"The images span {float(images.amax() - images.amin()):g}, less than "
            f"appearance_sigma_intensity = {params.appearance_sigma_intensity:g}: the "
            "CRF sees no edges. The published values are for intensities from 0 to "
            "255; multiply images in [0, 1] by 255.",
            stacklevel=2,
        )
    refined = []
    with torch.autocast(logits.device.type, enabled=False):
        for one_logits, image in zip(logits, images, strict=True):
            kernels = _kernels(image, params, sizes, method)
            refined.append(_mean_field(one_logits, kernels, params, iterations))
    return torch.stack(refined)


class CRFCase(NamedTuple):
    """One image to try parameters on.

    Attributes:
        logits: ``(K, *spatial)``, from a network that was not trained on the case.
        image: ``(C, *spatial)``.
        labels: The reference, ``(*spatial)``.
        spacing: Voxel size in mm, or None for sigmas in pixels.
    """

    logits: Tensor
    image: Tensor
    labels: Tensor
    spacing: Sequence[float] | None = None


class GridSearch(NamedTuple):
    """All scores of a grid search; printed, always before and after together.

    Attributes:
        candidates: The parameters tried.
        before: Scores of the network alone, ``(cases,)``.
        after: Scores with the CRF, ``(candidates, cases)``.
    """

    candidates: tuple[CRFParams, ...]
    before: NDArray[np.float64]
    after: NDArray[np.float64]

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean score of each candidate, ``(candidates,)``, undefined ones left out."""
        return np.array([_mean(scores) for scores in self.after])

    @property
    def best(self) -> CRFParams:
        """The candidate with the highest mean score; the first of equals."""
        return self.candidates[int(np.argmax(np.nan_to_num(self.means, nan=-np.inf)))]

    def __str__(self) -> str:
        after = self.after[self.candidates.index(self.best)]
        undefined = [int(np.isnan(scores).sum()) for scores in (self.before, after)]
        return (
            f"before {_mean(self.before):.4f}, after {_mean(after):.4f} "
            f"(n = {len(after)}, undefined before {undefined[0]}, after "
            f"{undefined[1]}; best of {len(self.candidates)}: {self.best})"
        )


def grid_search(
    cases: Iterable[CRFCase],
    candidates: Iterable[CRFParams],
    score: Callable[[Tensor, Tensor], float],
    *,
    iterations: int = 10,
    method: str = "lattice",
) -> GridSearch:
    """Score each candidate on each case, and the network alone on the same cases.

    The score of the best candidate is flattered by having been chosen: report the one
    on other cases, ``grid_search(test_cases, [search.best], score)``. A CRF often
    gains nothing on medical images; ``before`` shows whether it does.

    Args:
        cases: Validation cases, read once, one after the other.
        candidates: What to try, such as a `parameter_grid`. Sets with the same sigmas
            share a lattice.
        score: Function of predicted labels and reference, both ``(*spatial)``, such
            as ``metrics.dice_score``; higher is better, nan is undefined.
        iterations: As in `dense_crf`.
        method: As in `dense_crf`.

    Returns:
        The scores before, the scores after, and the best candidate.

    Raises:
        TypeError: As in `dense_crf`.
        ValueError: As in `dense_crf`; or there are no cases or no candidates, or the
            labels have another shape than the logits.

    Source:
        chen2015deeplab, section 5.2: 100 validation images, coarse grid to fine.
    """
    check_choice(method, "method", METHODS)
    _check_iterations(iterations)
    candidates = tuple(candidates)
    before, after = [], []
    for case in cases:
        *_, labels, spacing = case = CRFCase(*case)
        logits, images = _check_pair(case.logits[None], case.image[None])
        logits, image = logits[0], images[0]
        if labels.shape != logits.shape[1:]:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}, but logits "
                f"{tuple(logits.shape)} need labels of shape {tuple(logits.shape[1:])}."
            )
        sizes = _voxel_size(spacing, logits.shape[1:])
        before.append(float(score(_decide(logits, 0.0), labels)))
        scores = dict.fromkeys(range(len(candidates)), math.nan)
        groups: dict[tuple[float, ...], list[int]] = {}
        for index, params in enumerate(candidates):
            groups.setdefault(_sigmas(params), []).append(index)
        with torch.no_grad():
            for indices in groups.values():
                kernels = _kernels(image, candidates[indices[0]], sizes, method)
                for index in indices:
                    refined = _mean_field(
                        logits, kernels, candidates[index], iterations
                    )
                    scores[index] = float(score(_decide(refined, 0.5), labels))
        after.append(list(scores.values()))
    if not before or not candidates:
        raise ValueError(
            f"a grid search needs cases and candidates, got {len(before)} case(s) and "
            f"{len(candidates)} candidate(s). A generator can be read only once."
        )
    return GridSearch(candidates, np.array(before), np.array(after).T)


def parameter_grid(
    base: CRFParams = DEEPLAB_V1,
    *,
    appearance_weights: Sequence[float] = (5, 6, 7, 8, 9, 10),
    appearance_sigmas_position: Sequence[float] = (50, 60, 70, 80, 90, 100),
    appearance_sigmas_intensity: Sequence[float] = (3, 4, 5, 6, 7, 8, 9, 10),
) -> list[CRFParams]:
    """Every combination of three parameters; smoothness as in ``base``.

    The default is DeepLab v1's range, 288 sets; v2's is weights 3 to 6, positions 30
    to 100 by 10, intensities 3 to 6.

    Example:
        >>> len(parameter_grid(appearance_weights=[1, 2]))  # 2 * 6 * 8
        96
    """
    return [
        replace(
            base,
            appearance_weight=weight,
            appearance_sigma_position=position,
            appearance_sigma_intensity=intensity,
        )
        for position, intensity, weight in product(
            appearance_sigmas_position, appearance_sigmas_intensity, appearance_weights
        )
    ]


def to_logits(probabilities: Tensor, *, floor: float = 1e-6) -> Tensor:
    """Turn probabilities ``(B, K, *spatial)`` into logits that `dense_crf` takes.

    Args:
        probabilities: In ``[0, 1]``. K = 1: of the foreground; K > 1: of each class.
        floor: Probabilities are moved at least this far from 0 and from 1: no
            evidence of other pixels could outweigh a certainty.

    Returns:
        log(p / (1 - p)) for K = 1, log p for K > 1; at least float32.

    Raises:
        TypeError: Probabilities are not floating point.
        ValueError: One lies outside ``[0, 1]``, or ``floor`` outside (0, 0.5).

    Example:
        >>> to_logits(torch.tensor([[[0.5, 0.9]]]))
        tensor([[[0.0000, 2.1972]]])
    """
    if not probabilities.is_floating_point():
        raise TypeError(
            f"probabilities must be floating point, got {probabilities.dtype}. Labels "
            "say nothing of doubt: set it, as in 0.1 + 0.8 * mask.float()."
        )
    if not 0 < floor < 0.5:
        raise ValueError(f"floor must lie between 0 and 0.5, got {floor}.")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError(
            "probabilities must lie in [0, 1], got values from "
            f"{probabilities.min().item():g} to {probabilities.max().item():g}. Logits "
            "need no conversion."
        )
    probabilities = _at_least_float32(probabilities).clamp(floor, 1 - floor)
    if probabilities.shape[1] == 1:
        return probabilities.logit()
    return probabilities.log()


# --- mean field


LARGEST_EXPONENT = 80.0  # exp() of it, a thousand times, is still a float32
COMPACT_POINTS = 2**24  # of more, the sums at one vertex might overflow float16


class _Kernels(NamedTuple):
    appearance: GaussianFilter
    smoothness: GridGaussian


def _kernels(
    image: Tensor, params: CRFParams, sizes: tuple[float, ...], method: str
) -> _Kernels:
    """Both filters for an image ``(C, *spatial)``; they depend on the sigmas alone."""
    axes = [
        torch.arange(pixels, dtype=image.dtype, device=image.device) * size
        for pixels, size in zip(image.shape[1:], sizes, strict=True)
    ]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    features = torch.cat(
        [
            positions / params.appearance_sigma_position,
            image / params.appearance_sigma_intensity,
        ]
    )  # (D + C, *spatial)
    make = PermutohedralLattice if method == "lattice" else ExactGaussian
    return _Kernels(
        make(features.flatten(1).t()),
        GridGaussian(
            image.shape[1:],
            [params.smoothness_sigma / size for size in sizes],
            like=image,
        ),
    )


def _mean_field(
    logits: Tensor, kernels: _Kernels, params: CRFParams, iterations: int
) -> Tensor:
    """Logits ``(K, *spatial)`` to probabilities ``(K, *spatial)``."""
    num_classes, spatial = logits.shape[0], logits.shape[1:]
    weights = [
        torch.as_tensor(weight, dtype=logits.dtype, device=logits.device)
        for weight in (params.appearance_weight, params.smoothness_weight)
    ]
    unary = logits.flatten(1).t().contiguous()  # (N, K)
    if num_classes > 1:  # only differences count: one column less to filter
        unary = unary[:, 1:] - unary[:, :1]
    recorded = [unary, *weights]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in recorded):
        state = unary
        for order in _orders(iterations):
            values = _beliefs(state)
            spread = kernels.appearance(values, order=order)
            state = torch.addcmul(unary, weights[0], spread)
            state = torch.addcmul(state, weights[1], kernels.smoothness(values))
    else:
        state = _iterate_in_place(unary, kernels, weights, iterations)
    if num_classes > 2:
        refined = F.pad(state, (1, 0)).softmax(dim=1)
    elif num_classes == 2:
        refined = torch.cat([-state, state], dim=1).sigmoid()
    else:
        refined = state.sigmoid()
    return refined.t().reshape(num_classes, *spatial)


def _beliefs(state: Tensor) -> Tensor:
    """Q_k - Q_0 for the classes from 1 on, from their scores above class 0's.

    Filters are linear, and softmax does not see what is added to all classes alike.
    """
    if state.shape[1] == 1:
        return (state / 2).tanh()
    if state.requires_grad or state.max() > LARGEST_EXPONENT:
        probabilities = F.pad(state, (1, 0)).softmax(dim=1)
        return probabilities[:, 1:] - probabilities[:, :1]
    # The same, without the copy and the maximum of each row.
    odds = state.exp()
    total = odds.sum(dim=1, keepdim=True).add_(1)
    return odds.sub_(1).div_(total)


def _orders(iterations: int) -> Iterator[int]:
    """The lattice's order and its reverse by turns.

    Over some iterations this is nearly as good as the mean of both, at half the cost.
    """
    return islice(cycle((1, -1)), iterations)


def _iterate_in_place(
    unary: Tensor, kernels: _Kernels, weights: list[Tensor], iterations: int
) -> Tensor:
    """Scores ``(N, K)`` after all updates, where no gradients are recorded."""
    if iterations == 0:
        return unary
    values = _beliefs(unary)
    factors = [float(weight) for weight in weights]
    spare = [torch.empty_like(values), torch.empty_like(values)]
    # Memory is what a filter of many columns waits for, and a lattice errs by more than
    # float16 does. With one column its indices weigh more than the values.
    compact = (
        isinstance(kernels.appearance, PermutohedralLattice)
        and values.dtype == torch.float32
        and values.shape[1] > 1
        and len(values) < COMPACT_POINTS
    )
    read = values.half() if compact else values
    state = torch.empty_like(unary)
    for number, order in enumerate(_orders(iterations), start=1):
        smooth = kernels.smoothness.apply_into(values, spare)
        for rows, filtered in kernels.appearance.pieces(read, order):
            piece = torch.add(
                unary[rows], filtered.to(unary.dtype), alpha=factors[0]
            ).add_(smooth[rows], alpha=factors[1])
            if number == iterations:
                state[rows] = piece
                continue
            values[rows] = _beliefs(piece)
            if compact:
                read[rows] = values[rows]
    return state


def _sigmas(params: CRFParams) -> tuple[float, ...]:
    return (
        params.appearance_sigma_position,
        params.appearance_sigma_intensity,
        params.smoothness_sigma,
    )


def _decide(scores: Tensor, threshold: float) -> Tensor:
    """Scores ``(K, *spatial)`` to labels ``(*spatial)``."""
    if scores.shape[0] == 1:
        return (scores[0] > threshold).long()
    return scores.argmax(dim=0)


def _mean(scores: NDArray[np.float64]) -> float:
    """Mean of what is defined; nan if nothing is."""
    defined = scores[~np.isnan(scores)]
    return float(defined.mean()) if len(defined) else math.nan


# --- the door


def _check_pair(logits: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Check both, and return them in one dtype, at least float32, on one device."""
    for name, value in [("logits", logits), ("images", images)]:
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{name} must be a torch.Tensor, got {type(value).__name__}. Convert "
                "an array with torch.from_numpy(array)."
            )
    if not logits.is_floating_point():
        raise TypeError(
            f"logits must hold floating point numbers, got {logits.dtype}. Use "
            "to_logits for probabilities."
        )
    if images.is_complex() or images.dtype == torch.bool:
        raise TypeError(f"images must hold real numbers, got {images.dtype}.")
    if logits.ndim not in (4, 5):
        raise ValueError(
            "logits must have shape (B, K, H, W) or (B, K, D, H, W), got "
            f"{tuple(logits.shape)}. Add a missing batch axis with logits[None]."
        )
    if images.ndim != logits.ndim or (images.shape[0], *images.shape[2:]) != (
        logits.shape[0],
        *logits.shape[2:],
    ):
        raise ValueError(
            f"images {tuple(images.shape)} and logits {tuple(logits.shape)} must agree "
            "in all axes but the channels. Resize the logits to the image, never the "
            "other way round."
        )
    if images.numel() == 0 or logits.numel() == 0:
        raise ValueError(
            f"images {tuple(images.shape)} with logits {tuple(logits.shape)}: there is "
            "nothing in them."
        )
    logits = _at_least_float32(logits)
    images = images.to(logits)
    check_finite(logits, "logits")
    check_finite(images, "images")
    return logits, images


def _voxel_size(
    spacing: Sequence[float] | None, shape: Sequence[int]
) -> tuple[float, ...]:
    return as_spacing([1.0] * len(shape) if spacing is None else spacing, len(shape))


def _check_iterations(iterations: int) -> None:
    if isinstance(iterations, bool) or not isinstance(iterations, int):
        raise TypeError(f"iterations must be an integer, got {iterations!r}.")
    if iterations < 0:
        raise ValueError(f"iterations must be 0 or more, got {iterations}.")


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
