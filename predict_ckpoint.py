"""Classify pictures with a checkpoint (.pth), also one with fp16 or bf16 weights.

    python predict_ckpoint.py -i boot.png -w weights/FashionMNIST/custom/best_model.pth
    python predict_ckpoint.py -i photos/ -w weights/FashionMNIST/custom/converted_models/custom_quantized.pth --topk 3
    python predict_ckpoint.py -i boot.png -m custom -w plain_state_dict.pth -c classes.txt

Only a file without a model card needs --model and --classes. The printed time is that of preprocessing and network,
without reading the file. Exit status 3: some pictures could not be read; they are named, and the others are answered.
"""

import sys

import torch

from models.checkpoint import load_model
from models.registry import list_models
from utils.core.card import read_classes
from utils.core.cli import Parser, add_card_facts, add_device, add_model
from utils.core.errors import run
from utils.core.machine import keep_memory
from utils.export.quantize import QUANTIZERS
from utils.inference import answers
from utils.inference.predictors import Predictor, must_be_checkpoint
from utils.runtime.device import choose_device, exact_matmul


class CheckpointPredictor(Predictor):
    """A network behind the call that exported files have."""

    engine = "checkpoint"

    def __init__(self, path, network, card, device):
        super().__init__(path)
        self.network, self.card, self.device = network.to(device), card, device.type
        self.card_text = card.to_json()

    def _run(self, batch):
        with torch.inference_mode(), exact_matmul():
            return self.network(torch.from_numpy(batch).to(self.device)).float().cpu().numpy()


def parser():
    parser = Parser(__doc__)
    model = add_model(parser, list_models(), required_weights=True)
    add_card_facts(model)
    answers.add_flags(parser)
    add_device(parser)
    return parser


def main():
    args = parser().parse(answers.flags_agree)
    pictures = answers.find_pictures(args.image)
    must_be_checkpoint(args.weights)
    classes = read_classes(args.classes) if args.classes else None
    network, card = load_model(args.weights, args.model, classes, args.image_size)
    device = choose_device(args.device)
    if args.cuda and device.type == "cpu":
        print("--cuda: no CUDA device is usable here, so the CPU is used", file=sys.stderr)
    if card.scheme:
        print(QUANTIZERS[card.scheme].arithmetic(device), file=sys.stderr)
    keep_memory()
    return answers.report(CheckpointPredictor(args.weights, network, card, device), pictures, **answers.wanted(args))


if __name__ == "__main__":
    run(main)
