"""A model card for weights that have none: from their shapes, from what their library says, and from timm's `config.json`."""

import functools

from models import from_timm
from models.build import SIZES, build_outline, check_model, default_size, own_names, preprocessing
from models.registry import TIMM, TORCHVISION, library_of, unknown_model
from utils.core.card import ModelCard, architecture
from utils.core.errors import UserError


@functools.cache
def class_rows(model):
    """Names of the weights of a network that have a row for each class, as `fc.3.weight` and `fc.3.bias`."""
    two, three = (build_outline(architecture(model), count, default_size(model)).state_dict() for count in (2, 3))
    return [name for name in two if two[name].shape != three[name].shape]


def mismatch(own, state):
    """How the tensors of `state` differ from those of `own`, {kind of fault: words}; empty where they fit.

    Integers in the place of floats are values without their scale. Floats of another width fit, and so does a counter of
    batches that was made a float: they hold the same numbers.
    """
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and getattr(state[key], "shape", None) != getattr(own[key], "shape", None)
    ]
    missing, unexpected = [key for key in own if key not in state], [key for key in state if key not in own]
    integers = [key for key in own if key in state and own[key].is_floating_point() and not state[key].is_floating_point()]
    kinds = {"missing": missing, "unexpected": unexpected, "shape of": shapes, "integers instead of floats in": integers}
    return {kind: keys for kind, keys in kinds.items() if keys}


def not_those_of(path, name, faults):
    """The UserError for weights that do not fit a network; `faults` are those of `mismatch`."""
    words = "; ".join(f"{kind} {_few(keys)}" for kind, keys in faults.items())
    return UserError(f"the weights in {path} are not those of {name}: {words}")


def card_of_weights(path, state, model, classes=None, image_size=None):
    """The card of weights that have none: as many classes as their head has rows, at the size that their shapes fit.

    Images are prepared as the library of the network has it; networks of ours take the numbers of ImageNet. Raises UserError
    for weights of another network, and names the library's network of the same name where they are of that.
    """
    if model is None:
        raise UserError(f"{path} has no model card; say which network it is", option="model")
    count = _count(state, model)
    if not count:
        rows = class_rows(model)
        raise UserError(f"the weights in {path} are not those of {model}: no head ({rows[0]}){_namesake(state, model)}")
    invented = classes is None
    classes = [str(i) for i in range(count)] if invented else classes
    if len(classes) != count:
        raise UserError(f"the weights in {path} have {count} classes, not {len(classes)}", option="classes")
    images = _images(model, image_size or _fitting_size(path, state, model))
    check_model(model, images["image_size"])
    if faults := _faults(state, model, images["image_size"]):
        if faults.keys() & {"shape of", "size"}:  # the other faults are the same at every size
            fitting = _fitting_size(path, state, model)
            if not _faults(state, model, fitting):
                raise UserError(f"{image_size} px contradict {path}, whose weights are for {fitting} px", option="image_size")
        raise UserError(f"{not_those_of(path, model, faults)}{_namesake(state, model)}")
    return ModelCard(model, classes, **images, invented_classes=invented)


def card_of_hub(path, state):
    """The card of weights that timm saved for the hub, from the `config.json` beside them; None where there is none."""
    facts = from_timm.hub_facts(path)
    if facts is None:
        return None
    model, images, names = facts
    card = card_of_weights(path, state, model, image_size=_fitting_size(path, state, model, images["image_size"]))
    share = card.image_size / images["image_size"]
    images |= {"image_size": card.image_size, "resize_size": round(share * images["resize_size"])}
    names = names if len(names) == card.num_classes else None
    return ModelCard.from_dict(card.to_dict() | images | ({"classes": names, "invented_classes": False} if names else {}), path)


def _count(state, model):
    """How many classes the head in a state_dict has; 0 where it has none."""
    last = next((state[key] for key in class_rows(model) if key in state), None)
    return last.shape[0] if last is not None and last.ndim else 0


def _images(model, image_size):
    """The fields of a card that say how images are prepared: for a library's network those of its pretrained weights."""
    try:
        return preprocessing(model, image_size, pretrained=library_of(model) is not None)
    except UserError:  # it has no weights
        return preprocessing(model, image_size)


def _fitting_size(path, state, model, first=None):
    """The image size that weights are for, in px: `first` or the network's own, unless their shapes fit another one only.

    Raises UserError where they fit several others.
    """
    first = first or default_size(model)
    if library_of(model) is None:
        fitting = _sizes_of_custom(state) if architecture(model) == "custom" else ()
        if not fitting or first in fitting:
            return first
        raise UserError(f"the weights in {path} fit images of {fitting[0]} to {fitting[-1]} px; say which", option="image_size")
    sizes = [first, *SIZES] if _faults(state, model, first).keys() == {"shape of"} else []
    return next((size for size in sizes if not _faults(state, model, size)), first)


def _sizes_of_custom(state):
    """The image sizes that weights of custom fit: its first linear layer has 64·⌊S/8⌋² inputs."""
    shape = getattr(state.get("classifier.0.weight"), "shape", ())
    side = round((shape[1] / 64) ** 0.5) if len(shape) == 2 else 0
    return range(8 * side, 8 * side + 8) if side else ()


def _faults(state, model, image_size):
    """How weights differ from a network, see `mismatch`; also where it is not built for images of that size."""
    try:
        outline = build_outline(architecture(model), _count(state, model), image_size).state_dict()
    except Exception as error:  # whatever a network raises for a size that it does not take
        return {"size": [str(error)]}
    return mismatch(outline, own_names(model, state))


def _namesake(state, model):
    """The end of a sentence: the network of the same name, of ours or a library, that weights are of; or nothing."""
    bare = model.rpartition("/")[2]
    others = [start + bare for start in ("", TORCHVISION, TIMM) if start + bare != model]
    for other in others:
        known = unknown_model(other) is None
        if known and _count(state, other) and not _faults(state, other, default_size(other)):
            return f"; they are those of {other}"
    return ""


def _few(keys, most=4):
    rest = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + rest
