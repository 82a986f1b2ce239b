import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from medseg.statistics import (
    Interval,
    adjust_p_values,
    bootstrap_interval,
    difference_interval,
    limits_of_agreement,
    permutation_test,
    rank_models,
    wilcoxon_test,
)


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
        ({"values": [0.1, 0.2], "method": "t"}, "one of 'percentile', 'bca', got 't'"),
    ],
)
def test_bad_input_is_refused_with_advice(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(**arguments)


def test_text_is_refused_as_a_score():
    with pytest.raises(TypeError, match="values must be numbers"):
        bootstrap_interval(["0.1", "0.2"])


# Bias-corrected and accelerated intervals.


def test_bca_agrees_with_scipy_on_skewed_scores():
    values = 1 - np.random.default_rng(0).exponential(0.1, size=25)
    ours = bootstrap_interval(values, resamples=50_000, method="bca")
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=50_000, method="BCa", rng=1
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.002)
    assert ours.high == pytest.approx(theirs.high, abs=0.002)
    plain = bootstrap_interval(values, resamples=50_000)
    assert ours.low < plain.low - 0.004  # it reaches further down, as the text says
    assert ours.mean == plain.mean


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_patients_of_equally_many_images_count_as_their_means(method):
    scores = np.random.default_rng(0).exponential(size=(12, 3))
    patients = np.repeat(np.arange(12), 3)
    of_images = bootstrap_interval(scores.ravel(), patients, method=method)
    of_means = bootstrap_interval(scores.mean(axis=1), method=method)
    assert of_images[:3] == pytest.approx(of_means[:3])


def test_bca_of_equal_scores_is_that_score():
    for values in ([0.7] * 4, [0.1 + 0.2, 0.3, 0.3]):  # the second but for rounding
        interval = bootstrap_interval(values, method="bca")
        assert interval[:3] == pytest.approx((values[0],) * 3)


def test_bca_covers_a_skewed_truth_more_often():
    rng = np.random.default_rng(1)
    hits = {"percentile": 0, "bca": 0}
    for seed in range(300):
        scores = -rng.lognormal(size=30)
        for method in hits:
            interval = bootstrap_interval(
                scores, resamples=300, seed=seed, method=method
            )
            hits[method] += covers(interval, -math.exp(0.5))
    assert hits["bca"] > hits["percentile"]


# Differences and agreement.


def test_interval_of_a_difference_is_over_pairs():
    rng = np.random.default_rng(0)
    hard = rng.normal(size=50)  # the patients differ far more than the models
    a, b = hard + 0.1 + 0.01 * rng.normal(size=50), hard
    interval = difference_interval(a, b)
    assert 0.09 < interval.low < interval.mean < interval.high < 0.11
    assert interval == bootstrap_interval(a - b)
    assert bootstrap_interval(a).low < bootstrap_interval(b).high  # these overlap


def test_a_pair_with_one_undefined_score_is_undefined():
    interval = difference_interval([0.5, math.nan, 0.7], [0.4, 0.0, math.nan])
    assert (interval.n, interval.undefined) == (1, 2)
    assert interval.mean == pytest.approx(0.1)


def test_difference_keeps_patients_together():
    a, b = [0.2, 0.4, 0.9], [0.1, 0.1, 0.1]
    interval = difference_interval(a, b, groups=["x", "x", "y"])
    assert interval[:3] == pytest.approx((0.4, 0.2, 0.8))


def test_limits_of_agreement_by_hand():
    # Differences 1, 2, 3: bias 2, s = 1; t(2 degrees, 0.975) = 4.3027.
    agreement = limits_of_agreement([11, 12, 13, math.nan], [10, 10, 10, 10])
    assert agreement.deviation == 1
    assert (agreement.bias.n, agreement.bias.undefined) == (3, 1)
    assert agreement.bias[:3] == pytest.approx(
        (2, 2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-4
    )
    assert agreement.lower.mean == pytest.approx(2 - 1.959964, abs=1e-5)
    assert agreement.upper.mean == pytest.approx(2 + 1.959964, abs=1e-5)
    half = 4.30265 * (1 / 3 + 1.959964**2 / 4) ** 0.5
    assert agreement.upper.high - agreement.upper.mean == pytest.approx(half, abs=1e-4)
    assert agreement.lower.mean - agreement.lower.low == pytest.approx(half, abs=1e-4)


def test_limits_hold_the_share_they_claim_and_their_intervals_the_limits():
    rng = np.random.default_rng(0)
    many = rng.normal(size=20_000)
    low, high = (
        getattr(limits_of_agreement(many, 0 * many, level=0.9), side).mean
        for side in ("lower", "upper")
    )
    assert ((many > low) & (many < high)).mean() == pytest.approx(0.9, abs=0.005)
    hits = 0
    for _ in range(500):
        few = rng.normal(size=30)
        hits += covers(limits_of_agreement(few, 0 * few).upper, 1.959964)
    assert hits / 500 == pytest.approx(0.95, abs=0.025)


def test_agreement_of_one_pair_has_a_bias_and_no_limits():
    agreement = limits_of_agreement([3.0], [2.0])
    assert agreement.bias.mean == 1
    assert math.isnan(agreement.bias.low)
    assert math.isnan(agreement.lower.mean)
    assert math.isnan(limits_of_agreement([math.nan], [2.0]).bias.mean)


# Tests of two models.


def flips_by_hand(sums, alternative):
    """Every outcome of the signs, one by one."""
    totals = [np.dot(signs, sums) for signs in product((1, -1), repeat=len(sums))]
    seen = sum(sums)
    extreme = {
        "two-sided": [abs(total) >= abs(seen) - 1e-9 for total in totals],
        "greater": [total >= seen - 1e-9 for total in totals],
        "less": [total <= seen + 1e-9 for total in totals],
    }
    return np.mean(extreme[alternative])


ALTERNATIVES = ["two-sided", "greater", "less"]


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_permutation_test_counts_every_outcome(alternative):
    a = np.random.default_rng(2).random(9)
    b = a - [0.1, 0.2, -0.1, 0.3, 0, 0, 0.2, -0.3, 0.1]
    patients = list("uuvwxyyyz")
    sums = [0.3, -0.1, 0.3, 0, -0.1, 0.1]
    result = permutation_test(a, b, patients, alternative=alternative)
    assert result.p_value == pytest.approx(flips_by_hand(sums, alternative))
    assert result.statistic == pytest.approx(0.5 / 9)
    assert result[2:] == (6, 0, "exact")


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_random_flips_come_near_scipys(alternative):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.2, 1, size=(2, 40)) - [[0], [0.25]]
    ours = permutation_test(a, b, alternative=alternative)
    theirs = stats.permutation_test(
        (a - b,),
        np.mean,
        permutation_type="samples",
        n_resamples=20_000,
        alternative=alternative,
        rng=0,
        vectorized=True,
    )
    assert ours.p_value == pytest.approx(theirs.pvalue, abs=0.015)
    assert ours.method == "20000 random flips"


def test_outcomes_that_are_equal_but_for_rounding_count():
    # 0.1 + 0.2 - 0.3 + 0.4 and its like: of the 8 sums with + 0.4, five are 0.4 or
    # more, and as many of the others -0.4 or less.
    result = permutation_test([0.1, 0.2, -0.3, 0.4], [0.0] * 4)
    assert result.p_value == 10 / 16


def test_random_flips_never_give_zero():
    a = np.arange(1.0, 41)
    assert permutation_test(a, -a, resamples=99).p_value == 0.01


def test_flipping_images_in_place_of_patients_claims_too_much():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(10), 5)
    found = {"patients": 0, "images": 0}
    for _ in range(200):
        a = rng.normal(size=10)[patients] + 0.1 * rng.normal(size=50)
        found["patients"] += permutation_test(a, 0 * a, patients).p_value <= 0.05
        found["images"] += permutation_test(a, 0 * a, resamples=200).p_value <= 0.05
    assert found["patients"] / 200 < 0.1  # 0.05 but for chance
    assert found["images"] / 200 > 0.25


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("n", [1, 4, 23, 60])
def test_wilcoxon_agrees_with_scipy_where_that_is_exact(n, alternative):
    a, b = np.random.default_rng(n).random((2, n))
    ours = wilcoxon_test(a, b, alternative=alternative)
    theirs = stats.wilcoxon(a, b, alternative=alternative, method="exact")
    assert ours.p_value == pytest.approx(theirs.pvalue)
    assert ours.method == "exact"
    positive = stats.wilcoxon(a, b, alternative="greater", method="exact").statistic
    assert ours.statistic == positive


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_wilcoxon_is_exact_with_ties_and_drops_zeros(alternative):
    a = np.array([0.9, 0.8, 0.3, 0.6, 0.5, 0.7, 0.2])
    b = np.array([0.8, 0.7, 0.5, 0.6, 0.2, 0.5, 0.3])
    # Sizes 0.1, 0.1, 0.2, 0.3, 0.2 and 0.1 again: mean ranks, with their signs.
    signed = [2, 2, -4.5, 6, 4.5, -2]
    ranks = np.abs(signed)
    sums = [np.dot(signs, ranks) for signs in product((1, 0), repeat=6)]
    seen, middle = 2 + 2 + 6 + 4.5, 21 / 2
    extreme = {
        "two-sided": np.abs(np.subtract(sums, middle)) >= abs(seen - middle),
        "greater": np.array(sums) >= seen,
        "less": np.array(sums) <= seen,
    }
    result = wilcoxon_test(a, b, alternative=alternative)
    assert result.statistic == seen
    assert result.p_value == pytest.approx(extreme[alternative].mean())
    assert result[2:] == (7, 0, "exact")


def test_wilcoxon_of_many_patients_goes_over_to_the_normal_curve():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, size=(2, 201))
    b[:200] -= 0.05
    exact, approximate = wilcoxon_test(a[:200], b[:200]), wilcoxon_test(a, b)
    assert (exact.method, approximate.method) == ("exact", "normal approximation")
    assert 0.01 < exact.p_value < 0.9
    assert exact.p_value == pytest.approx(
        stats.wilcoxon(a[:200], b[:200], method="asymptotic").pvalue, abs=0.002
    )
    tied = rng.integers(-3, 5, 400) / 10  # and some are 0
    for difference in (a - b, tied):
        for side in ALTERNATIVES:
            ours = wilcoxon_test(difference, 0 * difference, alternative=side)
            theirs = stats.wilcoxon(difference, method="asymptotic", alternative=side)
            assert ours.p_value == pytest.approx(theirs.pvalue)
            assert ours.method == "normal approximation"


def test_wilcoxon_ranks_the_means_of_patients():
    a, b = [3.0, 1.0, -3.0, 5.0], [0.0] * 4
    result = wilcoxon_test(a, b, groups=["x", "x", "y", "z"])  # means 2, -3, 5
    assert result == wilcoxon_test([2.0, -3.0, 5.0], b[:3])


@pytest.mark.parametrize("test", [permutation_test, wilcoxon_test])
def test_equal_models_have_p_of_1_and_undefined_ones_nan(test):
    assert test([0.5, 0.7], [0.5, 0.7]).p_value == 1
    result = test([0.5, math.nan], [math.nan, 0.7])
    assert math.isnan(result.p_value)
    assert result[2:4] == (0, 2)
    result = test([0.5, math.nan, 0.6], [0.1, 0.7, 0.3])
    assert (result.p_value, result.patients, result.undefined) == (0.5, 2, 1)


@given(
    st.lists(
        st.tuples(*[st.integers(0, 4) | st.just(math.nan)] * 2, st.integers(0, 3)),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=60, deadline=None)
def test_paired_statistics_of_any_scores(rows):
    a, b, groups = (list(column) for column in zip(*rows, strict=True))
    interval = difference_interval(a, b, groups, resamples=50, method="bca")
    assert interval.n + interval.undefined == len(rows)
    if not math.isnan(interval.low):
        assert interval.low <= interval.high
    for test in (permutation_test, wilcoxon_test):
        result, mirrored = test(a, b, groups), test(b, a, groups)
        assert result.undefined == interval.undefined
        if interval.n:
            assert 0 < result.p_value <= 1
            assert result.p_value == pytest.approx(mirrored.p_value)
            sides = [
                test(a, b, groups, alternative=side).p_value
                for side in ("greater", "less")
            ]
            assert sum(sides) >= 1 - 1e-9  # both hold what was seen
            assert result.p_value >= min(sides) - 1e-9
        else:
            assert math.isnan(result.p_value)


# Many tests at once.


def test_holm_and_benjamini_hochberg_by_hand():
    p = [0.02, 0.005, 0.3, 0.01, math.nan]
    # In order 0.005 x 4, 0.01 x 3, 0.02 x 2, 0.3 x 1, never falling.
    assert adjust_p_values(p)[:4] == pytest.approx([0.04, 0.02, 0.3, 0.03])
    # In order 0.005 x 4 / 1, 0.01 x 4 / 2, 0.02 x 4 / 3, 0.3.
    controlled = adjust_p_values(p, method="benjamini-hochberg")
    assert controlled[:4] == pytest.approx([0.08 / 3, 0.02, 0.3, 0.02])
    assert np.isnan(adjust_p_values(p)[4])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(deadline=None)
def test_corrections_agree_with_definition_and_scipy(p):
    m, order = len(p), sorted(p)
    holm = adjust_p_values(p)
    for value, adjusted in zip(p, holm, strict=True):
        last = m - order[::-1].index(value)  # 1-based rank, the last of equals
        expected = max((m - j) * order[j] for j in range(last))
        assert adjusted == pytest.approx(min(expected, 1))
    theirs = stats.false_discovery_control(p)
    ours = adjust_p_values(p, method="benjamini-hochberg")
    assert ours == pytest.approx(theirs)
    assert (ours <= holm + 1e-12).all()


def test_corrections_keep_the_shape_and_the_input():
    p = np.array([[0.01, 0.2], [0.03, np.nan]])
    assert adjust_p_values(p).shape == (2, 2)
    assert p[0, 0] == 0.01
    assert adjust_p_values([]).shape == (0,)


# Ranks.


def test_ranks_by_hand():
    scores = {"C": [0.5, 0.5], "A": [0.9, 0.8], "B": [0.4, 0.6]}
    first, second, third = rank_models(scores)
    assert (first.name, first.mean, first.rank) == ("A", pytest.approx(0.85), 1)
    assert {second.name, third.name} == {"B", "C"}
    assert second.rank == third.rank == 2.5  # the same mean, so they share
    assert first[3:] == (1, 1, 1)
    assert second.first == third.first == 0
    assert (third.low, third.high) == (2, 3)


def test_a_narrow_winner_is_seen_to_be_narrow():
    rng = np.random.default_rng(0)
    a = rng.normal(size=50)
    lines = rank_models({"a": a, "b": a + 0.02 + 0.2 * rng.normal(size=50)})
    assert 0.5 < lines[0].first < 0.99
    assert lines[0].high == lines[1].high == 2
    assert lines[0].first + lines[1].first == pytest.approx(1, abs=0.01)


def test_errors_rank_the_other_way_and_one_patient_gives_no_interval():
    scores = {"a": [1.0, 2.0], "b": [2.0, 4.0]}
    assert [line.name for line in rank_models(scores)] == ["b", "a"]
    lines = rank_models(scores, groups=["p", "p"], higher_is_better=False)
    assert [line.name for line in lines] == ["a", "b"]
    assert all(math.isnan(line.low) and math.isnan(line.first) for line in lines)


def test_an_image_that_one_model_has_no_score_for_is_left_out_for_all():
    lines = rank_models({"a": [0.5, math.nan, 0.7], "b": [0.4, 1.0, 0.4]})
    assert [line.mean for line in lines] == pytest.approx([0.6, 0.4])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: difference_interval([1], [1, 2]), ValueError, "a has 1 .* b has 2"),
        (lambda: permutation_test([1], []), ValueError, r"b must be one score"),
        (lambda: permutation_test([1], [1], resamples=0), ValueError, "at least 1"),
        (lambda: wilcoxon_test([1], ["1"]), TypeError, "b must be numbers"),
        (lambda: wilcoxon_test([1], [math.inf]), ValueError, "b hold 1 infinite"),
        (lambda: wilcoxon_test([1], [1], ["x", "y"]), ValueError, "there are 1 values"),
        (
            lambda: wilcoxon_test([1], [1], alternative="both"),
            ValueError,
            "alternative must be one of 'two-sided'",
        ),
        (lambda: limits_of_agreement([1], [1], level=2), ValueError, "such as 0.95"),
        (lambda: adjust_p_values([0.1, 1.2]), ValueError, r"in \[0, 1\].*to 1.2"),
        (lambda: adjust_p_values(["0.1"]), TypeError, "p_values must be numbers"),
        (lambda: adjust_p_values([0.1], method="fdr"), ValueError, "'holm'"),
        (lambda: rank_models({}), ValueError, "at least one model"),
        (lambda: rank_models({"a": [1], "b": [1, 2]}), ValueError, "'a': 1, 'b': 2"),
        (lambda: rank_models({"a": [math.nan]}), ValueError, "nothing to rank"),
        (lambda: rank_models({"a": [1]}, resamples=0), ValueError, "at least 1"),
    ],
)
def test_bad_pairs_are_refused_with_advice(call, error, message):
    with pytest.raises(error, match=message):
        call()
