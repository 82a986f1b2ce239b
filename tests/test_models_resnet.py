"""The backbones: names as published, rates as in the papers, numbers by hand."""

import hashlib
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.models.layers import BatchNorm, make_norm, separable_conv
from medseg.models.resnet import Bottleneck, ResNet
from medseg.models.xception import Xception


def zero_stuffed(kernel: Tensor, rate: int) -> Tensor:
    """The dense kernel that an atrous convolution stands for."""
    out_channels, in_channels, height, width = kernel.shape
    dense = kernel.new_zeros(
        out_channels, in_channels, rate * (height - 1) + 1, rate * (width - 1) + 1
    )
    dense[:, :, ::rate, ::rate] = kernel
    return dense


def plain_conv(x: Tensor, kernel: Tensor, stride: int = 1, rate: int = 1) -> Tensor:
    dense = zero_stuffed(kernel, rate)
    return F.conv2d(x, dense, stride=stride, padding=dense.shape[2] // 2)


def plain_norm(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Batch norm in training mode."""
    mean = x.mean((0, 2, 3), keepdim=True)
    var = x.var((0, 2, 3), keepdim=True, correction=0)
    x = (x - mean) / (var + 1e-5).sqrt()
    return x * gain[:, None, None] + shift[:, None, None]


def plain_bottleneck(block: Bottleneck, x: Tensor, stride: int, rate: int) -> Tensor:
    w = dict(block.named_parameters())

    def norm(x: Tensor, name: str) -> Tensor:
        return plain_norm(x, w[f"{name}.weight"], w[f"{name}.bias"])

    short = x
    if "downsample.0.weight" in w:
        short = plain_conv(x, w["downsample.0.weight"], stride)
        short = norm(short, "downsample.1")
    x = norm(plain_conv(x, w["conv1.weight"]), "bn1").clamp(min=0)
    x = norm(plain_conv(x, w["conv2.weight"], stride, rate), "bn2").clamp(min=0)
    x = norm(plain_conv(x, w["conv3.weight"]), "bn3")
    return (x + short).clamp(min=0)


@pytest.mark.parametrize(
    ("in_channels", "stride", "rate"), [(3, 2, 1), (3, 1, 2), (8, 1, 4), (8, 1, 1)]
)
def test_a_bottleneck_is_what_its_weights_say_when_computed_by_hand(
    in_channels, stride, rate
):
    torch.manual_seed(0)
    block = Bottleneck(in_channels, 2, stride=stride, rate=rate).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, in_channels, 9, 7, dtype=torch.float64)
    expected = plain_bottleneck(block, x, stride, rate)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(
    ("name", "output_stride", "count", "digest"),
    [
        ("resnet18", 32, 122, "5191d63ec398959223d67ef37376f906"),
        ("resnet50", 32, 320, "a87e91cd6bd1f939e0b723852e567a72"),
        ("resnet50", 16, 320, "a87e91cd6bd1f939e0b723852e567a72"),
        ("resnet50", 8, 320, "a87e91cd6bd1f939e0b723852e567a72"),
        ("resnet101", 32, 626, "dbc3ca74fffafc728641ec2b524ccedc"),
    ],
)
def test_names_and_shapes_are_those_of_the_published_weights(
    name, output_stride, count, digest
):
    # SHA-256 of torchvision's: "conv1.weight (64, 3, 7, 7)" and so on, sorted.
    with torch.device("meta"):
        network = ResNet(3, name, num_classes=1000, output_stride=output_stride)
    state = network.state_dict()
    assert len(state) == count
    lines = sorted(f"{key} {tuple(value.shape)}" for key, value in state.items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32] == digest


def geometry(network: ResNet, layer: str) -> list[tuple[int, int]]:
    """Stride and rate of the second convolution of each block."""
    convs = [block.conv2 for block in getattr(network, layer)]
    assert all(conv.dilation == conv.padding for conv in convs)
    return [(conv.stride[0], conv.dilation[0]) for conv in convs]


@pytest.mark.parametrize(
    ("output_stride", "layer3", "layer4"),
    [
        (32, [(2, 1)] + [(1, 1)] * 5, [(2, 1), (1, 2), (1, 4)]),
        (16, [(2, 1)] + [(1, 1)] * 5, [(1, 2), (1, 4), (1, 8)]),
        (8, [(1, 2)] * 6, [(1, 4), (1, 8), (1, 16)]),
    ],
)
def test_rates_are_the_papers_from_the_first_block_of_a_stage_on(
    output_stride, layer3, layer4
):
    with torch.device("meta"):
        network = ResNet(
            3, "resnet50", output_stride=output_stride, multi_grid=(1, 2, 4)
        )
    assert geometry(network, "layer2") == [(2, 1)] + [(1, 1)] * 3
    assert geometry(network, "layer3") == layer3
    assert geometry(network, "layer4") == layer4


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize(
    ("network", "name"), [(ResNet, "resnet50"), (Xception, "xception65")]
)
def test_the_output_has_the_stride_asked_for(network, name, output_stride):
    with torch.device("meta"):
        model = network(3, name, output_stride=output_stride)
        features = model(torch.zeros(1, 3, 33, 65))
    assert features[0].shape[2:] == (9, 17)
    height, width = 32 // output_stride + 1, 64 // output_stride + 1
    assert features[-1].shape == (1, 2048, height, width)
    assert model.channels[0] == features[0].shape[1] == 256


@pytest.mark.parametrize("output_stride", [8, 16])
def test_an_atrous_xception_sees_at_each_pixel_what_the_strided_one_sees_there(
    output_stride,
):
    torch.manual_seed(0)
    coarse = Xception(1, "xception_small").eval()
    fine = Xception(1, "xception_small", output_stride=output_stride).eval()
    fine.load_state_dict(coarse.state_dict())
    images = torch.randn(1, 1, 33, 65)
    step = 32 // output_stride
    expected = coarse(images)
    found = fine(images)
    same = found[1][:, :, ::step, ::step]
    torch.testing.assert_close(same, expected[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0], expected[0])
    assert not torch.allclose(same[..., :2], found[1][..., :2, :2], rtol=1e-2)


def test_a_separable_convolution_is_one_whose_kernel_is_a_product():
    torch.manual_seed(0)
    conv = separable_conv(3, 5, rate=2, norm="frozen").double()
    depth, point = conv[0], conv[3]
    for layer in (depth, point):
        nn.init.uniform_(layer.weight, 0, 1)  # positive: the ReLUs change nothing
    x = torch.rand(2, 3, 8, 9, dtype=torch.float64)
    kernel = point.weight * depth.weight.transpose(0, 1)  # (5, 3, 3, 3)
    expected = plain_conv(x, kernel, rate=2)
    torch.testing.assert_close(conv(x), expected, rtol=3e-5, atol=0)  # eps, twice


def test_classify_averages_the_last_features():
    torch.manual_seed(0)
    network = ResNet(1, "resnet_small", num_classes=7).eval()
    images = torch.randn(2, 1, 64, 64)
    features = network(images)[-1]
    assert features.shape == (2, 128, 2, 2)
    expected = features.mean((2, 3)) @ network.fc.weight.T + network.fc.bias
    torch.testing.assert_close(network.classify(images), expected)


class TestNorm:
    def test_one_value_a_channel_is_normalised_as_in_evaluation(self):
        norm = BatchNorm(2)
        norm.running_mean.copy_(torch.tensor([1.0, 2.0]))
        norm.running_var.copy_(torch.tensor([4.0, 9.0]))
        x = torch.tensor([5.0, -1.0]).reshape(1, 2, 1, 1)
        torch.testing.assert_close(norm(x).flatten(), torch.tensor([2.0, -1.0]))
        assert norm.running_mean.tolist() == [1, 2]
        assert norm.num_batches_tracked == 0

    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("shape", [(2, 3, 1, 1), (1, 3, 1, 2), (1, 3, 4, 5)])
    def test_everything_else_is_batch_norm(self, shape, training):
        ours, theirs = BatchNorm(3).train(training), nn.BatchNorm2d(3).train(training)
        x = torch.randn(shape) * 3 + 1
        assert torch.equal(ours(x), theirs(x))
        for key, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[key], value)

    def test_frozen_never_changes(self):
        norm = make_norm("frozen", 3)
        x = torch.randn(4, 3, 5, 5) * 3 + 1
        torch.testing.assert_close(norm(x), x, rtol=1e-4, atol=1e-4)
        assert norm.running_mean.tolist() == [0, 0, 0]
        assert not any(parameter.requires_grad for parameter in norm.parameters())

    @pytest.mark.parametrize("channels", [2, 3, 6, 8, 12, 16, 48, 728, 2048])
    def test_groups_hold_two_channels_or_more(self, channels):
        norm = make_norm("group", channels)
        assert channels // norm.num_groups >= 2
        assert norm(torch.randn(1, channels, 1, 1)).shape == (1, channels, 1, 1)
        if channels >= 16:
            assert norm.num_groups == 8

    def test_another_norm(self):
        with pytest.raises(ValueError, match="norm must be one of 'batch', 'frozen'"):
            make_norm("instance", 8)


class TestWeights:
    def test_a_file_from_colour_images_serves_grey_ones(self, tmp_path):
        torch.manual_seed(0)
        colour = ResNet(3, "resnet_small", num_classes=1000).eval()
        torch.save(colour.state_dict(), tmp_path / "weights.pth")
        grey = ResNet(1, "resnet_small", weights=tmp_path / "weights.pth").eval()
        images = torch.randn(2, 1, 33, 33)
        for ours, theirs in zip(
            grey(images), colour(images.expand(-1, 3, -1, -1)), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)

    def test_a_file_of_xception(self, tmp_path):
        saved = Xception(3, "xception_small")
        torch.save(saved.state_dict(), tmp_path / "weights.pth")
        network = Xception(
            3, "xception_small", output_stride=8, weights=tmp_path / "weights.pth"
        )
        for key, value in saved.state_dict().items():
            assert torch.equal(network.state_dict()[key], value)

    @pytest.mark.parametrize("num_classes", [None, 7, 1000])
    def test_published_weights_fill_all_but_another_classifier(
        self, num_classes, monkeypatch
    ):
        published = ResNet(3, "resnet18", num_classes=1000).state_dict()
        asked = []

        def download(url, **options):
            asked.append(url)
            return dict(published)

        monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
        network = ResNet(3, "resnet18", num_classes=num_classes, weights="imagenet")
        assert asked == ["https://download.pytorch.org/models/resnet18-f37072fd.pth"]
        for key, value in network.state_dict().items():
            same = not key.startswith("fc") or num_classes == 1000
            assert not same or torch.equal(value, published[key]), key

    @pytest.mark.parametrize(
        ("network", "name"),
        [(ResNet, "resnet_small"), (Xception, "xception_small")],
    )
    def test_small_networks_have_no_published_weights(self, network, name):
        with pytest.raises(ValueError, match=f"no published ImageNet .* '{name}'"):
            network(3, name, weights="imagenet")

    def test_published_weights_want_batch_norm(self):
        with pytest.raises(ValueError, match="belong to a network with batch norm"):
            ResNet(3, "resnet18", norm="group", weights="imagenet")


def test_convolutions_start_with_variance_two_over_their_inputs():
    torch.manual_seed(0)
    network = Xception(1, "xception_small")
    point = network.tail[2][3].weight  # 1x1, 128 to 256 channels
    assert point.std().item() == pytest.approx(math.sqrt(2 / 128), rel=0.03)
    depth = network.tail[2][0].weight  # 3x3, each channel by itself
    assert depth.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.1)


class TestErrors:
    @pytest.mark.parametrize("network", [ResNet, Xception])
    def test_unknown_name_or_stride(self, network):
        with pytest.raises(ValueError, match=r"name must be one of .*, got 'resnet7'"):
            network(3, "resnet7")
        with pytest.raises(ValueError, match="output_stride must be one of 8, 16, 32"):
            network(3, output_stride=4)

    @pytest.mark.parametrize("multi_grid", [(1, 2), (1, 2, 0), ()])
    def test_multi_grid(self, multi_grid):
        with pytest.raises(ValueError, match="factor from 1 for each of the 3 blocks"):
            ResNet(3, "resnet50", multi_grid=multi_grid)

    def test_no_classifier(self):
        with pytest.raises(ValueError, match="build it with num_classes=1000"):
            ResNet(3, "resnet_small").classify(torch.zeros(1, 3, 32, 32))

    @pytest.mark.parametrize(
        ("network", "name"),
        [(ResNet, "resnet_small"), (Xception, "xception_small")],
    )
    def test_wrong_channels(self, network, name):
        with pytest.raises(ValueError, match="takes 3 image channel"):
            network(3, name)(torch.zeros(1, 1, 32, 32))
