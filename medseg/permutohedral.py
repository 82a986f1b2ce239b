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
from collections.abc import Iterator, Sequence
from itertools import combinations, cycle
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medseg.checks import check_finite

LONGEST_KEY = 2**62  # within an int64
SHORT_KEY = 2**29  # within an int32, with the steps from vertex to vertex
ROWS = 2**13  # of a matrix at a time: with 20 columns they fit a processor's cache


class GaussianFilter(ABC):
    """A linear map of values ``(N, K)``.

    With ``order=0`` it is symmetric. A filter that is a product of steps can leave out
    one half of the work with ``order=1``, the steps as they come, or ``order=-1``,
    their reverse: each is the transpose of the other, and the symmetric map their mean.
    """

    def __call__(self, values: Tensor, *, order: int = 0) -> Tensor:
        """Filter values ``(N, K)`` of the dtype and device of the features."""
        return _Apply.apply(values, self, order)

    def apply(self, values: Tensor, order: int = 0) -> Tensor:
        """The map itself, without a record for gradients."""
        return torch.cat([filtered for _, filtered in self.pieces(values, order)])

    @abstractmethod
    def pieces(self, values: Tensor, order: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """Filtered rows, some at a time; rows of ``values`` may be replaced meanwhile.

        Pieces stay in the cache where the whole would go through memory.
        """


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, linear: GaussianFilter, order: int) -> Tensor:
        ctx.linear, ctx.order = linear, order
        return linear.apply(values, order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Apply.apply(grads[0], ctx.linear, -ctx.order), None, None


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

    def pieces(self, values: Tensor, order: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """Filtered rows, some at a time; ``values`` may be replaced meanwhile."""
        values = self.scale * values
        for start in range(0, len(values), self.rows):
            rows = slice(start, start + self.rows)
            kernel = (
                torch.addmm(
                    self.halves, self.features[rows], self.features.t(), beta=-1
                )
                .sub_(self.halves[rows, None])
                .clamp_(min=-60)  # 1e-26 of a pixel: nothing, but not a slow denormal
                .to(values.dtype)
                .exp_()
            )
            yield rows, self.scale[rows] * (kernel @ values)


class GridGaussian(GaussianFilter):
    """Gaussian of the positions on a grid: one band matrix along each axis.

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
        self.bands = []
        for pixels, sigma in zip(shape, sigmas, strict=True):
            radius = min(math.floor(self.reach * sigma), pixels - 1)
            self.bands.append(_band_matrix(pixels, sigma, radius, like))

    def pieces(self, values: Tensor, order: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """All filtered values at once."""
        spare = [torch.empty_like(values), torch.empty_like(values)]
        yield slice(0, len(values)), self.apply_into(values.contiguous(), spare)

    def apply_into(self, values: Tensor, spare: list[Tensor]) -> Tensor:
        """Filter ``values`` into one of two tensors of the same shape: which is made.

        A large new tensor costs as much as the filter.
        """
        for axis, band in enumerate(self.bands):
            before = math.prod(self.shape[:axis])
            filtered = spare[axis % 2]
            _multiply_along(
                values.view(before, self.shape[axis], -1),
                band,
                filtered.view(before, self.shape[axis], -1),
            )
            values = filtered
        return values


class PermutohedralLattice(GaussianFilter):
    """Gaussian filter in time linear in N, for features of 2 to some 10 dimensions.

    Space is cut into simplices, d + 1 vertices each. A point *splats* its value onto
    the vertices around it, with barycentric weights; the vertices *blur* with weights
    1/2, 1, 1/2 along each of d + 1 directions; and each point takes its result from
    the same vertices, a *slice*. Only vertices next to a point exist, so memory grows
    with the points and not with the volume of the space, and what would blur across an
    empty vertex is lost. For that reason the order of the directions matters: with
    ``order=0`` the mean of an order and its reverse is taken, which is symmetric and
    nearer to the Gaussian.
    The result is a Gaussian up to a constant factor, which the normalisation removes.

    Values may be float16 where the features are not: half the memory to go through, and
    each step rounds by 5e-4 at most. Use it for values up to 1 and a normalised lattice
    alone: float16 ends at 65504, and the sum at a vertex grows with the points there.

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
        self._spare: list[Tensor] = []
        self._tables: dict[torch.dtype, _Tables] = {}
        with torch.no_grad():
            corner, rank, weights = _enclosing_simplex(features.detach())
            self._number_vertices(corner, rank, weights)
            if normalized:
                scale = self.apply(torch.ones_like(features[:, :1])).rsqrt()
                self.slice_weights.mul_(scale)
                for some in self._tables[features.dtype].splat:
                    some.weights.mul_(scale[some.points, 0])

    def pieces(self, values: Tensor, order: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """Filtered rows, some at a time; rows of ``values`` may be replaced meanwhile.

        The vertices' values live in tensors that the lattice keeps: take all pieces
        before the next filtering.
        """
        needed = (self.num_vertices, values.shape[1])
        first = self._spare[0] if self._spare else values[:0]
        if first.shape != needed or first.dtype != values.dtype:
            rows = values.new_empty(needed)
            self._spare = [rows, *(torch.empty_like(rows) for _ in range(4))]
        if values.dtype not in self._tables:
            made = next(iter(self._tables.values()))
            self._tables[values.dtype] = made.to(values.dtype)
        table = self._tables[values.dtype]
        splat, *spare = self._spare
        _gather_into(splat, values, table.splat)
        if order == 0:
            onward = _blur(splat, table.blurs, spare[:2])
            back = _blur(splat, table.blurs[::-1], spare[2:])
            blurred = onward.add_(back).mul_(0.5)
        else:
            blurred = _blur(splat, table.blurs[::order], spare[:2])
        for some in table.slice:
            yield some.rows, _gather(blurred, some)

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
        key = key.to(factors.dtype)  # sums are int64
        by_rank = torch.empty_like(rank, dtype=factors.dtype).scatter_(
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
        # Half as long as int64, which is a good part of what a filter reads.
        index = torch.int32 if num_points * (dim + 1) < 2**31 else torch.int64
        self.slice_vertices = torch.stack(numbers, dim=1).to(index)  # (N, d + 1)
        self.slice_weights = weights.t().contiguous()  # (N, d + 1)
        splat = _in_pieces(
            torch.cat([order.to(index) for order in orders]),  # (N * (d + 1),)
            torch.cat([w[order] for w, order in zip(weights, orders, strict=True)]),
            torch.cat([start.to(index) for start in starts]),  # (num_vertices,)
        )
        wrap = int(factors.sum())
        blurs = [
            _in_pieces(*self._blur_matrix(keys, first_number, wrap, int(factor), index))
            for factor in factors
        ]
        slices = _in_pieces(self.slice_vertices, self.slice_weights)
        self._tables[weights.dtype] = _Tables(splat, blurs, slices)

    def _blur_matrix(
        self,
        keys: list[Tensor],
        first_number: list[int],
        wrap: int,
        factor: int,
        index: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """Vertices and weights of the blur in one direction: ``(num_vertices, 3)``.

        A vertex without a neighbour has itself in its place, with weight 0.
        """
        own = torch.arange(self.num_vertices, dtype=index, device=keys[0].device)
        vertices = own[:, None].repeat(1, 3)  # itself, ahead, behind
        for colour, here in enumerate(keys):
            follower = (colour + 1) % len(keys)
            wanted = here - factor + (wrap if follower == 0 else 0)
            place = torch.searchsorted(keys[follower], wanted)
            place.clamp_(max=len(keys[follower]) - 1)
            found = (keys[follower][place] == wanted).nonzero().squeeze(1)
            ahead = place[found] + first_number[follower]
            behind = found + first_number[colour]
            vertices[behind, 1] = ahead.to(index)
            vertices[ahead, 2] = behind.to(index)
        weights = self.slice_weights.new_full((self.num_vertices, 3), 0.5)
        weights *= vertices != own[:, None]
        weights[:, 0] = 1
        return vertices, weights


class _Block(NamedTuple):
    """Rows of a band matrix, without the zeros at their left and right."""

    rows: slice
    columns: slice
    values: Tensor


def _band_matrix(pixels: int, sigma: float, radius: int, like: Tensor) -> list[_Block]:
    """A Gaussian along an axis, normalised on both sides, in blocks of rows."""
    # Smaller blocks hold fewer zeros, larger ones are faster.
    size = max(32, 2 * radius)
    place = torch.arange(pixels, device=like.device)
    blocks = []
    for start in range(0, pixels, size):
        rows = slice(start, min(start + size, pixels))
        columns = slice(max(0, start - radius), min(rows.stop + radius, pixels))
        steps = place[rows, None] - place[columns]
        kernel = (-(steps.to(like) / sigma).square() / 2).exp()
        blocks.append(_Block(rows, columns, kernel * (steps.abs() <= radius)))
    scale = torch.cat([block.values.sum(1) for block in blocks]).rsqrt()
    for block in blocks:
        block.values.mul_(scale[block.rows, None]).mul_(scale[block.columns])
    return blocks


def _multiply_along(values: Tensor, band: list[_Block], out: Tensor) -> None:
    """Multiply a band matrix with the middle axis of ``(before, pixels, after)``."""
    before, pixels, after = values.shape
    # Products of many columns are fast, and what is turned about should stay in the
    # cache: some 16 rows of 21 classes at a time.
    rows = before if values.is_cuda else -(-320 // after)
    for some, result in zip(values.split(rows), out.split(rows), strict=True):
        if len(some) == 1:
            turned, product = some[0], result[0]
        else:
            turned = some.transpose(0, 1).reshape(pixels, -1)
            product = torch.empty_like(turned)
        for block in band:
            torch.mm(block.values, turned[block.columns], out=product[block.rows])
        if len(some) > 1:
            result.copy_(product.view(pixels, -1, after).transpose(0, 1))


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
        ``(d + 1,)``, int64 or, where short, int32; the last is 0.
    """
    # A corner lies up to 1 below the given ones, a vertex looked for 1 further.
    spans = (coordinates.amax(1) - coordinates.amin(1) + 4).tolist()
    dtype = torch.int64
    if math.prod(spans) < LONGEST_KEY:
        factors = [math.prod(spans[axis + 1 :]) for axis in range(len(spans))]
        if math.prod(spans) < SHORT_KEY:
            dtype = torch.int32  # sorted in half the time
    else:
        rng = torch.Generator().manual_seed(0)
        halves = torch.randint(-(2**62), 2**62, (len(spans),), generator=rng)
        factors = (2 * halves + 1).tolist()
    return torch.tensor([*factors, 0], dtype=dtype, device=coordinates.device)


class _Rows(NamedTuple):
    """Some rows of a sparse matrix.

    Row i has ``weights[i]`` at ``points[i]``; or, where there are ``starts``, those
    from ``starts[i]`` on.
    """

    rows: slice
    points: Tensor
    weights: Tensor
    starts: Tensor | None


class _Tables(NamedTuple):
    """The steps of a lattice, with weights of one dtype."""

    splat: list[_Rows]
    blurs: list[list[_Rows]]  # by direction
    slice: list[_Rows]

    def to(self, dtype: torch.dtype) -> "_Tables":
        def converted(pieces: list[_Rows]) -> list[_Rows]:
            return [some._replace(weights=some.weights.to(dtype)) for some in pieces]

        blurs = [converted(blur) for blur in self.blurs]
        return _Tables(converted(self.splat), blurs, converted(self.slice))


def _in_pieces(
    points: Tensor, weights: Tensor, starts: Tensor | None = None
) -> list[_Rows]:
    """Cut a sparse matrix, so that what a piece makes stays in the cache."""
    total = len(points if starts is None else starts)
    size = total if points.is_cuda else ROWS
    pieces = []
    for first in range(0, total, size):
        rows = slice(first, min(first + size, total))
        if starts is None:
            pieces.append(_Rows(rows, points[rows], weights[rows], None))
        else:
            begin = int(starts[first])
            end = len(points) if rows.stop == total else int(starts[rows.stop])
            some = slice(begin, end)
            pieces.append(
                _Rows(rows, points[some], weights[some], starts[rows] - begin)
            )
    return pieces


def _gather(values: Tensor, some: _Rows) -> Tensor:
    """Weighted sums of rows of ``values``: a product with a sparse matrix."""
    return F.embedding_bag(
        some.points,
        values.contiguous(),
        some.starts,
        mode="sum",
        per_sample_weights=some.weights,
    )


def _blur(values: Tensor, blurs: list[list[_Rows]], spare: list[Tensor]) -> Tensor:
    """Blur along each direction, into two tensors by turns; return the last."""
    for blur, target in zip(blurs, cycle(spare)):
        _gather_into(target, values, blur)
        values = target
    return values


def _gather_into(out: Tensor, values: Tensor, pieces: list[_Rows]) -> None:
    for some in pieces:
        out[some.rows] = _gather(values, some)


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
