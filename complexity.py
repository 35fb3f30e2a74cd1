"""One table of what five counters say of a network, and why each differs from the exact count.

    python complexity.py -m resnet18
    python complexity.py -w weights/FashionMNIST/custom/best_model.pth

Runs torch's FlopCounterMode, fvcore, ptflops, thop and torchscan beside our own exact count (its conventions stand in
utils/complexity/formulas.py) and writes results/complexity/<model>_complexity.txt, .json and .png. Another size than 224 px
and another number of classes than 10 stand in the name. In the differences, a row is what a tool counts too much or too
little of work that it does count; work that it gives nothing for stands under "not counted". The rows add up to the
difference of the totals exactly. On a GPU the peak activation memory is measured too.
"""

from models.registry import list_models, unknown_model
from utils.core import cli
from utils.core.errors import run
from utils.core.files import RESULTS, write_json, write_text


def parser():
    p = cli.Parser(__doc__)
    cli.add_model(p, list_models(), unknown_model)
    cli.add_size(p)
    cli.add_device(p)
    return p


def main():
    args = parser().parse(cli.model_or_weights)

    from models.checkpoint import open_network
    from utils.complexity.comparison import describe, measure
    from utils.evaluation import plots
    from utils.runtime.device import choose_device

    network, card = open_network(args.model, args.weights, args.num_classes, args.image_size)
    result = measure(network.to(choose_device(args.device, args.cuda)), card.architecture, card.image_size)
    text, exact = describe(result), result["exact"]
    print(f"{text}\n")  # first: it is not lost where the files cannot be written
    path = str(RESULTS / "complexity" / f"{card.result_name}_complexity")
    write_text(f"{path}.txt", text + "\n")
    write_json(f"{path}.json", result)
    costs = f"{exact['macs']:,} MACs, {exact['parameters']['all']:,} parameters"
    plots.layer_costs(result["layers"], f"{path}.png", f"{card.architecture} at {card.image_size} px: {costs}")
    print(f"written to {path}.txt, .json and .png")


if __name__ == "__main__":
    run(main)
