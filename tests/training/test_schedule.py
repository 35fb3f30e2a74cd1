import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.training.schedule import Schedule, fit_warmup


def test_first_step_warmup_end_and_last_step_exactly():
    schedule = Schedule(total_steps=100, warmup_steps=10, base_lr=4e-3, min_lr=1e-6)
    rate = [schedule(step) for step in range(100)]
    assert rate[0] == 4e-3 / 10 and rate[9] == 4e-3 and rate[99] == 1e-6
    assert rate[4] == pytest.approx(4e-3 * 5 / 10)
    assert rate[54] == pytest.approx((4e-3 + 1e-6) / 2)  # half-way down the cosine: step 9 + 45 of 90


def test_without_warmup_and_with_one_step():
    assert Schedule(10, 0, 0.1, 0.01)(0) == 0.1 and Schedule(10, 0, 0.1, 0.01)(9) == 0.01
    assert Schedule(1, 0, 0.1, 0.01)(0) == 0.1


@given(st.integers(2, 500), st.data())
def test_up_then_down_within_the_bounds(total, data):
    warmup = data.draw(st.integers(0, total - 1))
    rates = [Schedule(total, warmup, 1.0, 0.01)(step) for step in range(total)]
    peak = max(warmup - 1, 0)
    assert rates[peak] == 1.0 and rates[-1] == (0.01 if total - 1 > peak else 1.0)
    assert all(a < b for a, b in itertools.pairwise(rates[: peak + 1]))
    assert all(a >= b for a, b in itertools.pairwise(rates[peak:]))


@pytest.mark.parametrize(
    ("asked", "epochs", "got"), [(None, 300, 20), (None, 100, 20), (None, 12, 2.4), (None, 1, 0.2), (2, 12, 2), (11, 12, 11)]
)
def test_a_default_warmup_shrinks_with_a_notice_and_one_that_is_asked_for_does_not(asked, epochs, got):
    warmup, notice = fit_warmup(asked, epochs)
    assert warmup == pytest.approx(got) and (notice is None) == (got in (20, asked))
