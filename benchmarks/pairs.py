"""Two sides of a comparison, each in processes of its own, in turn: the ratio pair by pair, with the machine beside it."""

import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from utils.core.errors import UserError
from utils.core.files import RESULTS, write_json
from utils.runtime.device import origin


def output_of(command, folder=None):
    """What a process in `folder` prints. Raises UserError with its last word where it fails."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode:
        said = result.stderr.strip().splitlines() or ["nothing"]
        name = pathlib.Path(command[1]).name
        raise UserError(f"{name} ended with status {result.returncode}: {said[-1].removeprefix('error: ')}")
    return result.stdout


def child(script, *flags):
    """Run `script` with `flags` in a new process and return the JSON object on the last line that it prints."""
    return json.loads(output_of([sys.executable, str(script), *map(str, flags)]).splitlines()[-1])


def alternate(sides, pairs):
    """Call every function of the dict `sides` `pairs` times, each first in turn: {name: [what it returned, ...]}."""
    found = {name: [] for name in sides}
    for number in range(pairs):
        for name in list(sides) if number % 2 == 0 else list(sides)[::-1]:
            found[name].append(sides[name]())
    return found


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "all": list(values)}


def ratios(ours, theirs):
    """Of each pair, how many times the one is the other: median, minimum, maximum."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


@contextlib.contextmanager
def share_of_host():
    """Yield a dict that holds, after the block, `stolen`: the share of the processors that the host took meanwhile."""
    found, started, stolen = {}, time.perf_counter(), _stolen_seconds()
    yield found
    found["stolen"] = (_stolen_seconds() - stolen) / (time.perf_counter() - started) / (os.cpu_count() or 1)


def _stolen_seconds():
    """Processor seconds, of all processors, since the start of the machine; 0 where unknown."""
    try:
        fields = pathlib.Path("/proc/stat").read_text().split()
    except OSError:
        return 0.0
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")  # proc(5)


def save(name, result):
    """Write results/benchmarks/<name>.json with the date and the machine, and say where."""
    path = write_json(RESULTS / "benchmarks" / f"{name}.json", origin() | result)
    print(f"written: {path}")


def save_cases(path, cases):
    """Merge `cases`, {name: figures}, into the JSON file `path`, each with today's date and this machine; keep the others."""
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    here = origin()
    write_json(path, earlier | {name: here | case for name, case in cases.items()})
    print(f"written: {', '.join(cases)} in {path}")
