"""Count parameters and MACs with fvcore, which follows the operators of the traced graph.

    python complexity_fvcore.py -m resnet18
    python complexity_fvcore.py -w weights/FashionMNIST/custom/best_model.pth --max_depth 2

Writes results/complexity/<model>_complexity_fvcore.txt (the tool's own table, then our summary and what the tool leaves out,
by module) and .json. The model is copied first. 1 MAC = 2 FLOPs; fvcore says flops and means MACs.
"""

from utils.complexity.counters import report_from_flags
from utils.core.errors import run


def main():
    print(report_from_flags("fvcore", __doc__))


if __name__ == "__main__":
    run(main)
