"""The U-Nets against plain functional re-computations, the paper's figures, and
the sizes, norms and errors that a user meets."""

import math
import pickle

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from medseg.models.layers import he_init
from medseg.models.unet import UNet, UNet2015

NARROW = (2, 3, 5)


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def plain_unet(network: UNet, images: Tensor) -> Tensor:
    """UNet with three scales and batch norm in training mode, from its weights."""
    weights = iter(p for p in network.parameters())

    def block(x: Tensor) -> Tensor:
        for _ in range(2):
            x = F.conv2d(x, next(weights), padding=1)
            mean = x.mean((0, 2, 3), keepdim=True)
            var = x.var((0, 2, 3), keepdim=True, correction=0)
            gain, shift = next(weights), next(weights)
            x = (x - mean) / (var + 1e-5).sqrt()
            x = (x * gain[:, None, None] + shift[:, None, None]).clamp(min=0)
        return x

    fine = block(images)
    middle = block(F.max_pool2d(fine, 2))
    x = block(F.max_pool2d(middle, 2))
    ups = [(next(weights), next(weights)) for _ in range(2)]
    x = block(torch.cat([middle, F.conv_transpose2d(x, *ups[0], stride=2)], 1))
    x = block(torch.cat([fine, F.conv_transpose2d(x, *ups[1], stride=2)], 1))
    return F.conv2d(x, next(weights), next(weights))


def plain_unet2015(network: UNet2015, images: Tensor) -> Tensor:
    """UNet2015 with three scales and no dropout, from its weights."""
    weights = iter(p for p in network.parameters())

    def block(x: Tensor) -> Tensor:
        for _ in range(2):
            x = F.conv2d(x, next(weights), next(weights)).clamp(min=0)
        return x

    def join(skip: Tensor, x: Tensor, up: tuple[Tensor, Tensor]) -> Tensor:
        x = F.conv_transpose2d(x, *up, stride=2).clamp(min=0)
        edge = (skip.shape[2] - x.shape[2]) // 2
        return block(torch.cat([skip[:, :, edge:-edge, edge:-edge], x], 1))

    fine = block(images)
    middle = block(F.max_pool2d(fine, 2))
    x = block(F.max_pool2d(middle, 2))
    ups = [(next(weights), next(weights)) for _ in range(2)]
    x = join(middle, x, ups[0])
    x = join(fine, x, ups[1])
    return F.conv2d(x, next(weights), next(weights))


def test_unet_is_what_its_weights_say_when_computed_by_hand():
    torch.manual_seed(0)
    network = UNet(2, 3, widths=NARROW).double()
    images = torch.randn(2, 2, 12, 16, dtype=torch.float64)
    torch.testing.assert_close(network(images), plain_unet(network, images))


def test_unet2015_is_what_its_weights_say_when_computed_by_hand():
    torch.manual_seed(0)
    network = UNet2015(2, 3, widths=NARROW, dropout=0).double()
    images = torch.randn(2, 2, 52, 52, dtype=torch.float64)
    torch.testing.assert_close(network(images), plain_unet2015(network, images))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (UNet2015, 31_030_658),  # the paper's network
        (UNet, 31_036_546),  # a norm has a gain and a shift, in place of a bias
    ],
)
def test_parameters_from_one_channel_to_two_classes(network, expected):
    with torch.device("meta"):
        assert count(network(1, 2)) == expected


def test_the_papers_tile_of_572_pixels_gives_388():
    with torch.device("meta"):
        network = UNet2015(1, 2)
        assert network(torch.zeros(1, 1, 572, 572)).shape == (1, 2, 388, 388)
    assert network.output_size(572) == 388


@pytest.mark.parametrize("scales", [2, 3, 4, 5])
def test_valid_sizes_are_those_that_every_layer_can_halve_and_no_others(scales):
    network = UNet2015(1, 1, widths=(1,) * scales)

    def plain_size(size: int) -> int | None:
        """Walk down and up, one pixel count at a time."""
        for _ in range(scales - 1):
            size -= 4
            if size < 1 or size % 2:
                return None
            size //= 2
        size -= 4
        for _ in range(scales - 1):
            size = 2 * size - 4
        return size if size > 0 else None

    for size in range(1, 320):
        expected = plain_size(size)
        assert (size in network.valid_sizes) == (expected is not None)
        if expected is not None:
            assert network.output_size(size) == expected


@pytest.mark.parametrize("norm", ["batch", "instance", "group", None])
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (1, 9), (5, 8), (13, 30)])
def test_any_size_trains_with_any_norm_even_one_image_of_one_pixel(norm, size):
    network = UNet(1, 2, widths=NARROW, norm=norm)
    logits = network(torch.randn(1, 1, *size))
    assert logits.shape == (1, 2, *size)
    logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("norm", ["batch", "instance", "group", None])
def test_the_same_class_takes_volumes(norm):
    network = UNet(2, 3, widths=NARROW, norm=norm, spatial_dims=3)
    assert network(torch.randn(1, 2, 3, 9, 6)).shape == (1, 3, 3, 9, 6)
    assert any(isinstance(layer, torch.nn.Conv3d) for layer in network.modules())


def test_odd_sizes_are_padded_by_repeating_the_border_at_the_end():
    torch.manual_seed(0)
    network = UNet(1, 1, widths=NARROW).eval()
    images = torch.randn(1, 1, 9, 10)
    by_hand = torch.cat([images, images[:, :, -1:].expand(-1, -1, 3, -1)], 2)
    by_hand = torch.cat([by_hand, by_hand[..., -1:].expand(-1, -1, -1, 2)], 3)
    torch.testing.assert_close(network(images), network(by_hand)[:, :, :9, :10])


def test_dropout_acts_in_training_at_the_last_two_scales_and_never_in_evaluation():
    torch.manual_seed(0)
    network = UNet2015(1, 1, widths=NARROW)
    dropped: list[tuple[int, ...]] = []
    network.dropout.register_forward_hook(lambda *args: dropped.append(args[2].shape))
    images = torch.randn(1, 1, 44, 44)
    assert not torch.equal(network(images), network(images))
    # Middle scale before pool and skip, then the coarsest: as in the released net.
    assert [shape[1] for shape in dropped] == [3, 5] * 2
    network.eval()
    assert torch.equal(network(images), network(images))


@pytest.mark.parametrize("network", [UNet, UNet2015])
def test_weights_start_with_variance_two_over_the_inputs_of_a_neuron(network):
    torch.manual_seed(0)
    model = network(1, 2, widths=(64, 128))
    stds = {tuple(p.shape): p.std().item() for p in model.parameters() if p.ndim == 4}
    assert stds[128, 64, 3, 3] == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.02)
    # In a 2x2 up-convolution of stride 2 each output reads one tap of 128 channels.
    assert stds[128, 64, 2, 2] == pytest.approx(math.sqrt(2 / 128), rel=0.02)
    assert all(
        not p.any() for name, p in model.named_parameters() if name == "head.bias"
    )


def test_he_init_keeps_the_size_of_the_signal_through_plain_layers():
    torch.manual_seed(0)
    layers = [
        m for _ in range(20) for m in (torch.nn.Conv2d(64, 64, 3), torch.nn.ReLU())
    ]
    network = torch.nn.Sequential(*layers)
    images = torch.randn(1, 64, 48, 48)
    with torch.no_grad():
        default = network(images).square().mean()
        he_init(network)
        ours = network(images).square().mean()
    assert 0.3 < ours < 3
    assert default < 0.01  # PyTorch's own start lets it fade


def test_group_norm_takes_widths_that_eight_does_not_divide():
    groups = [
        layer.num_groups
        for layer in UNet(1, 1, widths=(16, 12, 3), norm="group").encoder.modules()
        if isinstance(layer, torch.nn.GroupNorm)
    ]
    assert groups == [8, 8, 4, 4, 1, 1]


@pytest.mark.parametrize(
    ("network", "size"),
    [
        (UNet(1, 2, widths=NARROW), (21, 30)),
        (UNet(1, 2, widths=NARROW, spatial_dims=3), (5, 9, 6)),
        (UNet2015(1, 2, widths=NARROW), (44, 48)),
    ],
    ids=["UNet", "UNet 3D", "UNet2015"],
)
class TestTools:
    def test_pickle_keeps_the_output(self, network, size):
        network.eval()
        images = torch.randn(1, 1, *size)
        copy = pickle.loads(pickle.dumps(network))
        assert torch.equal(copy(images), network(images))

    def test_export_keeps_the_output(self, network, size):
        network.eval()
        images = torch.randn(1, 1, *size)
        exported = torch.export.export(network, (images,))
        torch.testing.assert_close(exported.module()(images), network(images))

    def test_channels_last_and_bfloat16_change_rounding_only(self, network, size):
        network.eval()
        images = torch.randn(2, 1, *size)
        expected = network(images)
        fast = torch.channels_last if len(size) == 2 else torch.channels_last_3d
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(images.to(memory_format=fast))
        scale = expected.abs().max().item()
        torch.testing.assert_close(logits.float(), expected, atol=0.05 * scale, rtol=0)


def test_one_export_takes_every_batch_and_every_size_that_needs_no_padding():
    network = UNet(1, 2, widths=NARROW).eval()
    high, wide = torch.export.Dim("h", min=2), torch.export.Dim("w", min=2)
    free = {0: torch.export.Dim("B"), 2: 4 * high, 3: 4 * wide}
    exported = torch.export.export(
        network, (torch.randn(2, 1, 20, 28),), dynamic_shapes=(free,)
    )
    images = torch.randn(1, 1, 40, 16)
    torch.testing.assert_close(exported.module()(images), network(images))


@pytest.mark.parametrize(
    ("size", "nearest"),
    [(570, "556 and 572"), (571, "556 and 572"), (187, "188"), (1, "188")],
)
def test_sizes_that_do_not_fit_are_refused_with_the_nearest_that_do(size, nearest):
    network = UNet2015(1, 1, widths=(1,) * 5)
    message = rf"188, 204, 220, \.\.\.; got {size}\. The nearest that fit: {nearest}\."
    with pytest.raises(ValueError, match=message):
        network.output_size(size)
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(1, 1, 188, size))


@pytest.mark.parametrize("network", [UNet, UNet2015])
class TestErrors:
    def test_wrong_channels(self, network):
        with pytest.raises(ValueError, match=r"takes 3 image channel.*in_channels=1"):
            network(3, 1, widths=NARROW)(torch.zeros(1, 1, 44, 44))

    def test_missing_batch_axis(self, network):
        with pytest.raises(ValueError, match=r"unsqueeze\(0\)"):
            network(1, 1, widths=NARROW)(torch.zeros(1, 44, 44))

    def test_integer_images(self, network):
        with pytest.raises(TypeError, match=r"images.float\(\) / 255"):
            network(1, 1, widths=NARROW)(torch.zeros(1, 1, 44, 44, dtype=torch.uint8))

    def test_one_width(self, network):
        with pytest.raises(ValueError, match="at least two scales"):
            network(1, 1, widths=(8,))

    @pytest.mark.parametrize("wrong", [(0, 1, NARROW), (1, 0, NARROW), (1, 1, (4, 0))])
    def test_no_channels(self, network, wrong):
        with pytest.raises(ValueError, match="must be at least 1, got"):
            network(*wrong[:2], widths=wrong[2])


def test_wrong_options_are_refused_with_the_right_ones():
    with pytest.raises(ValueError, match="norm must be one of 'batch', 'instance'"):
        UNet(1, 1, widths=NARROW, norm="layer")
    with pytest.raises(ValueError, match="spatial_dims must be one of 2, 3"):
        UNet(1, 1, widths=NARROW, spatial_dims=1)
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\), got 1"):
        UNet2015(1, 1, widths=NARROW, dropout=1)
