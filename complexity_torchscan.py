"""Count parameters, MACs and memory accesses with torchscan, with our receptive fields in its table.

    python complexity_torchscan.py -m resnet18
    python complexity_torchscan.py -w weights/FashionMNIST/custom/best_model.pth --max_depth 2

Writes results/complexity/<model>_complexity_torchscan.txt (the tool's own table, then our summary and what the tool leaves out,
by module) and .json. The model is copied first. 1 MAC = 2 FLOPs. The column "Receptive field" is ours, in pixels at this
image size ("global": the whole image; "?": no layer of its own), because torchscan prints each layer's own kernel there.
"""

from utils.complexity.counters import report_from_flags
from utils.core.errors import run
from utils.receptive_field.report import receptive_fields


def main():
    print(report_from_flags("torchscan", __doc__, fields=receptive_fields))


if __name__ == "__main__":
    run(main)
