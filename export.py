"""Export a checkpoint to ONNX, TorchScript or torch.export, and compare the file with the checkpoint before it is named.

    python export.py -w weights/FashionMNIST/custom/best_model.pth -e onnx
    python export.py -w weights/FashionMNIST/custom/best_model.pth -e onnx --with_preprocessing
    python export.py -w weights/FashionMNIST/custom/converted_models/custom_quantized.pth -q -e onnx
    python export.py -m resnet18 -w plain_state_dict.pth -c classes.txt -e pt2

The file holds the model card, with the result of the comparison in it. A file that answers otherwise than its checkpoint
is not written. From a quantized checkpoint (fp16, bf16), ONNX of fp16 weights stays in fp16, half the bytes; every
other combination holds the rounded weights in fp32, as the runtimes cannot choose their arithmetic by the device.
"""

import pathlib

from models.registry import list_models, unknown_model
from utils.core.card import read_classes
from utils.core.cli import Parser, add_card_facts, add_model, at_least
from utils.core.errors import run
from utils.core.files import check_places, protect
from utils.core.inputs import no_place
from utils.core.text import table
from utils.data.flags import no_data
from utils.export.quantize import QUANTIZERS, hold_quantized
from utils.inference.formats import FORMATS, converted_folder, converted_name, must_be_checkpoint, written


def parser():
    parser = Parser(__doc__)
    model = add_model(parser, list_models(), unknown_model, required_weights=True)
    add_card_facts(model)
    model.add_argument("-q", "--quantized", action="store_true", help="the weights are a quantized checkpoint (quantize.py)")
    file = parser.add_argument_group("file")
    file.add_argument("-e", "--engine", required=True, choices=written(), help="what shall run the file")
    file.add_argument(
        "--output", check=no_place, metavar="FILE", help="default: converted_models/<model>_<engine> beside the weights"
    )
    file.add_argument("--fp16", action="store_true", help="ONNX: weights and arithmetic in half precision, float32 in and out")
    file.add_argument("--with_preprocessing", action="store_true", help="ONNX: takes uint8 RGB (N, H, W, 3) of any size")
    file.add_argument("--opset", type=int, check=at_least(1), metavar="N", help="ONNX: version of the operators; default: 18")
    check = parser.add_argument_group("comparison")
    check.add_argument("--images", type=int, default=64, check=at_least(7), metavar="N", help="how many images to compare on")
    check.add_argument("-d", "--dataset", check=no_data, help="whose val split; default: the one in the card, else digits")
    check.add_argument("--data_dir", help="where registered data sets lie; default: as in the card, else data/")
    return parser


def flags_agree(args):
    """Faults of flags that do not go together."""
    for flag in ("fp16", "with_preprocessing", "opset"):
        if getattr(args, flag) and flag not in FORMATS[args.engine].options:
            can = " and ".join(name for name, entry in FORMATS.items() if flag in entry.options)
            yield f"--{flag} exists for --engine {can} only: leave it out, or change --engine {args.engine}"
    suffix = FORMATS[args.engine].suffix
    if args.output and pathlib.Path(args.output).suffix != suffix:
        yield f"--output {args.output} must end in {suffix}, as a file for {args.engine} does"


def default_output(args, card):
    """<model>_<engine>, and a name of its own for every checkpoint and variant, so that none replaces another."""
    stem = converted_name(args.weights, card)
    if card.scheme and stem == card.file_name:
        stem = pathlib.Path(QUANTIZERS[card.scheme].file_name(stem)).stem
    variants = "_fp16" * args.fp16 + "_preprocessing" * args.with_preprocessing + (f"_opset{args.opset}" if args.opset else "")
    return converted_folder(args.weights) / f"{stem}_{args.engine}{variants}{FORMATS[args.engine].suffix}"


def show_parity(parity):
    """The certificate as a table."""
    limit = f"its logits span {parity['logit_range']:.3g}, |Δlogit| may be up to {parity['tolerance']:.2g}"
    print(f"compared with the checkpoint on {parity['source']}; {limit}")
    header = ["batch", "max |Δlogit|", "mean |Δprob|", "max |Δprob|", "argmax flips", "of them ties"]
    numbers = ("max_dlogit", "mean_dprob", "max_dprob")
    rows = [[r["batch"], *(f"{r[key]:.1e}" for key in numbers), r["flips"], r["ties"]] for r in parity["rows"]]
    print(table(header, rows))
    if "grey_levels" in parity:
        print(
            f"both saw the pixels that the file's own preprocessing made: {parity['differing']:.2%} of them differ from "
            f"Pillow's, by at most {parity['grey_levels']:.0f} of 255 grey levels"
        )


def show_file(path, args, card):
    size, side = path.stat().st_size / 1e6, card.image_size
    takes = "uint8 RGB (N, H, W, 3) of any size" if card.with_preprocessing else f"float32 (N, 3, {side}, {side})"
    what = f"ONNX opset {args.opset}" if args.opset else FORMATS[args.engine].load_writer().about or args.engine
    print(f"{path}: {size:.2f} MB, {what}, takes {takes}, gives logits (N, {card.num_classes})")


def main():
    args = parser().parse(lambda args: list(flags_agree(args)))

    from models.checkpoint import load_model  # not above, as what follows: the flags are answered without torch
    from utils.data.samples import example_images
    from utils.export.verify import ParityError, export_model

    must_be_checkpoint(args.weights)
    protect(*filter(None, (args.weights, args.classes)))
    classes = read_classes(args.classes) if args.classes else None
    model, card = load_model(args.weights, args.model, classes, args.image_size)
    card = hold_quantized(args.weights, card) if args.quantized else card
    path = pathlib.Path(args.output) if args.output else default_output(args, card)
    check_places(path)
    images, source = example_images(card, args.images, args.dataset, args.data_dir, sizes=args.with_preprocessing)
    flags = {"fp16": args.fp16, "with_preprocessing": args.with_preprocessing, "opset": args.opset}
    try:
        card = export_model(model, card, args.engine, path, images=images, source=source, **flags)
    except ParityError as error:
        show_parity(error.parity)
        raise
    show_parity(card.parity)
    show_file(path, args, card)


if __name__ == "__main__":
    run(main)
