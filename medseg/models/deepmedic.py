"""DeepMedic: detail and context in two pathways, at two resolutions.

    DeepMedic    11 layers in 3D: 17 voxels of detail, 51 of context

Whole images ``(B, C, D, H, W)`` of any size give logits of the same size;
``DeepMedic.forward_patches`` is the network of the paper, cubes in and a smaller cube
out.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.checks import check_choice, check_images
from medseg.models.layers import crop_end, he_init, norm_layer, pad_to_stride
from medseg.models.unet import Norm


class NormActConv(nn.Module):
    """Norm, PReLU, dropout, valid convolution, in this order.

    Args:
        in_channels: Channels C.
        out_channels: Channels C'.
        kernel_size: 3, or 1.
        norm: As in ``DeepMedic``.
        dropout: Probability that a feature is dropped in training.
        bias: Of the convolution; of no use where a norm follows.
        residual: Add what came in, cropped, to the first C of the C' channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        norm: Norm,
        dropout: float = 0,
        bias: bool = False,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.norm = norm_layer(norm, in_channels, 3)
        self.act = nn.PReLU(in_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size, bias=bias)
        self.edge = (kernel_size - 1) // 2
        self.new_channels = out_channels - in_channels
        self.residual = residual

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, C, n, n, n)`` to ``(B, C', n - 2, n - 2, n - 2)`` (3x3x3)."""
        x = self.conv(self.dropout(self.act(self.norm(features))))
        if self.residual:
            for axis in (2, 3, 4):
                features = features.narrow(axis, self.edge, x.shape[axis])
            x = x + F.pad(features, (0, 0, 0, 0, 0, 0, 0, self.new_channels))
        return x


class DeepMedic(nn.Module):
    """Two stacks of eight valid 3x3x3 convolutions, one on a coarse view of the image.

    The coarse view is the mean over blocks of 3x3x3 voxels. Each stack sees 17 of its
    own voxels along an axis: 17 of the image, and 51. The features of the coarse one
    are repeated three times along each axis, both are joined, and two layers of
    1x1x1 convolutions and a third that scores look at each voxel by itself.

    Called on whole images, the network pads them by repeating the border, cuts the
    two views, and returns logits for every voxel. The paper trains on small cubes
    instead, so that it can choose where they lie: ``forward_patches`` with 25 voxels
    and 19 coarse ones gives 9. Both ways use the same weights, and agree.

    The order norm, PReLU, convolution, dropout before the last two layers, and where
    ``residual`` adds follow the released network. Its publication leaves open how the
    image is made coarser; the mean is the choice made here, and NiftyNet's.

    Args:
        in_channels: Image channels C.
        out_channels: Classes K with the background; 1 for the binary shorthand.
        widths: Feature channels of the convolutions of each pathway.
        hidden: Channels of the 1x1x1 convolutions after joining.
        factor: How much coarser the second view is, along each axis.
        dropout: Probability that a feature is dropped in training, before each layer
            after the first of ``hidden``; in ``[0, 1)``.
        norm: ``"batch"``, ``"instance"``, ``"group"``, or None.
        residual: Add the input of the layers 4, 6, 8, ... of each pathway to their
            output, as the network of the following year does.

    Shapes:
        ``(B, C, D, H, W)`` to ``(B, K, D, H, W)``; every D, H, W from 1.

    Raises:
        TypeError: The images are not floating point (when called).
        ValueError: A wrong argument, or images with other axes or channels.

    Source:
        kamnitsas2017deepmedic, section 2 and figure 5; kamnitsas2016deepmedic for
        ``residual``. 663,155 parameters from 4 channels to 5 classes, 660,330 of them
        weights of convolutions; the first author gives about 662,000
        (github.com/deepmedic/deepmedic, issue 158).

    Example:
        >>> net = DeepMedic(1, 2, widths=(2,) * 8, hidden=(3,)).eval()
        >>> net(torch.zeros(1, 1, 5, 9, 4)).shape
        torch.Size([1, 2, 5, 9, 4])
        >>> cubes = torch.zeros(1, 1, 25, 25, 25), torch.zeros(1, 1, 19, 19, 19)
        >>> net.forward_patches(*cubes).shape
        torch.Size([1, 2, 9, 9, 9])
    """

    stride = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int] = (30, 30, 40, 40, 40, 40, 50, 50),
        hidden: Sequence[int] = (150, 150),
        factor: int = 3,
        dropout: float = 0.5,
        norm: Norm = "batch",
        residual: bool = False,
    ) -> None:
        super().__init__()
        check_choice(norm, "norm", ("batch", "instance", "group", None))
        counts = (in_channels, out_channels, factor, *widths, *hidden)
        if not widths or min(counts) < 1:
            raise ValueError(
                "in_channels, out_channels, factor, hidden and at least one of widths "
                f"must be counts from 1, got {in_channels}, {out_channels}, {factor}, "
                f"{tuple(hidden)} and {tuple(widths)}."
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}.")
        if residual and list(widths) != sorted(widths):
            raise ValueError(
                f"with residual=True widths must not fall, got {tuple(widths)}: the "
                "shortcuts can add channels, but not drop them."
            )
        self.in_channels = in_channels
        self.factor = factor
        #: Voxels that a pathway loses on each side, of its own.
        self.edge = len(widths)

        def pathway() -> nn.Sequential:
            layers: list[nn.Module] = [
                nn.Conv3d(in_channels, widths[0], 3, bias=norm is None)
            ]
            for number, (before, after) in enumerate(pairwise(widths), start=2):
                layers.append(
                    NormActConv(
                        before,
                        after,
                        3,
                        norm=norm,
                        bias=norm is None,
                        residual=residual and number >= 4 and number % 2 == 0,
                    )
                )
            return nn.Sequential(*layers)

        self.normal = pathway()
        self.low = pathway()
        channels = (2 * widths[-1], *hidden, out_channels)
        last = len(hidden)
        self.joined = nn.Sequential(
            *(
                NormActConv(
                    before,
                    after,
                    1,
                    norm=norm,
                    dropout=0 if number == 0 else dropout,
                    bias=norm is None or number == last,
                )
                for number, (before, after) in enumerate(pairwise(channels))
            )
        )
        he_init(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(B, C, D, H, W)`` to logits ``(B, K, D, H, W)``."""
        check_images(images, self.in_channels, spatial_dims=3)
        x = pad_to_stride(images, (1, 1, 1))  # two voxels at least, for the norm
        margin = self.factor * self.edge  # 24 voxels of context
        ends = []
        for size in reversed(x.shape[2:]):
            ends += [margin, margin + -size % self.factor]
        padded = F.pad(x, ends, mode="replicate")
        low = F.avg_pool3d(padded, self.factor)  # (B, C, ceil(D / 3) + 16, ...)
        normal = padded
        for axis, size in enumerate(x.shape[2:], start=2):
            start = margin - self.edge
            normal = normal.narrow(axis, start, size + 2 * self.edge)
        return crop_end(self._classify(normal, low), images.shape[2:])

    def forward_patches(self, normal: Tensor, low: Tensor) -> Tensor:
        """Map cubes of both resolutions to logits of the centre.

        Args:
            normal: Cubes of the image, ``(B, C, n, n, n)``, n from 17; 25 in the
                paper. The sizes along the axes may differ.
            low: Around the same centre, cubes of the image at a third of the
                resolution, ``(B, C, m, m, m)`` with m = ceil((n - 16) / 3) + 16; 19
                in the paper. The first coarse voxel lies 16 voxels before the first
                of ``normal``, and covers three.

        Returns:
            Logits ``(B, K, n - 16, n - 16, n - 16)``; 9 voxels in the paper.

        Raises:
            TypeError: The cubes are not floating point.
            ValueError: Other axes or channels, or sizes that do not belong together.
        """
        for cubes in (normal, low):
            check_images(cubes, self.in_channels, spatial_dims=3)
        lost = 2 * self.edge
        for fine, coarse in zip(normal.shape[2:], low.shape[2:], strict=True):
            expected = -(-(fine - lost) // self.factor) + lost
            if fine <= lost or coarse != expected:
                raise ValueError(
                    f"the cubes are {tuple(normal.shape[2:])} and "
                    f"{tuple(low.shape[2:])} voxels large. Give at least {lost + 1} "
                    f"at full resolution, and for n of them ceil((n - {lost}) / "
                    f"{self.factor}) + {lost} at the low one: "
                    f"{lost + 3 * self.factor} and {lost + 3}, say."
                )
        return self._classify(normal, low)

    def _classify(self, normal: Tensor, low: Tensor) -> Tensor:
        detail = self.normal(normal)  # (B, 50, 9, 9, 9)
        context = self.low(low)  # (B, 50, 3, 3, 3)
        context = F.interpolate(context, scale_factor=float(self.factor))  # repeated
        context = crop_end(context, detail.shape[2:])
        return self.joined(torch.cat([detail, context], dim=1))
