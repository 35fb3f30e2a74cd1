"""Draw the README's complexity table from results/complexity/*.json.

    python -m benchmarks.complexity_table            # writes it between its two markers in README.md
    python -m benchmarks.complexity_table --print    # to the terminal only

The results come from `python complexity.py -m NAME`; every model that has one is a row.
"""

import json
import pathlib

from utils.core import cli
from utils.core.errors import UserError, run
from utils.core.files import RESULTS, write_text

BEGIN, END = "<!-- complexity table: python -m benchmarks.complexity_table -->", "<!-- end of the complexity table -->"


def read_results(folder):
    """The measurements in a folder, the smallest network first. Raises UserError where there are none."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(pathlib.Path(folder).glob("*_complexity.json"))]
    if not results:
        raise UserError(f"{folder} holds no *_complexity.json; run python complexity.py -m NAME first")
    return sorted(results, key=lambda result: result["exact"]["macs"])


def markdown(results):
    """The table: MACs in millions as each counter gives them, memory in MiB."""
    tools = list(results[0]["tools"])
    header = ["model", "parameters", "MACs, exact (M)", *(f"{tool} (M)" for tool in tools), "FLOPs, exact (G)"]
    header += ["peak activations (MiB)", "FLOPs a byte"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for result in results:
        exact, memory = result["exact"], result["memory"]
        lines.append(
            [
                result["model"],
                f"{exact['parameters']['all']:,}",
                *(f"{macs / 1e6:,.2f}" for macs in (exact["macs"], *(result["tools"][tool]["macs"] for tool in tools))),
                f"{exact['flops'] / 1e9:.3f}",
                f"{memory['peak_activation_bytes'] / 2**20:.2f}",
                f"{memory['flops_per_byte']:.1f}",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def insert(text, drawn):
    """`text` with the table between its markers. Raises UserError where a marker is missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"README.md lacks the markers of the table; put {BEGIN} and {END} where it shall stand")
    return f"{before}{BEGIN}\n{drawn}\n{END}{after}"


def main():
    parser = cli.Parser(__doc__)
    parser.add_argument("--print", action="store_true", help="show the table and change nothing")
    args = parser.parse()
    drawn = markdown(read_results(RESULTS / "complexity"))
    print(drawn)
    if not args.print:
        readme = pathlib.Path("README.md")
        if not readme.exists():
            raise UserError("there is no README.md here; run this in the project's folder")
        write_text(readme, insert(readme.read_text(encoding="utf-8"), drawn))


if __name__ == "__main__":
    run(main)
