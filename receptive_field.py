"""The receptive field of every layer of a network: what part of the image a unit of it can see, and what part it uses.

    python receptive_field.py -m resnet18
    python receptive_field.py -w weights/FashionMNIST/custom/best_model.pth --layer layer2 --image photo.jpg

Prints size, jump (pixels from one unit to the next), start (first pixel of unit 0; under 0 lies padding), centre (of unit 0's
field) and units (of the layer's output) of every layer, worked out twice: by analysis of the exported graph and by gradient.
Where the two disagree, it says so. One number is height and width alike, `a×b` is height × width; `global` is the whole
image whatever its size, `≥ n` is a field that reached the cap of the gradient method.

Writes results/receptive_field/<model>.json and .png: the field of the unit in the middle of --layer as a box on an image,
and the effective field beside it, the heat of the pixels that the unit answers to, averaged over images of the data set that
the checkpoint was trained on (digits where that is not found). With -m alone the weights are random, and the plot says so.
What differs from the defaults stands in the file name.
"""

import math
import pathlib

from models.registry import list_models, unknown_model
from utils.core import cli
from utils.core.errors import UserError, run
from utils.core.files import RESULTS, origin, protect, write_json
from utils.core.inputs import no_file
from utils.core.text import file_part, printable
from utils.data.flags import no_data
from utils.receptive_field.report import METHODS, choose_layer, describe, in_pixels, measure, to_json
from utils.receptive_field.spans import CAP

UNTRAINED = "random weights, untrained"
IMAGES = 64  # that the effective field is averaged over, unless told otherwise


def parser():
    p = cli.Parser(__doc__)
    cli.add_model(p, list_models(), unknown_model)
    cli.add_size(p)
    group = p.add_argument_group("receptive field")
    group.add_argument("--method", default="both", choices=("both", *METHODS), help="how to work it out")
    group.add_argument("--cap", type=int, default=CAP, check=cli.between(64, CAP), help="px where the gradient method gives up")
    group = p.add_argument_group("plot")
    group.add_argument("--layer", help="as the table names it: the last one that has a map, or the last of all")
    group.add_argument("--image", check=no_file, metavar="FILE", help="the image under the box: the first one of the data set")
    group.add_argument(
        "--images", type=int, default=IMAGES, check=cli.at_least(1), help="how many images the heat is averaged over"
    )
    group.add_argument("-d", "--dataset", check=no_data, help="where they come from: what the model was trained on, or digits")
    group.add_argument("--data_dir", help="where it lies: as in training")
    return p


def main():
    args = parser().parse(cli.model_or_weights)

    from models.checkpoint import open_network
    from utils.core.images import load_image
    from utils.data.samples import nearby_split

    protect(*filter(None, (args.weights, args.image)))
    chosen = load_image(args.image) if args.image else None
    network, card = open_network(args.model, args.weights, args.num_classes, args.image_size)
    fields, findings = measure(network, card.image_size, args.method, args.cap)
    layer = choose_layer(args.layer, fields)
    print(describe(network, fields, findings))
    split, dataset = nearby_split(card, args.dataset, args.data_dir)
    if split is None:
        raise UserError("there are no images to average over; name a data set", option="dataset")
    wanted = card.training.get("dataset")
    if wanted not in (None, "digits") and dataset.name == "digits" and not args.dataset:
        notice = f"the data set {printable(wanted)} of the model is not here (--data_dir says where it lies)"
        print(f"\n{notice}; digits take its place")
    heat, unit, size, note = look(network, card, layer, fields[layer].dims, split, args.images)
    weights = str(args.weights) if args.weights else UNTRAINED
    used, source = min(args.images, len(split)), f"{dataset.name} {split.name}"
    effective = {"layer": layer, "unit": unit, "weights": weights, "images": f"{used} of {source}", "effective_size": size}
    effective |= {"note": note} if note else {}
    said = f"\nnote: {note}" if note else ""
    print(f"\neffective field of {layer}: about {size:.0f} px across ({weights}; {used} images of {source}){said}")
    path = str(RESULTS / "receptive_field" / file_name(card, args))
    asked = {"method": args.method, "cap": args.cap}
    write_json(f"{path}.json", to_json(network, card, fields, asked | findings) | {"effective": effective})
    draw(chosen or split.image(0), card, fields[layer], heat, effective, f"{path}.png")
    print(f"written:\n  {path}.json\n  {path}.png")


def look(network, card, layer, dims, split, count):
    """`(heat, unit, size in px, note)` of a layer's effective field, averaged over `count` images from all over a split."""
    import numpy as np
    import torch

    from utils.core.images import preprocess
    from utils.data.samples import spread
    from utils.receptive_field.effective import effective_field, effective_size

    images = np.concatenate([preprocess(image, card) for image in spread(split, count)])
    heat, unit, note = effective_field(network, layer, torch.from_numpy(images), dims=dims)
    return heat, unit and list(unit), round(effective_size(heat), 1), note


def file_name(card, args):
    """Without suffix: the network, what it was trained on and where it is from, and the flags that are not as usual."""
    trained_on = card.training.get("dataset")
    asked = {
        f"cap{args.cap}": args.cap != CAP,
        args.method: args.method != "both",
        args.layer: args.layer,
        f"{args.images}images": args.images != IMAGES,
        args.dataset: args.dataset != trained_on,
        args.image and pathlib.Path(args.image).stem: args.image,
    }
    from_where = args.weights and origin(args.weights, card.file_name, pathlib.Path(trained_on or "").name)
    parts = [card.result_name, trained_on, card.training.get("name"), from_where]
    parts += [name for name, differs in asked.items() if differs]
    return "_".join(file_part(part) for part in parts if part)


def draw(image, card, field, heat, effective, path):
    """Write the plot: the field as a box on the image, and the heat beside it."""
    from utils.core.images import resize_and_crop
    from utils.evaluation import plots

    unit, last = effective["unit"], card.image_size - 1
    spans = [
        (0, last) if math.isinf(span.size) or span.capped else span.of_unit(place)
        for span, place in zip((field.height, field.width), unit or (0, 0), strict=True)
    ]
    (top, bottom), (left, right) = spans
    which = f"unit {tuple(unit)}" if unit else "all units"
    state = "random weights" if effective["weights"] == UNTRAINED else "trained"
    titles = (
        f"{effective['layer']}, {which}: theoretical field {in_pixels(field)}",
        f"effective field, about {effective['effective_size']:.0f} px across",
        f"{card.architecture} at {card.image_size} px ({state}, {effective['images']})",
    )
    pixels = resize_and_crop(image, card.image_size, card.resize_size, card.interpolation)
    plots.receptive_field(pixels, (top, left, bottom, right), heat.numpy(), path, titles)


if __name__ == "__main__":
    run(main)
