"""The table of models, and their names without importing torch."""

import pathlib

from utils.core.registry import Registry, names_in

MODELS = Registry("model")


def list_models():
    """Names of all models: those that files of this folder register, then those that were registered elsewhere."""
    files = sorted(pathlib.Path(__file__).parent.glob("*.py"))
    return list(dict.fromkeys([*names_in(files, "MODELS"), *MODELS]))
