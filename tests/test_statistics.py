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


def test_intervals_of_shares_never_claim_certainty_and_cover():
    covered = coverage(lambda g, n: (g.random(n) < 0.95).astype(float), 0.95, 24, interval=s.bootstrap_share)
    assert covered >= 0.94
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
    found = s.distinct_share(items)(np.array([weights], float))[0]
    if drawn:
        assert found == pytest.approx(len(set(drawn)) / len(drawn))
    else:
        assert math.isnan(found)


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
