"""What a run starts from: the trunk of a checkpoint, ours or others', and the rows of the classes that it knows."""

import dataclasses
from dataclasses import dataclass, replace

from models.build import head_of
from models.checkpoint import load_strictly, read_weights
from models.without_card import class_rows
from utils.core.card import ModelCard, same_network
from utils.core.errors import UserError
from utils.core.text import plural
from utils.runtime.distributed import from_main

# Defaults of runs that start from trained weights, see docs/training.md: smaller steps, which the trunk survives
FINE_TUNING = {"base_lr": 1e-3}


@dataclass(frozen=True)
class Start:
    """The weights in a file, and its ModelCard where it has one."""

    path: str
    state: dict
    card: ModelCard | None

    def images(self, image_size):
        """The fields of a card that say how images are prepared, as they were, but at `image_size`."""
        if self.card is None:
            return {}
        before = max(image_size, round(self.card.resize_size * image_size / self.card.image_size))
        return {name: getattr(self.card, name) for name in ("interpolation", "mean", "std")} | {"resize_size": before}

    def load_into(self, network, name, classes):
        """Load the trunk into a fresh network called `name`, strictly, and the head as far as it is known; say what was kept.

        The head's last layer has a row for each class: those of `classes` whose name is in the card too are kept. Where the
        head is another one, all of it is new. Raises UserError, with the keys, for weights of another trunk.
        """
        heads, rows, own = _names_of_heads(network, name), class_rows(name), network.state_dict()
        in_head = {key for key in [*own, *self.state] if key.startswith(heads)}
        hidden = (in_head | {*rows}) & own.keys() - {*rows}
        fits = all(key in self.state and self.state[key].shape == own[key].shape for key in hidden)
        fits = fits and all(key in self.state and self.state[key].shape[1:] == own[key].shape[1:] for key in rows)
        if fits and self.card and any(len(self.state[key]) != self.card.num_classes for key in rows):
            raise UserError(f"the card of {self.path} names {self.card.num_classes} classes, its weights have others")
        merged = {key: value for key, value in self.state.items() if key not in in_head and key not in rows}
        merged |= {key: own[key] for key in own if key in in_head or key in rows}
        kept = self._places(classes) if fits else {}
        if fits:
            merged |= {key: self.state[key] for key in hidden}
        for key in rows if kept else ():
            merged[key] = own[key].clone()
            merged[key][list(kept)] = self.state[key][list(kept.values())].to(own[key].dtype)
        load_strictly(network, merged, self.path, name)
        what = "trunk and hidden layers of the head" if fits and hidden else "trunk"
        names = "" if self.card and not self.card.invented_classes else ", as the file does not name its classes"
        return f"{what} from {self.path}: {len(kept)} of {plural(len(classes), 'class', 'classes')} kept{names}"

    def _places(self, classes):
        """{place among `classes`: row in the file} of the classes that both have."""
        theirs = [] if self.card is None or self.card.invented_classes else self.card.classes
        rows = {name: row for row, name in enumerate(theirs)}
        return {place: rows[name] for place, name in enumerate(classes) if name in rows}


def _names_of_heads(network, name):
    """What the keys of the head begin with; of a distilled network, which has two, those of both."""
    head = head_of(network, name)
    found = [key for key, module in network.named_modules() if module is head]
    found = found or [key for key, module in network.named_modules() if any(module is part for part in head)]
    return tuple(f"{key}." for key in found)


def find_start(options):
    """`(options, Start or None)`: what `options.weights` names is read, and says what was not chosen.

    Of `options.defaulted`, the model, the norm type and the image size become those of its card, and FINE_TUNING holds, also
    for `pretrained`. Raises UserError for a file that cannot be read and for a choice that contradicts its card.
    """
    if not (options.weights or options.pretrained):
        return options, None
    start = Start(str(options.weights), *from_main(read_weights, options.weights)) if options.weights else None
    chosen = dict(FINE_TUNING)
    if start and start.card:
        card = start.card
        chosen |= {"model": card.architecture, "norm_type": card.norm_type, "image_size": card.image_size}
        agree = {"model": same_network(options.model, card.architecture), "norm_type": options.norm_type == card.norm_type}
        for name, agrees in agree.items():
            if not agrees and name not in options.defaulted:
                raise UserError(
                    f"{getattr(options, name)} contradicts {start.path}, which says {chosen[name]}; leave it out", option=name
                )
    elif start and "model" in options.defaulted:
        raise UserError(f"{start.path} has no model card; say which network it is", option="model")
    left = {field.name for field in dataclasses.fields(options)} & {*options.defaulted}
    options = replace(options, from_trained=True, **{name: value for name, value in chosen.items() if name in left})
    if options.min_lr > options.base_lr:
        raise UserError(f"{options.min_lr:g} is above the learning rate of fine-tuning, {options.base_lr:g}", option="min_lr")
    return options, start
