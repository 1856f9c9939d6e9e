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
    """Student's t quantile by its expansion in 1/freedom (Abramowitz and Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(probability)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
