"""FCN: a classifier that looks everywhere at once, and so labels every pixel.

    FCN32s, FCN16s, FCN8s   VGG16 as convolutions, with 0, 1 or 2 skips
    convolutionalise        fully connected layers as convolutions
    grow_from               begin a finer network with a coarser one's weights

Layers are named as in the released networks: ``fc6``, ``score_fr``, ``upscore2``.
"""

import copy
from collections.abc import Sequence
from itertools import islice

from torch import Tensor, nn
from torch.nn import functional as F

from medseg.checks import check_images
from medseg.models.layers import BackboneNorm, BilinearUpConv
from medseg.models.vgg import VGG16, WIDTHS
from medseg.models.weights import Weights, load_weights


def convolutionalise(
    head: nn.Sequential, size: int | tuple[int, int] = 7
) -> nn.Sequential:
    """Turn fully connected layers into convolutions with the same weights.

    A neuron that reads C feature maps of 7x7 pixels is one position of a 7x7
    convolution; the neurons above it are 1x1 convolutions. On larger feature maps
    the result is a map of scores: what the head gives when it is slid over them,
    without computing anything twice.

    Zero padding in the layers *below* the head makes the whole network differ from
    a classifier slid over the image, since each patch would bring its own zeros.

    Args:
        head: ``nn.Linear`` layers with ``nn.ReLU`` and ``nn.Dropout`` between them,
            such as ``VGG16().classifier``; a leading ``nn.Flatten`` is left out.
        size: Height and width of the feature maps that the head was made for.

    Returns:
        A new network, features ``(B, C, H, W)`` to scores
        ``(B, K, H - size + 1, W - size + 1)``. The weights are copies.

    Raises:
        TypeError: The head holds another kind of layer.
        ValueError: ``size`` does not fit the first layer's number of inputs.

    Source:
        long2015fcn, section 3.1.

    Example:
        >>> import torch
        >>> head = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 3, 5))
        >>> scores = convolutionalise(head, 3)(torch.zeros(1, 2, 3, 8))
        >>> scores.shape
        torch.Size([1, 5, 1, 6])
    """
    kernel = (size, size) if isinstance(size, int) else size
    layers: list[nn.Module] = []
    for layer in head:
        if isinstance(layer, nn.Linear):
            layers.append(_as_conv(layer, kernel))
            kernel = (1, 1)
        elif isinstance(layer, (nn.ReLU, nn.Dropout)):
            layers.append(copy.deepcopy(layer))
        elif not isinstance(layer, nn.Flatten):
            raise TypeError(
                "convolutionalise takes Linear, ReLU, Dropout and Flatten layers, got "
                f"{type(layer).__name__}. Convert what lies before and after by hand."
            )
    return nn.Sequential(*layers)


def _as_conv(linear: nn.Linear, kernel: tuple[int, int]) -> nn.Conv2d:
    outputs, inputs = linear.weight.shape
    channels, rest = divmod(inputs, kernel[0] * kernel[1])
    if rest:
        raise ValueError(
            f"a layer of {inputs} inputs cannot read feature maps of {kernel[0]} x "
            f"{kernel[1]} pixels. Give their size before flattening, as size."
        )
    # Made without memory: the random start would be thrown away.
    conv = nn.Conv2d(channels, outputs, kernel, device="meta")
    weight = linear.weight.detach().reshape(conv.weight.shape).clone()
    conv.weight = nn.Parameter(weight)
    bias = linear.bias
    conv.bias = None if bias is None else nn.Parameter(bias.detach().clone())
    return conv


class FCN(nn.Module):
    """What the three networks share; build one of them.

    VGG16 without its last layer, its fully connected layers turned into convolutions,
    and a 1x1 convolution that scores each class every 32 pixels. The subclasses bring
    the scores back to the image's size by interpolation, fixed rather than learned,
    and add scores read from finer layers.

    The practical network (``paper=False``) pads the image at its end to a multiple of
    32 by repeating the border pixel, and its feature maps so that all sizes match; it
    crops the logits. Interpolation repeats the border too. The released network
    (``paper=True``) pads the image by 100 zeros all round instead, pools with sizes
    rounded up, pads nowhere in ``fc6``, lets the interpolation fade out, and crops at
    fixed offsets. It has no norm.

    All score layers start at 0, as in the paper: the first logits are 0, and a new
    skip at first changes nothing. Convolutions start as in ``VGG16``.

    Args:
        in_channels: Image channels C.
        out_channels: Classes K with the background; 1 for the binary shorthand.
        paper: The geometry of the released network, exactly.
        widths: Feature channels of the five blocks of VGG16.
        hidden: Channels of ``fc6`` and ``fc7``.
        dropout: Probability that a feature is dropped in training, after each.
        norm: As in ``medseg.models.vgg.vgg16_features``. With None, train from
            published weights; a network this deep learns little from a random start.
        learned_upsampling: Train the interpolation between scores as well, except the
            last one, as in the first version of the paper.
        weights: Of a VGG16 classifier: ``"imagenet"``, or the path of a file. The
            released network saw Caffe's weights and images (BGR, 0 to 255, minus the
            mean); these are torchvision's (``medseg.models.weights.load_weights``).

    Shapes:
        ``(B, C, H, W)`` to ``(B, K, H, W)``; every H and W from 1.

    Raises:
        TypeError: The images are not floating point (when called).
        ValueError: A wrong argument, weights that do not fit, or images with other
            axes or channels.
        OSError: The weights could not be downloaded, or there is no such file.

    Source:
        long2015fcn, section 4; the released networks,
        github.com/shelhamer/fcn.berkeleyvision.org.
    """

    stride = 32
    #: Pixels between two of the finest scores.
    score_stride = 32
    #: Where the released network crops its output, in pixels from the top left.
    output_offset = 19

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        paper: bool = False,
        widths: Sequence[int] = WIDTHS,
        hidden: int = 4096,
        dropout: float = 0.5,
        norm: BackboneNorm | None = None,
        learned_upsampling: bool = False,
        weights: Weights = None,
    ) -> None:
        super().__init__()
        if out_channels < 1:
            raise ValueError(f"out_channels must be at least 1, got {out_channels}.")
        if paper and norm is not None:
            raise ValueError(
                f"the released network has no norm, got norm={norm!r}; leave it out, "
                "or build the practical network with paper=False."
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.paper = paper
        self.learned_upsampling = learned_upsampling

        classifier = VGG16(
            in_channels, 1, widths=widths, hidden=hidden, dropout=dropout, norm=norm
        )
        if weights is not None:
            load_weights(
                classifier,
                weights,
                architecture="vgg16" if norm in (None, "group") else "vgg16_bn",
                first_conv="features.0",
                skip=("classifier.6.",),
            )
        self.features = classifier.features
        fc6, relu, drop, fc7, *_ = convolutionalise(classifier.classifier)
        self.fc6, self.fc7, self.relu, self.drop = fc6, fc7, relu, drop
        if paper:
            _pad(self.features[0], 100)
            for layer in self.features:
                if isinstance(layer, nn.MaxPool2d):
                    layer.ceil_mode = True
        else:
            _pad(self.fc6, 3)
        self.score_fr = self._score(hidden)
        self._add_upsampling(widths)

    def _add_upsampling(self, widths: Sequence[int]) -> None:
        """Add the layers between ``score_fr`` and the logits."""
        raise NotImplementedError("FCN is no network; use FCN32s, FCN16s or FCN8s.")

    def _upsample(self, scores: Tensor, pools: list[Tensor]) -> Tensor:
        """Map scores every 32 pixels, and the five poolings' output, to logits."""
        raise NotImplementedError

    def _score(self, channels: int) -> nn.Conv2d:
        layer = nn.Conv2d(channels, self.out_channels, 1)
        nn.init.zeros_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        return layer

    def _up(self, factor: int, *, last: bool = False) -> BilinearUpConv:
        return BilinearUpConv(
            self.out_channels,
            factor,
            edges="fade" if self.paper else "repeat",
            dense=self.paper,
            trainable=self.learned_upsampling and not last,
        )

    def _fuse(self, scores: Tensor, skip: Tensor, offset: int) -> Tensor:
        """Add two score maps; the released network crops the larger at an offset."""
        height, width = scores.shape[2:]
        return scores + _crop(skip, offset if self.paper else 0, height, width)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(B, C, H, W)`` to logits ``(B, K, H, W)``."""
        check_images(images, self.in_channels)
        height, width = images.shape[2:]
        x = images
        if not self.paper:
            ends = (0, -width % self.stride, 0, -height % self.stride)
            x = F.pad(x, ends, mode="replicate")
        pools: list[Tensor] = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                pools.append(x)  # every 2, 4, 8, 16, 32 pixels
        x = self.drop(self.relu(self.fc6(x)))  # (B, 4096, H / 32, W / 32)
        x = self.drop(self.relu(self.fc7(x)))
        logits = self._upsample(self.score_fr(x), pools)
        return _crop(logits, self.output_offset if self.paper else 0, height, width)


class FCN32s(FCN):
    """Scores every 32 pixels, interpolated 32-fold: coarse, but right in the large.

    Arguments, shapes and errors are those of ``FCN``.

    Source:
        long2015fcn, section 4.1. 134,346,581 trainable parameters from 3 channels to
        21 classes, and 1,806,336 fixed ones with ``paper=True``.

    Example:
        >>> import torch
        >>> net = FCN32s(1, 2, widths=(2, 2, 2, 2, 2), hidden=4)
        >>> net(torch.zeros(1, 1, 50, 31)).shape
        torch.Size([1, 2, 50, 31])
    """

    def _add_upsampling(self, widths: Sequence[int]) -> None:
        self.upscore = self._up(32, last=True)

    def _upsample(self, scores: Tensor, pools: list[Tensor]) -> Tensor:
        return self.upscore(scores)


class FCN16s(FCN):
    """The coarse scores, doubled, plus scores read from the fourth pooling.

    Arguments, shapes and errors are those of ``FCN``.

    Source:
        long2015fcn, section 4.2. 134,357,354 trainable parameters from 3 channels to
        21 classes, and 458,640 fixed ones with ``paper=True``.
    """

    score_stride = 16
    output_offset = 27

    def _add_upsampling(self, widths: Sequence[int]) -> None:
        self.upscore2 = self._up(2)
        self.score_pool4 = self._score(widths[3])
        self.upscore16 = self._up(16, last=True)

    def _upsample(self, scores: Tensor, pools: list[Tensor]) -> Tensor:
        x = self.upscore2(scores)  # every 16 pixels
        x = self._fuse(x, self.score_pool4(pools[3]), offset=5)
        return self.upscore16(x)


class FCN8s(FCN):
    """As ``FCN16s``, doubled again, plus scores read from the third pooling.

    Arguments, shapes and errors are those of ``FCN``, and:

    Args:
        at_once: Train all three scores from the start, rather than in stages (see
            ``grow_from``): the finer features, which are larger, are scaled by 0.01
            (fourth pooling) and 0.0001 (third).

    Source:
        long2015fcn, section 4.2; at once: shelhamer2017fcn, section 4.3. 134,362,751
        trainable parameters from 3 channels to 21 classes, and 127,008 fixed ones
        with ``paper=True``.
    """

    score_stride = 8
    output_offset = 31

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        at_once: bool = False,
        paper: bool = False,
        widths: Sequence[int] = WIDTHS,
        hidden: int = 4096,
        dropout: float = 0.5,
        norm: BackboneNorm | None = None,
        learned_upsampling: bool = False,
        weights: Weights = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            paper=paper,
            widths=widths,
            hidden=hidden,
            dropout=dropout,
            norm=norm,
            learned_upsampling=learned_upsampling,
            weights=weights,
        )
        self.pool4_scale = 0.01 if at_once else 1.0
        self.pool3_scale = 0.0001 if at_once else 1.0

    def _add_upsampling(self, widths: Sequence[int]) -> None:
        self.upscore2 = self._up(2)
        self.score_pool4 = self._score(widths[3])
        self.upscore_pool4 = self._up(2)
        self.score_pool3 = self._score(widths[2])
        self.upscore8 = self._up(8, last=True)

    def _upsample(self, scores: Tensor, pools: list[Tensor]) -> Tensor:
        _, _, pool3, pool4, _ = pools
        x = self.upscore2(scores)  # every 16 pixels
        x = self._fuse(x, self.score_pool4(pool4 * self.pool4_scale), offset=5)
        x = self.upscore_pool4(x)  # every 8 pixels
        x = self._fuse(x, self.score_pool3(pool3 * self.pool3_scale), offset=9)
        return self.upscore8(x)


def grow_from(finer: FCN, coarser: FCN) -> None:
    """Begin a finer network with a coarser one's weights: training in stages.

    The paper trains ``FCN32s``, goes on from it with ``FCN16s``, and from that with
    ``FCN8s``, at a learning rate 100 times smaller each time. What is new keeps its
    start: scores 0, interpolation. So the grown network at first says what the
    coarser one said, but for a slightly smoother interpolation.

    Args:
        finer: ``FCN16s`` or ``FCN8s``; changed in place.
        coarser: One with fewer skips, and built with the same arguments.

    Raises:
        ValueError: It is not coarser, or was built with other arguments.

    Source:
        long2015fcn, section 4.2.
    """
    if finer.score_stride >= coarser.score_stride or finer.paper != coarser.paper:
        raise ValueError(
            f"{_name(finer)} cannot grow from {_name(coarser)}: 32s grows into 16s or "
            "8s, 16s into 8s, and both have the same value of paper."
        )
    own, given = finer.state_dict(), coarser.state_dict()
    new = {name for name in own if name.startswith(("score_pool", "upscore"))}
    last = {name for name in given if name.startswith("upscore")} - new
    differing = [
        name
        for name in sorted({*own, *given} - (new - {*given}) - last)
        if name not in own or name not in given or own[name].shape != given[name].shape
    ]
    if differing:
        raise ValueError(
            f"{_name(finer)} and {_name(coarser)} were built with other arguments: "
            f"{len(differing)} of their weights differ in name or shape "
            f"({', '.join(islice(differing, 3))}). Use the same channels, classes, "
            "widths, hidden and norm."
        )
    finer.load_state_dict(
        {name: value for name, value in given.items() if name in own}, strict=False
    )


def _name(network: FCN) -> str:
    return f"{type(network).__name__}(paper={network.paper})"


def _pad(layer: nn.Module, pixels: int) -> None:
    assert isinstance(layer, nn.Conv2d)
    layer.padding = (pixels, pixels)


def _crop(maps: Tensor, offset: int, height: int, width: int) -> Tensor:
    return maps[:, :, offset : offset + height, offset : offset + width]
