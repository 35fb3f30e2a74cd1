"""Processes that a script starts to share its work."""

import collections
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from utils.core.machine import cores

CHECK_EVERY = 1.0  # seconds
AHEAD = 2  # parts for each process that are under way, or done and waiting for their turn
DIED = "ends the process that decodes it"  # what is said of an image


def in_processes(function, things, size, lost):
    """Yield `function(things[start : start + size])` from the first to the last, computed in one process for each core.

    Where a process dies, as by a decoder that crashes, the parts that were under way are computed again, each in a process of
    its own; a part whose process dies again is halved until one thing is left, and `lost(part)` stands for what that would
    have given. So there may be more parts, but their order stays. What `function` raises is raised.
    """
    parts, under_way = (things[start : start + size] for start in range(0, len(things), size)), collections.deque()
    while True:
        try:
            with _pool(cores()) as pool:
                yield from _in_order(pool, function, parts, under_way)
            return
        except BrokenProcessPool:
            for part in under_way:
                yield from _carefully(function, part, lost)
            under_way.clear()


def _in_order(pool, function, parts, under_way):
    """Results of the pool; `under_way` holds the parts of which none was given yet."""
    results = collections.deque()
    for part in parts:
        under_way.append(part)
        results.append(pool.submit(function, part))
        if len(results) == AHEAD * cores():
            yield _first(results, under_way)
    while results:
        yield _first(results, under_way)


def _first(results, under_way):
    result = results[0].result()
    results.popleft()
    under_way.popleft()
    return result


def _carefully(function, part, lost):
    """The results of a part that may end its process, or those of its halves."""
    try:
        return [_alone(function, part)]
    except BrokenProcessPool:
        half = len(part) // 2
        if not half:
            return [lost(part)]
        return _carefully(function, part[:half], lost) + _carefully(function, part[half:], lost)


def _alone(function, part):
    with _pool(1) as pool:
        return pool.submit(function, part).result()


def _pool(width):
    """Processes that start in milliseconds where the system has them: they need nothing but what is in memory already."""
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    return ProcessPoolExecutor(width, mp_context=multiprocessing.get_context(method), initializer=begin_worker)


def begin_worker():
    """Call this first in a process of a pool: the process that started it answers interrupts, and takes it along when it dies.

    Otherwise the processes of a pool wait for work forever once that was killed, and hold what it had open.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=[multiprocessing.parent_process().pid], daemon=True).start()


def _end_with(parent):
    while os.getppid() == parent:
        time.sleep(CHECK_EVERY)
    os._exit(1)
