"""Count parameters and MACs with ptflops, which hooks modules and patches functions.

    python complexity_ptflops.py -m resnet18
    python complexity_ptflops.py -w weights/FashionMNIST/custom/best_model.pth --max_depth 2

Writes results/complexity/<model>_complexity_ptflops.txt (the tool's own table, then our summary and what the tool leaves out,
by module) and .json. The model is copied first. 1 MAC = 2 FLOPs; ptflops counts ReLU and pooling modules twice.
"""

from utils.complexity.counters import report_from_flags
from utils.core.errors import run


def main():
    print(report_from_flags("ptflops", __doc__))


if __name__ == "__main__":
    run(main)
