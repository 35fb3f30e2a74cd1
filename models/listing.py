"""What networks there are: names, parameters and the image size that each was designed for."""

import fnmatch

from models.build import build_outline, default_size
from models.registry import TIMM, TORCHVISION, library_models, list_models
from utils.core.errors import UserError


def matching(pattern):
    """The names of all models that a shell pattern matches; one of a library also matches by its name there."""
    names = [*list_models(), *library_models("torchvision"), *(TIMM + name for name in library_models("timm"))]
    plain = {name: name.removeprefix(TIMM).removeprefix(TORCHVISION) for name in names}
    found = [name for name in names if any(fnmatch.fnmatchcase(n, pattern) for n in (name, plain[name]))]
    if not found:
        raise UserError(f"{pattern!r} matches no model", option="list_models")
    return found


def outlines(names):
    """Yield (name, parameters with a head for the 1000 classes of ImageNet, image size in px) of each name in turn."""
    for name in names:
        size = default_size(name)
        yield name, sum(parameter.numel() for parameter in build_outline(name, 1000, size).parameters()), size
