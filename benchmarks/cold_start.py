"""From process start to answer: predict.py on an ONNX file, against a process that imports torch, torchvision and onnxruntime.

    python benchmarks/cold_start.py -m weights/FashionMNIST/custom/converted_models/custom_onnx.onnx -i boot.png

Both processes read the same image, prepare it, ask the same ONNX file on the CPU and print the class. They run in pairs,
one after the other, each first in turn, after one pair that is not counted and warms the file cache. What counts is the
ratio within a pair: its median is to be at most 0.15. Writes results/benchmarks/cold_start.json.
"""

import pathlib
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.pairs import output_of
from utils.core.cli import Parser, at_least
from utils.core.errors import UserError, run
from utils.core.files import RESULTS, write_json
from utils.core.text import table
from utils.runtime.device import origin

BAR = 0.15  # largest ratio
WITH_TORCH = """
import sys
import onnxruntime, torch, torchvision
from torchvision import transforms
from PIL import Image
path, model, classes, image_size, resize_size = *sys.argv[1:3], sys.argv[3].split(","), *map(int, sys.argv[4:6])
prepare = transforms.Compose([
    transforms.Resize(resize_size), transforms.CenterCrop(image_size), transforms.ToTensor(),
    transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
])
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
batch = prepare(Image.open(path).convert("RGB"))[None].numpy()
logits = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: batch})[0])
probability, best = torch.softmax(logits, dim=1).max(dim=1)
print(f"Predicted class: {classes[int(best)]} ({float(probability):.2f})")
"""


def parser():
    parser = Parser(__doc__)
    parser.add_argument("-m", "--model", required=True, metavar="FILE", help="an ONNX file with a model card")
    parser.add_argument("-i", "--image", required=True, metavar="FILE", help="an image")
    parser.add_argument("--pairs", type=int, default=15, check=at_least(3), help="how many pairs are counted")
    return parser


def commands(model, image):
    """The two command lines."""
    from utils.inference.predictors import open_predictor

    card = open_predictor(model, "onnx", device="cpu").card
    sizes = [str(card.image_size), str(card.resize_size)]
    return {
        "predict.py": [sys.executable, str(ROOT / "predict.py"), "-i", image, "-m", model, "--device", "cpu"],
        "with torch": [sys.executable, "-c", WITH_TORCH, image, model, ",".join(card.classes), *sizes],
    }


def seconds_of(command):
    """Wall-clock seconds of one whole process, and the answer that it printed."""
    start = time.perf_counter()
    said = output_of(command)
    return time.perf_counter() - start, said.split(") in ")[0].strip().rstrip(")")


def measure(commands, pairs):
    """Seconds of every process: {name: [seconds, ...]}, pair by pair, the order within a pair alternating."""
    times = {name: [] for name in commands}
    for number in range(pairs + 1):
        order = list(commands) if number % 2 else list(commands)[::-1]
        found = {name: seconds_of(commands[name]) for name in order}
        if len({answer for _, answer in found.values()}) > 1:
            raise UserError(f"the two processes answer differently: {[answer for _, answer in found.values()]}")
        for name, (elapsed, _) in found.items() if number else ():
            times[name].append(elapsed)
    return times


def summarise(times):
    ratios = [a / b for a, b in zip(times["predict.py"], times["with torch"], strict=True)]
    spread = {name: {"median": statistics.median(v), "min": min(v), "max": max(v)} for name, v in times.items()}
    ratio = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios), "all": ratios}
    return {"pairs": len(ratios), "seconds": spread, "ratio": ratio, "bar": BAR, "met": ratio["median"] <= BAR}


def show(summary):
    rows = [
        [name, *(f"{spread[key]:.3f} s" for key in ("median", "min", "max"))] for name, spread in summary["seconds"].items()
    ]
    rows.append(["ratio", *(f"{summary['ratio'][key]:.3f}" for key in ("median", "min", "max"))])
    print(table(["whole process", "median", "min", "max"], rows))
    print(f"{summary['pairs']} pairs; the bar of {BAR} is {'met' if summary['met'] else 'missed'}")


def main():
    args = parser().parse()
    summary = summarise(measure(commands(args.model, args.image), args.pairs))
    summary |= origin() | {"model": pathlib.Path(args.model).name}
    write_json(RESULTS / "benchmarks" / "cold_start.json", summary)
    show(summary)
    return 0 if summary["met"] else 1


if __name__ == "__main__":
    run(main)
