"""Training throughput, images a second with data, beside a plain reference in the same run.

  python benchmarks/train_throughput.py --data_dir data/
  python benchmarks/train_throughput.py --data_dir data/ --cases custom resnet18 --pairs 5
  python benchmarks/train_throughput.py --data_dir data --batch_size 512                      # on a GPU

The reference trains as torchvision's own reference script does: one image at a time through torchvision's transforms in
loader workers, fp32, NCHW, the default allocator. Ours is what train.py does by itself. The two sides take turns in
processes of their own, with the same model, data, batch and optimizer; of each pair the ratio counts. Image folders are
timed from the second epoch on, when the cache is there; what its first build costs beside one plain pass over the files is
timed apart. Beside the rate stands its share of what the device's own peaks, measured in the same process, would allow.
Writes results/benchmarks/train_throughput.json, each case with its date and machine; cases that are not run stay in it.
"""

import dataclasses
import json
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks.pairs import alternate, child, ratios, save_cases, share_of_host, spread
from utils.core import cli
from utils.core.errors import UserError, run
from utils.core.files import RESULTS
from utils.core.text import table

# name: model, data set ("jpegs" are generated), image size in px, least ratio that is expected
CASES = {
    "custom": ("custom", "FashionMNIST", 224, 6),
    "resnet18": ("resnet18", "FashionMNIST", 224, 3),
    "mobilenet_v3_small": ("mobilenet_v3_small", "FashionMNIST", 224, 2),
    "cifar10_sample": ("custom", "cifar10_sample", 64, 3),
    "jpegs": ("custom", "jpegs", 224, 3),
    "custom_28": ("custom", "FashionMNIST", 28, 6),  # from here on the published networks at their own size
    "custom_56": ("custom", "FashionMNIST", 56, 6),
    "mobilenet_v3_small_96": ("mobilenet_v3_small", "FashionMNIST", 96, 2),
    "resnet18_small_28": ("resnet18_small", "FashionMNIST", 28, 3),
}
# trained with --compile on a CPU, which costs time before the first step; on a GPU all are
COMPILED = ("custom", "resnet18", "resnet18_small")
WARM_UP, LEAST = 3, 5  # batches before the clock starts, and at least under it: a slow step takes longer than --seconds


def parser():
    p = cli.Parser(__doc__)
    p.add_argument("--data_dir", default="data/", help="holds FashionMNIST/raw and cifar10_sample/")
    p.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), help="which to run")
    p.add_argument("--pairs", type=int, default=3, check=cli.at_least(1), help="pairs of each case")
    p.add_argument("--seconds", type=float, default=15, check=cli.above(0), help="least time of one measurement")
    p.add_argument("--batch_size", type=int, default=64, check=cli.at_least(2), help="images a batch")
    p.add_argument("--folder", default=tempfile.gettempdir(), help="where generated images and the image cache go")
    p.add_argument("--image_size", type=int, check=cli.at_least(8), help="instead of that of the case, px")
    p.add_argument("--side", choices=("ours", "reference", "build", "pass"), help="one measurement, as JSON (used by the rest)")
    return p


def ours(model_name, dataset, args, image_size):
    """Images a second of the steps of train.py's own Trainer, data included; the share of time that it waited for data."""
    from utils.runtime.device import choose_device, kind_of
    from utils.training.build import build_trainer
    from utils.training.options import TrainOptions

    device = choose_device()
    compiled = model_name in COMPILED or device.type == "cuda"
    data_dir = args.data_dir if dataset == "FashionMNIST" else args.folder  # that of an image folder holds its cache alone
    with tempfile.TemporaryDirectory() as folder:
        options = TrainOptions(
            dataset=dataset, data_dir=data_dir, model=model_name, image_size=image_size, batch_size=args.batch_size,
            base_lr=1e-3, min_lr=1e-3, wp_epoch=0, plain_epochs=0, compile=compiled, path_to_save=folder,
        )  # fmt: skip
        trainer = build_trainer(options, device)
        steps, done = full_steps(trainer), 0
        for _ in range(WARM_UP):
            next(steps)
        kind_of(device).synchronise(device)
        started, before = time.perf_counter(), dataclasses.replace(trainer.clock)
        while time.perf_counter() - started <= args.seconds or done < LEAST * args.batch_size:
            done += next(steps)
        kind_of(device).synchronise(device)
        elapsed = time.perf_counter() - started
    config, clock = trainer.step.config, trainer.clock
    facts = report(done, elapsed, clock.waiting - before.waiting, config.describe(), kind_of(device).peak_memory(device))
    facts["augmenting"] = (clock.augmenting - before.augmenting) / elapsed
    return facts | {"ceiling images/s": ceiling(trainer.state.model, image_size, config)}


def full_steps(trainer):
    """Train without an end, an evaluation or a file, and yield after each step; the smaller last batch is left out."""
    while True:
        groups = [group for group in trainer.groups() if group.count == trainer.plan.images_per_step]
        if not groups:
            raise UserError("there are fewer training images than a batch holds; give a smaller batch", "batch_size")
        yield from trainer.steps(groups)


def ceiling(model, image_size, config):
    """Images a second that the peaks of the device would allow, whichever of arithmetic and memory allows less."""
    import torch

    from utils.runtime.precision import AUTOCAST

    dtype, device = AUTOCAST[config.precision] or torch.float32, config.device
    side, count = (8192, 1 << 29) if device.type == "cuda" else (2048, 1 << 28)
    one, two = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
    source, target = (torch.ones(count, dtype=dtype, device=device) for _ in range(2))
    flops, numbers = work(model, image_size)
    return 1 / max(
        flops / (2 * side**3) * shortest(lambda: one @ two, device),
        numbers / (2 * count) * shortest(lambda: target.copy_(source), device),
    )


def work(model, image_size):
    """FLOPs (a multiplication and an addition are two) and numbers moved for one image in a training step.

    Those of convolutions and linear layers alone, as if everything else were fused into them: three products, forward and
    backward, each of which reads or writes every input and output once; the first layer takes no gradient of its input.
    """
    import torch
    from torch import nn

    done = []

    def count(layer, inputs, output):
        products = 3 if done else 2
        flops = 2 * output[0].numel() * layer.weight[0].numel()
        done.append((products * flops, products * (inputs[0][0].numel() + output[0].numel())))

    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.inference_mode():
        model.eval()(torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device))
    for hook in hooks:
        hook.remove()
    return tuple(map(sum, zip(*done, strict=True)))


def shortest(function, device, least=0.5):
    """Seconds of the shortest of at least five calls, for at least `least` seconds."""
    from utils.runtime.device import kind_of

    times = []
    while len(times) < 5 or sum(times) < least:
        start = time.perf_counter()
        function()
        kind_of(device).synchronise(device)
        times.append(time.perf_counter() - start)
    return min(times)


def reference(model_name, dataset, args, image_size):
    """The same with torchvision's transforms in loader workers, fp32, NCHW and the default allocator."""
    import torch
    from torch import nn

    from models.build import build_model
    from utils.core.machine import cores
    from utils.runtime.device import choose_device, kind_of

    device = choose_device()
    loader = reference_loader(dataset, args, image_size, pin_memory=device.type == "cuda")
    model = build_model(model_name, len(loader.dataset.classes), image_size).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    criterion, done, waiting, steps, started = nn.CrossEntropyLoss(), 0, 0.0, 0, None
    while True:
        mark = time.perf_counter()
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            if started is not None:
                waiting += time.perf_counter() - mark
            output = model(images)
            loss = criterion(output, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item(), (output.argmax(1) == labels).float().mean().item()  # its meters read both in every step
            steps += 1
            if started is None:
                if steps == WARM_UP:
                    started = time.perf_counter()
            else:
                done += args.batch_size
                if time.perf_counter() - started > args.seconds and done >= LEAST * args.batch_size:
                    peak, elapsed = kind_of(device).peak_memory(device), time.perf_counter() - started
                    return report(done, elapsed, waiting, f"fp32, NCHW, {cores()} loader workers", peak)
            mark = time.perf_counter()


def reference_loader(dataset, args, image_size, pin_memory):
    """Batches of training images through torchvision's transforms, one image at a time, in as many workers as cores."""
    import torch
    from torchvision import datasets, transforms

    from utils.core.card import IMAGENET_MEAN, IMAGENET_STD, resize_size
    from utils.core.machine import cores

    steps = [
        transforms.Lambda(_to_rgb),
        transforms.RandomResizedCrop(resize_size(image_size), scale=(0.8, 1.0)),
        transforms.RandomRotation(15),
        transforms.RandomHorizontalFlip(),
        transforms.CenterCrop(image_size),
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
    transform = transforms.Compose(steps)
    if dataset == "FashionMNIST":
        data = datasets.FashionMNIST(args.data_dir, train=True, transform=transform)
    else:
        data = datasets.ImageFolder(str(pathlib.Path(dataset, "train")), transform)
    return torch.utils.data.DataLoader(
        data, args.batch_size, shuffle=True, num_workers=cores(), pin_memory=pin_memory, drop_last=True, persistent_workers=True
    )


def _to_rgb(image):
    return image.convert("RGB")


def report(images, elapsed, waiting, how, peak_bytes):
    return {"images/s": images / elapsed, "images": images, "waiting": waiting / elapsed, "peak_bytes": peak_bytes, "how": how}


def build(model_name, dataset, args, image_size):
    """Seconds of the first build of the cache of an image folder's training split."""
    from utils.core.card import resize_size
    from utils.data.cache import open_store
    from utils.data.datasets import open_dataset

    split = open_dataset(dataset, args.data_dir).train
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        open_store(split, resize_size(image_size), "disk", folder, show=False)
        return {"seconds": time.perf_counter() - start, "files": len(split)}


def plain_pass(model_name, dataset, args, image_size):
    """Seconds to decode each file of the training split once and bring it to the short side that the crop needs."""
    import numpy as np
    from PIL import Image
    from torchvision.transforms.functional import resize

    from utils.core.card import resize_size

    files = sorted(path for path in pathlib.Path(dataset, "train").rglob("*") if path.is_file())
    start = time.perf_counter()
    for path in files:
        with Image.open(path) as image:
            image = image.convert("RGB")
            if min(image.size) > resize_size(image_size):
                image = resize(image, resize_size(image_size))
            np.asarray(image)
    return {"seconds": time.perf_counter() - start, "files": len(files)}


SIDES = {"ours": ours, "reference": reference, "build": build, "pass": plain_pass}


def make_jpegs(folder, count=2000, size=(500, 375)):
    """`count` images with the detail of photographs, as JPEG in ten class folders under folder/train."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for i in range(count):
        place = pathlib.Path(folder, "train", f"class_{i % 10}")
        place.mkdir(parents=True, exist_ok=True)
        layers = [random.integers(0, 256, (size[1] // s + 1, size[0] // s + 1, 3), dtype=np.uint8) for s in (4, 16, 64)]
        layers = [
            np.asarray(Image.fromarray(layer).resize(size, Image.Resampling.BICUBIC), dtype=np.float32) for layer in layers
        ]
        pixels = 0.2 * layers[0] + 0.3 * layers[1] + 0.5 * layers[2]
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i:04}.jpg", quality=90)
    return folder


def place_of(name, args):
    """The data set of a case as a name or a path."""
    dataset = CASES[name][1]
    return {"FashionMNIST": dataset, "jpegs": args.folder}.get(dataset, str(pathlib.Path(args.data_dir, dataset)))


def measure(name, args):
    """All pairs of one case."""
    model, dataset, image_size, wanted = CASES[name]
    image_size = args.image_size or image_size

    def one(side, seconds=args.seconds):
        flags = ("--side", side, "--cases", name, "--data_dir", args.data_dir, "--folder", args.folder, "--seconds", seconds)
        flags += ("--batch_size", args.batch_size, "--image_size", image_size)
        return lambda: child(__file__, *flags)

    if dataset != "FashionMNIST":
        one("ours", 0.1)()  # the first epoch, which builds the cache
    with share_of_host() as host:
        found = alternate({"ours": one("ours"), "reference": one("reference")}, args.pairs)
    rates = {side: [f["images/s"] for f in values] for side, values in found.items()}
    result = {"model": model, "dataset": dataset, "image_size": image_size, "batch": args.batch_size, "wanted": wanted,
              "ratio": ratios(rates["ours"], rates["reference"]), **host}  # fmt: skip
    for side, values in found.items():
        result[side] = {
            "images/s": spread(rates[side]),
            "waiting": spread([f["waiting"] for f in values]),
            "peak_bytes": max(f["peak_bytes"] for f in values),
            "how": values[0]["how"],
        }
    result["ours"]["augmenting"] = spread([f["augmenting"] for f in found["ours"]])
    result["ours"]["share of the ceiling"] = spread([f["images/s"] / f["ceiling images/s"] for f in found["ours"]])
    if dataset != "FashionMNIST":
        cache = alternate({"build": one("build"), "pass": one("pass")}, args.pairs)
        seconds = {side: [f["seconds"] for f in values] for side, values in cache.items()}
        result["cache build over one plain pass"] = ratios(seconds["build"], seconds["pass"])
    return result


def main():
    args = parser().parse()
    if args.side:
        (name,) = args.cases
        model, _, image_size, _ = CASES[name]
        print(json.dumps(SIDES[args.side](model, place_of(name, args), args, args.image_size or image_size)))
        return 0
    with tempfile.TemporaryDirectory(dir=args.folder) as args.folder:
        if "jpegs" in args.cases:
            make_jpegs(args.folder)
        results = {}
        for name in args.cases:
            results[name] = measure(name, args)
            print(show({name: results[name]}), flush=True)
    save_cases(RESULTS / "benchmarks" / "train_throughput.json", results)
    return 0


def show(results):
    rows = []
    for name, r in results.items():
        ratio, build_ratio = r["ratio"], r.get("cache build over one plain pass")
        rows.append(
            [
                f"{name} ({r['image_size']} px)",
                f"{r['ours']['images/s']['median']:.0f}",
                f"{r['reference']['images/s']['median']:.0f}",
                f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})",
                f"{r['ours']['waiting']['median']:.1%}",
                f"{r['ours']['share of the ceiling']['median']:.0%}",
                f"{build_ratio['median']:.2f}" if build_ratio else "",
                f"{r['stolen']:.0%}",
            ]
        )
    header = ["case", "ours, images/s", "reference", "ratio", "waiting for data", "of the ceiling", "cache build / pass"]
    return table([*header, "taken by the host"], rows)


if __name__ == "__main__":
    run(main)
