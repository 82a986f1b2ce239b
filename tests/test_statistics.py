import math

import numpy as np
import pytest

from medseg.statistics import Interval, bootstrap_interval


def covers(interval, truth=0.0):
    return interval.low <= truth <= interval.high


def test_interval_of_two_patients_runs_from_one_to_the_other():
    # Drawn are aa, ab, ba or bb, so a quarter of the means is each patient's own.
    interval = bootstrap_interval([0.1, 0.3, 0.8], groups=["a", "a", "b"])
    assert interval == Interval(
        pytest.approx(0.4), pytest.approx(0.2), 0.8, n=3, undefined=0
    )


def test_interval_of_the_mean_agrees_with_the_normal_formula():
    values = np.random.default_rng(3).normal(size=400)
    interval = bootstrap_interval(values, level=0.9)
    half = 1.645 * values.std() / 20
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.015)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.015)


def test_95_percent_interval_covers_the_truth_in_about_95_of_100_cases():
    rng = np.random.default_rng(1)
    hits = [
        covers(bootstrap_interval(rng.normal(size=40), resamples=200, seed=seed))
        for seed in range(300)
    ]
    assert 0.90 <= np.mean(hits) <= 0.98


def test_resampling_images_in_place_of_patients_claims_too_much():
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(40), 5)
    by_patient, by_image = [], []
    for seed in range(300):
        scores = rng.normal(size=40)[patients] + 0.3 * rng.normal(size=200)
        options = {"resamples": 200, "seed": seed}
        by_patient.append(covers(bootstrap_interval(scores, patients, **options)))
        by_image.append(covers(bootstrap_interval(scores, **options)))
    assert 0.90 <= np.mean(by_patient) <= 0.98
    assert np.mean(by_image) < 0.75


def test_mean_is_over_images_so_that_a_patient_with_more_weighs_more():
    interval = bootstrap_interval([0.0, 0.0, 0.0, 1.0], groups=[7, 7, 7, 9])
    assert interval.mean == 0.25


def test_same_seed_same_interval_and_another_seed_another():
    values = np.random.default_rng(0).random(30)
    assert bootstrap_interval(values, seed=5) == bootstrap_interval(values, seed=5)
    assert bootstrap_interval(values, seed=5) != bootstrap_interval(values, seed=6)


def test_higher_level_gives_a_wider_interval():
    values = np.random.default_rng(0).random(30)
    narrow, wide = (bootstrap_interval(values, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_undefined_values_are_counted_and_left_out():
    with_nan = bootstrap_interval([0.2, math.nan, 0.6, math.nan, 0.7])
    without = bootstrap_interval([0.2, 0.6, 0.7])
    assert with_nan[:3] == without[:3]
    assert (with_nan.n, with_nan.undefined) == (3, 2)


def test_patient_with_undefined_values_only_is_not_drawn():
    with_nan = bootstrap_interval([0.2, 0.6, math.nan], groups=["a", "b", "c"])
    assert with_nan[:3] == bootstrap_interval([0.2, 0.6], groups=["a", "b"])[:3]


def test_one_patient_has_a_mean_and_no_interval():
    interval = bootstrap_interval([0.2, 0.4, 0.6], groups=["a", "a", "a"])
    assert interval.mean == pytest.approx(0.4)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert str(interval) == "0.400 [no interval] (n = 3)"


def test_nothing_defined_gives_nan_and_says_how_many():
    interval = bootstrap_interval([math.nan, math.nan])
    assert math.isnan(interval.mean)
    assert (interval.n, interval.undefined) == (0, 2)


def test_text_shows_undefined_values():
    interval = Interval(0.87312, 0.861, 0.8844, n=108, undefined=3)
    assert str(interval) == "0.873 [0.861, 0.884] (n = 108, 3 undefined)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": []}, r"one score for each image, \(n,\), got shape \(0,\)"),
        ({"values": [[0.1], [0.2]]}, r"got shape \(2, 1\)"),
        ({"values": [0.1, math.inf]}, "1 infinite value.*finite worst value"),
        ({"values": [0.1, 0.2], "groups": ["a"]}, r"\(1,\), but there are 2 values"),
        ({"values": [0.1, 0.2], "level": 95}, "such as 0.95, got 95"),
        ({"values": [0.1, 0.2], "resamples": 0}, "at least 1, got 0"),
    ],
)
def test_bad_input_is_refused_with_advice(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(**arguments)


def test_text_is_refused_as_a_score():
    with pytest.raises(TypeError, match="values must be numbers"):
        bootstrap_interval(["0.1", "0.2"])
