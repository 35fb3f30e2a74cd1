"""The table of models, and their names without importing torch."""

import ast
import pathlib

from utils.core.registry import Registry

MODELS = Registry("model")


def list_models():
    """Names of all models: those that files of this folder register, then those that were registered elsewhere.

    The files are read, not imported, because an import takes seconds: `@MODELS.register("name")` must hold a literal.
    """
    files = sorted(pathlib.Path(__file__).parent.glob("*.py"))
    written = [name for file in files for name in _registered_in(file.read_text(encoding="utf-8"))]
    return list(dict.fromkeys([*written, *MODELS]))


def _registered_in(source):
    for statement in ast.parse(source).body:
        for decorator in reversed(getattr(statement, "decorator_list", [])):  # the lowest one registers first
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "MODELS.register":
                yield ast.literal_eval(decorator.args[0])
