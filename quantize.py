"""Make a smaller file of a trained network, and measure what it costs and gains: size, accuracy, agreement, latency.

    python quantize.py -w weights/FashionMNIST/custom/best_model.pth                       # fp16: half the bytes
    python quantize.py -w weights/FashionMNIST/custom/best_model.pth --scheme int8         # a quarter, for ONNX Runtime
    python quantize.py -w weights/FashionMNIST/custom/best_model.pth --scheme int8-dynamic # needs no calibration
    python quantize.py -m resnet18 -w plain_state_dict.pth -c classes.txt                  # a file without a model card

Everything is measured on the reloaded file, in the arithmetic that it ships in, beside the fp32 file for the same engine.
Exit status 4: the file is written, but its accuracy is lower by more than --max_drop.
"""

import pathlib
import sys
import tempfile

from models.registry import list_models, unknown_model
from utils.core.card import read_classes
from utils.core.cli import Parser, add_card_facts, add_data, add_device, add_model, at_least, between
from utils.core.errors import UserError, run
from utils.core.files import RESULTS, check_places, place_name, protect, result_name, write_json
from utils.core.inputs import no_place
from utils.core.machine import keep_memory
from utils.data.flags import no_data
from utils.export.quantize import QUANTIZERS, finite_weights
from utils.inference.formats import converted_folder, converted_name, must_be_checkpoint


def parser():
    parser = Parser(__doc__)
    model = add_model(parser, list_models(), unknown_model, required_weights=True)
    add_card_facts(model)
    scheme = parser.add_argument_group("quantization")
    scheme.add_argument("--scheme", default="fp16", choices=list(QUANTIZERS), help="what becomes of the weights")
    scheme.add_argument("--calibration", type=int, default=256, check=at_least(1), metavar="N", help="int8: training images")
    scheme.add_argument("--seed", type=int, default=0, check=at_least(0), help="int8: which training images")
    scheme.add_argument("--equalize", action="store_true", help="int8: even out the channels first, where they differ much")
    scheme.add_argument("--max_drop", type=float, default=1.0, check=between(0, 100), help="points of Acc@1 for status 4")
    scheme.add_argument("--output", check=no_place, metavar="FILE",
                        help="default: converted_models/<model>_<scheme> beside the weights; figures beside FILE")  # fmt: skip
    add_data(parser, no_data, default=None)
    add_device(parser)
    return parser


def flags_agree(args):
    """Faults of flags that do not go together."""
    scheme = QUANTIZERS[args.scheme]
    for flag in {"calibration", "seed"} & args.given:
        if not scheme.calibrated:
            yield f"--{flag} is for schemes that are calibrated: leave it out, or take --scheme int8"
    if scheme.devices and args.device not in ("auto", *scheme.devices):
        where = " and ".join(scheme.devices).upper()
        yield f"--scheme {args.scheme} makes a file for {scheme.shown} on the {where}: leave --device {args.device} out"
    if args.output and pathlib.Path(args.output).suffix != scheme.suffix:
        yield f"--output {args.output} must end in {scheme.suffix}, as a file of --scheme {args.scheme} does"


def main():
    args = parser().parse(lambda args: list(flags_agree(args)))

    import torch  # not above, as what follows: the flags are answered without it

    from models.checkpoint import load_model
    from utils.data.samples import calibration_images, example_images, find_dataset, spread
    from utils.export.gains import BATCHES, describe, judge, measure, write_fp32
    from utils.inference.predictors import open_predictor
    from utils.runtime.device import choose_device, origin

    keep_memory()
    scheme = QUANTIZERS[args.scheme]
    device = scheme.devices[0] if scheme.devices else args.device
    choose_device(device, args.cuda)
    threads = torch.get_num_threads()  # one a core, unless OMP_NUM_THREADS says otherwise; the same for every engine
    must_be_checkpoint(args.weights)
    protect(*filter(None, (args.weights, args.classes)))
    classes = read_classes(args.classes) if args.classes else None
    network, card = load_model(args.weights, args.model, classes, args.image_size)
    if card.scheme:
        raise UserError(f"--weights {args.weights} is quantized already ({card.scheme}); give the fp32 checkpoint")
    finite_weights(network, args.weights)  # before a file is written, perhaps in the place of a good one
    name = scheme.file_name(converted_name(args.weights, card) + "_equalized" * args.equalize)
    path = pathlib.Path(args.output or converted_folder(args.weights) / name)
    dataset, why = find_dataset(card, args.dataset, args.data_dir, required=scheme.calibrated)
    place = place_name(args.dataset or card.training["dataset"], dataset.name) if dataset else "no_dataset"
    variant = ("equalized" * args.equalize, args.scheme, args.image_size and f"{args.image_size}px")
    usual = RESULTS / "quantization" / place / f"{result_name(card, args.weights, *variant)}.json"
    figures = f"{path}.json" if args.output else usual
    check_places(path, figures)
    split = dataset.held_out if dataset else None
    if dataset and split is None:
        why = f"{dataset.name} has no images apart from those of training"
    samples, source = (spread(split, max(BATCHES)), None) if split else example_images(card, max(BATCHES))
    calibration = calibration_images(dataset.train, args.calibration, args.seed) if scheme.calibrated else []
    with tempfile.TemporaryDirectory() as folder:
        fp32 = write_fp32(scheme, network, card, folder)
        scheme.apply(network, card, path, calibration, args.equalize)
        before, after = (open_predictor(file, device=device, threads=threads) for file in (fp32, path))
        if after.warning():
            print(after.warning(), file=sys.stderr)
        measured = measure(before, after, split, samples, args.batch_size, args.num_workers)
    verdict, status = judge(measured, args.max_drop)
    facts = {
        "model": card.architecture,
        "scheme": args.scheme,
        "weights": str(args.weights),
        "dataset": dataset.name if dataset else None,
        "measured on": f"{dataset.name} {split.name}" if split else source,
        "calibration": f"{len(calibration)} images of {dataset.name} train, seed {args.seed}" if calibration else None,
        "equalized": args.equalize,
        "quantization": after.card.quantization,
    }
    closing = {"verdict": verdict, "status": status, "max_drop": args.max_drop, "threads": threads}
    result = facts | measured | closing | {"device": after.device} | origin()
    print(describe(result, card, why))  # first: it is not lost where the JSON cannot be written
    print(f"written: {path} and {write_json(figures, result)}")
    return status


if __name__ == "__main__":
    run(main)
