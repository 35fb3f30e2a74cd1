"""Opens files one after the other, as the scripts do, and prints a JSON line for each: how it ended, and the answer.

Run as a process of its own, `python ask.py <<< '[["model", "a.onnx"], ["state", "last.pth"]]'`, so that a file that ends the
process, or that takes for ever, is known by its place in the list.
"""

import contextlib
import faulthandler
import json
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))

import numpy as np
import torch
from PIL import Image

from utils.core.errors import explain
from utils.inference.predictors import open_predictor

SECONDS = 20  # of computing for one file; what waits for ever ends with the time of the whole list
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))


def ask_model(path):
    """Whether to open a model file and what it answers, as predict.py and eval.py do: its logits, and its file names."""
    predictor = open_predictor(path, device="cpu", otherwise="checkpoint")
    logits = predictor.answer([predictor.prepare(IMAGE)])
    card = predictor.card
    assert all("/" not in name and not name.startswith(".") for name in (card.file_name, card.result_name))
    return [round(float(value), 4) for value in logits[0]]


def resume(path):
    """One epoch more from a training state."""
    from utils.training.build import build_trainer
    from utils.training.options import TrainOptions

    options = json.loads(pathlib.Path(path).with_name("options.json").read_text())
    return build_trainer(TrainOptions(**options, resume=str(path)), torch.device("cpu")).fit()


def read_image(path):
    """What all readers of images make of a file: its size. They agree on whether it can be read."""
    from utils.core.card import ModelCard
    from utils.core.errors import UserError
    from utils.core.images import load_image, preprocess
    from utils.core.walk import MAX_PIXELS
    from utils.data.splits import Split
    from utils.data.stores import FileStore
    from utils.doctor.facts import read_facts

    facts = read_facts((path, "train", 0))
    store = FileStore(Split("train", np.zeros(1, np.int64), paths=[pathlib.Path(path)]), 24)
    pixels = None
    with contextlib.suppress(UserError):
        pixels = store.gather([0]).data
    try:
        image = load_image(path, MAX_PIXELS)
    except UserError as error:
        assert facts.fault and pixels is None and "TimeoutError" not in str(error), (facts.fault, pixels)
        raise
    assert pixels is not None and not facts.fault, (facts.fault, pixels)
    prepared = preprocess(image, ModelCard("custom", ["a"], 21))
    assert prepared.shape == (1, 3, 21, 21) and np.isfinite(prepared).all() and min(pixels.shape[2:]) <= 24
    return image.size


KINDS = {"model": ask_model, "state": resume, "image": read_image}


def outcome(kind, path):
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        return {"ended": "answered", "answer": KINDS[kind](path)}
    except Exception as error:
        sentence = explain(error)
        return {"ended": "refused" if sentence else "traceback", "answer": sentence or repr(error)}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def too_long(*_):
    raise TimeoutError(f"over {SECONDS} s")


if __name__ == "__main__":
    faulthandler.enable()
    signal.signal(signal.SIGPROF, too_long)
    torch.set_num_threads(1)
    lines, sys.stdout = sys.stdout, sys.stderr
    for kind, path in json.load(sys.stdin):
        print(json.dumps({"path": path, **outcome(kind, path)}), file=lines, flush=True)
