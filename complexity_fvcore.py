"""Count parameters and MACs with fvcore, which follows the operators of the traced graph.

    python complexity_fvcore.py -m resnet18
    python complexity_fvcore.py -w weights/FashionMNIST/custom/best_model.pth --max_depth 2

Writes results/complexity/<model>_complexity_fvcore.txt (the tool's own table, then our summary and what the tool leaves out,
by module) and .json. The model is copied first. 1 MAC = 2 FLOPs; fvcore says flops and means MACs.
"""

from models.registry import list_models, unknown_model
from utils.core import cli
from utils.core.errors import run


def main():
    args = cli.counting_parser(__doc__, list_models(), unknown_model).parse(cli.model_or_weights)

    from models.checkpoint import open_network
    from utils.complexity.report import write_report
    from utils.runtime.device import choose_device

    network, card = open_network(args.model, args.weights, args.num_classes, args.image_size)
    network.to(choose_device(args.device, args.cuda))
    write_report("fvcore", network, card, args.max_depth)


if __name__ == "__main__":
    run(main)
