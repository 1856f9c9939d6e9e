"""Intervals must hold the truth as often as they promise, and paired ones must profit from pairing."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_utils import statistics as s


def coverage(sample, truth, units, runs=1200, interval=s.bootstrap_mean):
    generator = np.random.default_rng(0)
    found = [interval(sample(generator, units), seed=run, n=500) for run in range(runs)]
    return sum(i.low <= truth <= i.high for i in found) / runs


@pytest.mark.parametrize("units", [16, 24, 60])
def test_intervals_of_means_cover_what_they_promise(units):
    covered = coverage(lambda g, n: g.normal(3, 2, n), 3, units)
    assert 0.93 <= covered <= 0.97


def test_intervals_of_shares_cover():
    covered = coverage(lambda g, n: (g.random(n) < 0.95).astype(float), 0.95, 24, interval=s.bootstrap_share)
    assert covered >= 0.94


def test_shares_without_an_exception_claim_no_certainty():
    all_right = s.bootstrap_share([1] * 40)
    assert (all_right.value, all_right.high) == (1, 1)
    assert all_right.low == pytest.approx(0.05 ** (1 / 40))
    none_right = s.bootstrap_share([0] * 40)
    assert (none_right.value, none_right.low) == (0, 0)
    assert none_right.high == pytest.approx(1 - all_right.low)


def test_a_difference_of_shares_without_any_spread_is_widened_on_both_sides():
    same = s.bound_share(s.Interval(0.0, 0.0, 0.0, 24), least=-1)
    assert same.low == -same.high and 0.1 < same.high < 0.13
    assert not same.excludes_zero


def test_pairing_removes_what_the_units_share():
    generator = np.random.default_rng(1)
    hard = generator.normal(0, 10, 40)
    a, b = hard + generator.normal(0, 0.1, 40), hard + 0.5 + generator.normal(0, 0.1, 40)
    difference = s.paired_difference(a, b)
    assert difference.excludes_zero and difference.value == pytest.approx(0.5, abs=0.1)
    assert s.bootstrap_mean(a).low < s.bootstrap_mean(b).value < s.bootstrap_mean(a).high
    with pytest.raises(ValueError, match="40 and 39"):
        s.paired_difference(a, b[:-1])


def test_difference_of_statistics_uses_the_same_draws():
    values, units = [1.0, 5.0, 2.0, 8.0], [0, 1, 2, 3]
    middle = s.median(values, units)
    same = s.bootstrap(s.difference(middle, middle), 4)
    assert (same.value, same.low, same.high) == (0, 0, 0)


@given(
    rows=st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(0, 4)), min_size=1, max_size=30),
    weights=st.lists(st.integers(0, 5), min_size=5, max_size=5),
)
def test_median_equals_numpy_on_the_rows_a_draw_repeats(rows, weights):
    drawn = [value for value, unit in rows for _ in range(weights[unit])]
    if not drawn:
        return
    found = s.median(*zip(*rows, strict=True))(np.array([weights], float))[0]
    assert found == pytest.approx(float(np.median(drawn)))


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=6), min_size=2, max_size=6), st.data())
def test_distinct_share_equals_counting(items, data):
    weights = data.draw(st.lists(st.integers(0, 3), min_size=len(items), max_size=len(items)))
    drawn = [item for unit, times in zip(items, weights, strict=True) for item in unit * times]
    with np.errstate(all="raise"):
        found = s.distinct_share(items)(np.array([weights], float))[0]
    if drawn:
        assert found == pytest.approx(len(set(drawn)) / len(drawn))
    else:
        assert math.isnan(found)


def test_one_item_is_distinct():
    assert s.distinct_share([["a"], []])(np.ones((1, 2))) == [1]


def test_distinct_share_is_centred_on_its_value():
    generator = np.random.default_rng(2)
    items = [[tuple(pair) for pair in generator.integers(0, 40, (60, 2))] for _ in range(20)]
    statistic = s.distinct_share(items)
    plain, centred = s.bootstrap(statistic, 20), s.bootstrap(statistic, 20, centred=True)
    assert plain.high < plain.value  # drawing again loses different pairs: the plain interval misses its own value
    assert centred.low < centred.value < centred.high


def test_same_seed_same_interval_and_other_level_other_width():
    values = np.random.default_rng(3).normal(size=30)
    assert s.bootstrap_mean(values, seed=5) == s.bootstrap_mean(values, seed=5)
    wide, narrow = s.bootstrap_mean(values, level=0.99), s.bootstrap_mean(values, level=0.8)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_too_few_units_give_no_interval_and_survive_json():
    for values, count in (([], 0), ([2.0], 1)):
        found = s.bootstrap_mean(values)
        assert found.n == count and math.isnan(found.low)
        stored = found.as_dict()
        assert stored["low"] is None
        assert s.Interval.from_dict(stored).as_dict() == stored
    assert not s.bootstrap_mean([2.0]).excludes_zero


@pytest.mark.parametrize("freedom, wanted", [(9, 2.2622), (23, 2.0687), (47, 2.0117)])
def test_t_quantile_equals_the_printed_tables(freedom, wanted):
    assert s._t_quantile(0.975, freedom) == pytest.approx(wanted, abs=2e-3)


# --- tests, agreement, power ---


@pytest.mark.parametrize("units", [5, 10, 24])
def test_t_intervals_of_whole_number_scores_cover(units):
    def sample(g, n):
        return np.clip(np.rint(g.normal(6, 2, n)), 1, 10)

    truth = sample(np.random.default_rng(9), 400_000).mean()
    assert 0.93 <= coverage(sample, truth, units, runs=2000, interval=lambda x, seed, n: s.t_mean(x)) <= 0.97


def test_equal_values_do_not_claim_certainty():
    found = s.t_mean([4.0, 4.0])
    assert found.value == 4 and math.isnan(found.low) and math.isnan(found.high) and found.n == 2


def test_sign_flips_are_counted_exactly_when_they_are_few():
    # Of 32 patterns of signs, only the two extreme ones reach the sum of five ones.
    assert s.paired_test([0] * 5, [1] * 5) == pytest.approx(2 / 32)
    assert s.paired_test([1, 2, 3], [1, 2, 3]) == 1.0
    assert s.paired_test([0, 0, 1], [1, 0, 0]) == 1.0
    many = s.paired_test(np.zeros(40), np.full(40, 0.5))
    assert many == pytest.approx(1e-4)
    with pytest.raises(ValueError, match="3 and 2"):
        s.paired_test([1, 2, 3], [1, 2])


def test_paired_test_is_wrong_as_often_as_it_says():
    generator = np.random.default_rng(4)
    found = [s.paired_test(generator.normal(0, 1, 12), generator.normal(0, 1, 12), n=1000) for _ in range(600)]
    assert 0.03 <= np.mean(np.array(found) < 0.05) <= 0.075


def test_units_to_settle_settle():
    generator = np.random.default_rng(5)
    needed = s.units_to_settle(generator.normal(0.5, 1, 4000))
    assert needed == pytest.approx(31.4, abs=5)
    shown = [s.t_mean(generator.normal(0.5, 1, int(needed))).excludes_zero for _ in range(800)]
    assert 0.72 <= np.mean(shown) <= 0.86
    assert s.units_to_settle([0, 0]) == math.inf and s.units_to_settle([]) == math.inf


def test_agreement_equals_the_libraries():
    from scipy.stats import spearmanr
    from sklearn.metrics import cohen_kappa_score

    generator = np.random.default_rng(6)
    a = generator.integers(1, 11, 60)
    b = np.clip(a + generator.integers(-2, 3, 60), 1, 10)
    assert s.kappa(a, b) == pytest.approx(cohen_kappa_score(a, b, weights="quadratic", labels=range(1, 11)))
    assert s.correlation(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert s.correlation(a, b, by_rank=True) == pytest.approx(spearmanr(a, b).statistic)
    found = s.agreement(a, b)
    assert all(found[name].low < found[name].value < found[name].high for name in ("kappa", "pearson", "spearman"))
    assert math.isnan(s.kappa([5, 5], [5, 5])) and math.isnan(s.correlation([1, 1], [2, 3]))
    assert s.kappa([1, 10], [10, 1]) == pytest.approx(-1)


def test_slope_equals_least_squares_and_holds_the_truth():
    generator = np.random.default_rng(7)
    x = generator.normal(0, 1, 80)
    y = 0.4 * x + generator.normal(0, 1, 80)
    found = s.slope(x, y)
    assert found.value == pytest.approx(np.polyfit(x, y, 1)[0]) and found.low < 0.4 < found.high


# --- exact values ---


def test_t_quantiles_are_exact_for_one_and_two_and_to_the_fourth_order_above():
    from scipy.stats import t

    for probability in (0.6, 0.975):
        for freedom in (1, 2):
            assert s._t_quantile(probability, freedom) == pytest.approx(t.ppf(probability, freedom), rel=1e-9)
        for freedom in (3, 30, 1000):
            wanted = t.ppf(probability, freedom)
            assert s._t_quantile(probability, freedom) == pytest.approx(wanted, abs=3 / freedom**4, rel=0)
    assert s._tail(24, 0.95) == pytest.approx(s.NormalDist().cdf(-math.sqrt(24 / 23) * t.ppf(0.975, 23)), rel=1e-4)


def test_what_is_not_given_is_what_the_signature_says():
    a, b = np.random.default_rng(8).normal(size=(2, 15))
    usual = {"seed": 0, "n": 2000, "level": 0.95}
    assert s.bootstrap_mean(a) == s.bootstrap_mean(a, **usual) == s.bootstrap(s.ratio(a, np.ones(15)), 15)
    assert s.bootstrap_share(a > 0) == s.bootstrap_share(a > 0, **usual) == s.bootstrap_share(a > 0, np.ones(15))
    assert s.bootstrap_share(a**2, b**2) == s.bootstrap_share(a**2, b**2, **usual)
    assert s.bootstrap(s.ratio(a, b**2), 15) == s.bootstrap(s.ratio(a, b**2), 15, **usual, centred=False)
    assert s.paired_difference(a, b) == s.paired_difference(a, b, **usual) == s.bootstrap_mean(b - a)
    assert s.slope(a, b) == s.slope(a, b, np.arange(15), seed=0, n=2000)
    assert s.t_mean(a) == s.t_mean(a, level=0.95)
    assert s.paired_test(a, b) == s.paired_test(a, b, seed=0, n=10_000)
    found = s.agreement(a, b)
    assert found == s.agreement(a, b, seed=0, n=1000) and found["pearson"] != found["spearman"]
    assert found["spearman"].value == s.correlation(a, b, by_rank=True)


def test_limits_are_the_quantiles_of_the_draws():
    values = np.array([1.0, 4.0, 2.0, 8.0, 5.0])
    draws = s._weights(5, 500, seed=3)
    assert (draws.sum(axis=1) == 5).all() and draws.std() > 0.7
    found = s.bootstrap_mean(values, seed=3, n=500)
    tail = s._tail(5, 0.95)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws @ values / 5, [tail, 1 - tail])))
    moved = s.bootstrap(lambda weights: weights.max(axis=1), 5, seed=3, n=500, centred=True)
    limits = np.quantile(draws.max(axis=1) + 1 - draws.max(axis=1).mean(), [tail, 1 - tail])
    assert (moved.low, moved.high) == pytest.approx(tuple(limits))


def test_two_units_are_enough_for_limits_and_none_are_none():
    assert math.isfinite(s.bootstrap_mean([1, 2]).low)
    undefined = s.bootstrap(s.ratio([1, 1], [0, 0]), 2)
    assert math.isnan(undefined.low) and math.isnan(undefined.high) and undefined.n == 2
    assert s.Interval.from_dict(s.Interval(1, 0.5, 2, 3).as_dict()) == s.Interval(1, 0.5, 2, 3)


@pytest.mark.parametrize("low, high, excludes", [(0.5, 2, True), (-2, -0.5, True), (0, 1, False), (-1, 0, False)])
def test_an_interval_that_ends_at_zero_does_not_exclude_it(low, high, excludes):
    assert s.Interval((low + high) / 2, low, high, 3).excludes_zero is excludes


def test_only_an_interval_without_width_is_widened():
    wide = s.Interval(0.5, 0.4, 0.6, 10)
    assert s.bound_share(wide) == wide
    assert s.bound_share(s.Interval(1, 1, 1, 1)).low == pytest.approx(0.05)
    assert s.bound_share(s.Interval(0.5, 0.5, 0.5, 10), level=0.9).high == pytest.approx(1.5 - 0.1**0.1)
    empty = s.bound_share(s.Interval(0, 0, 0, 0))
    assert (empty.low, empty.high) == (0, 0)


def test_means_of_few_runs_reach_as_far_as_t_says():
    from scipy.stats import t

    assert s.mean_of_runs([1, 2]) == s.mean_of_runs([1, 2], level=0.95)
    for values, level, close in (([1, 2], 0.95, 1e-9), ([1, 2, 6], 0.9, 1e-9), (list(range(12)), 0.95, 1e-3)):
        wanted = t.interval(level, len(values) - 1, np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values)))
        for mean in (s.mean_of_runs, s.t_mean):
            found = mean(values, level=level)
            assert (found.value, found.n) == (np.mean(values), len(values))
            assert (found.low, found.high) == pytest.approx(wanted, rel=close)
    for mean in (s.mean_of_runs, s.t_mean):
        assert mean([3.0]).value == 3 and math.isnan(mean([3.0]).low) and mean([3.0]).n == 1
    assert math.isnan(s.t_mean([]).value)


def test_sign_flips_of_unequal_differences():
    assert s.paired_test([0, 0, 0], [1, 2, 3], n=8) == 2 / 8
    assert s.paired_test([0] * 4, [1, 1, 1, 0.5]) == 2 / 16
    assert s.paired_test([0] * 4, [0.1, 0.2, 0.3, 0]) == 2 / 8
    drawn = np.random.default_rng(5).choice([-1.0, 1.0], size=(6, 3))  # eight patterns are more than seven
    wanted = (1 + sum(abs(signs @ [1, 1, 0.5]) >= 2.5 for signs in drawn)) / 7
    assert s.paired_test([0, 0, 0], [1, 1, 0.5], seed=5, n=7) == pytest.approx(wanted)
    assert s.paired_test([0] * 4, [1, -1, 2, -2], n=7) == 1  # no pattern reaches less than a sum of nothing


@pytest.mark.parametrize(
    "differences, power, units",
    [([0, 1, 2], 0.8, 8), ([0, 1, 2], 0.9, 11), ([1, 2, 3], 0.8, 2), ([0, 2], 0.8, 16), ([1], 0.8, math.inf)],
)
def test_units_to_settle_by_hand(differences, power, units):
    assert s.units_to_settle(differences, power) == units
    assert s.units_to_settle([0, 1, 2]) == s.units_to_settle([0, 1, 2], power=0.8, level=0.95)


def test_ties_share_the_middle_of_their_ranks():
    assert s._ranks(np.array([3, 1, 3, 2])).tolist() == [3.5, 1, 3.5, 2]
    assert s._ranks(np.array([5, 5, 5, 1])).tolist() == [3, 3, 3, 1]
    assert s.correlation([1, 2], [5, 3]) == pytest.approx(-1) and math.isnan(s.correlation([1], [1]))
    with np.errstate(all="raise"):
        assert math.isnan(s.correlation([1, 2], [3, 3])) and math.isnan(s.correlation([3, 3], [1, 2]))
    assert s.correlation([1, 2, 4], [1, 2, 3], by_rank=True) == pytest.approx(1)
    assert s.correlation([1, 2, 4], [1, 2, 3]) == pytest.approx(3 / math.sqrt(28 / 3))
    assert math.isnan(s.kappa([], [])) and s.kappa([1, 2, 3], [1, 2, 3]) == 1
    assert s.kappa([1, 2, 2], [1, 2, 4]) == pytest.approx(1 - (4 / 3) / (20 / 9))


def test_a_slope_needs_some_spread_and_draws_whole_units():
    assert math.isnan(s.slope([1, 1], [1, 2]).value)
    assert s.slope([0, 1e-3, 2e-3], [0, 1, 2]).value == pytest.approx(1000)
    assert s.slope([0, 1, 2, 3], [1, 3, 5, 7], units=[0, 0, 1, 1]) == s.Interval(*[pytest.approx(2)] * 3, 2)


def test_a_value_is_shown_with_its_interval_where_it_has_one():
    cell = {"value": 0.625, "low": 0.375, "high": 0.875, "n": 24}
    assert s.shown(cell) == "0.625 [0.375, 0.875]" and s.shown(cell, 1) == "0.6 [0.4, 0.9]"
    assert s.shown({**cell, "low": None, "high": None}) == "0.625"
    assert s.shown({"value": None, "low": None, "high": None, "n": 0}) == "n/a"
