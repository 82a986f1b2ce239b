r"""Gaussian filters of N points with d features each: exact, and by a lattice.

    ExactGaussian          every pair of points: N^2 kernel values
    PermutohedralLattice   a grid of simplices: time and memory grow with N
    GridGaussian           exact and fast, where the features are a grid's positions

All stand for the matrix :math:`k_{ij} = \exp(-|f_i - f_j|^2 / 2)` of features f, in
units of the standard deviation, and apply it to values ``(N, K)``. The self term
:math:`k_{ii} = 1` is part of the sum. The matrix is normalised on both sides,
:math:`D^{-1/2} k D^{-1/2}` with D the sums of its rows: this keeps it symmetric.

The filters are differentiable with respect to the values, not to the features.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medseg.checks import check_finite

LONGEST_KEY = 2**62  # within an int64


class GaussianFilter(ABC):
    """A symmetric linear map of values ``(N, K)``, and so its own gradient."""

    def __call__(self, values: Tensor) -> Tensor:
        """Filter values ``(N, K)`` of the dtype and device of the features."""
        return _Apply.apply(values, self)

    @abstractmethod
    def apply(self, values: Tensor) -> Tensor:
        """The map itself, without a record for gradients."""


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, symmetric: GaussianFilter) -> Tensor:
        ctx.symmetric = symmetric
        return symmetric.apply(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Apply.apply(grads[0], ctx.symmetric), None


class ExactGaussian(GaussianFilter):
    """All pairs: the definition itself, in O(N^2) time.

    The kernel is made anew at each use, in pieces of at most ``pairs`` values, so
    memory stays bounded: 64 x 64 pixels take a fraction of a second, 256 x 256 minutes.

    Args:
        features: ``(N, d)``, floating point, divided by the standard deviations.
        normalized: Divide by the square roots of the row sums, on both sides.
        pairs: Kernel values to hold at once.

    Raises:
        TypeError: Features are not floating point.
        ValueError: They have other axes, no entries, or are not finite.

    Example:
        >>> exact = ExactGaussian(torch.tensor([[0.0], [1.0]]), normalized=False)
        >>> exact(torch.tensor([[1.0], [0.0]])).flatten()  # 1 and exp(-1/2)
        tensor([1.0000, 0.6065])
    """

    def __init__(
        self, features: Tensor, *, normalized: bool = True, pairs: int = 2**22
    ) -> None:
        _check_features(features)
        # The exponent a.b - |a|^2 / 2 - |b|^2 / 2 needs the digits of float64.
        self.features = features.detach().double()
        self.halves = self.features.square().sum(1) / 2  # (N,)
        self.rows = max(1, pairs // len(features))
        self.scale = torch.ones_like(features[:, :1])
        if normalized:
            self.scale = self.apply(self.scale).rsqrt()

    def apply(self, values: Tensor) -> Tensor:
        """The map itself, without a record for gradients."""
        values = self.scale * values
        pieces = zip(
            self.features.split(self.rows), self.halves.split(self.rows), strict=True
        )
        filtered = [
            torch.addmm(self.halves, rows, self.features.t(), beta=-1)
            .sub_(halves[:, None])
            .clamp_(min=-60)  # 1e-26 of a pixel: nothing, but not a slow denormal
            .to(values.dtype)
            .exp_()
            @ values
            for rows, halves in pieces
        ]
        return self.scale * torch.cat(filtered)


class GridGaussian(GaussianFilter):
    """Gaussian of the positions on a grid: one convolution along each axis.

    The kernel is a product over the axes, and so are its row sums: what normalises
    each axis normalises the whole, at the borders too, where a pixel has fewer
    neighbours. It is cut off at 5 sigma, where 6e-7 of a Gaussian is left.

    Args:
        shape: Pixels along each axis; the N points are these pixels, row by row.
        sigmas: Standard deviation along each axis, in pixels, positive.
        like: The dtype and the device of the values to come.

    Example:
        >>> grid = GridGaussian((1, 2), (1.0, 1e-3), like=torch.zeros(1))
        >>> grid(torch.tensor([[1.0], [0.0]])).flatten()  # no reach, so no change
        tensor([1., 0.])
    """

    reach = 5.0

    def __init__(
        self, shape: Sequence[int], sigmas: Sequence[float], *, like: Tensor
    ) -> None:
        self.shape = tuple(shape)
        self.kernels = []
        self.scale = like.new_ones(1, 1)
        for pixels, sigma in zip(shape, sigmas, strict=True):
            radius = min(math.floor(self.reach * sigma), pixels - 1)
            steps = torch.arange(-radius, radius + 1, device=like.device)
            kernel = (-(steps.to(like) / sigma).square() / 2).exp()
            self.kernels.append(kernel)
            ones = like.new_ones(pixels, 1)
            sums = _convolve(ones, kernel, 1, pixels)  # (pixels, 1)
            self.scale = (self.scale * sums.t().rsqrt()).reshape(-1, 1)  # (N, 1)

    def apply(self, values: Tensor) -> Tensor:
        """The map itself, without a record for gradients."""
        values = values * self.scale
        for axis, kernel in enumerate(self.kernels):
            before = math.prod(self.shape[:axis])
            values = _convolve(values, kernel, before, self.shape[axis])
        return values.mul_(self.scale)


class PermutohedralLattice(GaussianFilter):
    """Gaussian filter in time linear in N, for features of 2 to some 10 dimensions.

    Space is cut into simplices, d + 1 vertices each. A point *splats* its value onto
    the vertices around it, with barycentric weights; the vertices *blur* with weights
    1/2, 1, 1/2 along each of d + 1 directions; and each point takes its result from
    the same vertices, a *slice*. Only vertices next to a point exist, so memory grows
    with the points and not with the volume of the space, and what would blur across an
    empty vertex is lost. For that reason the order of the directions matters: the mean
    of an order and its reverse is taken, which is symmetric and nearer to the Gaussian.
    The result is a Gaussian up to a constant factor, which the normalisation removes.

    Args:
        features: ``(N, d)``, floating point, divided by the standard deviations.
        normalized: Divide by the square roots of the row sums, on both sides.

    Attributes:
        num_vertices: The vertices that exist, at most ``N * (d + 1)``.

    Raises:
        TypeError: Features are not floating point.
        ValueError: They have other axes, no entries, or are not finite.

    Source:
        adams2010permutohedral.

    Example:
        Two points at the same place share what they have:

        >>> lattice = PermutohedralLattice(torch.zeros(2, 3))
        >>> lattice(torch.tensor([[1.0], [0.0]])).flatten()
        tensor([0.5000, 0.5000])
    """

    def __init__(self, features: Tensor, *, normalized: bool = True) -> None:
        _check_features(features)
        with torch.no_grad():
            corner, rank, weights = _enclosing_simplex(features.detach())
            self._number_vertices(corner, rank, weights)
            if normalized:
                scale = self.apply(torch.ones_like(features[:, :1])).rsqrt()
                self.slice_weights *= scale
                self.splat_weights *= scale[self.splat_points, 0]

    def apply(self, values: Tensor) -> Tensor:
        """The map itself, without a record for gradients."""
        splat = _gather(
            values, self.splat_points, self.splat_weights, self.splat_starts
        )  # (num_vertices, K)
        onward, backward = splat, splat
        for one, other in zip(self.blurs, reversed(self.blurs), strict=True):
            onward, backward = _gather(onward, *one), _gather(backward, *other)
        blurred = onward.add_(backward).mul_(0.5)
        return _gather(blurred, self.slice_vertices, self.slice_weights)

    def _number_vertices(self, corner: Tensor, rank: Tensor, weights: Tensor) -> None:
        """Give each vertex a number, and write down who exchanges what with whom.

        The vertices fall into d + 1 colours: the coordinates of colour k are k modulo
        d + 1, and each simplex has one vertex of each colour. So each colour is sorted
        by itself, and a step along the lattice leads to the next colour.
        """
        dim, num_points = len(corner) - 1, corner.shape[1]
        # One integer for each vertex. Its last coordinate follows from the others.
        factors = _key_factors(corner[:dim])  # (d + 1,)
        key = (factors[:dim, None] * corner[:dim]).sum(0)  # (N,) of colour 0
        by_rank = torch.empty_like(rank).scatter_(
            0, rank, factors[:, None].expand_as(rank)
        )
        keys, orders, starts, numbers, first_number = [], [], [], [], [0]
        for colour in range(dim + 1):
            if colour:
                key = key - by_rank[dim + 1 - colour]
            ordered, order = key.sort()
            is_new = torch.ones_like(ordered, dtype=torch.bool)
            torch.ne(ordered[1:], ordered[:-1], out=is_new[1:])
            number = is_new.cumsum(0) + (first_number[-1] - 1)
            start = is_new.nonzero().squeeze(1)
            numbers.append(torch.empty_like(number).scatter_(0, order, number))
            keys.append(ordered[start])
            orders.append(order)
            starts.append(start + colour * num_points)
            first_number.append(first_number[-1] + len(start))
        self.num_vertices = first_number[-1]
        self.slice_vertices = torch.stack(numbers, dim=1)  # (N, d + 1)
        self.slice_weights = weights.t().contiguous()  # (N, d + 1)
        self.splat_points = torch.cat(orders)  # (N * (d + 1),)
        self.splat_weights = torch.cat(
            [weight[order] for weight, order in zip(weights, orders, strict=True)]
        )
        self.splat_starts = torch.cat(starts)  # (num_vertices,)
        self.blurs = [
            self._blur(keys, first_number, int(factors.sum()), int(factor))
            for factor in factors
        ]

    def _blur(
        self, keys: list[Tensor], first_number: list[int], wrap: int, factor: int
    ) -> tuple[Tensor, Tensor]:
        """Vertices and weights of the blur in one direction: ``(num_vertices, 3)``."""
        missing = self.num_vertices
        own = torch.arange(self.num_vertices, device=keys[0].device)
        after = []
        for colour, here in enumerate(keys):
            follower = (colour + 1) % len(keys)
            wanted = here - factor + (wrap if follower == 0 else 0)
            place = torch.searchsorted(keys[follower], wanted)
            place.clamp_(max=len(keys[follower]) - 1)
            found = keys[follower][place] == wanted
            after.append(torch.where(found, place + first_number[follower], missing))
        ahead = torch.cat(after)
        behind = own.new_full((missing + 1,), missing)
        behind = behind.scatter_(0, ahead, own)[:-1]
        vertices = torch.stack([own, ahead, behind], dim=1)
        exists = vertices < missing
        weights = exists * self.slice_weights.new_tensor([1.0, 0.5, 0.5])
        return vertices.where(exists, own[:, None]), weights


def _convolve(values: Tensor, kernel: Tensor, before: int, pixels: int) -> Tensor:
    """Convolve ``(N, K)`` along an axis of a grid, with zeros outside.

    Args:
        values: Columns to convolve.
        kernel: An odd number of weights.
        before: Pixels of all axes before this one.
        pixels: Pixels along this axis.
    """
    # A depthwise convolution of many channels, in memory the last axis, is the fastest:
    # the axes after this one are made channels, or if that is too few those before it.
    grid = values.reshape(before, pixels, -1)
    turn = grid.shape[2] < 16
    if turn:
        grid = grid.transpose(0, 1).reshape(1, pixels, -1)
    channels = grid.shape[2]
    filtered = F.conv2d(
        grid[:, :, None].permute(0, 3, 1, 2),  # (before, channels, pixels, 1)
        kernel.expand(channels, 1, 1, -1)
        .transpose(2, 3)
        .contiguous(memory_format=torch.channels_last),
        padding=(len(kernel) // 2, 0),
        groups=channels,
    ).permute(0, 2, 3, 1)
    if turn:
        filtered = filtered.reshape(pixels, before, -1).transpose(0, 1)
    return filtered.reshape(values.shape)


def _enclosing_simplex(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the simplex around each point.

    Returns:
        Three tensors ``(d + 1, N)``. The corner of colour 0, in multiples of d + 1
        (int64). The rank of each coordinate's distance to it, 0 for the largest
        (int64): along the coordinates of the last ranks the corner of colour k is one
        multiple lower. The barycentric weight of the corner of each colour.
    """
    dim = features.shape[1]
    step = torch.arange(1, dim + 1, dtype=features.dtype, device=features.device)
    # On the plane where d + 1 coordinates sum to 0, in multiples of d + 1, scaled so
    # that splat, blur and slice together have a variance of 1.
    scale = math.sqrt(2 / 3) / (step * (step + 1)).sqrt()  # (d,)
    basis = features.new_zeros(dim + 1, dim)
    basis[:dim] = scale.expand(dim, dim).triu()
    basis[1:].diagonal().copy_(-step * scale)
    elevated = basis @ features.t()  # (d + 1, N)

    corner = elevated.round()
    rest = elevated - corner
    rank = torch.zeros(rest.shape, dtype=torch.int8, device=rest.device)
    for i, j in combinations(range(dim + 1), 2):
        smaller = rest[i] < rest[j]
        rank[i] += smaller
        rank[j] += ~smaller
    # Rounding may leave the plane. The coordinates with the largest rounding errors
    # step back onto it, and take the ranks at the other end.
    rank += corner.sum(0).to(torch.int8)
    turn = (rank < 0).to(torch.int8) - (rank > dim).to(torch.int8)
    ranks = (rank + turn * (dim + 1)).long()
    corner += turn
    rest -= turn

    ordered = torch.empty_like(rest).scatter_(0, ranks, rest)  # largest first
    weights = torch.empty_like(rest)
    weights[0] = 1 - ordered[0] + ordered[dim]
    weights[1:] = (ordered[:-1] - ordered[1:]).flip(0)
    return corner.long(), ranks, weights


def _key_factors(coordinates: Tensor) -> Tensor:
    """Integers that turn coordinates ``(d, N)``, and those next to them, into keys.

    The key, a sum of products, is different for different coordinates: as digits with
    sufficient bases if that fits into an int64; else by odd random factors modulo
    2^64, where two among a million vertices collide once in ten million images.

    Returns:
        ``(d + 1,)``, int64; the last is 0.
    """
    # A corner lies up to 1 below the given ones, a vertex looked for 1 further.
    spans = (coordinates.amax(1) - coordinates.amin(1) + 4).tolist()
    if math.prod(spans) < LONGEST_KEY:
        factors = [math.prod(spans[axis + 1 :]) for axis in range(len(spans))]
    else:
        rng = torch.Generator().manual_seed(0)
        halves = torch.randint(-(2**62), 2**62, (len(spans),), generator=rng)
        factors = (2 * halves + 1).tolist()
    return torch.tensor([*factors, 0], device=coordinates.device)


def _gather(
    values: Tensor, points: Tensor, weights: Tensor, starts: Tensor | None = None
) -> Tensor:
    """Weighted sums of rows of ``values``: a product with a sparse matrix.

    Row i of the matrix is ``points[i]`` with ``weights[i]``, or from ``starts[i]`` on.
    """
    return F.embedding_bag(
        points, values.contiguous(), starts, mode="sum", per_sample_weights=weights
    )


def _check_features(features: Tensor) -> None:
    if not isinstance(features, Tensor) or features.dtype not in (
        torch.float32,
        torch.float64,
    ):
        kind = getattr(features, "dtype", type(features).__name__)
        raise TypeError(
            f"features must be a tensor of float32 or float64, got {kind}. Convert "
            "them with features.float()."
        )
    if features.ndim != 2 or features.numel() == 0:
        raise ValueError(
            "features must have shape (N, d), d features for each of N points, got "
            f"{tuple(features.shape)}."
        )
    check_finite(features, "features")
