"""The names of all models, without importing torch: those of this folder, and those that torchvision and timm bring.

Every classification network of torchvision goes by torchvision's name, with `torchvision/` before it where a model of ours
has that name, and every one of timm by `timm/NAME` or `timm/NAME.TAG`, where TAG says which of its pretrained weights.
"""

import functools
import importlib.util
import pathlib
import re

from utils.core.registry import Registry, did_you_mean, names_in

MODELS = Registry("model")
TIMM, TORCHVISION = "timm/", "torchvision/"
REGISTERED = re.compile(r"^@register_model\b[^\n]*\n(?:@[^\n]*\n)*def (\w+)", re.MULTILINE)


def list_models():
    """Names of all models with a head of ours: those that files of this folder register, then those of other places."""
    return list(dict.fromkeys([*names_in(_files(), "MODELS"), *MODELS]))


def families():
    """Names of the files of this folder that register models."""
    return [file.stem for file in _files() if names_in([file], "MODELS")]


@functools.cache
def library_models(library):
    """The names that `torchvision` or `timm` registers, as models are called here but for `timm/`; none without the library.

    They are read from the library's files, like our own, so that they are those of the installed version.
    """
    spec = importlib.util.find_spec(library)
    folders = spec.submodule_search_locations if spec else []
    files = [file for folder in folders for file in sorted(pathlib.Path(folder, "models").glob("*.py"))]
    names = {name for file in files for name in REGISTERED.findall(file.read_text(encoding="utf-8"))}
    ours = list_models() if library == "torchvision" else ()
    return sorted(TORCHVISION + name if name in ours else name for name in names)


def library_of(name):
    """The library that a model's name belongs to, `torchvision` or `timm`; None for a model of ours and an unknown one."""
    if name in MODELS or name in list_models():
        return None
    if name.startswith(TIMM):
        bare, dot, tag = name.removeprefix(TIMM).partition(".")
        return "timm" if bare in library_models("timm") and (not dot or re.fullmatch(r"\w+", tag)) else None
    return "torchvision" if name in library_models("torchvision") else None


def unknown_model(name):
    """What is wrong with a name that is no model's, as the end of a sentence; None for a known one."""
    ours = list_models()
    if name in ours or library_of(name):
        return None
    if name.startswith(TIMM) and not library_models("timm"):
        return "needs timm, which is not installed: pip install timm"
    near = [TIMM + other for other in library_models("timm")] if TIMM in name else [*ours, *library_models("torchvision")]
    known = f"{', '.join(ours)}, every classification network of torchvision, and timm/NAME for every one of timm"
    return f"is no known model. {did_you_mean(name.removeprefix(TORCHVISION), near)}Known: {known}."


def _files():
    return sorted(pathlib.Path(__file__).parent.glob("*.py"))
