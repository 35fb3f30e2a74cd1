"""Which of two ways is faster on this machine: measured once and kept for later runs."""

import json
import time

import torch

from utils.core.files import WriteError, write_json
from utils.core.machine import cache_folder, cpu_name


def faster(key, ways):
    """Which of two functions takes less time on this machine: a key of the dict `ways`, kept for the next run under `key`."""

    def seconds(way):
        start = time.perf_counter()
        ways[way]()
        return time.perf_counter() - start

    return _remembered("convolutions-1", f"{_here()}|{key}", lambda: _quicker(tuple(ways), seconds, gain=0.03))[0]


def _remembered(name, key, measure):
    """What `measure()` gave on this machine when it was first asked, and a sentence where that could not be kept."""
    cache = cache_folder() / f"{name}.json"
    known = json.loads(cache.read_text()) if cache.exists() else {}
    if key not in known:
        known[key] = measure()
        try:
            write_json(cache, known)
        except WriteError as error:
            return known[key], f"what was measured could not be kept: {error}"
    return known[key], None


def _quicker(ways, seconds, gain):
    """Alternate both; the second where its shortest time, the least disturbed one, is shorter by the share `gain`."""
    times = {way: [] for way in ways}
    for attempt in range(4):
        for way in ways:
            elapsed = seconds(way)
            if attempt:  # the first of each pays for compilation, primitives and page faults
                times[way].append(elapsed)
    first, second = ways
    return second if min(times[second]) < (1 - gain) * min(times[first]) else first


def _here():
    """What a measured time depends on besides the work."""
    return f"{cpu_name()}|torch {torch.__version__}|{torch.get_num_threads()} threads"
