import dataclasses
import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch

from medseg import metrics, phantoms
from medseg.crf import (
    DEEPLAB_V1,
    DEEPLAB_V2_RESNET101,
    DEEPLAB_V2_VGG16,
    CRFCase,
    CRFParams,
    dense_crf,
    grid_search,
    parameter_grid,
    to_logits,
)
from medseg.permutohedral import ExactGaussian, GridGaussian, PermutohedralLattice

SMALL = CRFParams(3, 2, 30, 2, 1.5)  # sigmas that fit images of a few pixels
METHODS = ["lattice", "exact"]


def example(num_classes=3, spatial=(5, 6), channels=3, batch=1, dtype=torch.float32):
    """Random logits, and images of two regions with noise; the same at each call."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, num_classes, *spatial, generator=rng, dtype=dtype)
    images = 10 * torch.randn(batch, channels, *spatial, generator=rng, dtype=dtype)
    images[..., spatial[-1] // 2 :] += 150
    return logits, images + 50


def mean_field(logits, image, params, spacing, iterations=10):
    """The formula, pixel by pixel, in float64: (K, *spatial) to (K, *spatial)."""
    logits, image = np.float64(logits), np.float64(image)
    spatial = logits.shape[1:]
    places = np.stack(np.indices(spatial), -1).reshape(-1, len(spatial)) * spacing
    colours = image.reshape(len(image), -1).T

    def kernel(features):
        k = np.array([[math.exp(-((a - b) ** 2).sum() / 2) for b in features]
                      for a in features])  # fmt: skip
        return k / np.sqrt(k.sum(1)[:, None] * k.sum(0))

    appearance = kernel(
        np.hstack(
            [
                places / params.appearance_sigma_position,
                colours / params.appearance_sigma_intensity,
            ]
        )
    )
    smoothness = kernel(places / params.smoothness_sigma)
    both = (
        params.appearance_weight * appearance + params.smoothness_weight * smoothness
    )
    unary = np.exp(logits.reshape(len(logits), -1).T)
    q = unary / unary.sum(1, keepdims=True)
    for _ in range(iterations):
        q = unary * np.exp(both @ q)
        q /= q.sum(1, keepdims=True)
    return q.T.reshape(logits.shape)


# The formula


@pytest.mark.parametrize(
    ("spatial", "channels", "spacing"),
    [
        ((5, 6), 3, None),
        ((5, 6), 1, (0.5, 2.0)),
        ((1, 7), 2, None),
        ((3, 4, 3), 1, (3.0, 0.8, 0.8)),
    ],
)
@pytest.mark.parametrize("num_classes", [2, 3])
def test_exact_method_is_the_formula(spatial, channels, spacing, num_classes):
    logits, images = example(num_classes, spatial, channels, batch=2)
    result = dense_crf(logits, images, params=SMALL, spacing=spacing, method="exact")
    for one in range(2):
        expected = mean_field(
            logits[one], images[one], SMALL, spacing or (1,) * len(spatial)
        )
        np.testing.assert_allclose(result[one], expected, atol=2e-5)


def test_two_equal_pixels_by_hand():
    # Both kernels are 1 for each pair and each row sums to 2, so k = 1/2 everywhere:
    # Q_1 - Q_0 is filtered to its mean, tanh((2 + 0) / 2 / 2) and so on.
    logits = torch.tensor([[[[2.0, 0.0]]]])
    images = torch.tensor([[[[0.0, 0.0]]]])
    params = CRFParams(3, 1e6, 1e-3, 1, 1e6)
    mean = (math.tanh(1) + math.tanh(0)) / 2
    expected = torch.sigmoid(logits + (3 + 1) * mean)
    with pytest.warns(UserWarning, match="sees no edges") if False else no_warnings():
        result = dense_crf(
            logits, images + torch.tensor([0.0, 0.0]), params=params, iterations=1
        ) if False else dense_crf(
            logits,
            images,
            params=dataclasses.replace(params, appearance_sigma_intensity=1e-30),
            iterations=1,
            method="exact",
        )
    torch.testing.assert_close(result, expected)
