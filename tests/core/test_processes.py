"""The processes of a pool end with the process that started them, however that ends."""

import faulthandler
import os
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from utils.core.files import write_text
from utils.core.processes import in_processes

POOL = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from utils.core.files import replacing
from utils.core.processes import begin_worker

pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"), initializer=begin_worker)
with replacing(sys.argv[1] + "/cache.bin") as temporary:
    for _ in range(2):
        pool.submit(time.sleep, 0.5)
    print(*pool._processes, flush=True)
    time.sleep(100)
"""


def test_a_killed_process_leaves_no_process_and_no_lock(tmp_path):
    run = subprocess.Popen([sys.executable, "-c", POOL, tmp_path], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    workers = [int(pid) for pid in run.stdout.readline().split()]
    assert len(workers) == 2 and all(map(is_alive, workers))
    run.kill()
    run.wait()
    deadline = time.monotonic() + 30
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, workers))
    (leftover,) = tmp_path.glob(".tmp-*")
    write_text(tmp_path / "next.txt", "")
    assert not leftover.exists()


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def squares(numbers):
    for number in numbers:
        if number % 70 == 7:
            faulthandler.disable()  # its report would fill the log
            os.abort()
        if number == 100:
            raise ValueError("a hundred")
    return [number * number for number in numbers]


def squared(count):
    return [one for part in in_processes(squares, range(count), 8, lambda part: [f"lost {part[0]}"]) for one in part]


def test_a_process_that_dies_costs_the_result_of_one_thing_alone():
    assert squared(90) == [f"lost {n}" if n in (7, 77) else n * n for n in range(90)]
    assert squared(0) == []


def test_what_a_process_raises_is_raised():
    with pytest.raises(ValueError, match="a hundred"):
        squared(101)
