"""The table of optimizers, and their names without importing torch."""

import pathlib

from utils.core.registry import Registry, names_in

OPTIMIZERS = Registry("optimizer")


def list_optimizers():
    """Names of all optimizers: those of optim.py, then those that were registered elsewhere."""
    written = names_in([pathlib.Path(__file__).with_name("optim.py")], "OPTIMIZERS")
    return list(dict.fromkeys([*written, *OPTIMIZERS]))
