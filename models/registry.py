"""The table of models, and their names without importing torch."""

import pathlib

from utils.core.registry import Registry, names_in

MODELS = Registry("model")


def list_models():
    """Names of all models: those that files of this folder register, then those that were registered elsewhere."""
    return list(dict.fromkeys([*names_in(_files(), "MODELS"), *MODELS]))


def families():
    """Names of the files of this folder that register models."""
    return [file.stem for file in _files() if names_in([file], "MODELS")]


def _files():
    return sorted(pathlib.Path(__file__).parent.glob("*.py"))
