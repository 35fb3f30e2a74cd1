"""What a quantized file gains and costs beside an fp32 file for the same engine: size, accuracy, agreement, latency."""

import pathlib

import numpy as np

from models.checkpoint import save_checkpoint
from utils.core.errors import ACCURACY_LOST
from utils.core.images import preprocess
from utils.core.text import plural, table
from utils.data.samples import example_images
from utils.export.measure import INTERVAL, answers_of, as_json, must_be_finite, scores_of, speeds_of
from utils.export.verify import export_model

BATCHES = (1, 32)
AGREEMENT = 0.99  # share of the images that must be answered alike before a file is recommended


def write_fp32(scheme, network, card, folder):
    """The same network in fp32 for the same engine: what the quantized file is held against."""
    path = pathlib.Path(folder, f"fp32{scheme.suffix}")
    if scheme.format == "checkpoint":
        save_checkpoint(path, {"model": network.state_dict(), "card": card.to_dict()})
    else:
        images, source = example_images(card, 8)
        export_model(network, card, scheme.format, path, images=images, source=source)
    return path


def measure(before, after, split, samples, batch_size, num_workers):
    """Facts of both files: a dict with `before`, `after`, `agreement` and how many images that is of.

    `split` is what Acc@1 is measured on, or None; `samples` are Pillow images for the latency, and without a split for the
    agreement too. Raises UserError where an answer is not finite.
    """
    files = {"before": before, "after": after}
    images = np.concatenate([preprocess(image, before.card) for image in samples])
    logits, facts = {}, {}
    for name, file in files.items():
        facts[name] = {"file": file.path.name, "engine": file.shown, "arithmetic": file.arithmetic, "bytes": file.bytes}
        if split is None:
            logits[name] = file(images)
            must_be_finite(logits[name], file)
        else:
            evaluation = answers_of(file, split, batch_size, num_workers)
            logits[name], scores = evaluation.logits.numpy(), scores_of(evaluation)
            facts[name] |= {key: scores[key] for key in ("Acc@1", INTERVAL)}
    for name, latencies in speeds_of(files, images, BATCHES).items():
        facts[name]["latency"] = as_json(latencies)
    agree = logits["before"].argmax(1) == logits["after"].argmax(1)
    return facts | {"agreement": float(agree.mean()), "images": len(agree)}


def judge(result, max_drop):
    """`(verdict in words, exit status)` on what `measure` found; `max_drop` in points of Acc@1."""
    before, after = result["before"], result["after"]
    smaller = before["bytes"] / after["bytes"]
    pairs = list(zip(before["latency"], after["latency"], strict=True))
    speeds = ", ".join(f"{_speed(b, a)} at batch {b['batch']}" for b, a in pairs)
    facts = f"{smaller:.2f} × smaller, {speeds}"
    if "Acc@1" in before:
        drop = round(100 * (before["Acc@1"] - after["Acc@1"]), 6)  # 0.95 - 0.94 is a little more than 0.01
        beyond = after["Acc@1"] < before["Acc@1 95 % interval"][0]
        if beyond or drop > max_drop:
            where = "beyond the interval" if beyond else f"within the interval of {plural(result['images'], 'image')}"
            limit = f" (limit {max_drop:g})" if drop > max_drop else ""
            return f"accuracy lost: {drop:.2f} points, {where}{limit}; {facts}", ACCURACY_LOST if drop > max_drop else 0
        facts += f", Acc@1 {-round(drop, 2) + 0.0:+.2f} points"
    if result["agreement"] < AGREEMENT:
        though = ", though about as many are right" if "Acc@1" in before else ""
        alike = f"{100 * result['agreement']:.2f} % of {plural(result['images'], 'image')} alike"
        return f"answers otherwise: {alike}, under {100 * AGREEMENT:g} %{though}; {facts}", 0
    slower = [str(b["batch"]) for b, a in pairs if a["low_ms"] > b["high_ms"]]
    if smaller < 1.05:
        return f"hardly smaller: keep fp32; {facts}", 0
    if slower:
        where = "" if len(slower) == len(pairs) else f" at batch {' and '.join(slower)}"
        return f"smaller but slower here{where}: keep fp32 for speed{where and ' there'}; {facts}", 0
    return f"use it: {facts}" + ("" if "Acc@1" in before else "; its accuracy is not measured"), 0


def _speed(before, after):
    """How two latencies compare, in words: where their 10th to 90th percentiles overlap, they do not differ."""
    if after["low_ms"] <= before["high_ms"] and before["low_ms"] <= after["high_ms"]:
        return "no difference in speed"
    return f"{before['median_ms'] / after['median_ms']:.2f} × the speed"


def describe(result, card, why):
    """What was measured on, a table of before and after with a row a quantity, what computed where, and the verdict."""
    before, after, machine = result["before"], result["after"], result["machine"]
    rows = [["size", *(f"{fact['bytes'] / 1e6:.2f} MB" for fact in (before, after))]]
    if "Acc@1" in before:
        rows.append(["Acc@1", *(f"{100 * fact['Acc@1']:.2f} %" for fact in (before, after))])
        ends = ([100 * end for end in fact["Acc@1 95 % interval"]] for fact in (before, after))
        rows.append(["  95 % interval", *(f"{low:.2f}–{high:.2f} %" for low, high in ends)])
    rows.append(["argmax agreement", "", f"{100 * result['agreement']:.2f} %"])
    for pair in zip(before["latency"], after["latency"], strict=True):
        rows.append([f"latency, batch {pair[0]['batch']}", *(f"{time['median_ms']:.3g} ms" for time in pair)])
        rows.append(["  10th–90th percentile", *(f"{time['low_ms']:.3g}–{time['high_ms']:.3g} ms" for time in pair)])
    computer = machine["gpu"] if result["device"].startswith("cuda") else machine["cpu"]
    lines = [
        f"{card.architecture} at {card.image_size} px on {result['measured on']}: {plural(result['images'], 'image')}",
        *([f"accuracy is not measured: {why}"] if why else []),
        table(["", "fp32", result["scheme"]], rows),
        f"{after['engine']}: {after['arithmetic']}",
        f"latency is that of the network alone, on {computer}, {plural(result['threads'], 'thread')}",
        f"verdict: {result['verdict']}",
    ]
    return "\n".join(lines)
