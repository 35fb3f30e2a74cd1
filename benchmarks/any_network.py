"""Networks of all families through every script: trained, resumed, evaluated, exported, quantized, counted, analysed.

    python benchmarks/any_network.py                             what the results lack
    python benchmarks/any_network.py -m swin_t timm/levit_128s  # of these networks only
    python benchmarks/any_network.py --real photos/ -m swin_t   # only train for an epoch on real images, and note the accuracy

Each network runs at its size in NETWORKS from random weights, on 128 small images of four digits. What is asked is whether a
script does its work or refuses in one sentence, not how well the network answers. Writes results/any_network.json after every
step, and goes on there when it was interrupted.
"""

import contextlib
import importlib
import io
import json
import pathlib
import shutil
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from utils.core import cli, files
from utils.core.errors import explain, run
from utils.core.files import RESULTS, write_json
from utils.core.text import file_part, plural, si
from utils.inference.formats import FORMATS
from utils.runtime.device import origin

# fmt: off
NETWORKS = {  # name: (family, image size in px)
    "resnet18_small": ("ResNet", 32), "wrn16_4": ("Wide ResNet", 32), "mobilenet_v3_small": ("MobileNet", 32),
    "efficientnet_v2_s": ("EfficientNet", 32), "alexnet": ("AlexNet", 64), "vgg11": ("VGG", 32),
    "vgg11_bn": ("VGG", 32),
    "squeezenet1_1": ("SqueezeNet", 64), "googlenet": ("Inception", 64), "inception_v3": ("Inception", 96),
    "densenet121": ("DenseNet", 32), "mnasnet0_5": ("MNASNet", 32), "shufflenet_v2_x0_5": ("ShuffleNet", 32),
    "regnet_y_400mf": ("RegNet", 32), "convnext_tiny": ("ConvNeXt", 32), "swin_t": ("Swin", 32), "swin_v2_t": ("Swin", 64),
    "vit_b_16": ("ViT", 32), "maxvit_t": ("MaxViT", 224),
    "timm/resnet10t": ("ResNet", 64), "timm/mobilenetv4_conv_small": ("MobileNet", 64), "timm/ghostnet_100": ("GhostNet", 64),
    "timm/repvgg_a0": ("RepVGG", 64), "timm/convnext_atto": ("ConvNeXt", 64), "timm/nf_regnet_b0": ("NF-RegNet", 64),
    "timm/deit_tiny_patch16_224": ("ViT", 64), "timm/levit_128s": ("LeViT", 64), "timm/edgenext_xx_small": ("EdgeNeXt", 64),
    "timm/mobilevit_xxs": ("MobileViT", 64), "timm/mixer_s32_224": ("MLP-Mixer", 64), "timm/gmlp_ti16_224": ("gMLP", 64),
    "timm/poolformer_s12": ("PoolFormer", 64), "timm/efficientformer_l1": ("EfficientFormer", 224),
    "timm/lcnet_050": ("LCNet", 64), "timm/dla46_c": ("DLA", 64),
    "timm/efficientvit_b0": ("EfficientViT", 64), "timm/xcit_nano_12_p16_224": ("XCiT", 64),
}
# fmt: on
WORK = pathlib.Path(tempfile.gettempdir(), "any_network")  # what the scripts write
CLASSES, TRAIN, VAL = 4, 24, 8  # digits, and images of each
TRAINING = ("--precision", "fp32", "--num_workers", 0, "--plain_epochs", 0, "--base_lr", 1e-3)


def parser():
    p = cli.Parser(__doc__)
    known = cli.known("network of the table", NETWORKS)
    p.add_argument("-m", "--models", nargs="+", default=[], metavar="NAME", check=known, help="these networks only")
    p.add_argument("--real", metavar="FOLDER", help="only train for an epoch on this image folder, at the same size")
    p.add_argument("--anew", action="store_true", help="also what the results have already")
    return p


def all_steps(name, size):
    """What a network goes through, in a folder with `photos`: (step, script, flags)."""
    photos = pathlib.Path("photos")
    best = pathlib.Path("weights", "photos", file_part(name), "best_model.pth")
    exported = best.with_name("converted_models") / f"{file_part(name)}_onnx.onnx"
    train = ("-m", name, "-d", photos, "--image_size", size, "--batch_size", 16, *TRAINING)
    return [
        ("train", "train", (*train, "--max_epoch", 1)),
        ("resume", "train", (*train, "--max_epoch", 2, "--resume")),
        ("eval", "eval", ("-w", best)),
        *((FORMATS[engine].shown, "export", ("-w", best, "-d", photos, "-e", engine)) for engine in EXPORTED),
        ("predict", "predict", ("-w", exported, "-i", photos / "val" / "0" / "0.png", "--json", "answer.json")),
        ("int8", "quantize", ("-w", best, "--scheme", "int8", "-d", photos, "--calibration", 16, "--max_drop", 100)),
        ("complexity", "complexity", ("-w", best)),
        ("receptive field", "receptive_field", ("-w", best, "--images", 2)),
    ]


def real_step(name, size, photos):
    """One epoch of training on an image folder."""
    flags = ("-m", name, "-d", photos, "--image_size", size, "--max_epoch", 1, "--batch_size", 16, *TRAINING)
    return (REAL, "train", (*flags, "--path_to_save", "real"))


REAL = "an epoch on photographs"
EXPORTED = ("onnx", "torchscript", "pt2")
FACTS = {  # step: the JSON that its script writes, and what is kept of it
    "eval": ("results/accuracy/*/*.json", lambda r: f"Acc@1 {r['Acc@1']:.2f}"),
    "int8": ("results/quantization/*/*.json", lambda r: f"{100 * r['agreement']:.0f} % alike"),
    "complexity": ("results/complexity/*.json", lambda r: si(r["exact"]["macs"], "MAC") + uncounted(r)),
    "receptive field": ("results/receptive_field/*.json", lambda r: widest(r)),
    REAL: ("real/*/*/history.json", lambda r: f"{100 * r['final']['Acc@1']:.1f} %"),
}


def uncounted(result):
    """Which counters counted what their parts do not explain, and operators that have no formula."""
    odd = [tool for tool, counted in result["tools"].items() if counted["unexplained"]]
    odd += [f"no formula for {name}" for name in result["exact"]["unknown_operators"]]
    return f" ({', '.join(odd)})" if odd else ""


def widest(result):
    """The receptive field of the layer that the plot is of, and how many layers have a global one."""
    (size,) = (layer["size"] for layer in result["layers"] if layer["layer"] == result["effective"]["layer"])
    worst = " by ".join(dict.fromkeys(str(side) for side in size))
    odd = f" ({plural(len(result['mismatches']), 'mismatch', 'mismatches')})" if result["mismatches"] else ""
    return (worst if "global" in worst else f"{worst} px") + odd


def write_photos(folder):
    """Some digits of scikit-learn as an image folder."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in range(CLASSES):
        for number, image in enumerate(digits.images[digits.target == label][: TRAIN + VAL]):
            path = folder / ("train" if number < TRAIN else "val") / str(label) / f"{number % TRAIN}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15.9).astype("uint8")).resize((32, 32)).save(path)


def outcome(step, script, flags):
    """Run a script's main() in this process and the current folder: {"status", "said", "seconds"}.

    status: "works", "refused" (by a sentence) or "failed" (by a bug). `said` is that sentence, or what the step found out.
    """
    sys.argv = [f"{script}.py", *map(str, flags)]
    files._inputs.clear()  # each script is a process of its own otherwise
    started = time.perf_counter()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = main_of(script)()
        if code == 130:  # training has saved its state and ended, as it does when it is interrupted
            raise KeyboardInterrupt
        status, said = "works", fact(step)
    except Exception as error:
        sentence = explain(error)
        status = "failed" if sentence is None else "refused"
        said = (sentence or f"{type(error).__name__}: {error}")[:300].replace(f"{pathlib.Path.cwd()}/", "")
    return {"status": status, "said": said, "seconds": round(time.perf_counter() - started, 1)}


def main_of(script):
    return importlib.import_module(script).main


def fact(step):
    pattern, shown = FACTS.get(step, ("", None))
    found = sorted(pathlib.Path().glob(pattern)) if pattern else []
    return shown(json.loads(found[0].read_text(encoding="utf-8"))) if found else ""


def walk(name, steps, path, anew):
    """Take the steps that the results in `path` lack, each noted as soon as it is done; what it wrote waits for the next."""
    folder = WORK / file_part(name)
    if anew:
        shutil.rmtree(folder, ignore_errors=True)
    done = {} if anew else read(path)["networks"].get(name, {}).get("steps", {})
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder):
        write_photos(pathlib.Path("photos"))
        for step, script, flags in steps:
            if step not in done:
                done[step] = outcome(step, script, flags)
                record(path, name, done)
                print(f"{name} {step}: {', '.join(map(str, done[step].values()))}", flush=True)


def read(path):
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"networks": {}}


def record(path, name, steps):
    """Add what was found to the file, which another process may have changed meanwhile."""
    results = read(path)
    family, size = NETWORKS[name]
    steps = results["networks"].get(name, {}).get("steps", {}) | steps
    results["networks"][name] = {"family": family, "image_size": size, "steps": steps}
    results["networks"] = {name: results["networks"][name] for name in NETWORKS if name in results["networks"]}
    write_json(path, results | origin())


def main():
    args = parser().parse()
    path = RESULTS.resolve() / "any_network.json"
    for name in args.models or NETWORKS:
        steps = all_steps(name, NETWORKS[name][1])
        if args.real:
            steps = [real_step(name, NETWORKS[name][1], pathlib.Path(args.real).resolve())]
        walk(name, steps, path, args.anew)
    print(f"written: {path} ({plural(len(read(path)['networks']), 'network')})")


if __name__ == "__main__":
    run(main)
