"""Classify images with a checkpoint (.pth), also one with fp16 or bf16 weights.

    python predict_ckpoint.py -i assets/images/fashion_mnist/bag.png -w weights/FashionMNIST/custom/best_model.pth
    python predict_ckpoint.py -i photos/ -w weights/FashionMNIST/custom/converted_models/custom_quantized.pth --topk 3
    python predict_ckpoint.py -i assets/images/fashion_mnist/bag.png -m custom -w plain_state_dict.pth -c classes.txt

Only a file without a model card needs --model and --classes. The printed time of one image is that of preprocessing and
network, without reading the file. Exit status 3: some images could not be read; they are named, and the others are answered.
"""

import sys

from models.registry import list_models, unknown_model
from utils.core.card import read_classes
from utils.core.cli import Parser, add_card_facts, add_device, add_model
from utils.core.errors import run
from utils.core.files import protect
from utils.core.machine import keep_memory
from utils.inference.flags import add_flags, flags_agree, options_of
from utils.inference.formats import must_be_checkpoint
from utils.inference.sources import find_images


def parser():
    parser = Parser(__doc__)
    model = add_model(parser, list_models(), unknown_model, required_weights=True)
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
    protect(*(file.path for file in files), *filter(None, (args.weights, args.classes)))
    must_be_checkpoint(args.weights)
    classes = read_classes(args.classes) if args.classes else None
    predictor = open_predictor(
        args.weights, None, classes, args.device, args.image_size, model=args.model, otherwise="checkpoint"
    )
    if args.cuda and predictor.device == "cpu":
        print("--cuda: no CUDA device is usable here, so the CPU is used", file=sys.stderr)
    if predictor.card.scheme:
        print(predictor.arithmetic, file=sys.stderr)
    keep_memory()
    return report(AUGMENTED[args.tta](predictor), files, options_of(args))


if __name__ == "__main__":
    run(main)
