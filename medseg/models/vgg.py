"""VGG16: thirteen 3x3 convolutions, five poolings, three fully connected layers.

    VGG16            the classifier whose layers FCN and DeepLab v1, v2 reuse
    vgg16_features   its convolutions and poolings alone

Names in the ``state_dict`` are torchvision's: ``features.0.weight`` and so on.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.checks import check_choice, check_images
from medseg.models.layers import BackboneNorm, make_norm
from medseg.models.weights import Weights, load_weights

WIDTHS = (64, 128, 256, 512, 512)
CONVS = (2, 2, 3, 3, 3)  # in each of the five blocks


def vgg16_features(
    in_channels: int,
    *,
    widths: Sequence[int] = WIDTHS,
    norm: BackboneNorm | None = None,
) -> nn.Sequential:
    """The convolutions of VGG16: five blocks, each ended by a 2x2 max-pooling.

    Without a norm, the poolings are the layers 4, 9, 16, 23 and 30 of 31; the last
    convolution before each stands two places ahead of it.

    Args:
        in_channels: Image channels C.
        widths: Feature channels of the five blocks.
        norm: Between convolution and ReLU: None as in the paper, ``"batch"`` as in
            torchvision's ``vgg16_bn``, ``"frozen"`` or ``"group"``; what they are:
            ``medseg.models.layers.make_norm``.

    Shapes:
        ``(B, C, H, W)`` to ``(B, widths[4], H // 32, W // 32)``.

    Raises:
        ValueError: Not five widths, a count below 1, or an unknown norm.

    Source:
        simonyan2015vgg, table 1, configuration D.
    """
    check_choice(norm, "norm", ("batch", "frozen", "group", None))
    if len(widths) != len(CONVS):
        raise ValueError(
            f"VGG16 has five blocks, so widths must name five, got {tuple(widths)}; "
            "for example widths=(8, 16, 32, 64, 64)."
        )
    if min(in_channels, *widths) < 1:
        raise ValueError(
            "in_channels and widths must be at least 1, got "
            f"{in_channels} and {tuple(widths)}."
        )
    layers: list[nn.Module] = []
    for width, convs in zip(widths, CONVS, strict=True):
        for _ in range(convs):
            layers.append(nn.Conv2d(in_channels, width, 3, padding=1))
            if norm is not None:
                layers.append(make_norm(norm, width))
            layers.append(nn.ReLU(inplace=True))
            in_channels = width
        layers.append(nn.MaxPool2d(2, 2))
    features = nn.Sequential(*layers)
    _start(features)
    return features


class VGG16(nn.Module):
    """The classifier VGG16: one image in, one score for each class out.

    Weights start from a normal distribution with variance 2 / N, N being the inputs
    of one neuron; biases from 0.

    Args:
        in_channels: Image channels C.
        out_channels: Classes K, 1000 for ImageNet.
        widths: Feature channels of the five blocks.
        hidden: Neurons in each of the two fully connected layers.
        input_size: Height and width of the images; a multiple of 32.
        dropout: Probability that a neuron is dropped in training, after each.
        norm: As in ``vgg16_features``; the paper has none.
        weights: ``"imagenet"`` or the path of a file. Where C is not the file's, the
            first filters are adapted (``medseg.models.weights.adapt_first_conv``);
            where K is not 1000, the last layer keeps its random start with
            ``"imagenet"``, and a file must hold K classes.

    Shapes:
        ``(B, C, input_size, input_size)`` to scores ``(B, K)``, before softmax.

    Raises:
        TypeError: The images are not floating point (when called).
        ValueError: A wrong argument, weights that do not fit, or images of another
            size.
        OSError: The weights could not be downloaded, or there is no such file.

    Source:
        simonyan2015vgg. 138,357,544 parameters from 3 channels to 1000 classes.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1000,
        *,
        widths: Sequence[int] = WIDTHS,
        hidden: int = 4096,
        input_size: int = 224,
        dropout: float = 0.5,
        norm: BackboneNorm | None = None,
        weights: Weights = None,
    ) -> None:
        super().__init__()
        if min(out_channels, hidden) < 1:
            raise ValueError(
                "out_channels and hidden must be at least 1, got "
                f"{out_channels} and {hidden}."
            )
        if input_size < 32 or input_size % 32:
            raise ValueError(
                f"input_size must be a multiple of 32, got {input_size}; five "
                "poolings halve it five times."
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}.")
        self.in_channels = in_channels
        self.input_size = input_size
        self.stride = 32
        self.features = vgg16_features(in_channels, widths=widths, norm=norm)
        self.classifier = nn.Sequential(
            nn.Linear(widths[-1] * (input_size // 32) ** 2, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, out_channels),
        )
        _start(self.classifier)
        if weights is not None:
            new_classes = weights == "imagenet" and out_channels != 1000
            load_weights(
                self,
                weights,
                architecture="vgg16_bn" if norm in ("batch", "frozen") else "vgg16",
                first_conv="features.0",
                skip=("classifier.6.",) if new_classes else (),
            )

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(B, C, H, W)`` to class scores ``(B, K)``."""
        check_images(images, self.in_channels)
        if tuple(images.shape[2:]) != (self.input_size, self.input_size):
            raise ValueError(
                f"this classifier takes images of {self.input_size} x "
                f"{self.input_size} pixels, got {tuple(images.shape[2:])}. Resize or "
                "crop them; medseg.models.fcn.convolutionalise takes off this limit."
            )
        x = self.features(images)  # (B, 512, 7, 7)
        x = x.flatten(1)  # (B, 25088)
        return self.classifier(x)  # (B, K)


def _start(layers: nn.Sequential) -> None:
    for layer in layers:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
