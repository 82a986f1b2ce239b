"""The U-Net's descendants against plain re-computations, the U-Net itself, and the
figures of their papers and releases."""

import pickle
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.models.unet import UNet
from medseg.models.unet_variants import (
    AttentionGate,
    AttentionUNet,
    ResidualUNet,
    ResidualUnit,
    UNet3D,
    UNetPlusPlus,
)

NARROW = (2, 4, 6)
ANY_SIZE = [ResidualUNet, AttentionUNet, UNetPlusPlus]


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def convs(block: nn.Module, x: Tensor) -> Tensor:
    """A pair of convolutions without norm, from its weights."""
    weights = list(block.parameters())
    for weight, bias in zip(weights[::2], weights[1::2], strict=True):
        x = F.conv2d(x, weight, bias, padding=1).clamp(min=0)
    return x


# --- figures of papers and releases --------------------------------------------------


def test_unet_plus_plus_has_the_parameters_of_its_release():
    with torch.device("meta"):
        assert count(UNetPlusPlus(1, 1, norm=None)) == 9_041_601
        assert count(UNet(1, 1, widths=(32, 64, 128, 256, 512), norm=None)) == 7_759_521
        supervised = count(UNetPlusPlus(1, 1, norm=None, deep_supervision=True))
    assert supervised == 9_041_601 + 3 * (32 + 1)  # paper: 9.04 M for both


def test_attention_unet_has_the_parameters_of_the_papers_3d_network():
    widths = (16, 32, 64, 128, 256)
    with torch.device("meta"):
        network = AttentionUNet(1, 4, widths=widths, gates=2, spatial_dims=3)
    total, gated = count(network), count(network.gated)
    assert f"{total / 1e6:.2f}" == "6.40"
    pairs = [(1, 16), *((a, b) for a, b in pairwise(widths))]
    encoder = sum(27 * (a * b + b * b) for a, b in pairs)
    decoder = sum(27 * ((a + b) * a + a * a) for a, b in pairwise(widths))
    norms = 2 * 2 * (sum(widths) + sum(widths[:-1]))
    assert total - gated == encoder + decoder + norms + (16 * 4 + 4) == 5_885_556
    # Per gate: W_x, W_g, psi, and its 1x1 view with norm; then what joins two.
    gates = sum(
        2 * ((8 * s * s) + (s * g + s) + (s + 1) + (s * s + 2 * s))
        + (2 * s * s + 2 * s)
        for s, g in pairwise(widths[1:])
    )
    assert gated == gates == 6_403_898 - 5_885_556


def test_residual_unet_has_the_convolutions_of_the_papers_table():
    with torch.device("meta"):
        network = ResidualUNet(3, 1)
    pairs = [(3, 64), (64, 128), (128, 256), (256, 512)]
    pairs += [(512 + 256, 256), (256 + 128, 128), (128 + 64, 64)]
    kernels = {n: p for n, p in network.named_parameters() if p.shape[2:] == (3, 3)}
    assert sum(p.numel() for p in kernels.values()) == 7_780_032
    assert [p.shape[1::-1] for p in kernels.values()][::2] == pairs
    shortcuts = [p.shape[1::-1] for n, p in network.named_parameters() if "cut" in n]
    assert shortcuts == pairs


def test_unet3d_has_the_papers_parameters_and_the_papers_tile():
    with torch.device("meta"):
        network = UNet3D(3, 3)
        tile = network(torch.zeros(1, 3, 132, 132, 116))
    assert count(network) == 19_069_955
    assert tile.shape == (1, 3, 44, 44, 28)
    sizes = [p.shape[:2] for p in network.encoder.parameters() if p.ndim == 5]
    assert sizes[:4] == [(32, 3), (64, 32), (64, 64), (128, 64)]  # doubled early


# --- values --------------------------------------------------------------------------


def test_residual_unet_is_what_its_weights_say_when_computed_by_hand():
    torch.manual_seed(0)
    network = ResidualUNet(2, 3, widths=(3, 5), norm="instance").double()
    for p in network.parameters():
        nn.init.normal_(p)
    images = torch.randn(2, 2, 4, 6, dtype=torch.float64)

    def unit(module: ResidualUnit, x: Tensor, stride: int, first: bool) -> Tensor:
        weights = iter(module.parameters())

        def norm(y: Tensor) -> Tensor:
            gain, shift = next(weights), next(weights)
            mean = y.mean((2, 3), keepdim=True)
            var = y.var((2, 3), keepdim=True, correction=0)
            y = (y - mean) / (var + 1e-5).sqrt()
            return (y * gain[:, None, None] + shift[:, None, None]).clamp(min=0)

        y = x if first else norm(x)
        y = norm(F.conv2d(y, next(weights), stride=stride, padding=1))
        y = F.conv2d(y, next(weights), next(weights), padding=1)
        return y + F.conv2d(x, next(weights), stride=stride)

    fine = unit(network.encoder[0], images, 1, True)
    x = unit(network.encoder[1], fine, 2, False)
    x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    x = unit(network.decoder[0], torch.cat([fine, x], 1), 1, False)
    expected = F.conv2d(x, network.head.weight, network.head.bias)
    torch.testing.assert_close(network(images), expected)


def test_a_residual_unit_whose_convolutions_are_zero_passes_its_input_on():
    unit = ResidualUnit(3, 3)
    for p in unit.convs.parameters():
        nn.init.zeros_(p)
    features = torch.randn(2, 3, 5, 5)
    kept = features.clone()
    assert torch.equal(unit(features), kept)


def test_attention_coefficients_follow_the_papers_equation():
    torch.manual_seed(0)
    gate = AttentionGate(3, 5).double()
    skip = torch.randn(1, 3, 4, 6, dtype=torch.float64)
    gating = torch.randn(1, 5, 2, 3, dtype=torch.float64)
    alpha = torch.empty(2, 3, dtype=torch.float64)
    w_x, w_g, b_g, psi, b_psi = gate.parameters()
    for row in range(2):
        for column in range(3):
            window = skip[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            joint = (w_x * window).sum((1, 2, 3))
            joint = joint + w_g[:, :, 0, 0] @ gating[0, :, row, column] + b_g
            score = (psi[0, :, 0, 0] * joint.clamp(min=0)).sum() + b_psi[0]
            alpha[row, column] = 1 / (1 + (-score).exp())
    large = F.interpolate(alpha[None, None], scale_factor=2, mode="bilinear")
    torch.testing.assert_close(gate.coefficients(skip, gating), large)
    torch.testing.assert_close(gate(skip, gating), large * skip)


def test_open_gates_leave_a_plain_unet_with_linear_enlargement(monkeypatch):
    torch.manual_seed(0)
    network = AttentionUNet(1, 2, widths=NARROW, norm=None)
    images = torch.randn(1, 1, 8, 12)
    closer = network(images)

    fine = convs(network.encoder[0], images)
    middle = convs(network.encoder[1], F.max_pool2d(fine, 2))
    x = convs(network.encoder[2], F.max_pool2d(middle, 2))
    for skip, block in zip([middle, fine], network.decoder, strict=True):
        x = F.interpolate(x, size=skip.shape[2:], mode="bilinear")
        x = convs(block, torch.cat([skip, x], 1))
    plain = F.conv2d(x, network.head.weight, network.head.bias)

    assert not torch.allclose(closer, plain)
    monkeypatch.setattr(
        AttentionGate, "coefficients", lambda gate, skip, gating: skip.new_ones(1)
    )
    torch.testing.assert_close(network(images), plain)


@pytest.mark.parametrize("norm", ["batch", None])
def test_two_gates_are_viewed_and_joined(norm):
    torch.manual_seed(0)
    network = AttentionUNet(1, 1, widths=NARROW, gates=2, norm=norm).eval()
    skip, gating = torch.randn(1, 4, 4, 4), torch.randn(1, 6, 2, 2)
    (joined,) = network.gated  # the finest skip has none
    views = [
        view(gate.coefficients(skip, gating) * skip)
        for gate, view in zip(joined.gates, joined.views, strict=True)
    ]
    expected = joined.join(torch.cat(views, 1))
    torch.testing.assert_close(joined(skip, gating), expected)
    assert expected.min() == 0 < expected.max()  # a ReLU ends it


def test_unet_plus_plus_that_ignores_its_inner_nodes_is_a_unet():
    torch.manual_seed(0)
    nested = UNetPlusPlus(2, 3, widths=NARROW, norm=None)
    plain = UNet(2, 3, widths=NARROW, norm=None)
    plain.encoder.load_state_dict(nested.encoder.state_dict())
    plain.head.load_state_dict(nested.heads[0].state_dict())
    last = {"1_1": 0, "0_2": 1}  # the U-Net's decoder is the last column of each row
    for key, index in last.items():
        plain.up[index].load_state_dict(nested.up[key].state_dict())
        state = nested.nodes[key].state_dict()
        first = state["0.weight"]  # reads (i, 0), ..., (i, j - 1), then the enlarged
        width = first.shape[0]
        first[:, width:-width] = 0
        state["0.weight"] = torch.cat([first[:, :width], first[:, -width:]], 1)
        plain.decoder[index].load_state_dict(state)
    images = torch.randn(2, 2, 11, 16)
    torch.testing.assert_close(nested(images), plain(images))


def test_unet_plus_plus_connects_each_node_to_all_on_its_left_and_the_one_below():
    torch.manual_seed(0)
    network = UNetPlusPlus(
        1, 2, widths=(2, 3, 4, 5), norm=None, deep_supervision=True
    ).train()
    images = torch.randn(1, 1, 16, 8)
    node: dict[tuple[int, int], Tensor] = {}
    for j in range(4):
        for i in range(4 - j):
            if j == 0:
                x = F.max_pool2d(node[i - 1, 0], 2) if i else images
                node[i, 0] = convs(network.encoder[i], x)
                continue
            up = network.up[f"{i}_{j}"]
            below = node[i + 1, j - 1]
            below = F.conv_transpose2d(below, up.weight, up.bias, stride=2)
            left = [node[i, k] for k in range(j)]
            node[i, j] = convs(network.nodes[f"{i}_{j}"], torch.cat([*left, below], 1))
    logits = network(images)
    assert len(logits) == 3
    for depth, head, found in zip((3, 2, 1), network.heads, logits, strict=True):
        torch.testing.assert_close(
            found, F.conv2d(node[0, depth], head.weight, head.bias)
        )
    assert torch.equal(network.eval()(images), logits[0])


def test_unet3d_is_what_its_weights_say_when_computed_by_hand():
    torch.manual_seed(0)
    network = UNet3D(2, 3, widths=(2, 4)).double()
    for p in network.parameters():
        nn.init.normal_(p)
    images = torch.randn(2, 2, 18, 20, 22, dtype=torch.float64)
    weights = iter(network.parameters())

    def block(x: Tensor) -> Tensor:
        for _ in range(2):
            x = F.conv3d(x, next(weights))
            mean = x.mean((0, 2, 3, 4), keepdim=True)
            var = x.var((0, 2, 3, 4), keepdim=True, correction=0)
            x = (x - mean) / (var + 1e-5).sqrt() + next(weights)[:, None, None, None]
            x = x.clamp(min=0)
        return x

    fine = block(images)
    x = block(F.max_pool3d(fine, 2))
    x = F.conv_transpose3d(x, next(weights), stride=2)
    skip = fine[:, :, 4:-4, 4:-4, 4:-4]
    assert skip.shape[2:] == x.shape[2:]
    x = block(torch.cat([skip, x], 1))
    expected = F.conv3d(x, next(weights), next(weights))
    torch.testing.assert_close(network(images), expected)


# --- what every user meets -----------------------------------------------------------


@pytest.mark.parametrize("network", ANY_SIZE)
@pytest.mark.parametrize("norm", ["batch", "instance", "group", None])
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (13, 30), (3, 5, 6)])
def test_any_size_trains_with_any_norm_even_one_image_of_one_pixel(network, norm, size):
    torch.manual_seed(0)
    model = network(1, 2, widths=NARROW, norm=norm, spatial_dims=len(size))
    logits = model(torch.randn(1, 1, *size))
    assert logits.shape == (1, 2, *size)
    logits.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("network", "size"),
    [
        (ResidualUNet(1, 2, widths=NARROW), (21, 30)),
        (AttentionUNet(1, 2, widths=NARROW, gates=2), (21, 30)),
        (UNetPlusPlus(1, 2, widths=NARROW, deep_supervision=True), (21, 30)),
        (UNet3D(1, 2, widths=(2, 4)), (18, 20, 22)),
    ],
    ids=["ResidualUNet", "AttentionUNet", "UNetPlusPlus", "UNet3D"],
)
class TestTools:
    def test_gradients_reach_every_parameter(self, network, size):
        torch.manual_seed(0)
        for name, p in network.named_parameters():
            if name.endswith("bias"):  # away from ReLU's dead half
                nn.init.constant_(p, 0.5)
        outputs = network.train()(torch.randn(2, 1, *size))
        outputs = outputs if isinstance(outputs, list) else [outputs]
        network.zero_grad()
        sum(logits.square().sum() for logits in outputs).backward()
        dead = [n for n, p in network.named_parameters() if not p.grad.any()]
        assert dead == []

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


@pytest.mark.parametrize(
    ("size", "nearest"),
    [(119, "116 and 124"), (131, "124 and 132"), (91, "92"), (1, "92")],
)
def test_unet3d_refuses_sizes_that_do_not_fit_and_names_the_nearest(size, nearest):
    with torch.device("meta"):
        network = UNet3D(1, 1)
    message = rf"92, 100, 108, \.\.\.; got {size}\. The nearest that fit: {nearest}\."
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(1, 1, 92, 100, size, device="meta"))


@pytest.mark.parametrize("scales", [2, 3, 4])
def test_unet3d_takes_the_sizes_that_every_layer_can_halve_and_no_others(scales):
    network = UNet3D(1, 1, widths=(2,) * scales)

    def plain_size(size: int) -> int | None:
        for _ in range(scales - 1):
            size -= 4
            if size < 1 or size % 2:
                return None
            size //= 2
        size -= 4
        for _ in range(scales - 1):
            size = 2 * size - 4
        return size if size > 0 else None

    for size in range(1, 160):
        expected = plain_size(size)
        assert (size in network.valid_sizes) == (expected is not None)
        if expected is not None:
            assert network.output_size(size) == expected


@pytest.mark.parametrize("network", [*ANY_SIZE, UNet3D])
def test_wrong_images_are_refused_with_advice(network):
    options = {} if network is UNet3D else {"spatial_dims": 3}
    model = network(3, 1, widths=NARROW, **options)
    with pytest.raises(ValueError, match=r"takes 3 image channel.*in_channels=1"):
        model(torch.zeros(1, 1, 44, 44, 44))
    with pytest.raises(ValueError, match=r"unsqueeze\(0\)"):
        model(torch.zeros(3, 44, 44, 44))
    with pytest.raises(TypeError, match=r"images.float\(\) / 255"):
        model(torch.zeros(1, 3, 44, 44, 44, dtype=torch.uint8))


def test_wrong_options_are_refused_with_the_right_ones():
    for network in ANY_SIZE:
        with pytest.raises(ValueError, match="norm must be one of 'batch', 'instance'"):
            network(1, 1, widths=NARROW, norm="layer")
        with pytest.raises(ValueError, match="spatial_dims must be one of 2, 3"):
            network(1, 1, widths=NARROW, spatial_dims=1)
        with pytest.raises(ValueError, match="at least two scales"):
            network(1, 1, widths=(8,))
    with pytest.raises(ValueError, match="gates must be at least 1, got 0"):
        AttentionUNet(1, 1, widths=NARROW, gates=0)
    with pytest.raises(ValueError, match=r"widths must be even.*got \(2, 3\)"):
        UNet3D(1, 1, widths=(2, 3))


def test_narrow_residual_unet_trains_in_bfloat16_and_channels_last() -> None:
    # A strided 1x1 convolution of such tensors corrupts memory in PyTorch 2.13, and
    # takes the whole process with it: hence a process of its own.
    script = """
import torch
from medseg.models.unet_variants import ResidualUNet

torch.manual_seed(0)
net = ResidualUNet(3, 1, widths=(8, 16, 32)).to(memory_format=torch.channels_last)
images = torch.randn(8, 3, 128, 128).to(memory_format=torch.channels_last)
for _ in range(3):
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(images)
    logits.float().square().mean().backward()
print(sum(float(p.grad.abs().sum()) > 0 for p in net.parameters()))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 10
