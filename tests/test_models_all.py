"""What every network of the package can do, whoever wrote it: each in a narrow form,
with weights that differ from 0 everywhere."""

import copy
import io
import pickle
import warnings
from functools import cache

import pytest
import torch
from torch import nn
from torch.onnx._internal.exporter import _registration

from medseg.models.deeplab import DeepLabV1, DeepLabV2, DeepLabV3, DeepLabV3Plus
from medseg.models.deepmedic import DeepMedic
from medseg.models.fcn import FCN8s, FCN16s, FCN32s
from medseg.models.highresnet import HighRes3DNet
from medseg.models.nnunet import PlainConvUNet, ResidualEncoderUNet
from medseg.models.unet import UNet, UNet2015
from medseg.models.unet_variants import (
    AttentionUNet,
    ResidualUNet,
    UNet3D,
    UNetPlusPlus,
)

W = (4, 6, 8)
VGG = {"widths": (4,) * 5, "hidden": 4}
NETWORKS = {
    "FCN32s": lambda: FCN32s(2, 3, **VGG),
    "FCN16s": lambda: FCN16s(2, 3, **VGG),
    "FCN8s": lambda: FCN8s(2, 3, **VGG, norm="batch"),
    "FCN8s paper": lambda: FCN8s(2, 3, **VGG, paper=True),
    "UNet": lambda: UNet(2, 3, widths=W),
    "UNet 3D": lambda: UNet(2, 3, widths=W[:2], spatial_dims=3),
    "UNet2015": lambda: UNet2015(2, 3, widths=W),
    "ResidualUNet": lambda: ResidualUNet(2, 3, widths=W),
    "ResidualUNet 3D": lambda: ResidualUNet(2, 3, widths=W[:2], spatial_dims=3),
    "AttentionUNet": lambda: AttentionUNet(2, 3, widths=W),
    "AttentionUNet 3D": lambda: AttentionUNet(2, 3, widths=W[:2], spatial_dims=3),
    "UNetPlusPlus": lambda: UNetPlusPlus(2, 3, widths=W),
    "UNetPlusPlus 3D": lambda: UNetPlusPlus(2, 3, widths=W[:2], spatial_dims=3),
    "UNet3D": lambda: UNet3D(2, 3, widths=(4, 6)),
    "PlainConvUNet": lambda: PlainConvUNet(2, 3, widths=W, spatial_dims=2),
    "PlainConvUNet 3D": lambda: PlainConvUNet(2, 3, widths=W[:2]),
    "ResidualEncoderUNet": lambda: ResidualEncoderUNet(
        2, 3, widths=W, blocks=1, spatial_dims=2
    ),
    "ResidualEncoderUNet 3D": lambda: ResidualEncoderUNet(2, 3, widths=W[:2], blocks=1),
    "DeepLabV1": lambda: DeepLabV1(2, 3, backbone="vgg_small", channels=8),
    "DeepLabV2": lambda: DeepLabV2(2, 3, backbone="resnet_small", scales=(0.5, 1)),
    "DeepLabV3": lambda: DeepLabV3(2, 3, backbone="resnet_small", channels=8),
    "DeepLabV3Plus": lambda: DeepLabV3Plus(
        2, 3, backbone="xception_small", channels=8, separable=True
    ),
    "HighRes3DNet": lambda: HighRes3DNet(2, 3, widths=(4, 6), blocks=1, hidden=8),
    "HighRes3DNet 2D": lambda: HighRes3DNet(2, 3, widths=(4, 6), spatial_dims=2),
    "DeepMedic": lambda: DeepMedic(
        2, 3, widths=(4, 4, 6, 6), hidden=(8, 8), residual=True
    ),
}
# The papers' exact networks take some sizes only, and answer for the centre.
SIZES = {"UNet2015": ((44, 48), (4, 8)), "UNet3D": ((18, 20, 22), (2, 4, 6))}
VOLUMES = [n for n in NETWORKS if "3D" in n or n == "DeepMedic"]
VOLUMES.remove("HighRes3DNet 2D")

# The same code as another one's, but for the names of layers: not traced again.
TWINS = {f"{n} 3D" for n in ("ResidualUNet", "UNetPlusPlus", "PlainConvUNet")}
TWINS |= {"ResidualEncoderUNet 3D", "HighRes3DNet 2D", "FCN16s"}

every_network = pytest.mark.parametrize("name", NETWORKS)
every_code = pytest.mark.parametrize("name", [n for n in NETWORKS if n not in TWINS])


def build(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return NETWORKS[name]()


def sizes(name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of images, and of the logits that the network gives for them."""
    odd = (7, 9, 6) if name in VOLUMES else (37, 50)
    return SIZES.get(name, (odd, odd))


@cache
def trained(name: str) -> nn.Module:
    """A network in evaluation mode, as training might leave it: nothing is 0 or 1."""
    network = build(name).eval()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point() and tensor.std(correction=0) == 0:
                tensor += 0.2 * torch.rand(tensor.shape) + 0.05
    return network


@cache
def images_of(name: str) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 2, *sizes(name)[0])


@cache
def logits_of(name: str) -> torch.Tensor:
    with torch.no_grad():
        logits = trained(name)(images_of(name))
    assert logits.std() > 1e-3, "the weights do not show in the logits"
    return logits


@every_network
def test_logits_have_the_size_that_the_network_promises(name):
    assert logits_of(name).shape == (2, 3, *sizes(name)[1])


@every_code
def test_torch_compile_takes_it_in_one_graph(name):
    torch.compiler.reset()
    compiled = torch.compile(trained(name), backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images_of(name)), logits_of(name))


@pytest.fixture(scope="module")
def one_registry():
    """The exporter's table of operators, made once: it would be for each network."""
    with pytest.MonkeyPatch.context() as patch:
        if registry := getattr(_registration, "ONNXRegistry", None):
            once = staticmethod(cache(registry.from_torchlib))
            patch.setattr(registry, "from_torchlib", once)
        yield


@every_code
def test_it_exports_and_runs_in_onnxruntime(name, one_registry):
    pytest.importorskip("onnx", reason="pip install medseg[export]")
    pytest.importorskip("onnxscript", reason="pip install medseg[export]")
    runtime = pytest.importorskip("onnxruntime", reason="pip install medseg[export]")
    images, file = images_of(name), io.BytesIO()
    program = torch.export.export(trained(name), (images,))
    torch.testing.assert_close(program.module()(images), logits_of(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(program, (), file, dynamo=True, verbose=False)
    session = runtime.InferenceSession(file.getvalue(), log_severity=3)
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    expected = logits_of(name)
    torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-4, rtol=1e-4)


@every_network
def test_bfloat16_autocast_is_close_and_trains(name):
    network, expected = copy.deepcopy(trained(name)), logits_of(name)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images_of(name))
    error = (logits.float() - expected).abs().max()
    assert 0 < error < 0.1 * expected.abs().max()
    logits.float().square().sum().backward()
    gradients = [p.grad for p in network.parameters() if p.requires_grad]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@every_network
def test_channels_last_gives_the_same_numbers(name):
    last = torch.channels_last_3d if name in VOLUMES else torch.channels_last
    network = copy.deepcopy(trained(name)).to(memory_format=last)
    with torch.no_grad():
        logits = network(images_of(name).to(memory_format=last))
    torch.testing.assert_close(logits, logits_of(name), atol=1e-4, rtol=1e-4)


@every_network
def test_a_seed_decides_the_weights(name):
    one, other, third = (build(name, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert any(not torch.equal(one[key], third[key]) for key in one)


@every_network
def test_copies_and_pickles_say_the_same(name):
    for twin in (
        copy.deepcopy(trained(name)),
        pickle.loads(pickle.dumps(trained(name))),
    ):
        with torch.no_grad():
            assert torch.equal(twin(images_of(name)), logits_of(name))


@every_network
def test_one_image_trains_all_its_parameters(name):
    network = build(name)
    network.load_state_dict(trained(name).state_dict())
    network.train()(images_of(name)[:1]).square().sum().backward()
    for key, parameter in network.named_parameters():
        assert not parameter.requires_grad or parameter.grad is not None, key


@every_network
def test_a_single_pixel_trains_or_the_error_names_sizes_that_fit(name):
    dims = len(sizes(name)[0])
    images = torch.randn(1, 2, *(1,) * dims)
    if name in SIZES:
        with pytest.raises(ValueError, match=str(sizes(name)[0][0])):
            build(name)(images)
    else:
        logits = build(name)(images)
        assert logits.shape == (1, 3, *(1,) * dims)
        logits.sum().backward()


@every_network
def test_wrong_images_are_refused_with_advice(name):
    network, images = build(name), images_of(name)
    with pytest.raises(ValueError, match="Build the network with in_channels=1, or"):
        network(images[:, :1])
    with pytest.raises(ValueError, match=r"axes \(B, C, .*unsqueeze\(0\)"):
        network(images[0])
    with pytest.raises(TypeError, match=r"images\.float\(\) / 255"):
        network(images.to(torch.uint8))
