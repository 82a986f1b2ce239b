"""Artefacts: the statistics and formulas that they promise."""

import numpy as np
import pytest

from medseg import artefacts


def rng(seed=0):
    return np.random.default_rng(seed)


def test_rician_noise_of_air_has_the_mean_and_sd_of_rayleigh():
    air = artefacts.rician_noise(np.zeros((200, 200)), 3, rng())
    assert air.mean() == pytest.approx(3 * np.sqrt(np.pi / 2), rel=0.01)
    assert air.std() == pytest.approx(3 * np.sqrt(2 - np.pi / 2), rel=0.02)


def test_rician_noise_of_a_strong_signal_is_nearly_gaussian():
    image = artefacts.rician_noise(np.full((200, 200), 60.0), 3, rng())
    assert image.std() == pytest.approx(3, rel=0.02)
    # The second moment is exact: S^2 + 2 sd^2.
    assert (image**2).mean() == pytest.approx(60**2 + 2 * 9, rel=0.002)


def test_rician_noise_of_normalised_images_is_refused_with_advice():
    with pytest.raises(
        ValueError, match=r"down to -1.* before the image is normalised"
    ):
        artefacts.rician_noise(np.array([-1.0, 1.0]), 0.1, rng())
    with pytest.raises(ValueError, match="sd must be 0 or more, got -1"):
        artefacts.rician_noise(np.ones(3), -1, rng())


@pytest.mark.parametrize("shape", [(40, 30), (12, 16, 20)])
@pytest.mark.parametrize("strength", [0, 0.3, 1])
def test_bias_field_runs_from_one_minus_strength_to_one_and_is_smooth(shape, strength):
    field = artefacts.bias_field(shape, strength, rng())
    assert field.shape == shape
    assert field.dtype == np.float32
    assert field.max() == pytest.approx(1)
    assert field.min() == pytest.approx(1 - strength, abs=1e-6)
    for axis in range(len(shape)):  # quadratic: third differences vanish
        assert np.abs(np.diff(field, 3, axis=axis)).max() < 1e-5


def test_bias_field_does_not_depend_on_the_resolution():
    coarse = artefacts.bias_field((21, 31), 0.5, rng(3))
    fine = artefacts.bias_field((41, 61), 0.5, rng(3))
    assert fine[::2, ::2] == pytest.approx(coarse, abs=1e-3)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("num_ghosts", [2, 4, 5])
def test_ghosting_multiplies_the_lines_of_the_fourier_transform(axis, num_ghosts):
    image = rng().random((20, 24), dtype=np.float32) + 1
    ghosts = artefacts.ghosting(image, 0.3, num_ghosts=num_ghosts, axis=axis)
    n = image.shape[axis]
    k = np.fft.fftfreq(n) * n
    lines = 1 + 0.3 * np.cos(2 * np.pi * k / num_ghosts)
    lines = lines[:, None] if axis == 0 else lines
    expected = np.fft.ifft(np.fft.fft(image, axis=axis) * lines, axis=axis).real
    assert ghosts == pytest.approx(expected, abs=1e-4)


def test_ghosting_keeps_the_mean_of_a_flat_image_in_proportion():
    flat = np.full((16, 16), 2.0, np.float32)
    assert artefacts.ghosting(flat, 0.5) == pytest.approx(3.0)  # 1 + s, at k = 0
    assert artefacts.ghosting(flat, 0) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="num_ghosts must be 2 or more, got 1"):
        artefacts.ghosting(flat, 0.5, num_ghosts=1)
    with pytest.raises(ValueError, match="strength must be 0 or more"):
        artefacts.ghosting(flat, -0.5)


def test_gamma_keeps_the_ends_and_its_inverse_undoes_it():
    image = rng().normal(-500, 300, (20, 20)).astype(np.float32)
    bent = artefacts.gamma(image, 2)
    assert (bent.min(), bent.max()) == (image.min(), image.max())
    assert bent.mean() < image.mean()
    assert artefacts.gamma(bent, 0.5) == pytest.approx(image, abs=0.5)
    flat = np.full((3, 3), 7.0)
    assert np.array_equal(artefacts.gamma(flat, 2), flat)
    with pytest.raises(ValueError, match="exponent must be above 0, got 0"):
        artefacts.gamma(image, 0)


def test_bias_field_refuses_a_strength_out_of_range():
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        artefacts.bias_field((4, 4), 1.5, rng())


def test_the_same_generator_gives_the_same_result_and_inputs_stay():
    image = rng().random((9, 9), dtype=np.float32)
    before = image.copy()
    for change in (
        lambda seed: artefacts.rician_noise(image, 0.2, rng(seed)),
        lambda seed: artefacts.bias_field((9, 9), 0.5, rng(seed)),
    ):
        assert np.array_equal(change(1), change(1))
        assert not np.array_equal(change(1), change(2))
    artefacts.ghosting(image, 0.5)
    artefacts.gamma(image, 2)
    assert np.array_equal(image, before)
