"""Windows, tiles and resampling: whole images and volumes from patches."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medseg.inference import (
    overlap_tile,
    predict_probabilities,
    predict_volume,
    resize,
    size_at,
    sliding_window,
)
from medseg.inference._sliding import window_shares, window_starts
from medseg.models.unet import UNet, UNet2015
from medseg.models.unet_variants import UNet3D


class Logits(nn.Module):
    """Returns the images as logits, and remembers what it was called with."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images):
        self.seen.append(tuple(images.shape))
        return images


def local_network(dims, num_classes=3):
    """A purely local network: what it says of a pixel depends on that pixel alone."""
    torch.manual_seed(0)
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
    return nn.Sequential(conv(1, 4, 1), nn.Tanh(), conv(4, num_classes, 1))


SIZES = [(40, 33), (7, 50), (3, 4), (16, 16), (1, 90)]
SIZES += [(20, 25, 9), (5, 40, 40), (8, 8, 8), (2, 3, 40)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weights", ["gaussian", "constant"])
@pytest.mark.parametrize("overlap", [0, 0.5, 0.7])
def test_an_identity_returns_the_images_own_values(size, weights, overlap):
    images = torch.randn(2, 1, *size)
    logits = sliding_window(
        Logits(),
        images,
        patch_size=(9, 16, 12)[: len(size)],
        overlap=overlap,
        weights=weights,
        output="logits",
    )
    torch.testing.assert_close(logits, images, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_classes", [1, 3])
def test_a_local_network_gives_what_it_gives_for_the_whole_image(size, num_classes):
    model, images = local_network(len(size), num_classes), torch.randn(2, 1, *size)
    with torch.no_grad():
        logits = model(images)
    expected = {
        "logits": logits,
        "probabilities": predict_probabilities(model, images),
        "labels": (logits[:, 0] > 0 if num_classes == 1 else logits.argmax(1)).short(),
    }
    for output, value in expected.items():
        found = sliding_window(model, images, patch_size=8, batch_size=3, output=output)
        assert found.dtype == value.dtype
        torch.testing.assert_close(found, value, rtol=0, atol=1e-6)


def slow_window(model, images, patch, overlap, weight):
    """One image, every window, numerator and denominator: as the formula reads."""
    size = images.shape[2:]
    starts = [
        window_starts(n, min(n, p), overlap) for n, p in zip(size, patch, strict=True)
    ]
    total = torch.zeros(())
    weights = torch.zeros(size, dtype=torch.float64)
    with torch.no_grad():
        for corner in torch.cartesian_prod(*map(torch.tensor, starts)).tolist():
            box = tuple(slice(s, s + p) for s, p in zip(corner, patch, strict=True))
            part = model(images[(..., *box)]).double() * weight
            if total.ndim == 0:
                total = torch.zeros(1, part.shape[1], *size, dtype=torch.float64)
            total[(..., *box)] += part
            weights[box] += weight
    return (total / weights).float()


def gaussian(patch, sigma):
    axes = [
        torch.exp(-0.5 * ((torch.arange(n).double() - (n - 1) / 2) / (sigma * n)) ** 2)
        for n in patch
    ]
    return math.prod(
        axis.view([-1 if i == k else 1 for k in range(len(patch))])
        for i, axis in enumerate(axes)
    )


@pytest.mark.parametrize("size", [(30, 21), (17, 14, 15)])
@pytest.mark.parametrize("weights", ["gaussian", "constant"])
@pytest.mark.parametrize("output", ["logits", "labels"])
def test_the_weighted_mean_is_that_of_a_slow_loop(size, weights, output):
    dims = len(size)
    torch.manual_seed(0)
    model = UNet(1, 3, widths=(3, 4), spatial_dims=dims).eval()
    images, patch = torch.randn(1, 1, *size), (10, 8, 6)[:dims]
    weight = gaussian(patch, 1 / 8) if weights == "gaussian" else torch.ones(patch)
    expected = slow_window(model, images, patch, 0.5, weight.double())
    found = sliding_window(
        model, images, patch_size=patch, weights=weights, output=output, batch_size=4
    )
    if output == "labels":
        expected = expected.argmax(1).short()
        assert len(expected.unique()) > 1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "patch"),
    [((28, 20), (8, 8)), ((20, 16, 12), (8, 8, 4)), ((6, 24), (8, 8))],
)
@pytest.mark.parametrize("mode", ["gaussian", "constant"])
def test_monai_finds_the_same_in_the_same_windows(size, patch, mode):
    inferers = pytest.importorskip("monai.inferers", reason="pip install medseg[bench]")
    torch.manual_seed(0)
    model = UNet(1, 2, widths=(3, 4), spatial_dims=len(size)).eval()
    images = torch.randn(2, 1, *size)
    weight = gaussian(patch, 1 / 8) if mode == "gaussian" else torch.ones(patch)
    with torch.no_grad():
        expected = inferers.sliding_window_inference(
            images,
            patch,
            2,
            model,
            overlap=0.5,
            mode=mode,
            # Its own Gaussian is cut off at 0.001, and so differs in the corners.
            roi_weight_map=weight.float(),
            padding_mode="replicate",
        )
    found = sliding_window(
        model, images, patch_size=patch, weights=mode, output="logits", batch_size=2
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_window_starts_are_spread_evenly_and_leave_no_gap():
    assert window_starts(5, 5, 0.5) == [0]
    assert window_starts(256, 96, 0.5) == [0, 40, 80, 120, 160]
    assert window_starts(10, 3, 0) == [0, 2, 5, 7]
    for size in range(1, 40):
        for window in range(1, size + 1):
            for overlap in (0, 0.3, 0.5, 0.99):
                starts = window_starts(size, window, overlap)
                steps = np.diff(starts)
                assert starts[0] == 0
                assert starts[-1] == size - window
                assert (steps >= 1).all()
                assert (steps <= max(1, math.ceil(window * (1 - overlap)))).all()
    assert len(window_starts(10, 4, 0.7 + 1e-16)) == len(window_starts(10, 4, 0.7))


def test_weights_too_small_for_a_number_become_the_smallest():
    shares = window_shares(101, 101, [0], "gaussian", sigma=1e-3)
    assert torch.equal(shares[0], torch.ones(101, dtype=torch.float64))
    # 25 windows of 2, in whose two pixels no Gaussian this narrow has a weight
    images = torch.randn(1, 1, 26, 26)
    found = sliding_window(Logits(), images, patch_size=2, sigma=1e-3, output="logits")
    torch.testing.assert_close(found, images)
    # hand-worked: weights e^-2, 1, e^-2 (offset 1, sigma 0.5) of two windows
    e = math.exp(-2)
    first, second = window_shares(4, 3, [0, 1], "gaussian", sigma=1 / 6)
    assert first.tolist() == pytest.approx([1, 1 / (1 + e), e / (1 + e)])
    assert second.tolist() == pytest.approx([e / (1 + e), 1 / (1 + e), 1])


def test_the_network_sees_patches_of_one_size_and_no_more_than_asked_for():
    model = Logits()
    sliding_window(model, torch.zeros(2, 1, 12, 8), patch_size=8, batch_size=4)
    # windows start at 0 and 4: in each row of windows, those of both images
    assert model.seen == [(2, 1, 8, 8), (2, 1, 8, 8)]
    model = Logits()
    sliding_window(model, torch.zeros(1, 1, 3, 20), patch_size=8, batch_size=4)
    assert model.seen == 4 * [(1, 1, 8, 8)]


def test_a_border_is_repeated_around_an_image_that_is_too_small():
    model = nn.Conv2d(1, 1, 5, padding=2, bias=False)
    nn.init.ones_(model.weight)  # the sum over 5 x 5 pixels
    logits = sliding_window(
        model, torch.ones(1, 1, 1, 1), patch_size=5, output="logits"
    )
    assert logits.item() == 25.0


@pytest.mark.parametrize("output", ["logits", "probabilities", "labels"])
def test_under_autocast_the_sum_is_in_float32(output):
    model, images = local_network(2), torch.randn(1, 1, 30, 20)
    with torch.autocast("cpu", torch.bfloat16):
        found = sliding_window(model, images, patch_size=8, output=output)
        with torch.no_grad():
            logits = model(images)
    assert logits.dtype == torch.bfloat16
    if output == "labels":
        assert (found == logits.float().argmax(1)).float().mean() > 0.98
    else:
        assert found.dtype == torch.float32
        expected = logits.float() if output == "logits" else logits.float().softmax(1)
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_a_sum_in_bfloat16_is_coarse_and_one_in_float64_is_exact():
    images = torch.randn(1, 1, 64, 64, dtype=torch.float64)
    errors = {}
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        found = sliding_window(
            Logits(), images, patch_size=16, output="logits", dtype=dtype
        )
        assert found.dtype == dtype
        errors[dtype] = ((found.double() - images).abs() / images.abs()).max().item()
    assert 1e-3 < errors[torch.bfloat16] < 0.03
    assert errors[torch.float32] < 1e-6
    assert errors[torch.float64] < 1e-14


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_network_runs_on_the_gpu_and_the_sum_stays_on_the_cpu():
    model, images = local_network(3).cuda(), torch.randn(1, 1, 20, 20, 20)
    found = sliding_window(model, images, patch_size=8)
    assert found.device.type == "cpu"
    expected = predict_probabilities(model, images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_labels_keep_the_sums_of_one_slab_alone():
    """Counts the values of every tensor that is made while windows are predicted."""
    made = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                made.append(result.untyped_storage().nbytes())
            return result

    model = nn.Conv3d(1, 6, 1)
    volume = torch.rand(1, 1, 8, 64, 8)
    with Watch():
        sliding_window(model, volume, patch_size=8, output="labels")
    assert max(made) <= 4 * volume.numel()  # the images; a slab is 6/8 of that
    made.clear()
    with Watch():
        sliding_window(model, volume, patch_size=8, output="probabilities")
    assert max(made) == 4 * 6 * volume.numel()


def test_a_bar_counts_the_windows(capsys):
    sliding_window(Logits(), torch.zeros(2, 1, 12, 8), patch_size=8, progress=True)
    assert "4/4" in capsys.readouterr().err
    sliding_window(Logits(), torch.zeros(2, 1, 12, 8), patch_size=8)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 0}, "whole numbers from 1, got 0"),
        ({"patch_size": (8, -1)}, r"whole numbers from 1, got \(8, -1\)"),
        ({"patch_size": (8, 2.5)}, "whole numbers from 1"),
        ({"patch_size": True}, "whole numbers from 1"),
        ({"patch_size": (8, 8, 8)}, "names 3 axes, but the images have 2"),
        ({"overlap": 1}, r"overlap must lie in \[0, 1\), got 1"),
        ({"overlap": -0.1}, r"overlap must lie in \[0, 1\)"),
        ({"overlap": math.nan}, r"overlap must lie in \[0, 1\)"),
        ({"sigma": 0}, "sigma must be positive"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"weights": "hann"}, "weights must be one of 'gaussian', 'constant'"),
        ({"output": "mask"}, "output must be one of"),
        ({"dtype": torch.int32}, "dtype must be one of"),
        ({"threshold": 2}, r"probability in \[0, 1\]"),
    ],
)
def test_options_of_windows_that_are_none(options, message):
    with pytest.raises(ValueError, match=message):
        sliding_window(Logits(), torch.rand(1, 1, 9, 9), **{"patch_size": 8, **options})


class Returns(nn.Module):
    """Calls a function of the images; has a layer whose mode is looked at."""

    def __init__(self, function):
        super().__init__()
        self.function, self.dropout = function, nn.Dropout()

    def forward(self, images):
        assert not self.training
        return self.function(images)


BAD = [
    (lambda x: (x, x), TypeError, "returned a tuple, expected one tensor"),
    (lambda x: {"out": x}, TypeError, "returned a dict"),
    (lambda x: x > 0, TypeError, "returned torch.bool, expected logits"),
    (lambda x: x[0], ValueError, "expected logits .* and 4 axes"),
    (lambda x: x[:0], ValueError, "with B = 1"),
    (lambda x: x * torch.nan, ValueError, "returned 64 NaN or infinite"),
    (lambda x: x.double() * math.inf, ValueError, "returned 64 NaN or infinite"),
]


@pytest.mark.parametrize(("function", "error", "message"), BAD)
@pytest.mark.parametrize(
    "call", [predict_probabilities, partial(sliding_window, patch_size=8)]
)
def test_what_a_network_must_not_return_and_its_mode_comes_back(
    call, function, error, message
):
    model = Returns(function).train()
    model.dropout.eval()
    with pytest.raises(error, match=message):
        call(model, torch.ones(1, 1, 8, 8))
    assert model.training
    assert not model.dropout.training


def test_logits_of_another_size_are_refused_with_advice():
    half = Returns(lambda x: x[..., ::2, ::2])
    with pytest.raises(
        ValueError, match=r"size \(4, 4\) for patches of \(8, 8\).*Inter"
    ):
        sliding_window(half, torch.rand(1, 1, 9, 9), patch_size=8)
    with pytest.raises(ValueError, match="use overlap_tile"):
        sliding_window(
            UNet2015(1, 2, widths=(1, 1)), torch.rand(1, 1, 30, 30), patch_size=20
        )


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), TypeError, r"float\(\) / 255"),
        (np.zeros((1, 1, 8, 8)), TypeError, r"torch\.from_numpy"),
        (torch.zeros(1, 8, 8), ValueError, r"images\.unsqueeze\(0\)"),
        (torch.full((1, 1, 8, 8), torch.nan), ValueError, "images holds 64 NaN"),
        (torch.zeros(0, 1, 8, 8), ValueError, "no pixels"),
    ],
)
def test_windows_of_images_that_are_none(images, error, message):
    with pytest.raises(error, match=message):
        sliding_window(Logits(), images, patch_size=8)


# Tiles of volumes


@pytest.mark.parametrize("size", [(9, 6, 11), (3, 20, 5)])
@pytest.mark.parametrize("tile", [20, 26])
def test_tiles_of_volumes_equal_one_pass(size, tile):
    torch.manual_seed(0)
    model = UNet3D(1, 2, widths=(2, 4)).eval()
    images = torch.randn(2, 1, *size)
    pad = [(0, 0), (0, 0)]
    margin = model.margin // 2
    for n in size:  # sizes that fit are even
        pad.append((margin, margin + n % 2))
    mirrored = torch.from_numpy(np.pad(images.numpy(), pad, mode="reflect"))
    expected = predict_probabilities(model, mirrored)[(..., *map(slice, size))]
    tiled = overlap_tile(model, images, tile=tile, batch_size=2)
    torch.testing.assert_close(tiled, expected, rtol=0, atol=1e-5)


# Resampling


@pytest.mark.parametrize(
    "size", [(20, 40), (7, 5), (13, 30), (6, 40), (1, 1), (13, 17)]
)
@pytest.mark.parametrize("antialias", [True, False])
def test_resizing_is_that_of_torch_in_2d(size, antialias):
    values = torch.rand(2, 3, 13, 17)
    expected = F.interpolate(
        values, size=size, mode="bilinear", antialias=antialias, align_corners=False
    )
    found = resize(values, size, antialias=antialias)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    rows = slice(size[0] // 3, size[0] // 3 + 2)
    part = resize(values, size, antialias=antialias, rows=rows)
    torch.testing.assert_close(part, found[:, :, rows])


def test_resizing_is_that_of_torch_in_3d():
    values = torch.rand(1, 2, 9, 10, 11)
    expected = F.interpolate(values, size=(12, 5, 30), mode="trilinear")
    found = resize(values, (12, 5, 30), antialias=False)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_probabilities_stay_probabilities():
    values = torch.rand(1, 4, 5, 9, 7).softmax(1)
    found = resize(values, (11, 4, 13))
    torch.testing.assert_close(found.sum(1), torch.ones(1, 11, 4, 13))
    assert found.min() >= 0


@pytest.mark.parametrize("size", [(3,), (0, 3), (2, 2, 2)])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match="must name 2 positive numbers"):
        resize(torch.rand(1, 1, 4, 4), size)


def test_another_spacing_keeps_the_extent():
    assert size_at((100, 200), (1.0, 0.5), (2.0, 0.5)) == (50, 200)
    assert size_at((1, 3), (0.1, 1.0), (5.0, 2.0)) == (1, 2)
    with pytest.raises(ValueError, match="spacing must be positive"):
        size_at((4, 4), (1, 0), (1, 1))


class Ball(nn.Module):
    """Logits that are the images, and a note of the size in which they came."""

    def forward(self, images):
        self.size = tuple(images.shape[2:])
        return torch.cat([torch.zeros_like(images), images], dim=1)


@pytest.mark.parametrize("kind", ["array", "tensor"])
@pytest.mark.parametrize("channel", [True, False])
def test_labels_come_back_in_the_grid_of_the_image(kind, channel):
    spacing, training = (4.0, 1.0, 1.0), (2.0, 2.0, 2.0)
    grid = np.meshgrid(
        *(np.arange(n) * s for n, s in zip((10, 40, 36), spacing, strict=True)),
        indexing="ij",
    )
    distance = np.sqrt(
        sum((g - c) ** 2 for g, c in zip(grid, (18, 20, 18), strict=True))
    )
    image = (14.0 - distance).astype(np.float32)  # above 0 in a ball of 14 mm
    given = image[None] if channel else image
    model = Ball()
    labels = predict_volume(
        model,
        given if kind == "array" else torch.from_numpy(given),
        spacing,
        training_spacing=training,
    )
    assert isinstance(labels, np.ndarray if kind == "array" else torch.Tensor)
    assert model.size == (20, 20, 18)
    labels = np.asarray(labels)
    assert labels.shape == (10, 40, 36)
    assert labels.dtype == np.int16
    truth = distance < 14
    dice = 2 * (truth & (labels == 1)).sum() / (truth.sum() + (labels == 1).sum())
    assert dice > 0.97


def test_without_another_spacing_it_is_plain_prediction():
    model = local_network(2)
    image = torch.randn(30, 20)
    labels = predict_volume(model, image, (0.5, 0.5), training_spacing=(0.5, 0.5))
    expected = predict_probabilities(model, image[None, None]).argmax(1)[0]
    assert torch.equal(labels.long(), expected)
    windows = partial(sliding_window, patch_size=8)
    again = predict_volume(
        model, image, (0.5, 0.5), training_spacing=(0.5, 0.5), predictor=windows
    )
    assert torch.equal(labels, again)


def test_labels_are_decided_in_the_fine_grid_and_between_no_others(monkeypatch):
    # Classes 0 and 2 side by side, in coarse pixels of 4: interpolated labels would
    # invent class 1 between them.
    class Two(nn.Module):
        def forward(self, images):
            return torch.cat([-images, torch.full_like(images, -9), images], dim=1)

    image = torch.tensor([[-5.0, 5.0]]).repeat_interleave(8, dim=1).repeat(6, 1)
    for piece in (1, 2**22):  # row by row, and at once
        monkeypatch.setattr("medseg.inference._resampling.PIECE", piece)
        labels = predict_volume(Two(), image, (1, 1), training_spacing=(4, 4))
        assert labels.tolist() == 6 * [8 * [0] + 8 * [2]]


def test_the_threshold_decides_in_the_fine_grid():
    image = torch.zeros(4, 4)
    common = {"spacing": (1, 1), "training_spacing": (2, 2)}
    assert predict_volume(Logits(), image, **common, threshold=0.4).all()
    assert not predict_volume(Logits(), image, **common, threshold=0.6).any()


@pytest.mark.parametrize(
    ("image", "spacing", "error", "message"),
    [
        (np.zeros((4, 4), np.int16), (1, 1), TypeError, "floating point"),
        (np.zeros((4, 4, 4, 4), np.float32), (1, 1), ValueError, "names 2 axes"),
        (np.zeros(4, np.float32), (1,), ValueError, "names 1 axes"),
        (np.zeros((4, 4), np.float32), (1, -1), ValueError, "must be positive"),
        (np.full((4, 4), np.nan, np.float32), (1, 1), ValueError, "16 NaN"),
    ],
)
def test_volumes_that_are_none(image, spacing, error, message):
    with pytest.raises(error, match=message):
        predict_volume(Logits(), image, spacing, training_spacing=(1,) * len(spacing))


def test_a_predictor_of_another_size_is_refused():
    with pytest.raises(ValueError, match="the predictor returned shape"):
        predict_volume(
            Logits(),
            torch.zeros(4, 4),
            (1, 1),
            training_spacing=(1, 1),
            predictor=lambda _, images: images[..., :2],
        )


@pytest.mark.parametrize("num_classes", [2, 5])
def test_label_map_takes_the_first_of_equal_classes(num_classes):
    images = torch.randint(0, 3, (2, num_classes, 9, 12, 7)).float()
    labels = sliding_window(nn.Identity(), images, patch_size=9, output="labels")
    assert torch.equal(labels.long(), images.argmax(dim=1))
