"""Put a finished run into weights/ as the project publishes it: checkpoint, ONNX and int8 ONNX, curves, flags and logs.

  python recipes/publish.py trials/FashionMNIST/mobilenet_v3_small --data_dir ../shared/data
  python recipes/publish.py trials/FashionMNIST/resnet18_224 --data_dir ../shared/data --figures_only

It goes to weights/<data set>/<run>/, the last two parts of the name; --to gives the last one anew. A checkpoint over 24 MB is
stored with its weights in 16 bits, and its ONNX file too; it still computes in fp32. With --figures_only the files of weights
stay out, and best_model.json says how large the checkpoint is and what its SHA-256 is. The figures of the others come from
`make results` afterwards.
"""

import contextlib
import hashlib
import json
import pathlib
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.pairs import output_of
from utils.core import cli
from utils.core.errors import UserError, run
from utils.core.files import write_json
from utils.export.quantize import QUANTIZERS

WEIGHTS, PUBLISHED = ROOT / "weights", ROOT / "results" / "reference" / "published"
LARGEST = 24_000_000  # bytes of a file that a clone should bring
KEPT = ("history.json", "curves.png", "classes.txt", "args.txt")


def parser():
    p = cli.Parser(__doc__)
    p.add_argument("run", metavar="RUN", help="the folder of a finished run that has read the test images")
    p.add_argument("--data_dir", default="data/", help="holds the data set, for the comparison and for the int8 calibration")
    p.add_argument("--to", metavar="NAME", help="of the folder; default: that of the run")
    p.add_argument("--figures_only", action="store_true", help="leave the files of weights out")
    return p


def store(source, target, half):
    """Write the checkpoint `source` to `target`, under the name that its folder gives the run, with `half` in fp16.

    Raises UserError for a weight beyond the range of fp16.
    """
    from models.checkpoint import read_checkpoint, save_checkpoint

    contents = read_checkpoint(source)
    card, state = contents["card"], contents["model"]
    name = target.parent.name.removeprefix(card["architecture"]).removeprefix("_")
    card["training"] = {**card["training"], "name": name or None}
    if half:
        state = QUANTIZERS["fp16"].halved(state)
    save_checkpoint(target, contents | {"model": state})


@contextlib.contextmanager
def replaced(folder):
    """An empty folder instead of `folder`; where what fills it fails, the one before comes back."""
    before = folder.with_name(f".{folder.name}.before")
    shutil.rmtree(before, ignore_errors=True)
    if folder.exists():
        folder.rename(before)
    folder.mkdir(parents=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder)
        if before.exists():
            before.rename(folder)
        raise
    shutil.rmtree(before, ignore_errors=True)


def script(name, *flags):
    """Run a script of the toolkit. Raises UserError with its last word where it fails."""
    output_of([sys.executable, str(ROOT / name), *map(str, flags)], folder=WEIGHTS.parent)


def publish_weights(checkpoint, target, data_dir):
    """Write the checkpoint, its ONNX file and its int8 file into the folder `target`."""
    large = checkpoint.stat().st_size > LARGEST
    best = target / "best_model.pth"
    store(checkpoint, best, half=large)
    common = ("-w", best.relative_to(WEIGHTS.parent), "--data_dir", data_dir)
    script("export.py", *common, "-e", "onnx", *["--fp16"] * large)
    script("quantize.py", *common, "--scheme", "int8")


def publish_figures(checkpoint, target, data_dir):
    """Write how large the checkpoint is, its SHA-256, and its accuracy on the test images, but not the checkpoint."""
    content = checkpoint.read_bytes()
    write_json(target / "best_model.json", {"bytes": len(content), "SHA-256": hashlib.sha256(content).hexdigest()})
    output = PUBLISHED / "accuracy" / target.parent.name / f"{target.name}.json"
    script("eval.py", "-w", checkpoint, "--data_dir", data_dir, "--output", output)
    found = json.loads(output.read_text(encoding="utf-8"))
    write_json(output, found | {"weights": f"weights/{target.parent.name}/{target.name}/{checkpoint.name}"})


def main():
    args = parser().parse()
    source, data_dir = pathlib.Path(args.run).resolve(), pathlib.Path(args.data_dir).resolve()
    missing = [name for name in ("best_model.pth", *KEPT) if not (source / name).is_file()]
    if missing:
        raise UserError(f"{args.run} is not the folder of a finished run: it has no {missing[0]}")
    if not json.loads((source / "history.json").read_text(encoding="utf-8")).get("test_read"):
        raise UserError(f"{args.run} has not read the test images: repeat its command with --resume auto, without --no_test")
    target = WEIGHTS / source.parent.name / (args.to or source.name)
    if target.resolve() == source:
        raise UserError(
            f"{args.run} lies where it would be published; train with --path_to_save, or give another name", option="to"
        )
    with replaced(target):
        for name in KEPT:
            shutil.copyfile(source / name, target / name)
        if (source / "logs").is_dir():
            shutil.copytree(source / "logs", target / "logs")
        publish = publish_figures if args.figures_only else publish_weights
        publish(source / "best_model.pth", target, data_dir)
    print(f"written: {target}")


if __name__ == "__main__":
    run(main)
