"""The tables of docs/results.md: what the published networks achieve, from results/reference/published/ and weights/."""

import json

from docs.cells import RESULTS, WEIGHTS, markdown, measured, origins, results, spread


def _published():
    """{run: folder} of what weights/ publishes."""
    return {path.parent.name: path.parent for path in sorted(WEIGHTS.glob("FashionMNIST/*/best_model.pth"))}


def _history(folder):
    return json.loads((folder / "history.json").read_text(encoding="utf-8"))


def _accuracy(name):
    return results(f"reference/published/accuracy/FashionMNIST/{name}.json")


def _onnx(name, kind):
    """Milliseconds of one image in ONNX Runtime, with the weights of that kind, fp32 or int8."""
    files = results(f"reference/published/benchmark/FashionMNIST_{name}.json")["files"]
    (file,) = (file for file in files if file["name"] == f"ONNX Runtime {kind}")
    return f"{file['latency'][0]['median_ms']:.3g}"


def _with_interval(found):
    low, high = found["Acc@1 95 % interval"]
    return f"{100 * found['Acc@1']:.2f} ({100 * low:.2f}–{100 * high:.2f})"


def _minutes(history):
    return sum(epoch["seconds"] for epoch in history["epochs"]) / 60


def published():
    """Every published network: accuracy on the test split, size, operations, latency."""
    rows = []
    for name, folder in _published().items():
        accuracy, mirrored = _accuracy(name), _accuracy(f"{name}_flip")
        flags = _history(folder)["flags"]
        measured = f"{flags['model']}_{flags['image_size']}px"
        operations = results(f"reference/published/complexity/{measured}_complexity.json")
        exact = operations["exact"]
        rows.append(
            [
                f"[{name}](../recipes/{name}.txt)",
                f"{flags['image_size']} px",
                _with_interval(accuracy),
                f"{100 * mirrored['Acc@1']:.2f}",
                f"{100 * accuracy['Acc@5']:.2f}",
                f"{(folder / 'best_model.pth').stat().st_size / 1e6:.2f}",
                f"{exact['parameters']['all']:,}",
                f"{exact['macs'] / 1e6:.1f}",
                f"{exact['flops'] / 1e6:.1f}",
                f"{exact['dmas'] / 1e6:.2f}",
                _onnx(name, "fp32"),
            ]
        )
    header = ["network and recipe", "image", "test Acc@1, % (95 % interval)", "with `--tta flip`, %", "Acc@5, %", "MB"]
    header += ["parameters", "MACs, M", "FLOPs, M", "DMAs, M", "ms, batch 1, ONNX"]
    return markdown(header, rows) + f"\n\n{_measured_at()}"


def in_short():
    """What a clone holds, in few columns: accuracy of the checkpoint and of the int8 file, its size, and latencies of ONNX."""
    rows = []
    for name, folder in _published().items():
        accuracy, int8 = _accuracy(name), results(f"reference/published/quantization/FashionMNIST/{name}_int8.json")["after"]
        cells = [
            f"{_history(folder)['flags']['image_size']} px",
            f"{100 * accuracy['Acc@1']:.2f}",
            f"{100 * int8['Acc@1']:.2f}",
        ]
        rows.append([f"`{name}`", *cells, f"{int8['bytes'] / 1e6:.1f}", _onnx(name, "fp32"), _onnx(name, "int8")])
    header = ["network", "image", "test Acc@1, %", "int8, %", "int8, MB", "fp32, ms an image", "int8, ms an image"]
    return markdown(header, rows) + f"\n\n{_measured_at()}"


def _measured_at():
    return measured("make results", results("reference/published/commands.json"))


def published_files():
    """Accuracy of the files that are committed for each network, on the test split."""
    rows = []
    for path in sorted(RESULTS.glob("reference/published/accuracy/FashionMNIST/*.json")):
        found = results(path.relative_to(RESULTS))
        file = WEIGHTS.parent / found["weights"]
        if found["tta"] == "none" and file.exists():  # the weights of the others are not in a clone
            size = file.stat().st_size
            rows.append([f"`{found['weights']}`", f"{size / 1e6:.2f}", f"{100 * found['Acc@1']:.2f}", f"{found['precision']}"])
    return markdown(["file", "MB", "test Acc@1, %", "arithmetic"], rows, "lrrl") + f"\n\n{_measured_at()}"


EARLIER = {"custom": 0.9209, "mobilenet_v3_small": 0.8747, "resnet18": 0.8533}  # published with an earlier toolkit, at 224 px


def earlier():
    """Test accuracy of the published networks, and of those at 224 px, beside that of an earlier toolkit of this shape."""
    rows, used = [], {}
    for path in sorted(WEIGHTS.glob("FashionMNIST/*/history.json")):
        name, history = path.parent.name, _history(path.parent)
        found, before = _accuracy(name), EARLIER[history["flags"]["model"].replace("18_small", "18")]
        used[name] = {"date": found["date"], "machine": found["device"]}
        rows.append(
            [
                f"[{name}](../recipes/{name}.txt)",
                f"{history['flags']['image_size']} px",
                f"{100 * before:.2f}",
                _with_interval(found),
                f"{100 * (found['Acc@1'] - before):+.2f}",
            ]
        )
    header = ["network and recipe", "image", "earlier toolkit, 224 px, %", "here, % (95 % interval)", "points"]
    return markdown(header, rows) + f"\n\n{measured('eval.py -w weights/FashionMNIST/NAME/best_model.pth', used)}"


def training():
    """What each published training took, and the rate of its step beside the plain reference."""
    cases = results("benchmarks/train_throughput.json")
    rates = {(case["model"], case["image_size"]): case for case in cases.values() if case["dataset"] == "FashionMNIST"}
    rows, used = [], {}
    for path in sorted(WEIGHTS.glob("FashionMNIST/*/history.json")):
        history = _history(path.parent)
        flags, best = history["flags"], history["best"]
        case = rates.get((flags["model"], flags["image_size"]))
        ours, theirs, ratio = ("",) * 3
        if case:
            used[path.parent.name] = case
            ours, theirs = (f"{case[side]['images/s']['median']:,.0f}" for side in ("ours", "reference"))
            ratio = spread(case["ratio"], 2)
        held_out = f"{100 * best['val']['Acc@1']:.2f}" if flags["val_fraction"] and best else "–"
        cells = [history["date"], f"{len(history['epochs'])}", f"{_minutes(history):.0f}", held_out, ours, theirs, ratio]
        rows.append([f"[{path.parent.name}](../recipes/{path.parent.name}.txt)", f"{flags['image_size']} px", *cells])
    header = ["recipe", "image", "trained on", "epochs", "minutes", "held-out Acc@1, %"]
    header += ["images/s, 2 threads", "plain reference", "ratio"]
    return markdown(header, rows) + f"\n\nRates: `benchmarks/train_throughput.py`. {origins(used)}"


PUBLISHED = {
    "in_short": in_short,
    "published": published,
    "published_files": published_files,
    "earlier": earlier,
    "training": training,
}
