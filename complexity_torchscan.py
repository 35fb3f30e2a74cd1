"""Count parameters, MACs and memory accesses with torchscan, with our receptive fields in its table.

    python complexity_torchscan.py -m resnet18
    python complexity_torchscan.py -w weights/FashionMNIST/custom/best_model.pth --max_depth 2

Writes results/complexity/<model>_complexity_torchscan.txt (the tool's own table, then our summary and what the tool leaves out,
by module) and .json. The model is copied first. 1 MAC = 2 FLOPs. The column "Receptive field" is ours, in pixels at this
image size ("global": the whole image; "?": no layer of its own), because torchscan prints each layer's own kernel there.
"""

from models.registry import list_models, unknown_model
from utils.core import cli
from utils.core.errors import run


def main():
    args = cli.counting_parser(__doc__, list_models(), unknown_model).parse(cli.model_or_weights)

    from models.checkpoint import open_network
    from utils.complexity.report import write_report
    from utils.receptive_field.analytic import receptive_fields
    from utils.runtime.device import choose_device

    network, card = open_network(args.model, args.weights, args.num_classes, args.image_size)
    fields = receptive_fields(network, card.image_size)
    network.to(choose_device(args.device, args.cuda))
    write_report("torchscan", network, card, args.max_depth, fields=fields)


if __name__ == "__main__":
    run(main)
