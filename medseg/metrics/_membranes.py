"""Membranes: the three scores of ISBI 2012, and the Rand score of label maps."""

from collections.abc import Sequence
from math import nan
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from torch import Tensor

from medseg.checks import as_mask
from medseg.metrics._classes import as_label_pair
from medseg.metrics._overlap import dice_score

#: Where `pixel_error`, `rand_error` and `warping_error` cut the probability.
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def pixel_error(
    probability: ArrayLike | Tensor,
    truth: ArrayLike | Tensor,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
) -> float:
    """Pixel error of ISBI 2012: 1 minus the best Dice over thresholds.

    The F-score of single pixels is `dice_score`, here of the cell interiors, which are
    ``probability > threshold``. The best threshold is chosen with the reference in
    sight, so the figure is kinder than one at a threshold fixed beforehand.

    Args:
        probability: Of cell interior (membrane is 0), in ``[0, 1]``: one image
            ``(H, W)``, or a stack ``(D, H, W)``, whose pixels are counted together.
        truth: Reference, same shape: 1 or True inside cells, 0 on membranes.
        thresholds: Where the probability is cut; one for the whole stack.

    Returns:
        A number in ``[0, 1]``; nan when the reference has no interior.

    Raises:
        TypeError: The values are not numbers.
        ValueError: The shapes differ, are not 2D or 3D, or values are out of range.

    Source:
        argandacarreras2015crowdsourcing; "1 - the maximal F-score of pixel similarity"
        in the words of the challenge.

    Example:
        Cut at 0.5, three of the four predicted pixels are right, and none is missed:

        >>> pixel_error([[0.9, 0.8, 0.7, 0.6, 0.2]], [[1, 1, 1, 0, 0]],
        ...             thresholds=[0.5])  # 1 - 2 * 3 / (4 + 3)
        0.1428571428571429
    """
    interior, inside, cuts = _as_membrane_task(probability, truth, thresholds)
    if not inside.any():
        return nan
    return 1 - max(dice_score(interior > cut, inside) for cut in cuts)


def rand_error(
    probability: ArrayLike | Tensor,
    truth: ArrayLike | Tensor,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
) -> float:
    """Foreground-restricted Rand error of ISBI 2012.

    At each threshold, the pixels with ``probability > threshold`` fall into
    4-connected components, the predicted cells (membrane pixels that touch at their
    corners still separate); the reference does so too. Both are compared by `v_rand`
    on the pixels that are interior in the reference, and the error is 1 minus the best
    F-score.

    Args:
        probability: Of cell interior (membrane is 0), in ``[0, 1]``: one image
            ``(H, W)``, or a stack ``(D, H, W)``. Cells end at their section: the
            sections of a stack are labelled one by one, and their pairs of pixels are
            counted together.
        truth: Reference, same shape: 1 or True inside cells, 0 on membranes.
        thresholds: Where the probability is cut; one for the whole stack.

    Returns:
        A number in ``[0, 1]``, 0 for the same cells; nan when the reference has no
        interior.

    Raises:
        TypeError: The values are not numbers.
        ValueError: The shapes differ, are not 2D or 3D, or values are out of range.

    Source:
        argandacarreras2015crowdsourcing.

    Example:
        Two cells of two pixels; the membrane between them is not seen at all. Of the
        16 ordered pairs of interior pixels, 8 belong together: F = 2 * 8 / (8 + 16).

        >>> rand_error([[1.0, 1.0, 1.0, 1.0, 1.0]], [[1, 1, 0, 1, 1]])
        0.33333333333333337
    """
    interior, inside, cuts = _as_membrane_task(probability, truth, thresholds)
    if not inside.any():
        return nan
    cells = _label_cells(inside)
    scores = [v_rand(_label_cells(interior > cut), cells) for cut in cuts]
    return 1 - max(score.f_score for score in scores)


class RandScore(NamedTuple):
    """How well pairs of pixels are put together; 1 is perfect."""

    f_score: float  # harmonic mean of the two
    split: float  # low where cells of the reference are cut into pieces
    merge: float  # low where cells of the reference run into one


def v_rand(
    pred_labels: ArrayLike | Tensor, truth_labels: ArrayLike | Tensor
) -> RandScore:
    r"""Rand F-score of two label maps, with its split and its merge score.

    .. math:: V = \frac{\sum_{ij} p_{ij}^2}
        {\alpha \sum_i s_i^2 + (1 - \alpha) \sum_j t_j^2}, \qquad \alpha = \frac{1}{2}

    p is the share of the pixels that lie in predicted cell i and reference cell j, s
    and t its sums over j and i. With :math:`\alpha = 0` it is the split score: of the
    pairs of pixels in one reference cell, the share that the prediction keeps
    together. With :math:`\alpha = 1` it is the merge score: of the pairs in one
    predicted cell, the share that belongs together. Only pixels that lie in a cell of
    the reference count. Where the prediction says membrane (0) there, each pixel is a
    cell of its own. Pairs are ordered and include a pixel with itself; leaving those
    out, as in scikit-image's ``adapted_rand_error``, changes little.

    Args:
        pred_labels: Numbers of the predicted cells, ``(*spatial)``, integers, 0 on
            membranes.
        truth_labels: Numbers of the reference cells, same shape, 0 on membranes.

    Returns:
        F-score, split score and merge score in ``[0, 1]``; all nan when the reference
        has no cell.

    Raises:
        TypeError: The labels are not integers.
        ValueError: The shapes differ, or a label is negative.

    Source:
        argandacarreras2015crowdsourcing.

    Example:
        A cell of four pixels cut in half keeps 8 of its 16 pairs:

        >>> v_rand([1, 1, 2, 2], [1, 1, 1, 1])
        RandScore(f_score=0.6666666666666666, split=0.5, merge=1.0)
    """
    pred, truth = as_label_pair(pred_labels, truth_labels)
    pred, truth = pred[truth > 0], truth[truth > 0]
    if truth.size == 0:
        return RandScore(nan, nan, nan)
    singles = float((pred == 0).sum())
    in_cell = pred > 0
    pairs = (int(truth.max()) + 1) * pred[in_cell] + truth[in_cell]
    together = _sum_of_squares(pairs) + singles
    in_pred = _sum_of_squares(pred[in_cell]) + singles
    in_truth = _sum_of_squares(truth)
    return RandScore(
        f_score=2 * together / (in_pred + in_truth),
        split=together / in_truth,
        merge=together / in_pred,
    )


def warping_error(
    probability: ArrayLike | Tensor,
    truth: ArrayLike | Tensor,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    only_splits_and_mergers: bool = False,
) -> float:
    """Warping error: what is wrong with the topology, as a share of the pixels.

    The reference is warped towards the prediction ``probability > threshold``: pixels
    that disagree are flipped as long as they are simple, which means that flipping
    them neither splits nor merges, opens nor closes, adds nor removes anything. So a
    membrane may thicken and thin at no cost, and move as far as it is thick (one that
    its prediction does not even touch has no way there). What still disagrees when
    nothing more can flip is counted and divided by the number of pixels; the error is
    the least over the thresholds. Interior is 4-connected and membrane 8-connected;
    beyond the image all is membrane.

    A gap in a membrane costs its length in pixels, a membrane across a cell one pixel,
    a membrane-coloured blob inside a cell its area. The leaderboard of ISBI 2012
    counted ``only_splits_and_mergers``: remaining pixels that would join two cells, or
    cut one in two, which leaves such blobs out.

    Pixels flip in a fixed order, membranes growing before they thin. Another order can
    leave another remainder, so the figure bounds the least one from above, and
    implementations differ.

    Args:
        probability: Of cell interior (membrane is 0), in ``[0, 1]``: one image
            ``(H, W)``, or a stack ``(D, H, W)``, each section warped by itself and all
            counted together.
        truth: Reference, same shape: 1 or True inside cells, 0 on membranes.
        thresholds: Where the probability is cut; one for the whole stack.
        only_splits_and_mergers: Leave out additions, deletions and holes.

    Returns:
        A number in ``[0, 1]``. No mask is undefined: a reference without interior
        costs what is predicted.

    Raises:
        TypeError: The values are not numbers.
        ValueError: The shapes differ, are not 2D or 3D, or values are out of range.

    Source:
        jain2010boundary, section 2; argandacarreras2015crowdsourcing.

    Example:
        A membrane moved by a pixel is free; one that is not there costs its length.

        >>> truth = [[1, 1, 0, 1, 1, 1]] * 3
        >>> warping_error([[1, 1, 1, 0, 1, 1]] * 3, truth)
        0.0
        >>> round(warping_error([[1, 1, 1, 1, 1, 1]] * 3, truth) * 18)
        3
    """
    interior, inside, cuts = _as_membrane_task(probability, truth, thresholds)
    edge = [(0, 0)] * (inside.ndim - 2) + [(1, 1), (1, 1)]
    source = np.pad(inside, edge)
    remaining = []
    for cut in cuts:
        target = np.pad(interior > cut, edge)
        warped = _warp(source, target)
        wrong = np.flatnonzero(warped != target)
        if only_splits_and_mergers:
            wrong = wrong[_splits_or_merges(warped, wrong)]
        remaining.append(wrong.size)
    return min(remaining) / inside.size


# The eight neighbours of a pixel, counter-clockwise from the right, as (row, column).
_RING = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


def _pieces_around() -> NDArray[np.int64]:
    """For each of 256 rings, the 4-connected interior pieces that touch the centre.

    Bit k of the index is neighbour k of the ring. Each run of interior that holds a
    4-neighbour (even k) is counted once, at its end; a closed ring counts 0. The centre
    is simple where exactly one piece touches it (Yokoi's connectivity number).
    """
    ring = (np.arange(256)[:, None] >> np.arange(8)) & 1  # (256, 8)
    after, after_next = np.roll(ring, -1, axis=1), np.roll(ring, -2, axis=1)
    return (ring * (1 - after * after_next))[:, ::2].sum(axis=1)


_PIECES = _pieces_around()


def _ring_values(
    flat: NDArray[Any], pixels: NDArray[np.int64], width: int
) -> NDArray[Any]:
    """Return the eight neighbours ``(pixels, 8)`` in a flattened, padded map."""
    offsets = np.array([row * width + column for row, column in _RING])
    return flat[pixels[:, None] + offsets]


def _pieces(
    flat: NDArray[np.bool_], pixels: NDArray[np.int64], width: int
) -> NDArray[np.int64]:
    """Count the interior pieces around each pixel."""
    ring = _ring_values(flat, pixels, width)
    return _PIECES[np.packbits(ring, axis=1, bitorder="little")[:, 0]]


def _warp(source: NDArray[np.bool_], target: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Flip simple points of source that differ from target until none is left.

    Both are padded by one pixel of membrane. Membranes grow as far as they can before
    they thin, in turns: one that moves would else be worn down from both sides before
    it has arrived.
    """
    warped, goal = source.ravel().copy(), target.ravel()
    wrong = np.flatnonzero(warped != goal)
    before = wrong.size + 1
    while wrong.size < before:
        before = wrong.size
        for interior in (False, True):
            _flip_simple(warped, wrong[goal[wrong] == interior], source.shape[-1])
        wrong = wrong[warped[wrong] != goal[wrong]]
    return warped.reshape(source.shape)


def _flip_simple(
    warped: NDArray[np.bool_], pixels: NDArray[np.int64], width: int
) -> None:
    """Flip each of these pixels once, in place, while one of them is simple.

    Pixels whose rows and columns have the same parity are no neighbours, so all of
    these can flip at once: one after the other, they would not see each other either.
    """
    left = pixels.size + 1
    while pixels.size < left:
        left = pixels.size
        parity = 2 * (pixels // width % 2) + pixels % width % 2
        stuck = []
        for turn in range(4):
            chosen = pixels[parity == turn]
            simple = _pieces(warped, chosen, width) == 1
            warped[chosen[simple]] ^= True
            stuck.append(chosen[~simple])
        pixels = np.concatenate(stuck)


def _splits_or_merges(
    warped: NDArray[np.bool_], pixels: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Say of each pixel whether flipping it would join two cells or cut one.

    A membrane pixel joins as many cells as have a 4-neighbour of it. An interior pixel
    leaves as many pieces as touch it, less those that are held together by a way
    around: each such way closes off another piece of membrane (Euler's formula).
    """
    width = warped.shape[-1]
    cells = _label_cells(warped)
    membranes = _label_cells(~warped, diagonal=True)
    around = _ring_values(cells.ravel(), pixels, width)
    merged = _count_distinct(around[:, ::2])
    outside = _count_distinct(_ring_values(membranes.ravel(), pixels, width))
    pieces = _pieces(warped.ravel(), pixels, width)
    return np.where(warped.ravel()[pixels], pieces > outside, merged > 1)


def _label_cells(
    inside: NDArray[np.bool_], diagonal: bool = False
) -> NDArray[np.int64]:
    """Number the components of an image, or of each section of a stack, from 1."""
    structure = ndimage.generate_binary_structure(2, 2 if diagonal else 1)
    if inside.ndim == 3:
        structure = np.pad(structure[None], [(1, 1), (0, 0), (0, 0)])
    return ndimage.label(inside, structure)[0].astype(np.int64)


def _count_distinct(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the different values other than 0 in each row."""
    ordered = np.sort(values, axis=1)
    before = np.pad(ordered, [(0, 0), (1, 0)])[:, :-1]
    return (ordered != before).sum(axis=1)


def _sum_of_squares(numbers: NDArray[np.int64]) -> float:
    """Sum the squared sizes of the groups of equal numbers."""
    sizes = np.unique(numbers, return_counts=True)[1].astype(np.float64)
    return float((sizes**2).sum())


def _as_membrane_task(
    probability: ArrayLike | Tensor,
    truth: ArrayLike | Tensor,
    thresholds: Sequence[float],
) -> tuple[NDArray[np.float32], NDArray[np.bool_], list[float]]:
    """Check a membrane task; return probability, reference, and thresholds."""
    inside = as_mask(truth, "truth")
    if isinstance(probability, Tensor):  # bfloat16 is unknown to NumPy
        probability = probability.detach().float().cpu()
    interior = np.asarray(probability)
    if interior.dtype.kind not in "buif":
        raise TypeError(f"probability must hold numbers, got {interior.dtype}.")
    if interior.shape != inside.shape or inside.ndim not in (2, 3):
        raise ValueError(
            "probability and truth must both be (H, W), or a stack (D, H, W), got "
            f"{interior.shape} and {inside.shape}. Take the channel of one class: "
            "probs[:, 0] of (B, K, H, W) is a stack."
        )
    if not ((interior >= 0) & (interior <= 1)).all():
        raise ValueError(
            "probability must lie in [0, 1], got values from "
            f"{interior.min()} to {interior.max()}. Put logits through a sigmoid, and "
            "divide 8-bit maps by 255."
        )
    cuts = [float(cut) for cut in thresholds]
    if not cuts or not all(0 <= cut < 1 for cut in cuts):
        raise ValueError(
            f"thresholds must be one or more numbers in [0, 1), got {cuts}."
        )
    return interior.astype(np.float32), inside, cuts
