"""Count parameters, MACs and memory accesses with torchscan, with our receptive fields in its table.

    python complexity_torchscan.py -m resnet18
    python complexity_torchscan.py -w weights/FashionMNIST/custom/best_model.pth --max_depth 2

Writes results/complexity/<model>_complexity_torchscan.txt (the tool's own table, then our summary and what the tool leaves out,
by module) and .json. The model is copied first. 1 MAC = 2 FLOPs. The column "Receptive field" is ours, in pixels at this
image size ("global": the whole image; "?": no layer of its own), because torchscan prints each layer's own kernel there.
"""

from models import list_models
from utils import cli
from utils.complexity import network_to_count
from utils.counters import report
from utils.errors import run
from utils.receptive_field import receptive_fields
from utils.runtime import choose_device


def main():
    parser = cli.Parser(__doc__)
    cli.add_model(parser, list_models())
    cli.add_size(parser)
    parser.add_argument("--max_depth", type=int, check=cli.at_least(0), help="print the tool's table to this module depth only")
    cli.add_device(parser)
    args = parser.parse(cli.model_or_weights)
    network, name, image_size = network_to_count(args.model, args.weights, args.num_classes, args.image_size)
    fields = receptive_fields(network, image_size)
    network.to(choose_device(args.device, args.cuda))
    print(report("torchscan", network, name, image_size, args.max_depth, fields=fields))


if __name__ == "__main__":
    run(main)
