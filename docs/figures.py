"""The tables of figures in README.md and docs/, from the JSON files in results/; docs/make_tables.py writes them."""

from statistics import mean

from docs.cells import RESULTS, markdown, measured, results, spread
from docs.published import PUBLISHED


def throughput():
    """Images/s of a training step with its data, beside the reference."""
    cases, rows = results("benchmarks/train_throughput.json"), []
    for name, case in cases.items():
        network = case["model"] + (", `--compile`" if case["ours"]["how"].endswith(", compiled") else "")
        build = case.get("cache build over one plain pass", {}).get("median")
        rows.append(
            [
                case["dataset"] if name in ("cifar10_sample", "jpegs") else "FashionMNIST",
                f"{network}, {case['image_size']} px",
                f"{case['ours']['images/s']['median']:.0f}",
                f"{case['reference']['images/s']['median']:.0f}",
                spread(case["ratio"], 2),
                f"{100 * case['ours']['waiting']['median']:.1f} %",
                "" if build is None else f"{build:.2f}",
            ]
        )
    header = ["data", "network", "images/s", "reference", "ratio", "waiting for data", "cache build / one plain pass"]
    return markdown(header, rows, "llrrrrr") + f"\n\n{measured('benchmarks/train_throughput.py', cases)}"


def time_to_accuracy():
    """Training time to an accuracy on the test split, beside the reference."""
    found = results("benchmarks/time_to_accuracy.json")
    shared = _shared_flags([goal["flags"] for goal in found["goals"].values()])
    rows = []
    for name, goal in found["goals"].items():
        own = goal["flags"].removeprefix(shared).strip()
        sides = [(spread(goal[side]["Acc@1"], 4), spread(goal[side]["seconds"], 0)) for side in ("ours", "reference")]
        rows.append([f"{name} in {goal['limit_s']} s", f"`{own}`", *sides[0], *sides[1], spread(goal["ratio"], 1)])
    header = ["goal", "flags", "test Acc@1", "seconds", "reference: test Acc@1", "seconds", "ratio"]
    drawn = markdown(header, rows, "llrrrrr")
    return f"{drawn}\n\nShared flags: `{shared.strip()}`. {measured('benchmarks/time_to_accuracy.py', found)}"


def _shared_flags(lines):
    words = [line.split() for line in lines]
    count = next((i for i, column in enumerate(zip(*words, strict=False)) if len(set(column)) > 1), len(words[0]))
    shared = words[0][:count]
    while shared and shared[-1].startswith("-") and len(words[0]) > count and not words[0][count].startswith("-"):
        shared.pop()  # a flag whose values differ
    return " ".join(shared) + " "


def fast_and_slow():
    """Test accuracy of the fast training path and of the plain one."""
    found = results("benchmarks/fast_and_slow.json")
    rows = []
    for side, runs in found["runs"].items():
        accuracy = [run["Acc@1"] for run in runs]
        rows.append(
            [side, f"`{found['flags'][side]}`", len(runs), f"{found['means'][side]:.4f}", f"{min(accuracy)}–{max(accuracy)}"]
        )
    header = ["path", "flags of train.py", "seeds", "mean test Acc@1", "least–greatest"]
    return markdown(header, rows, "llrrr") + f"\n\n{measured('benchmarks/fast_and_slow.py', found)}"


def ablations():
    """Held-out accuracy of short runs that differ in one thing."""
    found = results("benchmarks/ablations.json")
    base = found["rows"]["base"]
    rows = []
    for name, row in found["rows"].items():
        accuracy, seconds = row["Acc@1"], row["seconds"]["median"]
        gain = 100 * (mean(accuracy["all"]) - mean(base["Acc@1"]["all"]))
        spanned = f"{100 * accuracy['min']:.2f}–{100 * accuracy['max']:.2f}"
        own = " ".join(f"--{flag}" for flag in row["flags"].lstrip("-").split(" --") if flag not in base["flags"])
        flags = f"`{own or row['flags']}`"
        rows.append(
            [name, flags, f"{100 * mean(accuracy['all']):.2f}", spanned, f"{gain:+.2f}" if own else "", f"{seconds:.0f}"]
        )
    header = ["row", "flags", "held-out Acc@1, %, mean", "least–greatest", "against base", "seconds a run"]
    drawn = markdown(header, rows, "llrrrr")
    shared = f"Shared flags: `{found['flags']}`. {len(base['Acc@1']['all'])} seeds each."
    return f"{drawn}\n\n{shared} {measured('benchmarks/ablations.py', found)}"


def cold_start():
    """Seconds of a whole prediction process."""
    found = results("benchmarks/cold_start.json")
    names = {"predict.py": "`predict.py` on an ONNX file", "with torch": "a script that imports torch and torchvision"}
    rows = [[names[name], spread(seconds, 2)] for name, seconds in found["seconds"].items()]
    rows.append([f"ratio, pair by pair ({found['pairs']} pairs)", spread(found["ratio"], 3)])
    return (
        markdown(["one image, from process start to answer", "seconds, median (least–greatest)"], rows)
        + f"\n\n{measured('benchmarks/cold_start.py', found)}"
    )


def fine_tuning():
    """Accuracy of runs that start from weights, by where the head is from and the learning rate."""
    found = results("benchmarks/fine_tuning.json")
    cases, rows = found["cases"], []
    for name in next(iter(cases.values())):
        scores = [case[name][when] for case in cases.values() for when in ("first", "last")]
        rows.append([name, *(f"{100 * sum(s) / len(s):.1f} ({100 * min(s):.0f}–{100 * max(s):.0f})" for s in scores)])
    header = ["start, learning rate", *(f"{case}, {when}" for case in cases for when in ("first epoch", "last"))]
    about = f"{found['seeds']} seeds, mean (least–greatest)"
    return markdown(header, rows) + f"\n\n{about}. {measured('benchmarks/fine_tuning.py', found)}"


def formats(path="benchmarks/FashionMNIST_resnet18.json"):
    """Every kind of file made from one checkpoint, as `path` under results/ has it."""
    found = results(path)
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
    command = f"benchmark.py -w {found['weights']} --all"
    about = f"{found['model']} at {found['image_size']} px on {found['images']:,} images of {found['measured on']}"
    return markdown(header, rows, "lrrrrrl") + f"\n\n{about}. {measured(command, found)}"


def complexity():
    """MACs of every network as each tool counts them, the smallest network first."""
    found = [results(path.relative_to(RESULTS)) for path in sorted(RESULTS.glob("reference/complexity/*_complexity.json"))]
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
        found = results(path.relative_to(RESULTS))
        layer = next(layer for layer in found["layers"] if layer["layer"] == found["effective"]["layer"])
        size, jump, start = (layer[key] and layer[key][0] for key in ("size", "jump", "start"))
        cells = ["global" if size is None else size, "–" if jump is None else jump, "–" if start is None else start]
        rows.append([found["model"], layer["layer"], *cells, f"{found['effective']['effective_size']:.0f}"])
    return markdown(["network", "layer", "size", "jump", "start", "effective size, random weights"], rows, "llrrrr")


def any_network():
    """What the scripts did with each network of `benchmarks/any_network.py`, and the sentences of those that refused."""
    found = results("any_network.json")
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
    about = f"{len(rows)} networks of {families} families. Steps: {names}. {measured('benchmarks/any_network.py', found)}"
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
    files = {file["name"]: file for file in results("benchmarks/FashionMNIST_resnet18.json")["files"]}
    accuracy = [100 * file["Acc@1"] for file in files.values()]
    fp32, int8 = files["ONNX Runtime fp32"], files["ONNX Runtime int8"]
    ratios = [case["ratio"]["median"] for case in results("benchmarks/train_throughput.json").values()]
    start = results("benchmarks/cold_start.json")["seconds"]
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


FIGURES = PUBLISHED | {
    "throughput": throughput,
    "time_to_accuracy": time_to_accuracy,
    "ablations": ablations,
    "fast_and_slow": fast_and_slow,
    "cold_start": cold_start,
    "fine_tuning": fine_tuning,
    "formats": formats,
    "any_network": any_network,
    "complexity": complexity,
    "receptive_fields": receptive_fields,
    "promises": promises,
}
