"""Segmentation before networks: rules that a person chose, thin on scikit-image.

    otsu_thresholds             where a histogram falls apart
    threshold                   all pixels between two values
    region_growing              all like the seeds, and joined to them
    gradient_magnitude          how steep the image is at each pixel
    edge_mask                   what closed edges enclose
    watershed                   flooding from markers
    split_touching              a mask cut at its necks, object by object
    random_walker               which marker a walk most probably meets first
    pixel_features              what a person thought worth looking at, at each pixel
    fit_forest, apply_forest    a random forest on such features

All take arrays ``(*spatial)`` and return new ones. Lengths are in pixels, as all of
these rules count pixels; on anisotropic voxels, resample first.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage import feature, filters, morphology, segmentation
from sklearn.ensemble import RandomForestClassifier

from medseg.checks import as_label_map, as_mask

Array = NDArray[Any]
Mask = NDArray[np.bool_]


def otsu_thresholds(
    image: ArrayLike, *, num_classes: int = 2, bins: int = 256
) -> tuple[float, ...]:
    r"""Thresholds that separate a histogram into classes as far apart as can be.

    They make the variance between the classes as large as possible,

    .. math:: \sum_k \omega_k (\mu_k - \mu)^2,

    with the share :math:`\omega_k` and the mean :math:`\mu_k` of each class, and the
    mean :math:`\mu` of all; equivalently, the variance within them as small.

    Args:
        image: Values of any shape, finite.
        num_classes: 2 for one threshold, K for K - 1. The time grows steeply with K.
        bins: Of the histogram from the smallest to the largest value. An image of
            integers (for two classes) has a bin for each value instead.

    Returns:
        ``num_classes - 1`` values in rising order; pixels above the first belong to
        the second class, and so on.

    Raises:
        ValueError: Fewer distinct values than classes, a value that is not finite, or
            ``num_classes`` below 2.

    Source:
        otsu1979threshold.

    Example:
        >>> otsu_thresholds(np.array([1, 1, 2, 8, 9, 9]))
        (2.0,)
    """
    given, values = np.asarray(image), _as_image(image)
    _check(num_classes >= 2, f"num_classes must be 2 or more, got {num_classes}.")
    found = np.unique(values).size
    _check(
        found >= num_classes,
        f"an image with {found} distinct value(s) has no {num_classes} classes. Look "
        "at its histogram; a constant image has nothing to separate.",
    )
    if num_classes == 2:
        exact = given if given.dtype.kind in "ui" else values
        return (float(filters.threshold_otsu(exact, nbins=bins)),)
    cuts = filters.threshold_multiotsu(values, classes=num_classes, nbins=bins)
    return tuple(float(cut) for cut in cuts)


def threshold(
    image: ArrayLike, *, above: float | None = None, below: float | None = None
) -> Mask:
    """Mark the pixels whose value lies above one bound and below another.

    Args:
        image: ``(*spatial)``.
        above: Values larger than this; None for no such bound.
        below: Values smaller than this; None for no such bound.

    Returns:
        A mask of the same shape. A pixel that equals a bound is not in it.

    Raises:
        ValueError: No bound, or no value can lie between the two.

    Example:
        >>> threshold(np.array([-1000, 40, 60, 400]), above=0, below=200)
        array([False,  True,  True, False])
    """
    values = _as_image(image)
    if above is None and below is None:
        raise ValueError("give at least one bound: above, below, or both.")
    mask = np.ones(values.shape, np.bool_)
    if above is not None:
        mask &= values > above
    if below is not None:
        mask &= values < below
    _check(
        above is None or below is None or above < below,
        f"no value is above {above} and below {below}; swap the two.",
    )
    return mask


def region_growing(
    image: ArrayLike, seeds: ArrayLike, tolerance: float, *, connectivity: int = 1
) -> Mask:
    """Grow a region from seeds to all joined pixels of a similar value.

    The rule: a pixel belongs to the region if its value differs from the mean of the
    seeds by at most ``tolerance``, and if a chain of such neighbours leads to a seed.
    The mean is that of the seeds and stays so: a mean that follows the growing region
    makes the result depend on the order of growth. Seeds belong to it in any case.

    Args:
        image: ``(*spatial)``.
        seeds: Mask of the seeds, of the same shape, with one pixel at least.
        tolerance: In units of the image, 0 or more.
        connectivity: 1 for neighbours that share a side (4 in 2D, 6 in 3D), up to the
            number of axes for all that share a corner (8, 26).

    Returns:
        A mask of the same shape.

    Raises:
        ValueError: Shapes differ, there is no seed, or a number is out of its range.

    Source:
        adams1994seeded, which has another rule: there regions compete, in the order of
        similarity.

    Example:
        >>> image = np.array([5, 6, 9, 6, 5])
        >>> seeds = np.array([1, 0, 0, 0, 0])
        >>> region_growing(image, seeds, tolerance=1)  # the other 5 is not joined
        array([ True,  True, False, False, False])
    """
    values = _as_image(image)
    start = as_mask(seeds, "seeds")
    _check_shape(start, values, "seeds")
    _check(bool(start.any()), "seeds mark no pixel; there is nothing to grow from.")
    _check(tolerance >= 0, f"tolerance must be 0 or more, got {tolerance}.")
    _check(
        1 <= connectivity <= values.ndim,
        f"connectivity must lie in 1..{values.ndim}, got {connectivity}.",
    )
    similar = np.abs(values - values[start].mean()) <= tolerance
    neighbours = ndimage.generate_binary_structure(values.ndim, connectivity)
    pieces, count = ndimage.label(similar | start, structure=neighbours)
    joined = np.zeros(count + 1, np.bool_)
    joined[pieces[start]] = True
    return joined[pieces]


def gradient_magnitude(image: ArrayLike, *, sigma: float = 1.0) -> NDArray[np.float64]:
    r"""Length of the gradient of the smoothed image, in its units per pixel.

    .. math:: \lVert \nabla (G_\sigma * x) \rVert

    The derivative is that of the Gaussian itself, in all directions alike.

    Args:
        image: ``(*spatial)``.
        sigma: Standard deviation of the Gaussian in pixels, above 0.

    Returns:
        An array of the same shape, 0 or more.

    Raises:
        ValueError: ``sigma`` is not positive.

    Source:
        marr1980edge, for smoothing before the derivative.

    Example:
        >>> ramp = np.tile(3.0 * np.arange(9), (9, 1))  # rises by 3 a pixel
        >>> round(float(gradient_magnitude(ramp, sigma=0.8)[4, 4]), 2)
        3.0
    """
    values = _as_image(image)
    _check(sigma > 0, f"sigma must be above 0, got {sigma}.")
    return np.asarray(ndimage.gaussian_gradient_magnitude(values, sigma))


def edge_mask(
    image: ArrayLike,
    *,
    sigma: float = 2.0,
    high: float = 0.9,
    low: float = 0.8,
    closing: int = 3,
) -> Mask:
    """Find edges, close their gaps, and keep what they enclose.

    Edges are Canny's: ridges of the gradient which are strong somewhere and not weak
    anywhere. A closing with a disc joins ends that are near each other; holes are
    filled; an opening with a disc of radius 1 and the loss of what has no inside takes
    away the edges that enclose nothing.

    Args:
        image: ``(H, W)``.
        sigma: Of the Gaussian before the gradient, in pixels.
        high: An edge must reach this quantile of the gradient somewhere, 0 to 1.
        low: It goes on as long as it stays above this one, at most ``high``.
        closing: Radius of the disc in pixels, 0 for none. Gaps up to twice as wide are
            closed, and so are bays.

    Returns:
        A mask ``(H, W)``: empty where no edge is closed. What the image's border cuts
        has no closed edge and is lost.

    Raises:
        ValueError: Not two axes, or a number is out of its range.

    Source:
        canny1986computational, for the edges.

    Example:
        >>> image = np.zeros((32, 32))
        >>> image[8:24, 8:24] = 1
        >>> mask = edge_mask(image, sigma=1)
        >>> bool(mask[16, 16]), bool(mask[2, 2])
        (True, False)
    """
    values = _as_image(image)
    _check(values.ndim == 2, f"image must be (H, W), got shape {values.shape}.")
    _check(
        0 <= low <= high <= 1,
        f"0 <= low <= high <= 1 must hold, got low {low} and high {high}.",
    )
    _check(closing >= 0, f"closing must be 0 or more, got {closing}.")
    edges = feature.canny(
        values, sigma=sigma, low_threshold=low, high_threshold=high, use_quantiles=True
    )
    # With a margin, so that the closing does not join the edges to the border.
    wide = np.pad(edges, closing)
    if closing:
        wide = ndimage.binary_closing(wide, morphology.disk(closing))
    filled = ndimage.binary_fill_holes(wide)
    opened = ndimage.binary_opening(filled, morphology.disk(1))
    inside = opened[closing:-closing, closing:-closing] if closing else opened
    return np.asarray(inside, np.bool_)


def watershed(
    landscape: ArrayLike, markers: ArrayLike, *, mask: ArrayLike | None = None
) -> NDArray[np.int64]:
    """Flood a landscape from markers; a border stands where two floods meet.

    Water rises from all markers at one pace. Each pixel belongs to the marker whose
    water reaches it first: over the path whose highest point is lowest.

    Args:
        landscape: Heights ``(*spatial)``, often of :func:`gradient_magnitude`.
        markers: Integers of the same shape: 0 where unknown, 1, 2, ... for what is
            known. With one for the background too, it is flooded as well.
        mask: Where water may flow; None for everywhere.

    Returns:
        Labels of the same shape, int64, with the values of the markers; 0 outside of
        the mask, and in parts of it without a marker.

    Raises:
        ValueError: Shapes differ, or there is no marker.

    Source:
        beucher1979watersheds; vincent1991watersheds, by flooding.

    Example:
        >>> height = np.array([0, 1, 5, 1, 0, 0])
        >>> watershed(height, np.array([1, 0, 0, 0, 0, 2]))
        array([1, 1, 1, 2, 2, 2])
    """
    values, known = _as_image(landscape), as_label_map(markers, "markers")
    _check_shape(known, values, "markers")
    _check(
        bool(known.any()), "markers are all 0; mark each object with a number from 1."
    )
    where = None if mask is None else as_mask(mask)
    if where is not None:
        _check_shape(where, values, "mask")
    return np.asarray(segmentation.watershed(values, known, mask=where), np.int64)


def split_touching(mask: ArrayLike, *, depth: float = 1.0) -> NDArray[np.int64]:
    """Cut a mask at its necks, so that each round object gets a number of its own.

    The distance of each pixel to the background is a landscape with a hill for each
    object. Two hills stay apart if the saddle between them lies more than ``depth``
    below the top of either; each hill is then a marker of :func:`watershed`.

    Args:
        mask: ``(*spatial)``.
        depth: In pixels, above 0. Small values cut objects with ragged outlines into
            pieces, large ones leave touching objects together.

    Returns:
        Instance numbers from 1, and 0 for background, of the same shape, int64.

    Raises:
        ValueError: ``depth`` is not positive.

    Example:
        >>> mask = np.zeros((13, 27), bool)
        >>> mask[1:12, 1:12] = mask[1:12, 15:26] = mask[5:8, 12:15] = True  # a bridge
        >>> int(split_touching(mask).max())
        2
    """
    objects = as_mask(mask)
    _check(depth > 0, f"depth must be above 0, got {depth}.")
    # The image ends in background. The sea lies so low that no hill is joined to
    # another piece of the mask, however flat it is.
    distance = ndimage.distance_transform_edt(np.pad(objects, 1))
    hills = np.asarray(distance)[(slice(1, -1),) * objects.ndim]
    sea = -depth - 1
    worn = morphology.reconstruction(
        np.where(objects, hills - depth, sea), np.where(objects, hills, sea)
    )  # every hill lower by depth, and those that were lower than that gone
    tops = morphology.local_maxima(worn, allow_borders=True) & objects
    touching = ndimage.generate_binary_structure(objects.ndim, objects.ndim)
    markers, _ = ndimage.label(tops, structure=touching)
    found = segmentation.watershed(-hills, markers, connectivity=touching, mask=objects)
    return np.asarray(found, np.int64)


def random_walker(
    image: ArrayLike, markers: ArrayLike, *, beta: float = 10.0
) -> NDArray[np.int64]:
    """Give each pixel the marker that a random walk from it most probably meets first.

    Args:
        image: As for :func:`random_walker_probabilities`.
        markers: As there.
        beta: As there.

    Returns:
        Labels ``(*spatial)``, int64, with the values of the markers.

    Raises:
        ValueError: As there.

    Source:
        grady2006random.

    Example:
        >>> random_walker(np.array([[0, 0, 9, 9, 9]]), np.array([[1, 0, 0, 0, 2]]))
        array([[1, 1, 2, 2, 2]])
    """
    known = as_label_map(markers, "markers")
    probabilities = random_walker_probabilities(image, known, beta=beta)
    names = np.unique(known[known > 0])
    return names[probabilities.argmax(axis=0)]


def random_walker_probabilities(
    image: ArrayLike, markers: ArrayLike, *, beta: float = 10.0
) -> NDArray[np.float64]:
    r"""Probability that a random walk from each pixel meets each marker first.

    A step to neighbour j is taken with a probability proportional to

    .. math:: w_{ij} = e^{-\beta (x_i - x_j)^2 / s^2},

    s the standard deviation of the image, so that walks seldom cross an edge. No walk
    is drawn: each probability is the mean of those of its neighbours, weighted by w,
    which is one sparse system of linear equations.

    Args:
        image: ``(H, W)`` or ``(D, H, W)``, not constant.
        markers: Integers of the same shape: 0 where unknown, 1, 2, ... for what is
            known; two different ones at least.
        beta: 0 or more; 0 walks without looking at the image. A step of the size of
            the standard deviation is passed :math:`e^{-\beta}` times as often.

    Returns:
        Probabilities ``(K, *spatial)`` of the K values of the markers in rising order;
        they sum to 1. Solved exactly, as an iteration stops too early where a pixel
        differs much from all its neighbours; an image takes well under a second, but
        time and memory grow steeply in volumes: crop them first.

    Raises:
        ValueError: Shapes differ, fewer than two markers, a constant image, or a
            negative ``beta``.

    Source:
        grady2006random.

    Example:
        A step of weight 1/8 between steps of weight 1; probabilities are voltages:

        >>> image = np.array([[0.0, 0.0, 1.0, 1.0]])  # a variance of 1/4
        >>> markers = np.array([[1, 0, 0, 2]])
        >>> p = random_walker_probabilities(image, markers, beta=np.log(8) / 4)
        >>> p[1].round(3)
        array([[0. , 0.1, 0.9, 1. ]])
    """
    values, known = _as_image(image), as_label_map(markers, "markers")
    _check(
        values.ndim in (2, 3),
        f"image must be (H, W) or (D, H, W), got shape {values.shape}.",
    )
    _check_shape(known, values, "markers")
    names = np.unique(known[known > 0])
    _check(
        names.size >= 2,
        f"markers must hold two different numbers from 1, got {names.tolist()}: mark "
        "the background with a number of its own.",
    )
    _check(beta >= 0, f"beta must be 0 or more, got {beta}.")
    scale = values.std()
    _check(scale > 0, "the image is constant, so that no edge leads a walk.")
    if known.all():
        return (known == names.reshape(-1, *(1,) * known.ndim)).astype(np.float64)
    # scikit-image divides beta by 10 times the standard deviation of what it is given.
    # It wants the numbers 1..K.
    numbers = np.searchsorted(names, known) + 1
    numbers[known == 0] = 0
    probabilities = segmentation.random_walker(
        (values - values.mean()) / scale,
        numbers,
        beta=10 * beta,
        mode="bf",
        return_full_prob=True,
    )
    return np.asarray(probabilities, np.float64)


def pixel_features(
    image: ArrayLike,
    *,
    sigmas: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
    channels: bool = False,
) -> NDArray[np.float32]:
    """Hand-made numbers for each pixel: brightness, edges and shape at several scales.

    At each scale, and for each channel: the smoothed value; the length of the gradient;
    the eigenvalues of the Hessian, largest first (a dark spot has all high, a dark line
    one); and the standard deviation within a Gaussian window, which is texture.

    Args:
        image: ``(*spatial)``, or ``(*spatial, C)`` with ``channels``.
        sigmas: Scales in pixels, above 0.
        channels: Whether the last axis is that of colours.

    Returns:
        ``(F, *spatial)`` float32: for each channel its value, and then for each scale
        3 + n numbers, n the number of spatial axes.

    Raises:
        ValueError: No scale, or one that is not positive.

    Example:
        >>> pixel_features(np.zeros((8, 9, 3)), sigmas=(1, 2), channels=True).shape
        (33, 8, 9)
    """
    values = _as_image(image)
    _check(
        len(sigmas) > 0 and min(sigmas) > 0, f"sigmas must be above 0, got {sigmas}."
    )
    planes = np.moveaxis(values, -1, 0) if channels else values[None]
    return np.stack(
        [found for plane in planes for found in _features_of(plane, sigmas)]
    ).astype(np.float32)


def _features_of(plane: Array, sigmas: Sequence[float]) -> list[Array]:
    found = [plane]
    for sigma in sigmas:
        mean = ndimage.gaussian_filter(plane, sigma)
        # Var = E[(x - m)^2] with one m for all: the difference of squares would lose
        # all its digits on values far from 0.
        middle = plane - plane.mean()
        variance = (
            ndimage.gaussian_filter(middle**2, sigma)
            - ndimage.gaussian_filter(middle, sigma) ** 2
        )
        hessian = np.empty((*plane.shape, plane.ndim, plane.ndim))
        for i in range(plane.ndim):
            for j in range(i, plane.ndim):
                order = [0] * plane.ndim
                order[i] += 1
                order[j] += 1
                hessian[..., i, j] = hessian[..., j, i] = ndimage.gaussian_filter(
                    plane, sigma, order=order
                )
        eigenvalues = np.linalg.eigvalsh(hessian)[..., ::-1]  # rising; largest first
        found += [
            mean,
            ndimage.gaussian_gradient_magnitude(plane, sigma),
            *np.moveaxis(eigenvalues, -1, 0),
            np.sqrt(variance.clip(min=0)),
        ]
    return found


def fit_forest(
    features: Sequence[ArrayLike],
    labels: Sequence[ArrayLike],
    *,
    pixels: int = 1000,
    trees: int = 100,
    smallest_leaf: int = 5,
    seed: int = 0,
) -> RandomForestClassifier:
    """Fit a random forest to a few pixels of each image.

    Args:
        features: ``(F, *spatial)`` of each image, as :func:`pixel_features` gives.
        labels: Integers ``(*spatial)`` of each image.
        pixels: Drawn at random from each image, or all where it has fewer. Neighbours
            resemble each other: a few pixels of many images are worth more than many
            of a few.
        trees: Their number.
        smallest_leaf: Pixels in a leaf, at the least.
        seed: Of the draw and of the trees.

    Returns:
        The fitted forest of scikit-learn, for :func:`apply_forest`.

    Raises:
        ValueError: No images, or shapes that do not belong together.

    Source:
        breiman2001random.
    """
    _check(
        0 < len(features) == len(labels),
        f"give features and labels of each image, got {len(features)} and "
        f"{len(labels)}.",
    )
    rng = np.random.default_rng(seed)
    samples, answers = [], []
    for one, truth in zip(features, labels, strict=True):
        numbers, answer = np.asarray(one), as_label_map(truth)
        _check(
            numbers.shape[1:] == answer.shape,
            f"features {numbers.shape} and labels {answer.shape} do not belong "
            "together; features are (F, *spatial).",
        )
        drawn = rng.choice(answer.size, min(pixels, answer.size), replace=False)
        samples.append(numbers.reshape(len(numbers), -1)[:, drawn].T)  # (pixels, F)
        answers.append(answer.ravel()[drawn])
    forest = RandomForestClassifier(
        trees, min_samples_leaf=smallest_leaf, random_state=seed
    )
    return forest.fit(np.concatenate(samples), np.concatenate(answers))


def apply_forest(
    forest: RandomForestClassifier, features: ArrayLike
) -> NDArray[np.float32]:
    """Return the probability of each class at each pixel.

    Args:
        forest: From :func:`fit_forest`.
        features: ``(F, *spatial)``, made with the same options.

    Returns:
        ``(K, *spatial)`` float32, in the order of ``forest.classes_``; they sum to 1.

    Raises:
        ValueError: Another number of features than in training.
    """
    numbers = np.asarray(features)
    _check(
        len(numbers) == forest.n_features_in_,
        f"the forest was fitted to {forest.n_features_in_} features, got "
        f"{len(numbers)}. Make them with the same sigmas and channels.",
    )
    found = forest.predict_proba(numbers.reshape(len(numbers), -1).T)  # (pixels, K)
    return np.asarray(found.T.reshape(-1, *numbers.shape[1:]), np.float32)


def _as_image(image: ArrayLike) -> Array:
    """Return numbers as float64, all of them finite."""
    values = np.asarray(image)
    if values.dtype.kind not in "buif":
        raise TypeError(f"an image must hold numbers, got {values.dtype}.")
    _check(values.size > 0, f"the image has shape {values.shape}: no pixels.")
    values = values.astype(np.float64)
    _check(
        bool(np.isfinite(values).all()),
        "the image holds NaN or infinite values; replace them first.",
    )
    return values


def _check_shape(other: Array, image: Array, name: str) -> None:
    _check(
        other.shape == image.shape,
        f"{name} have shape {other.shape}, but the image {image.shape}; they mark its "
        "pixels one by one.",
    )


def _check(fine: bool, message: str) -> None:
    if not fine:
        raise ValueError(message)
