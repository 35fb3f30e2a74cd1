"""The counters: each runs its tool on a copy of a model and files what the tool counts under module and cause.

All figures are MACs, whatever the tool calls its unit. What a tool really counts, as its source and its figures say, stands
at the top of its file. A new counter is a file with one registered function, and its name here.
"""

import importlib

from utils.complexity.counters.profile import COUNTERS, Profile

for _tool in ("torch", "fvcore", "ptflops", "thop", "torchscan"):  # in the order of the columns
    importlib.import_module(f"{__name__}.{_tool}_counter")

__all__ = ["COUNTERS", "Profile"]
