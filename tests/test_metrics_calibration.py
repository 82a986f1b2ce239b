"""Calibration, against a loop over pixels."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from medseg.metrics import (
    brier_score,
    calibration_error,
    negative_log_likelihood,
    reliability_table,
)

SCORES = [calibration_error, brier_score, negative_log_likelihood]


def random_task(seed=0, num_classes=3):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn((2, num_classes, 5, 4), generator=generator)
    labels = torch.randint(0, num_classes, (2, 5, 4), generator=generator)
    return logits.double().softmax(dim=1), labels


@pytest.mark.parametrize("class_index", [None, 0, 2])
def test_table_is_a_loop_over_pixels(class_index):
    probabilities, labels = random_task()
    bins = 4
    table = reliability_table(probabilities, labels, bins=bins, class_index=class_index)
    inside = [[] for _ in range(bins)]
    for p, label in zip(
        probabilities.movedim(1, -1).reshape(-1, 3).numpy(),
        labels.flatten().tolist(),
        strict=True,
    ):
        k = p.argmax() if class_index is None else class_index
        place = max(math.ceil(p[k] * bins) - 1, 0)
        inside[place].append((p[k], label == k))
    assert table.counts.tolist() == [len(pixels) for pixels in inside]
    error = 0
    for place, pixels in enumerate(inside):
        if not pixels:
            assert math.isnan(table.confidence[place])
            assert math.isnan(table.frequency[place])
            continue
        confidence, frequency = np.mean(pixels, axis=0)
        assert table.confidence[place] == pytest.approx(confidence)
        assert table.frequency[place] == pytest.approx(frequency)
        error += len(pixels) / 40 * abs(confidence - frequency)
    ece = calibration_error(probabilities, labels, bins=bins, class_index=class_index)
    assert ece == pytest.approx(error)


def test_bins_hold_their_right_edge():
    probabilities = [[[0.0, 0.5, 0.5000001, 1.0]]]
    table = reliability_table(probabilities, [[0, 0, 1, 1]], bins=2, class_index=1)
    assert table.counts.tolist() == [2, 2]
    assert table.edges.tolist() == [0, 0.5, 1]


def test_overconfidence_costs_what_it_is():
    probabilities = np.full((1, 1, 10), 0.9)
    for right in (9, 5):
        labels = np.arange(10)[None] < right
        ece = calibration_error(probabilities, labels)
        assert ece == pytest.approx(abs(0.9 - right / 10))


def test_one_channel_is_two_classes():
    probabilities, labels = random_task(num_classes=2)
    for score in (calibration_error, negative_log_likelihood):
        one = score(probabilities[:, 1:], labels)
        assert one == pytest.approx(score(probabilities, labels))
    half = brier_score(probabilities, labels) / 2
    assert brier_score(probabilities[:, 1:], labels) == pytest.approx(half)
    sure = calibration_error(probabilities[:, 1:], labels, class_index=1)
    assert sure == pytest.approx(
        calibration_error(probabilities, labels, class_index=1)
    )


def test_brier_and_likelihood_agree_with_torch():
    probabilities, labels = random_task()
    one_hot = F.one_hot(labels, 3).movedim(-1, 1)
    expected = ((probabilities - one_hot) ** 2).sum(dim=1).mean().item()
    assert brier_score(probabilities, labels) == pytest.approx(expected)
    expected = F.nll_loss(probabilities.log(), labels).item()
    assert negative_log_likelihood(probabilities, labels) == pytest.approx(expected)


@pytest.mark.parametrize("score", SCORES)
def test_ignored_pixels_do_not_count(score):
    probabilities, labels = random_task()
    some = labels.clone()
    some[0] = 255
    kept = score(probabilities[1:], labels[1:])
    assert score(probabilities, some, ignore_index=255) == pytest.approx(kept)
    nothing = torch.full_like(labels, 255)
    assert math.isnan(score(probabilities, nothing, ignore_index=255))


def test_true_class_that_was_ruled_out_costs_infinitely_much():
    assert negative_log_likelihood([[[1.0, 1.0]]], [[1, 0]]) == math.inf


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        ([[[1.2]]], [[1]], "values from 1.2 to 1.2. Put logits through softmax"),
        ([[[math.nan]]], [[1]], "values from nan"),
        ([[[0.5], [0.7]]], [[1]], "must sum to 1 over the K classes"),
        ([[[0.5]]], [[2]], r"0\.\.1 for probabilities with K = 1, got 2"),
        ([[[0.5], [0.5]]], [[-1]], "must not be negative"),
        ([[[0.5]]], [[[1]]], r"need labels of shape \(1, 1\)"),
        ([0.5], [1], r"shape \(B, K, \*spatial\), got \(1,\)"),
    ],
)
def test_bad_input_is_refused_with_advice(score, probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        score(probabilities, labels)


def test_bad_types_and_options_are_refused():
    with pytest.raises(TypeError, match="probabilities must hold numbers"):
        brier_score([[["0.5"]]], [[1]])
    with pytest.raises(TypeError, match="labels must be class indices"):
        brier_score([[[0.5]]], [[1.0]])
    with pytest.raises(ValueError, match=r"class_index must lie in 0\.\.1, got 2"):
        reliability_table([[[0.5]]], [[1]], class_index=2)
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        reliability_table([[[0.5]]], [[1]], bins=0)
