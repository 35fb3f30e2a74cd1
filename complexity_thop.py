"""Count parameters and MACs with thop, which hooks the leaves of the module tree.

    python complexity_thop.py -m resnet18
    python complexity_thop.py -w weights/FashionMNIST/custom/best_model.pth --max_depth 2

Writes results/complexity/<model>_complexity_thop.txt (the tool's own table, then our summary and what the tool leaves out,
by module) and .json. The model is copied first. 1 MAC = 2 FLOPs; thop says ops and means MACs.
"""

from utils.complexity.counters import report_from_flags
from utils.core.errors import run


def main():
    print(report_from_flags("thop", __doc__))


if __name__ == "__main__":
    run(main)
