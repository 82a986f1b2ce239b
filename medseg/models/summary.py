"""One look at any network: shapes, parameters, multiply-adds, receptive field.

    print(describe(UNet(3, 1)))
    effective_receptive_field(UNet(3, 1), (1, 3, 256, 256)).side

``describe`` runs the network on shapes alone (PyTorch's meta device): it computes no
pixel and needs no memory for activations. ``effective_receptive_field`` computes
gradients. Both leave the network as it was.
"""

import copy
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakTensorKeyDictionary

aten = torch.ops.aten
POOLINGS = (
    aten.max_pool2d_with_indices,
    aten.max_pool3d_with_indices,
    aten.avg_pool2d,
    aten.avg_pool3d,
)
REPEATING = (aten.upsample_nearest2d, aten.upsample_nearest3d)
INTERPOLATING = (aten.upsample_bilinear2d, aten.upsample_trilinear3d)


class Layer(NamedTuple):
    """One call of a layer that has parameters or changes the shape."""

    name: str  # as in state_dict
    kind: str  # class name
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    receptive_field: tuple[int, ...] | None  # input pixels along each axis
    stride: tuple[Fraction, ...] | None  # input pixels between two outputs


class Description(NamedTuple):
    """What ``describe`` found; ``str()`` of it is a table.

    ``receptive_field`` is that of the output, ``stride`` that of the coarsest layer.
    """

    layers: tuple[Layer, ...]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    receptive_field: tuple[int, ...] | None
    stride: tuple[Fraction, ...] | None
    activation_bytes: int

    def __str__(self) -> str:
        rows = [("layer", "type", "output", "parameters", "multiply-adds", "field")]
        rows += [
            (
                layer.name,
                layer.kind,
                _times(layer.output_shape[1:]),
                f"{layer.parameters:,}",
                f"{layer.multiply_adds:,}",
                _times(layer.receptive_field),
            )
            for layer in self.layers
        ]
        wide = [max(len(row[column]) for row in rows) for column in range(6)]
        lines = [
            "  ".join(
                cell.ljust(width) if column < 3 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, wide, strict=True))
            )
            for row in rows
        ]
        lines.insert(1, "-" * len(lines[0]))
        lines += [
            "-" * len(lines[0]),
            f"input {_times(self.input_shape)}, output {_times(self.output_shape)}",
            f"parameters       {self.parameters:,}",
            f"multiply-adds    {self.multiply_adds / 1e9:,.2f} G (FLOPs: twice that)",
            f"receptive field  {_times(self.receptive_field)} pixels at the output",
            f"stride           {_times(self.stride)} at the coarsest layer",
            f"activations      {self.activation_bytes / 2**20:,.1f} MiB in training",
        ]
        return "\n".join(lines)


def _times(numbers: Sequence[object] | None) -> str:
    return "unknown" if numbers is None else "x".join(str(n) for n in numbers)


def describe(
    model: nn.Module, input_size: Sequence[int] = (1, 3, 256, 256)
) -> Description:
    """Describe a network by what each layer makes of an image of this size.

    Multiply-adds are those of convolutions and matrix products, counted by
    ``torch.utils.flop_counter``; they grow with the batch.

    The theoretical receptive field is the number of input pixels, along each axis,
    that one output can depend on, found by following the support of every output
    index through each operation: exact, also where it differs from pixel to pixel
    (then the largest is given). It ends at the border of the image: give a larger
    ``input_size`` if it is as large as the image. Statistics of instance and group
    norm, which join all pixels, are left out, as is usual. None where the network
    uses an operation that is not known here.

    The activations are the tensors that autograd keeps from the forward pass for the
    backward pass, in evaluation mode (dropout's masks come on top). Peak memory in
    training is about this, plus the parameters twice (values, gradients), plus the
    optimiser's state (nothing for SGD, once the parameters for momentum, twice for
    Adam), plus the work space of the largest layer.

    Args:
        model: A network that takes one float tensor.
        input_size: Shape of the images, ``(B, C, H, W)`` or ``(B, C, D, H, W)``.

    Returns:
        A ``Description``; print it to see a table.

    Raises:
        ValueError: The model refuses images of this size, or the size has not four
            or five positive numbers.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3))
        >>> result = describe(net, (1, 1, 32, 32))
        >>> result.parameters  # 4 * 9 + 4, and 2 * 4 * 9 + 2
        114
        >>> result.receptive_field  # 1 + 2, + 1, + 2 * 2
        (8, 8)
        >>> result.multiply_adds == 30 * 30 * 4 * 9 + 13 * 13 * 2 * 4 * 9
        True
    """
    shape = _checked_size(input_size)
    shadow = copy.deepcopy(model).to("meta").eval()
    fields, counter = _Fields(), FlopCounterMode(display=False)
    layers: list[Layer] = []
    before: list[int] = []
    kept: dict[int, int] = {}  # storage -> bytes
    weights = {_storage(tensor) for tensor in shadow.state_dict().values()}

    def note_start(*_: Any) -> None:
        before.append(counter.get_total_flops())

    def note_end(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            flops = counter.get_total_flops() - before.pop()
            parameters = _count(layer)
            if parameters or output.shape != inputs[0].shape:
                layers.append(
                    Layer(
                        name,
                        type(layer).__name__,
                        tuple(output.shape),
                        parameters,
                        flops // 2,
                        fields.extent(output),
                        fields.stride(output),
                    )
                )

        return hook

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in weights:
            kept[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    for name, layer in shadow.named_modules():
        if not any(layer.children()):
            layer.register_forward_pre_hook(note_start)
            layer.register_forward_hook(note_end(name))
    dtype = next((weight.dtype for weight in shadow.parameters()), torch.float32)
    images = torch.empty(shape, dtype=dtype, device="meta")
    fields.start(images)
    with (
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        counter,
        fields,
    ):
        logits = shadow(images)
    strides = [layer.stride for layer in layers if layer.stride is not None]
    return Description(
        tuple(layers),
        shape,
        tuple(logits.shape),
        _count(model),
        counter.get_total_flops() // 2,
        fields.extent(logits),
        max(strides) if strides else None,
        sum(kept.values()),
    )


class EffectiveField(NamedTuple):
    """What ``effective_receptive_field`` found."""

    influence: NDArray[np.float64]  # of each input pixel, (*spatial), sum 1
    side: int  # of the square (cube) around the centre that holds ``share`` of it
    share: float  # of the influence that was asked for


def effective_receptive_field(
    model: nn.Module,
    input_size: Sequence[int] = (1, 3, 256, 256),
    *,
    share: float = 0.95,
    repeats: int = 16,
    seed: int = 0,
) -> EffectiveField:
    """Measure how much each input pixel changes the output in the centre.

    The theoretical receptive field says which pixels can matter; this says how much
    they do: the mean absolute gradient of the central output pixel. In a stack of
    convolutions it falls off towards the edges like a bell, because there are more
    paths from the centre, and it changes with training.

    Images are drawn from a normal distribution (mean 0, variance 1); where training
    images were normalised this is their range. The gradient is that of the sum of the
    logits with random signs, since classes may cancel each other; absolute values are
    summed over image channels and averaged over images. The model runs in evaluation
    mode, as a copy, on its own device.

    Args:
        model: A network that takes one float tensor and returns logits at the image's
            resolution: of the same size, or of its centre.
        input_size: Shape of the images, ``(B, C, H, W)`` or ``(B, C, D, H, W)``.
        share: Part of the influence that the square must hold, in (0, 1].
        repeats: How many batches of B images to average over, from 1.
        seed: Of the random images and signs.

    Returns:
        An ``EffectiveField``. ``side`` is odd: the square has a pixel at its centre;
        what lies outside the image counts as 0.

    Raises:
        ValueError: A wrong argument; or no pixel has any influence, as in a network
            whose last layer still is 0 (``FCN32s`` before training).

    Source:
        luo2016understanding, sections 2 and 3.

    Example:
        >>> blur = nn.Conv2d(1, 1, 3, padding=1)
        >>> _ = nn.init.ones_(blur.weight)
        >>> field = effective_receptive_field(blur, (1, 1, 9, 9), share=0.9)
        >>> field.side, round(float(field.influence.max()), 4)  # 1 / 9
        (3, 0.1111)
    """
    shape = _checked_size(input_size)
    if not 0 < share <= 1 or repeats < 1:
        raise ValueError(
            f"share must lie in (0, 1] and repeats must be at least 1, got {share} "
            f"and {repeats}."
        )
    shadow = copy.deepcopy(model).eval().requires_grad_(False)
    weight = next(shadow.parameters(), torch.empty(0))
    random = torch.Generator().manual_seed(seed)
    influence = torch.zeros(shape[2:], dtype=torch.float64)
    for _ in range(repeats):
        images = torch.randn(shape, generator=random).to(weight).requires_grad_()
        centre = shadow(images)
        for size in centre.shape[2:]:
            centre = centre.select(2, size // 2)  # (B, K) in the end
        signs = torch.randint(0, 2, centre.shape, generator=random) * 2 - 1
        (gradient,) = torch.autograd.grad((centre * signs.to(centre)).sum(), images)
        influence += gradient.abs().sum(dim=(0, 1)).double().cpu()
    total = influence.sum()
    if not total > 0:
        raise ValueError(
            "no input pixel has any influence on the central output: the gradient is 0 "
            "throughout. If the last layer starts at 0, train the network first, or "
            "initialise that layer."
        )
    values = (influence / total).numpy()
    # A network without padding answers for the centre of the image.
    outputs = shadow(images).shape[2:]
    middle = [
        (size - output) // 2 + output // 2
        for size, output in zip(shape[2:], outputs, strict=True)
    ]
    grid = np.indices(values.shape)
    distance = np.max([abs(g - m) for g, m in zip(grid, middle, strict=True)], axis=0)
    held = np.cumsum(np.bincount(distance.ravel(), weights=values.ravel()))
    # Rounding must not make the square for a share of 1 reach beyond the field.
    radius = int(np.argmax(held >= min(share, held[-1]) - 1e-12))
    return EffectiveField(values, 2 * radius + 1, share)


def _checked_size(input_size: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(input_size)
    if len(shape) not in (4, 5) or min(shape) < 1:
        raise ValueError(
            "input_size must be (B, C, H, W) or (B, C, D, H, W) with positive numbers, "
            f"got {shape}."
        )
    return shape


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class _Support(NamedTuple):
    """The input pixels that each index along one axis of a tensor depends on."""

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    stride: Fraction

    def gather(
        self,
        low: NDArray[np.int64],
        high: NDArray[np.int64],
        step: Fraction = Fraction(1),
    ) -> "_Support":
        """Support of outputs that read the indices ``low`` to ``high``, inclusive."""
        top = len(self.first) - 1  # what lies outside is padding, and sees nothing
        low, high = np.clip(low, 0, top), np.clip(high, 0, top)
        return _Support(self.first[low], self.last[high], self.stride * step)


class _Fields(TorchDispatchMode):
    """Follows the support of every tensor through the operations of a network."""

    def __init__(self) -> None:
        super().__init__()
        self.known: Any = WeakTensorKeyDictionary()

    def start(self, images: Tensor) -> None:
        self.known[images] = [
            _Support(np.arange(size), np.arange(size), Fraction(1))
            for size in images.shape[2:]
        ]

    def extent(self, tensor: Tensor) -> tuple[int, ...] | None:
        axes = self.known.get(tensor)
        return axes and tuple(int((a.last - a.first).max()) + 1 for a in axes)

    def stride(self, tensor: Tensor) -> tuple[Fraction, ...] | None:
        axes = self.known.get(tensor)
        return axes and tuple(axis.stride for axis in axes)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        result = output[0] if isinstance(output, (tuple, list)) else output
        tensors = args[0] if args and isinstance(args[0], (tuple, list)) else args
        inputs = [
            self.known[tensor]
            for tensor in tensors
            if isinstance(tensor, Tensor) and tensor in self.known
        ]
        if inputs and isinstance(result, Tensor):
            names = func._schema.arguments
            options = {option.name: option.default_value for option in names}
            options |= {
                option.name: value for option, value in zip(names, args, strict=False)
            }
            options |= kwargs or {}
            self.known[result] = _follow(func.overloadpacket, options, inputs, result)
        return output


def _follow(
    operation: Any, options: dict[str, Any], inputs: list[Any], result: Tensor
) -> list[_Support] | None:
    """The support along each axis of the result; None where the rule is not known."""
    if None in inputs:
        return None
    axes, sizes = inputs[0], result.shape[2:]
    if operation is aten.convolution:
        window = _up_window if options["transposed"] else _window
        kernel = options["weight"].shape[2:]
        geometry = kernel, options["stride"], options["padding"], options["dilation"]
        return [window(*each) for each in zip(axes, sizes, *geometry, strict=True)]
    if operation in POOLINGS:
        each_axis = [
            list(option) * (len(axes) // len(option))
            for option in (
                options["kernel_size"],
                options["stride"] or options["kernel_size"],
                options["padding"],
                options.get("dilation", [1]),
            )
        ]
        return [_window(*each) for each in zip(axes, sizes, *each_axis, strict=True)]
    if operation in (aten.replication_pad2d, aten.replication_pad3d):
        starts = options["padding"][::2][::-1]  # (left, right, top, bottom): last first
        return [
            axis.gather(np.arange(size) - start, np.arange(size) - start)
            for axis, size, start in zip(axes, sizes, starts, strict=True)
        ]
    if operation in REPEATING or operation in INTERPOLATING:
        corners = options.get("align_corners", False)
        linear = operation in INTERPOLATING
        return [
            _resized(axis, size, linear, corners)
            for axis, size in zip(axes, sizes, strict=True)
        ]
    if operation is aten.constant_pad_nd:
        pads = list(options["pad"]) + [0, 0] * len(axes)  # last axis first, in pairs
        starts = pads[: 2 * len(axes) : 2][::-1]
        return [
            axis.gather(np.arange(size) - start, np.arange(size) - start)
            for axis, size, start in zip(axes, sizes, starts, strict=True)
        ]
    if operation is aten.mean and options.get("keepdim") and options["dim"]:
        dims = {dim % result.ndim for dim in options["dim"]}
        return [
            axis.gather(np.array([0]), np.array([len(axis.first)]))
            if number in dims
            else axis
            for number, axis in enumerate(axes, start=2)
        ]
    if operation is aten.expand:
        return [
            axis.gather(np.zeros(size, int), np.zeros(size, int))
            if len(axis.first) == 1
            else axis
            for axis, size in zip(axes, sizes, strict=True)
        ]
    if operation is aten.stack and options["dim"] == 0:
        return [_union(supports) for supports in zip(*inputs, strict=True)]
    if operation is aten.slice:
        at = np.arange(result.shape[options["dim"]]) + (options["start"] or 0)
        return [
            axis.gather(at, at) if options["dim"] == dim else axis
            for dim, axis in enumerate(axes, start=2)
        ]
    if all(
        [len(axis.first) for axis in other] == list(sizes) for other in inputs
    ):  # pixel by pixel: norm, ReLU, addition, concatenation of channels
        return [_union(supports) for supports in zip(*inputs, strict=True)]
    return None


def _window(
    axis: _Support, size: int, kernel: int, stride: int, padding: int, dilation: int
) -> _Support:
    """Convolution or pooling: output o reads from o * stride - padding on."""
    low = np.arange(size) * stride - padding
    return axis.gather(low, low + (kernel - 1) * dilation, Fraction(stride))


def _up_window(
    axis: _Support, size: int, kernel: int, stride: int, padding: int, dilation: int
) -> _Support:
    """Transposed convolution: i writes o = i * stride - padding + tap * dilation."""
    at = np.arange(size) + padding
    low = -(((kernel - 1) * dilation - at) // stride)
    return axis.gather(low, at // stride, Fraction(1, stride))


def _resized(axis: _Support, size: int, linear: bool, corners: bool) -> _Support:
    """Interpolation: output o lies at a fractional place among the inputs."""
    inputs, at = len(axis.first), np.arange(size)
    scale = Fraction(inputs, size)
    if not linear:
        low = high = at * inputs // size
    elif corners:
        step = max(size - 1, 1)
        low = at * (inputs - 1) // step
        high = -(-at * (inputs - 1) // step)
    else:  # at (o + 1/2) inputs / size - 1/2
        place = (2 * at + 1) * inputs - size
        low, high = place // (2 * size), -(-place // (2 * size))
    return axis.gather(low, high, scale)


def _union(supports: Sequence[_Support]) -> _Support:
    """What several tensors see together, for example joined by a skip."""
    return _Support(
        np.min([support.first for support in supports], axis=0),
        np.max([support.last for support in supports], axis=0),
        supports[0].stride,
    )
