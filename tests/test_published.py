"""The published models answer: from the files of a clone alone, and as results/reference/published/ says of them."""

import json
import subprocess
import sys

import pytest
from markdown_blocks import ROOT

import train
from utils.core.images import load_image
from utils.inference.predictors import open_predictor

MODELS = sorted(path.parent.name for path in ROOT.glob("weights/FashionMNIST/*/best_model.pth"))
FILES = sorted(path for name in MODELS for path in ROOT.glob(f"weights/FashionMNIST/{name}/converted_models/*.onnx"))
SAMPLES = sorted((ROOT / "assets/images/fashion_mnist").glob("*.png"))
TRACKED = subprocess.run(["git", "ls-files", "weights"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()


def stem(name):
    return name.lower().replace(" ", "_").replace("/", "_")


RUNS = sorted(path.parent.name for path in ROOT.glob("weights/FashionMNIST/*/history.json"))
# Not of what is trained. A recipe leaves bf16 to the machine: where it has bf16, that is what it takes.
OF_THE_PLACE = {"name", "data_dir", "num_workers", "tensorboard", "no_test", "resume", "path_to_save", "bf16", "precision"}


def test_each_model_has_its_files():
    assert len(MODELS) >= 3
    for name in MODELS:
        model = json.loads((ROOT / "weights/FashionMNIST" / name / "history.json").read_text())["flags"]["model"]
        kinds = {path.stem.removeprefix(f"{model}_") for path in FILES if path.parent.parent.name == name}
        assert kinds in ({"onnx", "int8"}, {"onnx_fp16", "int8"})


@pytest.mark.parametrize("name", RUNS)
def test_the_recipe_has_the_flags_that_the_published_run_had(name, monkeypatch):
    monkeypatch.setattr(train, "no_file", lambda path: None)  # what an earlier recipe trains may not be in a clone
    of_recipe = vars(train.parser().parse(argv=[f"@{ROOT / 'recipes' / name}.txt"]))
    of_run = json.loads((ROOT / "weights/FashionMNIST" / name / "history.json").read_text())["flags"]
    differ = {flag for flag in of_run if of_run[flag] != of_recipe.get(flag)}
    assert differ <= OF_THE_PLACE


def test_the_published_files_are_small():
    sizes = [(ROOT / name).stat().st_size for name in TRACKED]
    assert max(sizes) < 24e6 and sum(sizes) < 90e6


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_real_samples_are_answered_right(path):
    file = open_predictor(path, device="cpu")
    answers = [file.card.classes[file(file.prepare(load_image(image))).argmax()] for image in SAMPLES]
    assert len(SAMPLES) == 10
    assert sum(stem(answer) == image.stem for answer, image in zip(answers, SAMPLES, strict=True)) >= 9


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", MODELS)
def test_the_reference_is_repeated_to_the_last_digit(name, real_data, tmp_path):
    for path in sorted((ROOT / "results/reference/published/accuracy/FashionMNIST").glob("*.json")):
        found, output = json.loads(path.read_text()), tmp_path / path.name
        if not found["weights"].startswith(f"weights/FashionMNIST/{name}/"):
            continue
        command = [
            sys.executable,
            str(ROOT / "eval.py"),
            "-w",
            found["weights"],
            "--data_dir",
            str(real_data),
            "--output",
            str(output),
            "--tta",
            found["tta"],
        ]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        again = json.loads(output.read_text())
        assert [again[key] for key in ("Acc@1", "Acc@5", "split")] == [found[key] for key in ("Acc@1", "Acc@5", "split")]
