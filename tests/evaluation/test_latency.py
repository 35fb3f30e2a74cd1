"""Turns, warm-up and stopping, on a clock that only the contestants move."""

import time

import pytest

from utils.evaluation.latency import BLOCK, race, summarise


class Clock:
    """Every call of a contestant takes as many seconds as the next of its `durations` (the last one from then on)."""

    def __init__(self):
        self.now, self.order = 0.0, []

    def contestant(self, name, *durations):
        remaining = list(durations)

        def call():
            self.order.append(name)
            self.now += remaining.pop(0) if len(remaining) > 1 else remaining[0]

        return call

    def __call__(self):
        return self.now


def test_medians_do_not_see_the_warm_up():
    clock = Clock()
    calls = {"slow": clock.contestant("slow", 50.0, 9.0, 0.02), "fast": clock.contestant("fast", 90.0, 7.0, 0.01)}
    result = race(calls, 8, least=10, most=20, seconds=1e9, clock=clock, pause=lambda seconds: None)
    assert result["slow"].median_ms == pytest.approx(20) and result["slow"].high_ms == pytest.approx(20)
    assert result["fast"].median_ms == pytest.approx(10) and result["fast"].images_per_second == pytest.approx(800)
    assert result["slow"].runs == result["fast"].runs == 20 and result["fast"].batch == 8


def test_contestants_take_turns():
    clock = Clock()
    calls = {name: clock.contestant(name, 0.01) for name in "ab"}
    race(calls, 1, least=10, most=10, clock=clock, pause=lambda seconds: None)
    block = ["a"] * (BLOCK + 1) + ["b"] * (BLOCK + 1)
    assert clock.order == ["a", "b", *block, *block]


def test_a_pause_comes_before_each_block():
    clock, pauses = Clock(), []

    def pause(seconds):
        clock.order.append("pause")
        pauses.append(seconds)

    race({name: clock.contestant(name, 0.01) for name in "ab"}, 1, least=5, most=5, clock=clock, pause=pause)
    assert clock.order == ["a", "b", "pause", *["a"] * (BLOCK + 1), "pause", *["b"] * (BLOCK + 1)]
    assert min(pauses) >= 0.01  # seconds, in which the threads of the contestant before come to rest


def test_unless_told_otherwise_it_really_pauses():
    started = time.perf_counter()
    race({name: lambda: None for name in "ab"}, 1, least=5, most=5)
    assert time.perf_counter() - started >= 0.02


def test_it_ends_when_the_time_is_up_but_not_before_the_least():
    clock = Clock()
    slow = race({"a": clock.contestant("a", 10.0)}, 1, least=10, most=100, seconds=4, clock=clock, pause=lambda seconds: None)
    assert slow["a"].runs == 10
    quick = race({"a": clock.contestant("a", 0.1)}, 1, least=10, most=100, seconds=4, clock=clock, pause=lambda seconds: None)
    assert 30 <= quick["a"].runs <= 40


def test_spread_is_the_middle_eight_tenths():
    latency = summarise([float(i) for i in range(101)], 4)
    assert (latency.median_ms, latency.low_ms, latency.high_ms, latency.runs) == (50, 10, 90, 101)


def test_images_a_second_are_those_of_the_whole_batch():
    assert summarise([4.0] * 5, 8).images_per_second == pytest.approx(2000)
