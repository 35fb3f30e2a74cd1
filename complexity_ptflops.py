"""Count parameters and MACs with ptflops, which hooks modules and patches functions.

    python complexity_ptflops.py -m resnet18
    python complexity_ptflops.py -w weights/FashionMNIST/custom/best_model.pth --max_depth 2

Writes results/complexity/<model>_complexity_ptflops.txt (the tool's own table, then our summary and what the tool leaves out,
by module) and .json. The model is copied first. 1 MAC = 2 FLOPs; ptflops counts ReLU and pooling modules twice.
"""

from models import list_models
from utils import cli
from utils.complexity import network_to_count
from utils.counters import report
from utils.errors import run
from utils.runtime import choose_device


def main():
    parser = cli.Parser(__doc__)
    cli.add_model(parser, list_models())
    cli.add_size(parser)
    parser.add_argument("--max_depth", type=int, check=cli.at_least(0), help="print the tool's table to this module depth only")
    cli.add_device(parser)
    args = parser.parse(cli.model_or_weights)
    network, name, image_size = network_to_count(args.model, args.weights, args.num_classes, args.image_size)
    network.to(choose_device(args.device, args.cuda))
    print(report("ptflops", network, name, image_size, args.max_depth))


if __name__ == "__main__":
    run(main)
