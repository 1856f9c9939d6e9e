"""How sure is a number? Bootstrap intervals of means, ratios, medians, differences and any other statistic.

The unit that is drawn again is a row, or a whole conversation where several rows belong to one (its answers
are not independent). A draw with replacement is the same as giving each unit a whole-number weight, so
statistics here are functions of a weight matrix, and all draws are computed at once with numpy:

    weights    (draws, units)   how often each unit was drawn; the sample itself is one row of ones
    statistic  weights -> (draws,)

Intervals are percentile intervals (Efron and Tibshirani 1993, ch. 13), with the percentiles widened for small
samples by the factor that turns a normal into a t interval (Hesterberg 2015, "What Teachers Should Know about
the Bootstrap", section 5.3). Without that step 24 units give "95 %" intervals that cover about 93 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Interval:
    """A value with the limits of its interval and the number of units it rests on."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int | None]:
        """{"value", "low", "high", "n"}, as `scores.json` stores it; what is not known is None."""
        return {key: number if math.isfinite(number) else None for key, number in asdict(self).items()}

    @classmethod
    def from_dict(cls, stored: dict[str, float | int | None]) -> Interval:
        """The interval that `as_dict` stored."""
        return cls(**{key: float("nan") if number is None else number for key, number in stored.items()})

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero (for differences)."""
        return self.low > 0 or self.high < 0


def bootstrap(
    statistic: Statistic,
    units: int,
    *,
    seed: int = 0,
    n: int = 2000,
    level: float = 0.95,
    centred: bool = False,
) -> Interval:
    """Value and interval of any statistic over units.

    Args:
        statistic: maps weights (draws, units) to values (draws,).
        units: how many units the sample has; one unit says nothing of its spread: its limits are nan.
        n: number of draws; level: share of such intervals that should hold the true value.
        centred: move the draws so that their mean is the sample's value. For counts of *different* things
        (such
            as distinct-2): a draw holds fewer different units than the sample, so its values are too low.
    """
    if units < 1:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    value = float(statistic(np.ones((1, units)))[0])
    if units < 2:
        return Interval(value, float("nan"), float("nan"), units)
    values = statistic(_weights(units, n, seed))
    values = values[np.isfinite(values)]
    if not len(values):
        return Interval(value, float("nan"), float("nan"), units)
    if centred:
        values = values + (value - values.mean())
    tail = _tail(units, level)
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(value, float(low), float(high), units)


def bootstrap_mean(values: Sequence[float], seed: int = 0, n: int = 2000, level: float = 0.95) -> Interval:
    """Mean of one number per unit, with its bootstrap interval."""
    return bootstrap(ratio(values, np.ones(len(values))), len(values), seed=seed, n=n, level=level)


def bootstrap_share(
    hits: Sequence[float],
    sizes: Sequence[float] | None = None,
    *,
    seed: int = 0,
    n: int = 2000,
    level: float = 0.95,
) -> Interval:
    """A share between 0 and 1: hits / sizes, summed over units (sizes default to one row a unit).

    Where every row agrees, each draw gives the same share and the bootstrap would claim certainty. The open
    side then gets the exact bound for that many units: with 40 of 40 the true share may be as low as
    0.05 ** (1/40) = 93 % (the "rule of three": about 1 - 3/n).
    """
    sizes = np.ones(len(hits)) if sizes is None else np.asarray(sizes, float)
    return bound_share(bootstrap(ratio(hits, sizes), len(hits), seed=seed, n=n, level=level), level)


def bound_share(found: Interval, level: float = 0.95, least: float = 0.0) -> Interval:
    """The interval of a share, or of a difference of shares (`least` = -1), widened where all units agree.

    With n agreeing units, another kind of unit may still make up 1 - (1 - level) ** (1/n) of all units.
    """
    if found.n < 1 or not math.isclose(found.low, found.high, abs_tol=1e-12):
        return found
    slack = 1 - (1 - level) ** (1 / found.n)
    return Interval(found.value, max(least, found.value - slack), min(1.0, found.value + slack), found.n)


def paired_difference(
    a: Sequence[float], b: Sequence[float], seed: int = 0, n: int = 2000, level: float = 0.95
) -> Interval:
    """Mean of b - a over units that both measured: negative where b is lower.

    What the units have in common (an easy question, a long reference) cancels, so this interval is often much
    narrower than those of a and b suggest. Raises ValueError where the two have different lengths.
    """
    if len(a) != len(b):
        raise ValueError(f"paired_difference got {len(a)} and {len(b)} values; both need one value for each unit")
    return bootstrap_mean(np.asarray(b, float) - np.asarray(a, float), seed=seed, n=n, level=level)


def mean_of_runs(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean over a few runs with different seeds, and Student's t interval: two or three are too few to draw again.

    With two runs it reaches 6.4 times as far to each side as they lie apart: so little do two runs say about a third.
    """
    numbers = np.asarray(values, float)
    mean, n = float(numbers.mean()), len(numbers)
    if n < 2:
        return Interval(mean, float("nan"), float("nan"), n)
    reach = _t_quantile(0.5 + level / 2, n - 1) * float(numbers.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - reach, mean + reach, n)


def difference(a: Statistic, b: Statistic) -> Statistic:
    """The statistic b - a, both computed on the same draws of the same units (paired)."""
    return lambda weights: b(weights) - a(weights)


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Statistic:
    """Sum of numerators by sum of denominators: a mean over rows that lie in units of several rows."""
    top, bottom = np.asarray(numerators, float), np.asarray(denominators, float)

    def statistic(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (weights @ top) / (weights @ bottom)

    return statistic


def median(values: Sequence[float], units: Sequence[int]) -> Statistic:
    """Median over rows, row i belonging to unit `units[i]` (0, 1, …); of an even count the middle of two."""
    order = np.argsort(np.asarray(values, float), kind="stable")
    ordered, owner = np.asarray(values, float)[order], np.asarray(units, int)[order]

    def statistic(weights: np.ndarray) -> np.ndarray:
        reached = weights[:, owner].cumsum(axis=1)
        total = reached[:, -1:]
        lower = ordered[(reached >= total / 2).argmax(axis=1)]
        upper = ordered[(reached > total / 2).argmax(axis=1)]
        return (lower + upper) / 2

    return statistic


def distinct_share(items: Sequence[Sequence[object]]) -> Statistic:
    """Different items by all items, over the units drawn; `items[i]` are the (hashable) items of unit i."""
    index: dict[object, int] = {}
    rows = [[index.setdefault(item, len(index)) for item in unit] for unit in items]
    present = np.zeros((len(items), len(index)), np.float32)
    for row, columns in enumerate(rows):
        present[row, columns] = 1
    counts = np.array([len(row) for row in rows], float)

    def statistic(weights: np.ndarray) -> np.ndarray:
        found = np.array([np.count_nonzero(drawn @ present) for drawn in (weights > 0).astype(np.float32)])
        total = weights @ counts
        return np.divide(found, total, out=np.full(len(found), np.nan), where=total > 0)

    return statistic


def _weights(units: int, draws: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.multinomial(units, np.full(units, 1 / units), size=draws).astype(float)


def _tail(units: int, level: float) -> float:
    """Share of draws outside on each side: the normal's tail beyond sqrt(n / (n-1)) times the t quantile."""
    return NormalDist().cdf(-np.sqrt(units / (units - 1)) * _t_quantile(0.5 + level / 2, units - 1))


def _t_quantile(probability: float, freedom: int) -> float:
    """Student's t quantile by its expansion in 1/freedom (Abramowitz and Stegun 26.7.5), exact for 1 and 2."""
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        return (2 * probability - 1) * math.sqrt(2 / (4 * probability * (1 - probability)))
    z = NormalDist().inv_cdf(probability)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def t_mean(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean with Student's t interval: what to give for judges' scores, which are few and in whole steps.

    It covers what it promises from a handful of units on, where drawing them again sees too few different samples.
    Equal values show no spread, which is not the same as having none: their limits are nan.
    """
    found = np.asarray(values, float)
    if len(found) < 2 or not found.std():
        return Interval(float(found.mean()) if len(found) else float("nan"), float("nan"), float("nan"), len(found))
    half = _t_quantile(0.5 + level / 2, len(found) - 1) * found.std(ddof=1) / math.sqrt(len(found))
    return Interval(float(found.mean()), float(found.mean() - half), float(found.mean() + half), len(found))


def paired_test(a: Sequence[float], b: Sequence[float], seed: int = 0, n: int = 10_000) -> float:
    """Two-sided p-value that b - a is as large by chance: signs of the differences flipped at random (Fisher 1935).

    All 2 ** units patterns where there are at most n of them, else n random ones, of which the sample's own is one.
    Raises ValueError where the two have different lengths.
    """
    if len(a) != len(b):
        raise ValueError(f"paired_test got {len(a)} and {len(b)} values; both need one value for each unit")
    change = np.asarray(b, float) - np.asarray(a, float)
    change = change[change != 0]
    if not len(change):
        return 1.0
    if 2 ** len(change) <= n:
        signs = 1 - 2 * ((np.arange(2 ** len(change))[:, None] >> np.arange(len(change))) & 1)
        return float(np.mean(np.abs(signs @ change) >= abs(change.sum()) - 1e-9))
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(n - 1, len(change)))
    return float((1 + np.sum(np.abs(signs @ change) >= abs(change.sum()) - 1e-9)) / n)


def units_to_settle(differences: Sequence[float], power: float = 0.8, level: float = 0.95) -> float:
    """How many units like these would show a difference of this size with probability `power`; inf where it is 0.

    ((z of level + z of power) x spread / mean) squared, as for any paired comparison (Cohen 1988, ch. 2).
    """
    found = np.asarray(differences, float)
    if len(found) < 2 or not found.mean():
        return math.inf
    needed = NormalDist().inv_cdf(0.5 + level / 2) + NormalDist().inv_cdf(power)
    return max(2.0, math.ceil((needed * found.std(ddof=1) / found.mean()) ** 2))


def kappa(a: Sequence[float], b: Sequence[float]) -> float:
    """Cohen's kappa of two judges' scores with quadratic weights (Cohen 1968): 1 agrees, 0 as by chance.

    Two judges that give one and the same score throughout have nothing to agree on: nan.
    """
    first, second = np.asarray(a, float), np.asarray(b, float)
    if not len(first):
        return float("nan")
    by_chance = np.mean((first[:, None] - second[None, :]) ** 2)
    return float(1 - np.mean((first - second) ** 2) / by_chance) if by_chance else float("nan")


def correlation(a: Sequence[float], b: Sequence[float], by_rank: bool = False) -> float:
    """Pearson's correlation, or Spearman's `by_rank` (ties share their rank); nan where one side does not vary."""
    first, second = np.asarray(a, float), np.asarray(b, float)
    if by_rank:
        first, second = _ranks(first), _ranks(second)
    if len(first) < 2 or not first.std() or not second.std():
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])


def agreement(a: Sequence[float], b: Sequence[float], seed: int = 0, n: int = 1000) -> dict[str, Interval]:
    """How far two judges of the same answers agree: "kappa", "pearson", "spearman", each with a bootstrap interval."""
    first, second = np.asarray(a, float), np.asarray(b, float)
    measures = {"kappa": kappa, "pearson": correlation, "spearman": lambda x, y: correlation(x, y, by_rank=True)}

    def drawn(measure) -> Statistic:
        def statistic(weights: np.ndarray) -> np.ndarray:
            places = [np.repeat(np.arange(len(first)), row.astype(int)) for row in weights]
            return np.array([measure(first[place], second[place]) for place in places])

        return statistic

    return {name: bootstrap(drawn(measure), len(first), seed=seed, n=n) for name, measure in measures.items()}


def slope(
    x: Sequence[float], y: Sequence[float], units: Sequence[int] | None = None, seed: int = 0, n: int = 2000
) -> Interval:
    """Least-squares change of y for one more of x; the bootstrap draws units, pair i belonging to unit `units[i]`."""
    first, second = np.asarray(x, float), np.asarray(y, float)
    owner = np.arange(len(first)) if units is None else np.asarray(units, int)

    def statistic(weights: np.ndarray) -> np.ndarray:
        weights = weights[:, owner]
        total = weights.sum(axis=1)
        mean_x, mean_y = weights @ first / total, weights @ second / total
        spread = weights @ first**2 / total - mean_x**2
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(spread > 1e-12, (weights @ (first * second) / total - mean_x * mean_y) / spread, np.nan)

    return bootstrap(statistic, len(np.unique(owner)), seed=seed, n=n)


def shown(cell: dict[str, Any], digits: int = 3) -> str:
    """A stored Interval as text, `0.917 [0.784, 1.000]`: no brackets where there is none, "n/a" where no value is."""
    if cell["value"] is None:
        return "n/a"
    # A zero behind a minus sign says nothing.
    value, low, high = (
        None if cell[name] is None else f"{round(cell[name], digits) + 0.0:.{digits}f}"
        for name in ("value", "low", "high")
    )
    return value if low is None else f"{value} [{low}, {high}]"


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values sharing the middle of theirs."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[group]
