"""The tables of figures in README.md and docs/, from the JSON files in results/; docs/make_tables.py writes them."""

import json
import pathlib

RESULTS = pathlib.Path(__file__).parent.parent / "results"
WEIGHTS = RESULTS.parent / "weights"


def markdown(header, rows, align=None):
    """A Markdown table; `align` has `l` or `r` for each column. By default only the first column is on the left."""
    rules = {"l": "---", "r": "---:"}
    align = align or "l" + "r" * (len(header) - 1)
    lines = [header, [rules[side] for side in align], *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)


def _results(name):
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def _spread(values, digits):
    return f"{values['median']:.{digits}f} ({values['min']:.{digits}f}–{values['max']:.{digits}f})"


def _machine(machine):
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] != 1)}"
    return f"{machine['cpu']}, {machine['cores']} cores, {threads}, PyTorch {machine['torch'].split('+')[0]}"


def throughput():
    """Images/s of a training step with its data, beside the reference."""
    found = _results("benchmarks/train_throughput.json")
    rows = []
    for name, case in found["cases"].items():
        network = case["model"] + (", `--compile`" if "compiled" in case["ours"]["how"] else "")
        build = case.get("cache build over one plain pass", {}).get("median")
        rows.append(
            [
                case["dataset"] if name in ("cifar10_sample", "jpegs") else "FashionMNIST",
                f"{network}, {case['image_size']} px",
                f"{case['ours']['images/s']['median']:.0f}",
                f"{case['reference']['images/s']['median']:.0f}",
                _spread(case["ratio"], 2),
                f"{100 * case['ours']['waiting']['median']:.1f} %",
                "" if build is None else f"{build:.2f}",
            ]
        )
    header = ["data", "network", "images/s", "reference", "ratio", "waiting for data", "cache build / one plain pass"]
    return markdown(header, rows, "llrrrrr") + f"\n\n{_machine(found['machine'])}."


def time_to_accuracy():
    """Training time to an accuracy on the test split, beside the reference."""
    found = _results("benchmarks/time_to_accuracy.json")
    shared = _shared_flags([goal["flags"] for goal in found["goals"].values()])
    rows = []
    for name, goal in found["goals"].items():
        own = goal["flags"].removeprefix(shared).strip()
        sides = [(_spread(goal[side]["Acc@1"], 4), _spread(goal[side]["seconds"], 0)) for side in ("ours", "reference")]
        rows.append([f"{name} in {goal['limit_s']} s", f"`{own}`", *sides[0], *sides[1], _spread(goal["ratio"], 1)])
    header = ["goal", "flags", "test Acc@1", "seconds", "reference: test Acc@1", "seconds", "ratio"]
    drawn = markdown(header, rows, "llrrrrr")
    return f"{drawn}\n\nShared flags: `{shared.strip()}`. {_machine(found['machine'])}."


def _shared_flags(lines):
    words = [line.split() for line in lines]
    count = next((i for i, column in enumerate(zip(*words, strict=False)) if len(set(column)) > 1), len(words[0]))
    shared = words[0][:count]
    while shared and shared[-1].startswith("-") and len(words[0]) > count and not words[0][count].startswith("-"):
        shared.pop()  # a flag whose values differ
    return " ".join(shared) + " "


def fast_and_slow():
    """Test accuracy of the fast training path and of the plain one."""
    found = _results("benchmarks/fast_and_slow.json")
    rows = []
    for side, runs in found["runs"].items():
        accuracy = [run["Acc@1"] for run in runs]
        rows.append(
            [side, f"`{found['flags'][side]}`", len(runs), f"{found['means'][side]:.4f}", f"{min(accuracy)}–{max(accuracy)}"]
        )
    header = ["path", "flags of train.py", "seeds", "mean test Acc@1", "least–greatest"]
    return markdown(header, rows, "llrrr") + f"\n\n{_machine(found['machine'])}."


def cold_start():
    """Seconds of a whole prediction process."""
    found = _results("benchmarks/cold_start.json")
    names = {"predict.py": "`predict.py` on an ONNX file", "with torch": "a script that imports torch and torchvision"}
    rows = [[names[name], _spread(seconds, 2)] for name, seconds in found["seconds"].items()]
    rows.append([f"ratio, pair by pair ({found['pairs']} pairs)", _spread(found["ratio"], 3)])
    return (
        markdown(["one image, from process start to answer", "seconds, median (least–greatest)"], rows)
        + f"\n\n{_machine(found['machine'])}."
    )


def fine_tuning():
    """Accuracy of runs that start from weights, by where the head is from and the learning rate."""
    found = _results("benchmarks/fine_tuning.json")
    cases, rows = found["cases"], []
    for name in next(iter(cases.values())):
        scores = [case[name][when] for case in cases.values() for when in ("first", "last")]
        rows.append([name, *(f"{100 * sum(s) / len(s):.1f} ({100 * min(s):.0f}–{100 * max(s):.0f})" for s in scores)])
    header = ["start, learning rate", *(f"{case}, {when}" for case in cases for when in ("first epoch", "last"))]
    return markdown(header, rows) + f"\n\n{found['seeds']} seeds, mean (least–greatest). {_machine(found['machine'])}."


def formats(path="benchmarks/FashionMNIST_resnet18.json"):
    """Every kind of file made from one checkpoint, as `path` under results/ has it."""
    found = _results(path)
    rows = []
    for file in found["files"]:
        one = next(latency for latency in file["latency"] if latency["batch"] == 1)
        rows.append(
            [
                file["name"],
                f"{file['bytes'] / 1e6:.2f}",
                f"{100 * file['Acc@1']:.2f}",
                f"{one['median_ms']:.3g} ({one['low_ms']:.3g}–{one['high_ms']:.3g})",
                f"{file['images/s']:.0f} at {file['best batch']}",
                f"{file['cold start s']:.2f}",
                file["arithmetic"],
            ]
        )
    header = [
        "file",
        "MB",
        "Acc@1, %",
        "ms, batch 1 (10th–90th percentile)",
        "images/s at batch",
        "cold start, s",
        "arithmetic",
    ]
    about = f"{found['model']} at {found['image_size']} px on {found['images']:,} images of {found['measured on']}"
    return markdown(header, rows, "lrrrrrl") + f"\n\n{about}. {_machine(found['machine'])}."


def _published():
    """{model: folder} of what weights/ publishes."""
    return {path.parent.name: path.parent for path in sorted(WEIGHTS.glob("FashionMNIST/*/best_model.pth"))}


def published():
    """Every published network: accuracy on the test split, size, operations, latency, training time."""
    rows = []
    for model, folder in _published().items():
        accuracy = _results(f"reference/published/accuracy/FashionMNIST/{model}.json")
        (operations,) = (
            _results(path.relative_to(RESULTS))
            for path in RESULTS.glob(f"reference/published/complexity/{model}_*px_complexity.json")
        )
        files = {file["name"]: file for file in _results(f"reference/published/benchmark/FashionMNIST_{model}.json")["files"]}
        history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
        onnx, exact = files["ONNX Runtime fp32"], operations["exact"]
        size = (folder / "converted_models" / f"{model}_onnx.onnx").stat().st_size
        low, high = accuracy["Acc@1 95 % interval"]
        rows.append(
            [
                f"[{model}](../recipes/{model}.txt)",
                f"{operations['input_shape'][-1]} px",
                f"{100 * accuracy['Acc@1']:.2f} ({100 * low:.2f}–{100 * high:.2f})",
                f"{100 * accuracy['Acc@5']:.2f}",
                f"{size / 1e6:.2f}",
                f"{exact['parameters']['all']:,}",
                f"{exact['macs'] / 1e6:.1f}",
                f"{exact['flops'] / 1e6:.1f}",
                f"{exact['dmas'] / 1e6:.2f}",
                f"{onnx['latency'][0]['median_ms']:.3g}",
                f"{len(history['epochs'])} in {sum(epoch['seconds'] for epoch in history['epochs']) / 60:.0f} min",
            ]
        )
    header = ["network and recipe", "image", "test Acc@1, % (95 % interval)", "Acc@5, %", "ONNX, MB", "parameters", "MACs, M"]
    header += ["FLOPs, M", "DMAs, M", "ms, batch 1", "epochs"]
    return markdown(header, rows) + f"\n\n{_measured_at()}"


def _measured_at():
    record = _results("reference/published/commands.json")
    return f"Measured on {record['date']} by `make results`; {_machine(record['machine'])}."


def published_files():
    """Accuracy of the files that are committed for each network, on the test split."""
    rows = []
    for model in _published():
        for path in sorted(RESULTS.glob(f"reference/published/accuracy/FashionMNIST/{model}*.json")):
            found = _results(path.relative_to(RESULTS))
            size = (WEIGHTS.parent / found["weights"]).stat().st_size
            rows.append([f"`{found['weights']}`", f"{size / 1e6:.2f}", f"{100 * found['Acc@1']:.2f}", f"{found['precision']}"])
    return markdown(["file", "MB", "test Acc@1, %", "arithmetic"], rows, "lrrl") + f"\n\n{_measured_at()}"


EARLIER = {"custom": 0.9209, "mobilenet_v3_small": 0.8747, "resnet18": 0.8533}  # published with an earlier toolkit, at 224 px


def earlier():
    """Test accuracy of the published networks beside that of an earlier toolkit of this shape."""
    rows = []
    for model in _published():
        found, before = (
            _results(f"reference/published/accuracy/FashionMNIST/{model}.json"),
            EARLIER[model.removesuffix("_small") if model.startswith("resnet") else model],
        )
        rows.append([model, f"{100 * before:.2f}", f"{100 * found['Acc@1']:.2f}", f"{100 * (found['Acc@1'] - before):+.2f}"])
    return markdown(["network", "earlier toolkit, 224 px, %", "here, %", "points"], rows)


def complexity():
    """MACs of every network as each tool counts them, the smallest network first."""
    found = [_results(path.relative_to(RESULTS)) for path in sorted(RESULTS.glob("reference/complexity/*_complexity.json"))]
    tools = list(found[0]["tools"])
    header = ["model", "parameters", "MACs, exact (M)", *(f"{tool} (M)" for tool in tools), "FLOPs, exact (G)"]
    header += ["peak activations (MiB)", "FLOPs a byte"]
    rows = []
    for result in sorted(found, key=lambda result: result["exact"]["macs"]):
        exact, memory = result["exact"], result["memory"]
        macs = (exact["macs"], *(result["tools"][tool]["macs"] for tool in tools))
        rows.append(
            [
                result["model"],
                f"{exact['parameters']['all']:,}",
                *(f"{count / 1e6:,.2f}" for count in macs),
                f"{exact['flops'] / 1e9:.3f}",
                f"{memory['peak_activation_bytes'] / 2**20:.2f}",
                f"{memory['flops_per_byte']:.1f}",
            ]
        )
    return markdown(header, rows)


def receptive_fields():
    """The field of the layer that the committed results show, for every network."""
    rows = []
    for path in sorted(RESULTS.glob("reference/receptive_field/*.json")):
        found = _results(path.relative_to(RESULTS))
        layer = next(layer for layer in found["layers"] if layer["layer"] == found["effective"]["layer"])
        size, jump, start = (layer[key] and layer[key][0] for key in ("size", "jump", "start"))
        cells = ["global" if size is None else size, "–" if jump is None else jump, "–" if start is None else start]
        rows.append([found["model"], layer["layer"], *cells, f"{found['effective']['effective_size']:.0f}"])
    return markdown(["network", "layer", "size", "jump", "start", "effective size, random weights"], rows, "llrrrr")


def any_network():
    """What the scripts did with each network of `benchmarks/any_network.py`, and the sentences of those that refused."""
    found = _results("any_network.json")
    rows, notes = [], []
    for name, network in found["networks"].items():
        steps = dict(network["steps"])
        real = steps.pop("an epoch on photographs", {}).get("said", "")
        bad = [step for step, outcome in steps.items() if outcome["status"] != "works"]
        notes += [f"- `{name}`, {step}: {steps[step]['said']}" for step in bad]
        taken = f"all {len(steps)}" if not bad else f"{len(steps) - len(bad)} of {len(steps)}"
        facts = (steps[step]["said"] for step in ("int8", "complexity", "receptive field"))
        rows.append([f"`{name}`", network["family"], network["image_size"], taken, *facts, real])
    names = ", ".join(steps)
    header = ["`-m`", "family", "px", "steps that work", "int8 and fp32 answer", "MACs", "receptive field", "one epoch, Acc@1"]
    families = len({network["family"] for network in found["networks"].values()})
    about = f"{len(rows)} networks of {families} families. Steps: {names}. {_machine(found['machine'])}."
    return "\n\n".join([markdown(header, rows, "llrlllll"), *(["\n".join(notes)] if notes else []), about])


MEASURED = {
    "benchmark": "`benchmark.py --all`",
    "speed": "`benchmarks/train_throughput.py`",
    "prediction": "`benchmarks/cold_start.py`",
}


def _measured(page):
    return f"{MEASURED[page]} ([page](docs/{page}.md))"


def promises():
    """What the README promises, with the figure and the command that measured it."""
    files = {file["name"]: file for file in _results("benchmarks/FashionMNIST_resnet18.json")["files"]}
    accuracy = [100 * file["Acc@1"] for file in files.values()]
    fp32, int8 = files["ONNX Runtime fp32"], files["ONNX Runtime int8"]
    ratios = [case["ratio"]["median"] for case in _results("benchmarks/train_throughput.json")["cases"].values()]
    start = _results("benchmarks/cold_start.json")["seconds"]
    right = (
        f"{len(files)} kinds of file from one resnet18: Acc@1 {min(accuracy):.2f} to {max(accuracy):.2f} % on 10,000 test "
        f"images; int8 has {int8['bytes'] / fp32['bytes']:.2f} of the size"
    )
    fast = (
        f"{min(ratios):.1f} to {max(ratios):.1f} times the images/s of a plain PyTorch loop, {len(ratios)} cases, 2 CPU cores"
    )
    pleasant = (
        f"{start['predict.py']['median']:.2f} s from process start to answer; "
        f"{start['with torch']['median']:.1f} s for a script that imports torch"
    )
    rows = [
        ["**Right.** An export answers like its checkpoint, or it is not written.", right, _measured("benchmark")],
        ["**Fast.** Training keeps the processor busy, and says where the time went.", fast, _measured("speed")],
        ["**Pleasant.** One clear sentence for a mistake, no lost work, an answer at once.", pleasant, _measured("prediction")],
    ]
    return markdown(["promise", "figure", "measured by"], rows, "lll")


FIGURES = {
    "throughput": throughput,
    "time_to_accuracy": time_to_accuracy,
    "fast_and_slow": fast_and_slow,
    "cold_start": cold_start,
    "fine_tuning": fine_tuning,
    "formats": formats,
    "published": published,
    "published_files": published_files,
    "earlier": earlier,
    "any_network": any_network,
    "complexity": complexity,
    "receptive_fields": receptive_fields,
    "promises": promises,
}
