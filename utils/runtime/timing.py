"""Measures which of two ways is faster on this machine, once, and keeps the answer for later runs."""

import json
import time

import torch

from utils.core.files import WriteError, write_json
from utils.core.machine import cache_folder, cpu_name


def faster(key, ways):
    """The key in the dict `ways` of the function that takes less time on this machine; kept for the next run under `key`."""

    def seconds(way):
        start = time.perf_counter()
        ways[way]()
        return time.perf_counter() - start

    return remembered("convolutions-1", f"{this_machine()}|{key}", lambda: quicker(tuple(ways), seconds, gain=0.03))[0]


def remembered(name, key, measure):
    """What `measure()` returned when `key` was first asked for on this machine, and a notice where it could not be kept.

    The answers are in <cache folder>/<name>.json; a damaged file of them is written anew.
    """
    cache = cache_folder() / f"{name}.json"
    try:
        known = dict(json.loads(cache.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        known = {}
    if key not in known:
        known[key] = measure()
        try:
            write_json(cache, known)
        except WriteError as error:
            return known[key], f"what was measured could not be kept: {error}"
    return known[key], None


def quicker(ways, seconds, gain):
    """The second of two `ways` where its shortest of three times is shorter by the share `gain`, else the first.

    `seconds(way)` runs one of them. They take turns; the shortest time is the one that the rest of the machine disturbed least.
    """
    times = {way: [] for way in ways}
    for attempt in range(4):
        for way in ways:
            elapsed = seconds(way)
            if attempt:  # the first of each also compiles, builds kernels and touches new memory
                times[way].append(elapsed)
    first, second = ways
    return second if min(times[second]) < (1 - gain) * min(times[first]) else first


def this_machine():
    """What a measured time depends on, besides the work: processor, version of torch, threads."""
    return f"{cpu_name()}|torch {torch.__version__}|{torch.get_num_threads()} threads"
