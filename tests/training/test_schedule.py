import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.training.schedule import fit_warmup, learning_rate


def test_first_step_warmup_end_and_last_step_exactly():
    rate = [learning_rate(s, total_steps=100, warmup_steps=10, base_lr=4e-3, min_lr=1e-6) for s in range(100)]
    assert rate[0] == 4e-3 / 10 and rate[9] == 4e-3 and rate[99] == 1e-6
    assert rate[4] == pytest.approx(4e-3 * 5 / 10)
    assert rate[54] == pytest.approx((4e-3 + 1e-6) / 2)  # half-way down the cosine: step 9 + 45 of 90


def test_without_warmup_and_with_one_step():
    assert learning_rate(0, 10, 0, 0.1, 0.01) == 0.1 and learning_rate(9, 10, 0, 0.1, 0.01) == 0.01
    assert learning_rate(0, 1, 0, 0.1, 0.01) == 0.1


@given(st.integers(2, 500), st.data())
def test_up_then_down_within_the_bounds(total, data):
    warmup = data.draw(st.integers(0, total - 1))
    rates = [learning_rate(s, total, warmup, 1.0, 0.01) for s in range(total)]
    peak = max(warmup - 1, 0)
    assert rates[peak] == 1.0 and rates[-1] == (0.01 if total - 1 > peak else 1.0)
    assert all(a < b for a, b in itertools.pairwise(rates[: peak + 1]))
    assert all(a >= b for a, b in itertools.pairwise(rates[peak:]))


@pytest.mark.parametrize(
    ("asked", "epochs", "explicit", "got"), [(20, 300, False, 20), (20, 12, False, 2.4), (20, 1, False, 0.2), (2, 12, True, 2)]
)
def test_a_default_warmup_shrinks_with_a_notice_and_an_explicit_one_does_not(asked, epochs, explicit, got):
    warmup, notice = fit_warmup(asked, epochs, explicit)
    assert warmup == pytest.approx(got) and (notice is None) == (warmup == asked)
