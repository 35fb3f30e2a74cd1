"""The receptive field of every layer of a network: what part of the image a unit of it can see, and what part it uses.

    python receptive_field.py -m resnet18
    python receptive_field.py -w weights/FashionMNIST/custom/best_model.pth --layer layer2 --image photo.jpg

Prints size, jump (pixels from one unit to the next), start (first pixel of unit 0; under 0 lies padding), centre (of unit 0's
field) and units (of the layer's output) of every layer, worked out twice: by analysis of the exported graph and by gradient.
Where the two disagree, it says so. One number is height and width alike, `a×b` is height × width; `global` is the whole
image whatever its size, `≥ n` is a field that reached the cap of the gradient method.

Writes results/receptive_field/<model>.json and .png: the field of the unit in the middle of --layer as a box on an image,
and the effective field beside it, the heat of the pixels that the unit answers to, averaged over images of the data set that
the checkpoint was trained on (digits where that is not found). With -m alone the weights are random, and the picture says so.
"""

import difflib
import math

import numpy as np
import torch

from models.build import build_model
from models.checkpoint import load_model
from models.registry import list_models
from utils.core import cli
from utils.core.card import ModelCard
from utils.core.errors import UserError, run
from utils.core.files import RESULTS, write_json
from utils.core.images import load_image, preprocess, resize_and_crop
from utils.core.text import table
from utils.data.samples import nearby_split, spread
from utils.evaluation import plots
from utils.receptive_field.analytic import analytic_fields
from utils.receptive_field.gradient import CAP, gradient_fields
from utils.receptive_field.report import compare, effective_field, effective_size

METHODS = {
    "analytic": lambda network, size, cap: analytic_fields(network, size),
    "gradient": gradient_fields,
}


def parser():
    p = cli.Parser(__doc__)
    cli.add_model(p, list_models())
    cli.add_size(p)
    group = p.add_argument_group("receptive field")
    group.add_argument("--method", default="both", choices=("both", *METHODS), help="how to work it out")
    group.add_argument("--cap", type=int, default=CAP, check=cli.at_least(64), help="px where the gradient method gives up")
    group = p.add_argument_group("picture")
    group.add_argument("--layer", help="as the table names it: the last one that has a map")
    group.add_argument("--image", metavar="FILE", help="the image under the box: the first one of the data set")
    group.add_argument(
        "--images", type=int, default=64, check=cli.at_least(1), help="how many images the heat is averaged over"
    )
    group.add_argument("-d", "--dataset", help="where they come from: what the model was trained on, or digits")
    group.add_argument("--data_dir", help="where it lies: as in training")
    return p


def main():
    args = parser().parse(cli.model_or_weights)
    network, card = open_network(args)
    fields, findings = measure(network, card.image_size, args.method, args.cap)
    layer = choose_layer(args.layer, fields)
    print(describe(network, fields, findings))
    split, dataset = nearby_split(card, args.dataset, args.data_dir)
    wanted, source = card.training.get("dataset"), f"{dataset.name} {split.name}"
    if wanted not in (None, "digits") and dataset.name == "digits" and not args.dataset:
        print(f"\nthe checkpoint's data set {wanted} is not here (--data_dir says where it lies); digits take its place")
    heat, unit = heat_of(network, card, layer, split, args.images)
    used = min(args.images, len(split))
    weights = str(args.weights) if args.weights else "random weights, untrained"
    effective = {
        "layer": layer,
        "unit": unit and list(unit),
        "weights": weights,
        "images": f"{used} of {source}",
        "effective_size": round(effective_size(heat), 1),
    }
    print(
        f"\neffective field of {layer}: about {effective['effective_size']:.0f} px across "
        f"({weights}; {used} images of {source})"
    )
    path = RESULTS / "receptive_field" / f"{card.architecture}.json"
    write_json(path, to_json(network, card, fields, findings, args) | {"effective": effective})
    image = load_image(args.image) if args.image else split.image(0)
    draw(image, card, layer, fields[layer], unit, heat, effective, path.with_suffix(".png"))
    print(f"written:\n  {path}\n  {path.with_suffix('.png')}")


def open_network(args):
    """`(network, card)` of the checkpoint, or of a fresh model with 10 classes at 224 px unless told otherwise."""
    if args.weights:
        network, card = load_model(args.weights, model=args.model, image_size=args.image_size)
        if args.num_classes not in (None, card.num_classes):
            raise UserError(f"--num_classes {args.num_classes} contradicts {args.weights}, which has {card.num_classes}")
        if card.scheme:
            raise UserError(f"{args.weights} is quantized ({card.scheme}) and has no gradient; give the float checkpoint")
        return network, card
    torch.manual_seed(0)  # the same picture every time
    count, size = args.num_classes or 10, args.image_size or 224
    network = build_model(args.model, count, size).eval()
    return network, ModelCard(args.model, [str(i) for i in range(count)], size)


def measure(network, image_size, method, cap):
    """`(fields, findings)`: {layer: Field}, and {"notes": […], "mismatches": […], "compared": how many layers both know}.

    Of two methods the analysis is reported, and the gradient for layers that only it knows. Where one of two methods cannot
    do this network, a note says why; where none can, UserError is raised.
    """
    wanted = list(METHODS) if method == "both" else [method]
    results, notes = {}, []
    for name in wanted:
        try:
            results[name], said = METHODS[name](network, image_size, cap)
            notes += said
        except UserError as error:
            if name == wanted[-1] and not results:
                raise
            notes.append(str(error))
    both = list(results.values()) if len(results) == 2 else [next(iter(results.values())), {}]
    fields = both[0] | {name: field for name, field in both[1].items() if name not in both[0]}
    compared = sum(name in both[0] for name in both[1])
    return fields, {"notes": notes, "mismatches": compare(*both), "compared": compared}


def choose_layer(wanted, fields):
    """The layer to draw. Raises UserError for an unknown one, with what is spelled alike."""
    if wanted is None:
        maps = [name for name, field in fields.items() if None not in field.jump]
        return maps[-1]
    if wanted not in fields:
        near = difflib.get_close_matches(wanted, fields, n=4)
        hint = f"Did you mean {' or '.join(near)}?" if near else "The table without --layer lists them."
        raise UserError(f"--layer {wanted} is no layer of this network. {hint}")
    return wanted


def heat_of(network, card, layer, split, count):
    """`effective_field` over the first images of a split, spread evenly over it."""
    images = np.concatenate([preprocess(image, card) for image in spread(split, count)])
    return effective_field(network, layer, torch.from_numpy(images))


def spell(values):
    """(height, width) as one word."""
    words = [_word(value) for value in values]
    return words[0] if words[0] == words[1] else "×".join(words)


def _word(value):
    if value is None or value == -math.inf:
        return "–"
    return "global" if value == math.inf else f"{value:g}"


def spell_size(field):
    """The size with `≥` where the measurement stopped at its cap."""
    words = [f"≥ {span.size}" if span.capped else _word(span.size) for span in (field.height, field.width)]
    return words[0] if words[0] == words[1] else "×".join(words)


def _pixels(field):
    return "global" if spell_size(field) == "global" else f"{spell_size(field)} px"


def describe(network, fields, findings):
    """The table, and what is to be said about it."""
    modules = dict(network.named_modules())
    header = ("layer", "type", "size", "jump", "start", "centre", "units")
    rows = []
    for name, field in fields.items():
        start = [None if span.capped else span.start for span in (field.height, field.width)]
        row = (name, type(modules[name]).__name__, spell_size(field), spell(field.jump), spell(start))
        rows.append((*row, spell(field.centre), spell(field.units)))
    lines = [table(header, rows, align="<<>>>>>"), ""]
    if findings["mismatches"]:
        lines.append(f"the two methods DISAGREE {len(findings['mismatches'])} times:")
        lines += [f"  {mismatch}" for mismatch in findings["mismatches"]]
    elif findings["compared"]:
        lines.append(f"by analysis and by gradient alike: all of the {findings['compared']} layers that both methods know")
    lines += [f"note: {note}" for note in findings["notes"]]
    return "\n".join(lines)


def to_json(network, card, fields, findings, args):
    """What describe() prints, for programs: pairs are [height, width], "global" is a size, null is what there is not."""
    modules = dict(network.named_modules())

    def starts(field):
        return [None if span.capped or math.isinf(span.start) else span.start for span in (field.height, field.width)]

    return {
        "model": card.architecture,
        "image_size": card.image_size,
        "method": args.method,
        "cap": args.cap,
        **findings,
        "layers": [
            {
                "layer": name,
                "type": type(modules[name]).__name__,
                "size": ["global" if size == math.inf else size for size in field.size],
                "at_least": [span.capped for span in (field.height, field.width)],
                "jump": list(field.jump),
                "start": starts(field),
                "centre": list(field.centre),
                "units": list(field.units),
            }
            for name, field in fields.items()
        ],
    }


def draw(image, card, layer, field, unit, heat, effective, path):
    """The picture."""
    last = card.image_size - 1
    places = unit or (0, 0)
    spans = [
        (0, last) if math.isinf(span.size) or span.capped else span.of_unit(place)
        for span, place in zip((field.height, field.width), places, strict=True)
    ]
    (top, bottom), (left, right) = spans
    which = f"unit {unit}" if unit else "all units"
    state = "trained" if card.training else "random weights"
    titles = (
        f"{layer}, {which}: theoretical field {_pixels(field)}",
        f"effective field, about {effective['effective_size']:.0f} px across",
        f"{card.architecture} at {card.image_size} px ({state}, {effective['images']})",
    )
    plots.receptive_field(
        resize_and_crop(image, card.image_size, card.resize_size), (top, left, bottom, right), heat.numpy(), path, titles
    )


if __name__ == "__main__":
    run(main)
