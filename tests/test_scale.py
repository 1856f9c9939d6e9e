"""The paper's run worked out: units, monotony, and the figures that other places state."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_utils import scale
from phoenix_utils.errors import PhoenixError
from phoenix_utils.translation import cost

sizes = st.floats(0.1, 30)


def test_the_papers_run_costs_what_the_paper_paid_and_trains_by_its_own_steps():
    translation, sft, dpo = scale.paper_plans()
    assert translation.euros == pytest.approx(300) and translation.hours == pytest.approx(150)
    assert sft.tokens == 228 * 512 * 2048 and dpo.tokens == 941 * 64 * 2 * 500
    # 8 x 7.24e9 x 239e6 operations at 40 % of eight times 312e12 a second.
    assert sft.hours == pytest.approx(8 * 7.24e9 * sft.tokens / (8 * 0.4 * 312e12) / 3600)
    # DPO computes ten passes over a token where SFT computes eight.
    assert dpo.hours / dpo.tokens == pytest.approx(sft.hours / sft.tokens * 10 / 8)
    assert sft.euros == pytest.approx(sft.hours * 8 * cost.gpu_offer("A100 80GB").price_per_hour)
    assert sft.disk_gb == pytest.approx(2 * 86.88), "two checkpoints of 12 bytes a parameter"


@given(st.floats(0.2, 100), st.floats(1.01, 10))
def test_more_data_never_costs_less(size, more):
    for small, large in zip(scale.paper_plans(size), scale.paper_plans(size * more), strict=True):
        assert large.hours >= small.hours and large.euros >= small.euros and large.failures >= small.failures
        assert large.files >= small.files and large.disk_gb >= small.disk_gb


@given(st.integers(1, 64), st.integers(1, 64))
def test_more_cards_save_hours_and_no_money(few, more):
    some, many = (scale.translation_plan(1e9, "A100 80GB", 13.0, count) for count in (few, few + more))
    assert many.hours < some.hours
    assert many.euros == pytest.approx(some.euros) and many.failures == pytest.approx(some.failures)
    # One card fails alone: what is lost does not grow with their number.
    assert many.lost_euros == pytest.approx(some.lost_euros)


@given(sizes, st.integers(1, 400))
def test_rarer_checkpoints_lose_more(billions, save_steps):
    plans = [
        scale.training_plan("sft", 1e8, "H100 80GB", billions, steps=800, save_steps=each)
        for each in (save_steps, 2 * save_steps)
    ]
    assert plans[0].lost_hours < plans[1].lost_hours
    assert plans[0].hours == plans[1].hours
    # Never more than half of the run, and starting again.
    assert plans[1].lost_hours <= plans[1].hours / 2 + scale.RESTART_HOURS + 1e-9


def test_a_failure_in_fifty_thousand_hours():
    assert round(scale.GPU_HOURS_BETWEEN_FAILURES) == 50_677
    assert scale.expected_failures(50_677) == pytest.approx(1, abs=1e-3)
    assert math.isclose(scale.expected_failures(24, between=24), 1)


def test_bad_amounts_are_refused_in_a_sentence():
    with pytest.raises(PhoenixError, match="characters is -1: give a finite number above 0"):
        scale.translation_plan(-1, "A100 80GB", 13.0)
    with pytest.raises(PhoenixError, match="13 B parameters in 16 bits do not fit on one T4"):
        scale.translation_plan(1e9, "T4", 13.0)
    with pytest.raises(PhoenixError, match="scale is 0"):
        scale.paper_plans(0)
    with pytest.raises(PhoenixError, match="utilisation is nan"):
        scale.training_plan("sft", 1e8, "L4", 7.0, steps=10, save_steps=5, utilisation=math.nan)
