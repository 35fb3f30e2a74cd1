"""Opens files one after the other, as the scripts do, and prints a JSON line for each: how it ended, and the answer.

Run as a process of its own, `python ask.py <<< '[["model", "a.onnx"], ["state", "last.pth"]]'`, so that a file that ends the
process, or that takes for ever, is known by its place in the list.
"""

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

SECONDS = 20  # for one file
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


KINDS = {"model": ask_model, "state": resume}


def outcome(kind, path):
    signal.alarm(SECONDS)
    try:
        return {"ended": "answered", "answer": KINDS[kind](path)}
    except Exception as error:
        sentence = explain(error)
        return {"ended": "refused" if sentence else "traceback", "answer": sentence or repr(error)}
    finally:
        signal.alarm(0)


def too_long(*_):
    raise TimeoutError(f"over {SECONDS} s")


if __name__ == "__main__":
    faulthandler.enable()
    signal.signal(signal.SIGALRM, too_long)
    torch.set_num_threads(1)
    lines, sys.stdout = sys.stdout, sys.stderr
    for kind, path in json.load(sys.stdin):
        print(json.dumps({"path": path, **outcome(kind, path)}), file=lines, flush=True)
