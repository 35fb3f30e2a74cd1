"""Classify images with an exported model: ONNX, TorchScript or torch.export (.pt2).

    python predict.py -i assets/images/fashion_mnist/bag.png -m weights/FashionMNIST/custom/converted_models/custom_onnx.onnx
    python predict.py -i photos/ 'more/*.jpg' -m model.onnx --topk 3 --threshold 0.5 --csv answers.csv --save_dir drawn/
    python predict.py -i assets/images/fashion_mnist/bag.png -m somebody_elses.onnx -c classes.txt --json -

The engine follows from the file (.onnx, .pt, .pt2), and classes and sizes from its model card; only a file
without a card needs --classes. An ONNX file is answered without torch, in a fraction of a second from start to end. The
printed time of one image is that of preprocessing and network, without reading the file. Exit status 3: some images could not
be read; they are named, and the others are answered.
"""

import sys

from utils.core.card import read_classes
from utils.core.cli import Parser, add_card_facts, add_device
from utils.core.errors import UserError, run
from utils.core.files import protect
from utils.core.inputs import no_file
from utils.inference.flags import add_flags, flags_agree, options_of
from utils.inference.formats import FORMATS, format_of, written
from utils.inference.sources import find_images


def parser():
    parser = Parser(__doc__)
    model = parser.add_argument_group("model")
    names = ("-w", "--weights", "-m", "--model")
    model.add_argument(
        *names,
        dest="model",
        required=True,
        check=no_file,
        metavar="FILE",
        help="an exported file: .onnx, .pt, .pt2, .safetensors",
    )
    model.add_argument("-e", "--engine", choices=written(), help="default: what the file says")
    add_card_facts(model)
    add_flags(parser)
    add_device(parser)
    return parser


def main():
    args = parser().parse(flags_agree)
    from utils.inference.mirrored import AUGMENTED  # not above, as what follows: numpy takes a moment
    from utils.inference.output import report
    from utils.inference.predictors import open_predictor

    files = find_images(args.image)
    protect(*(file.path for file in files), *filter(None, (args.model, args.classes)))
    classes = read_classes(args.classes) if args.classes else None
    engine = format_of(args.model, args.engine)
    if engine not in written():
        what = FORMATS[engine].what
        raise UserError(f"{args.model} is {what}: use predict_ckpoint.py for it, or export it first with export.py")
    predictor = open_predictor(args.model, engine, classes, args.device, args.image_size)
    if args.cuda and predictor.device == "cpu":
        print("--cuda: no CUDA device is usable here, so the CPU is used", file=sys.stderr)
    if predictor.warning():
        print(predictor.warning(), file=sys.stderr)
    return report(AUGMENTED[args.tta](predictor), files, options_of(args))


if __name__ == "__main__":
    run(main)
