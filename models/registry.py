"""The table of models, and their names without importing torch."""

import ast
import functools
import pathlib

from utils.core.registry import Registry

MODELS = Registry("model")


def list_models():
    """Names of all models: those that files of this folder register, then those that were registered elsewhere."""
    return list(dict.fromkeys([*_written(), *MODELS]))


def families():
    """Names of the files of this folder that register models."""
    return list(dict.fromkeys(_written().values()))


@functools.cache
def _written():
    """Model name -> name of the file that registers it.

    The files are read, not imported, because an import takes seconds: `@MODELS.register("name")` must hold a literal.
    """
    files = sorted(pathlib.Path(__file__).parent.glob("*.py"))
    return {name: file.stem for file in files for name in _registered_in(file.read_text(encoding="utf-8"))}


def _registered_in(source):
    for statement in ast.parse(source).body:
        for decorator in reversed(getattr(statement, "decorator_list", [])):  # the lowest one registers first
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "MODELS.register":
                yield ast.literal_eval(decorator.args[0])
