"""predict.py: what it answers, in which form, without torch, and what it says of everything that it cannot answer."""

import csv
import importlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from networks import DIGITS, network_of, without_seal
from PIL import Image

from utils.core.errors import UserError
from utils.data.samples import generated_images
from utils.export.verify import export_model, reference_logits
from utils.inference import predictors
from utils.inference.formats import FORMATS, exported
from utils.inference.predictors import open_predictor, softmax


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One network of ten classes in every engine, three digits, and files of other kinds."""
    folder = tmp_path_factory.mktemp("files")
    model, card = network_of("custom")
    for engine in exported():
        export_model(model, card, engine, folder / f"m{FORMATS[engine].suffix}", images=DIGITS[:7], source="7 digits")
    torch.save({"model": model.state_dict()}, folder / "checkpoint.pth")
    shutil.copy(folder / "checkpoint.pth", folder / "checkpoint.pt")
    (folder / "text.onnx").write_text("no network")
    (folder / "text.pt").write_text("no network")
    (folder / "classes.txt").write_text("\n".join(f"name {i}" for i in range(10)))
    (folder / "nine.txt").write_text("\n".join("abcdefghi"))
    (folder / "pictures").mkdir()
    for number, image in enumerate(DIGITS[:3]):
        image.save(folder / "pictures" / f"{number}.png")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture(scope="module")
def expected():
    """Probabilities (3, 10) of the three digits."""
    return softmax(reference_logits(*network_of("custom"), DIGITS[:3]))


@pytest.mark.parametrize("engine", exported())
def test_every_engine_answers_as_the_network(engine, files, expected, main_of):
    model = files / f"m{FORMATS[engine].suffix}"
    status, out = main_of("predict", "-i", files / "pictures", "-m", model, "--topk", 10, "--json", "-", "--batch_size", 2)
    answers = json.loads(out)
    assert status == 0 and answers["engine"] == engine and answers["device"] in ("cpu", "cuda")
    for answer, row in zip(answers["images"], expected, strict=True):
        assert answer["class"] == f"class {row.argmax()}"
        assert np.allclose([entry["probability"] for entry in answer["top"]], np.sort(row)[::-1], atol=1e-5)


def test_one_picture_gives_one_line(files, expected, main_of):
    status, out = main_of("predict", "-i", files / "pictures" / "0.png", "-m", files / "m.onnx")
    best = expected[0].argmax()
    line = rf"Predicted class: class {best} \({expected[0][best]:.2f}\) in \d+\.\d{{4}} seconds\.\n"
    assert status == 0 and __import__("re").fullmatch(line, out)


def test_topk_prints_the_rest(files, expected, main_of):
    out = main_of("predict", "-i", files / "pictures" / "0.png", "-m", files / "m.onnx", "--topk", 3)[1].splitlines()
    second, third = np.argsort(-expected[0])[1:3]
    assert [line.split()[:2] for line in out[1:]] == [["class", str(second)], ["class", str(third)]]


def test_many_pictures_give_a_table(files, expected, main_of):
    out = main_of("predict", "-i", files / "pictures" / "*.png", files / "pictures", "-m", files / "m.onnx")[1].splitlines()
    assert [line.split()[0].rsplit("/")[-1] for line in out[2:5]] == ["0.png", "1.png", "2.png"]  # each once
    assert [f"class {row.argmax()}" in line for line, row in zip(out[2:5], expected, strict=True)] == [True] * 3
    assert out[5].startswith("3 images answered in ")


def test_threshold_answers_unknown(files, main_of):
    for threshold, unknown in ((1, True), (0, False)):
        flags = ("--threshold", threshold, "--json", "-")
        (image,) = json.loads(main_of("predict", "-i", files / "pictures/0.png", "-m", files / "m.onnx", *flags)[1])["images"]
        assert (image["class"] == "unknown") == unknown and image["top"][0]["class"] != "unknown"
    out = main_of("predict", "-i", files / "pictures/0.png", "-m", files / "m.onnx", "--threshold", 1)[1]
    assert out.startswith("Predicted class: unknown (")


def test_csv_json_and_drawn_pictures(files, tmp_path, main_of):
    Image.new("RGB", (500, 300), "red").save(tmp_path / "wide.jpg")
    flags = ("--csv", "out/a.csv", "--json", "out/a.json", "--save_dir", "out/drawn", "--topk", 2)
    main_of("predict", "-i", files / "pictures", tmp_path / "wide.jpg", "-m", files / "m.onnx", *flags)
    rows = list(csv.DictReader((tmp_path / "out/a.csv").open()))
    images = json.loads((tmp_path / "out/a.json").read_text())["images"]
    assert [row["image"] for row in rows] == [image["image"] for image in images] and len(rows) == 4
    for row, image in zip(rows, images, strict=True):
        assert [row["class_1"], row["class_2"]] == [entry["class"] for entry in image["top"]]
        assert float(row["probability"]) == pytest.approx(image["probability"], abs=1e-6)
    drawn = sorted(path.name for path in (tmp_path / "out/drawn").iterdir())
    assert drawn == ["0.png", "1.png", "2.png", "wide.jpg"]
    with Image.open(tmp_path / "out/drawn/wide.jpg") as image:
        assert image.width == 500 and image.height > 300  # the strip stands above the picture
        strip = np.asarray(image)[: image.height - 300]
        assert strip.max() > 200 and np.abs(np.asarray(image)[-1, -1].astype(int) - (255, 0, 0)).max() < 5


@pytest.mark.parametrize(("flag", "place"), [("--csv", "0.png"), ("--json", "1.png"), ("--save_dir", ".")])
def test_an_output_over_an_input_is_refused_before_the_work(flag, place, files, main_of, capsys):
    pictures = files / "pictures"
    before = {path.name: path.read_bytes() for path in pictures.iterdir()}
    with pytest.raises(UserError, match="it is an input of this run"):
        main_of("predict", "-i", pictures, "-m", files / "m.onnx", flag, pictures / place)
    assert "answered" not in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in pictures.iterdir()} == before


def test_pictures_of_one_name_are_all_drawn(files, tmp_path, main_of):
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        shutil.copy(files / "pictures/0.png", tmp_path / str(number) / "same.png")
    Image.new("L", (9, 9)).save(tmp_path / "same.bmp")
    main_of("predict", "-i", "0/same.png", "1/same.png", "same.bmp", "-m", files / "m.onnx", "--save_dir", "drawn")
    assert sorted(p.name for p in (tmp_path / "drawn").iterdir()) == ["same.png", "same_2.png", "same_3.png"]


def test_odd_values_are_noted_and_answered(files, tmp_path, main_of, capsys):
    for number in range(5):
        Image.fromarray(np.full((9, 9), 4095, np.uint16)).save(tmp_path / f"{number}.png")
    script = importlib.import_module("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["predict.py", "-i", str(tmp_path), "-m", str(files / "m.onnx"), "--json", "-"])
        assert script.main() == 0
    out, said = capsys.readouterr()
    assert said.count("note: ") == 4 and "0.png: its values end at 4,095 of 65,535" in said
    assert "and 2 images more with odd values" in said
    assert all("4,095" in image["note"] for image in json.loads(out)["images"])


def test_an_image_that_does_not_fit_into_memory_is_its_own_failure(files, tmp_path, main_of, monkeypatch):
    Image.new("RGB", (99, 9)).save(tmp_path / "large.png")

    def preprocess(image, card, plain=predictors.preprocess):
        if image.width == 99:
            raise MemoryError
        return plain(image, card)

    monkeypatch.setattr(predictors, "preprocess", preprocess)
    status, out = main_of("predict", "-i", tmp_path / "large.png", files / "pictures", "-m", files / "m.onnx", "--json", "-")
    unreadable = json.loads(out)["unreadable"]
    assert status == 3 and "not enough memory" in unreadable[0]["reason"] and len(json.loads(out)["images"]) == 3


@pytest.mark.parametrize("shape", [(1, 400_000), (400_000, 1), (1, 1_500_000)])
def test_extremely_long_images_are_answered_and_drawn_small(files, tmp_path, main_of, shape):
    Image.new("RGB", shape, "red").save(tmp_path / "long.png")
    assert main_of("predict", "-i", "long.png", "-m", files / "m.onnx", "--save_dir", "drawn")[0] == 0
    with Image.open(tmp_path / "drawn" / "long.png") as image:
        assert max(image.size) < 2000


def test_names_as_long_as_the_file_system_takes_are_drawn(files, tmp_path, main_of):
    for name in ("ü" * 125 + ".tiff", "x" * 255, "y" * 251 + ".bmp"):
        shutil.copy(files / "pictures/0.png", tmp_path / name)
    (tmp_path / "again").mkdir()
    shutil.copy(files / "pictures/0.png", tmp_path / "again" / ("y" * 251 + ".bmp"))
    images = [path.relative_to(tmp_path) for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert main_of("predict", "-i", *images, "-m", files / "m.onnx", "--save_dir", "drawn")[0] == 0
    drawn = [path.name for path in (tmp_path / "drawn").iterdir()]
    assert len(drawn) == 4 and all(name.endswith(".png") for name in drawn)


def test_graph_with_preprocessing_takes_pictures_of_all_sizes(files, tmp_path, main_of):
    model, card = network_of("custom")
    images = generated_images(4)
    export_model(model, card, "onnx", tmp_path / "whole.onnx", images=images, source="4", with_preprocessing=True)
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    out = json.loads(main_of("predict", "-i", "*.png", "-m", "whole.onnx", "--json", "-")[1])
    expected = softmax(reference_logits(model, card, images))
    assert [image["class"] for image in out["images"]] == [f"class {row.argmax()}" for row in expected]


# --- files without a card, made elsewhere


class Foreign(torch.nn.Module):
    """A classifier of our shape from somebody else; `softmax` at the end where `probabilities`."""

    def __init__(self, size=224, probabilities=False):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3 * (size // 8) ** 2, 10)
        self.pool = torch.nn.AvgPool2d(8)
        self.last = torch.nn.Softmax(1) if probabilities else torch.nn.Identity()

    def forward(self, input):
        return self.last(self.layer(self.pool(input).view(1, -1)))  # one image at a time, and no way to see it


def foreign_answers(images, size=224):
    from utils.core.card import ModelCard

    model, card = Foreign(size).eval(), ModelCard("foreign", [f"name {i}" for i in range(10)], size)
    return softmax(reference_logits(model, card, images, batch_size=1))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [224, pytest.param(64, marks=pytest.mark.slow)])
def test_foreign_onnx_of_fixed_batch_1(size, files, tmp_path, main_of):
    model = Foreign(size).eval()
    torch.onnx.export(model, (torch.zeros(1, 3, size, size),), tmp_path / "f.onnx", input_names=["input"], verbose=False)
    out = main_of("predict", "-i", files / "pictures", "-m", "f.onnx", "-c", files / "classes.txt", "--json", "-")[1]
    assert_answers(json.loads(out), foreign_answers(DIGITS[:3], size))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("probabilities", [False, True])
def test_foreign_torchscript_of_fixed_batch_1(probabilities, files, tmp_path, main_of):
    torch.jit.save(torch.jit.script(Foreign(probabilities=probabilities).eval()), tmp_path / "f.pt")
    out = main_of("predict", "-i", files / "pictures", "-m", "f.pt", "-c", files / "classes.txt", "--json", "-")[1]
    assert_answers(json.loads(out), foreign_answers(DIGITS[:3]))


def assert_answers(answers, expected):
    assert len(answers["images"]) == len(expected)
    for image, row in zip(answers["images"], expected, strict=True):
        assert image["class"] == f"name {row.argmax()}" and image["probability"] == pytest.approx(row.max(), abs=1e-4)


def test_other_names_for_the_classes_of_a_card(files, main_of):
    out = main_of("predict", "-i", files / "pictures/0.png", "-m", files / "m.onnx", "-c", files / "classes.txt")[1]
    assert out.startswith("Predicted class: name ")


# --- without torch


WATCH = """
import runpy, sys
for name in ("torch", "torchvision", "matplotlib", "onnx", "sklearn"):
    sys.modules[name] = None  # importing it raises ImportError
sys.argv = sys.argv[1:]
sys.path.insert(0, {root!r})
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(*sorted({{name.partition(".")[0] for name, module in sys.modules.items()
                   if "site-packages" in (getattr(module, "__file__", None) or "")}} - {{"_distutils_hack"}}), file=sys.stderr)
    print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0], file=sys.stderr)
"""


def watched(tmp_path, *flags):
    """predict.py in a process where torch cannot be imported: (its result, third-party packages, peak memory in KiB)."""
    command = [sys.executable, "-c", WATCH.format(root=str(ROOT)), str(ROOT / "predict.py"), *map(str, flags)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    *_, packages, peak = result.stderr.splitlines()
    return result, set(packages.split()), int(peak)


def test_onnx_needs_onnxruntime_numpy_and_pillow_only(files, tmp_path):
    result, packages, _ = watched(tmp_path, "-i", files / "pictures/0.png", "-m", files / "m.onnx", "--topk", 2)
    assert result.returncode == 0 and result.stdout.startswith("Predicted class: class "), result.stderr
    assert packages <= {"numpy", "PIL", "onnxruntime"}
    assert len(result.stderr.splitlines()) == 2  # what the watcher prints: no noise about a GPU that is not there


def test_many_pictures_without_torch(files, tmp_path):
    result, packages, _ = watched(tmp_path, "-i", files / "pictures", "-m", files / "m.onnx", "--save_dir", "drawn")
    assert result.returncode == 0 and packages <= {"numpy", "PIL", "onnxruntime", "tqdm"}, result.stderr


def test_every_image_of_a_folder_is_answered_and_what_is_left_out_is_named(files, tmp_path):
    (tmp_path / "mixed").mkdir()
    names = ("a.jfif", "b.avif", "c.tga", "d.PNG", "e.webp")
    for name in names:
        DIGITS[0].save(tmp_path / "mixed" / name)
    (tmp_path / "mixed" / "notes.txt").write_text("")
    (tmp_path / "mixed" / "again").symlink_to(tmp_path / "mixed")
    os.mkfifo(tmp_path / "mixed" / "pipe.png")
    script = [sys.executable, str(ROOT / "predict.py"), "-i", "mixed", "-m", str(files / "m.onnx"), "--json", "a.json"]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    answers = json.loads((tmp_path / "a.json").read_text())
    assert done.returncode == 3 and [os.path.basename(entry["image"]) for entry in answers["images"]] == list(names)
    assert [os.path.basename(entry["image"]) for entry in answers["unreadable"]] == ["pipe.png"]
    assert "left out 1 file (no image by the suffix): mixed/notes.txt" in done.stderr and "mixed/again" in done.stderr


def test_a_thousand_pictures_five_of_them_broken(files, tmp_path):
    """995 answers, 5 names, status 3, and no more memory than for 100."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number, image in enumerate(generated_images(20)):
        image.resize((300, 300)).save(folder / f"{number:04}.jpg")
    for number in range(20, 1000):
        os.link(folder / f"{number % 20:04}.jpg", folder / f"{number:04}.jpg")
    few = tmp_path / "few"
    few.mkdir()
    for number in range(100):
        os.link(folder / f"{number:04}.jpg", few / f"{number:04}.jpg")
    broken = [f"{number:04}.jpg" for number in (0, 333, 500, 501, 999)]
    for name in broken:
        (folder / name).unlink()
    (folder / broken[0]).write_bytes(b"")
    (folder / broken[1]).write_bytes((folder / "0001.jpg").read_bytes()[:900])
    (folder / broken[2]).write_text("<html>not found</html>")
    (folder / broken[3]).mkdir()
    (folder / broken[4]).symlink_to(tmp_path / "gone.jpg")

    _, _, small = watched(tmp_path, "-i", few, "-m", files / "m.onnx")
    result, _, large = watched(tmp_path, "-i", folder, "-m", files / "m.onnx", "--json", "all.json")
    assert result.returncode == 3
    answers = json.loads((tmp_path / "all.json").read_text())
    assert len(answers["images"]) == 995 and "995 images answered, 5 unreadable" in result.stdout
    assert [os.path.basename(entry["image"]) for entry in answers["unreadable"]] == broken
    named = [line for line in result.stderr.splitlines() if line.startswith("unreadable: ")]
    assert [name in line for name, line in zip(broken, named, strict=True)] == [True] * 5
    assert large - small < 20_000, (small, large)  # KiB; 900 decoded pictures would be 240 MB


# --- what cannot be answered: one sentence


REFUSED = {
    "a model that is missing": (["-i", "{f}/pictures/0.png", "-m", "none.onnx"], "none.onnx does not exist"),
    "a folder for a model": (["-i", "{f}/pictures/0.png", "-m", "{f}/empty"], "is a folder; name the file in it"),
    "a checkpoint": (["-i", "{f}/pictures/0.png", "-m", "{f}/checkpoint.pth"], r"is a checkpoint: use predict_ckpoint\.py"),
    "a checkpoint called .pt": (
        ["-i", "{f}/pictures/0.png", "-m", "{f}/checkpoint.pt"],
        r"is a checkpoint: use predict_ckpoint\.py",
    ),
    "text called .pt": (["-i", "{f}/pictures/0.png", "-m", "{f}/text.pt"], "not a TorchScript file but something else"),
    "text called .onnx": (["-i", "{f}/pictures/0.png", "-m", "{f}/text.onnx"], "not an ONNX file that ONNX Runtime can run"),
    "an odd suffix": (["-i", "{f}/pictures/0.png", "-m", "{f}/classes.txt"], "does not follow from the name"),
    "the wrong engine": (
        ["-i", "{f}/pictures/0.png", "-m", "{f}/m.pt", "-e", "pt2"],
        "not a torch.export file but a TorchScript file, engine torchscript",
    ),
    "no card and no classes": (
        ["-i", "{f}/pictures/0.png", "-m", "{t}/bare.onnx"],
        "has no model card; give a file that names its classes",
    ),
    "too few classes": (["-i", "{f}/pictures/0.png", "-m", "{f}/m.onnx", "-c", "{f}/nine.txt"], "9 classes.*10"),
    "too few classes, no card": (["-i", "{f}/pictures/0.png", "-m", "{t}/bare.onnx", "-c", "{f}/nine.txt"], "9 classes.*10"),
    "classes that are missing": (
        ["-i", "{f}/pictures/0.png", "-m", "{f}/m.onnx", "-c", "no.txt"],
        "no.txt does not exist",
    ),
    "another size than the card's": (["-i", "{f}/pictures/0.png", "-m", "{f}/m.onnx", "--image_size", "64"], "contradicts"),
    "a picture that is missing": (["-i", "none.png", "-m", "{f}/m.onnx"], "none.png does not exist"),
    "a picture that is none": (["-i", "{f}/classes.txt", "-m", "{f}/m.onnx"], "classes.txt is not a readable image"),
    "nothing but broken pictures": (["-i", "{f}/classes.txt", "{f}/nine.txt", "-m", "{f}/m.onnx"], "none of the 2 images"),
    "an empty folder": (["-i", "{f}/empty", "-m", "{f}/m.onnx"], "the folder holds no images"),
    "a pattern without a match": (["-i", "{f}/*.webp", "-m", "{f}/m.onnx"], "no file matches"),
    "a picture that is too large": (["-i", "{f}/pictures/0.png", "-m", "{f}/m.onnx", "--max_pixels", "63"], "0.png has 8×8"),
    "one file for two": (["-i", "x", "-m", "{f}/m.onnx", "--json", "a", "--csv", "./a"], "--json and --csv name one file"),
    "everything to standard output": (
        ["-i", "x", "-m", "{f}/m.onnx", "--json", "-", "--csv", "-"],
        "both want standard output",
    ),
    "a folder for the answers": (["-i", "x", "-m", "{f}/m.onnx", "--json", "{f}/empty"], "is a folder; name a file"),
    "a file to save in": (["-i", "x", "-m", "{f}/m.onnx", "--save_dir", "{f}/m.pt"], "is a file; name a folder"),
    "answers where no file can be": (
        ["-i", "{f}/pictures/0.png", "-m", "{f}/m.onnx", "--csv", "{f}/m.pt/a.csv"],
        "cannot be wr",
    ),
    "a probability over 1": (["-i", "x", "-m", "{f}/m.onnx", "--threshold", "1.5"], "--threshold 1.5 must be from 0 to 1"),
    "CUDA without a device": (
        ["-i", "{f}/pictures/0.png", "-m", "{f}/m.onnx", "--device", "cuda"],
        "cuda: there is no CUDA driver",
    ),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_mistakes_are_told_in_one_sentence(mistake, files, tmp_path, main_of, monkeypatch):
    import onnx

    from utils.inference import predictors

    monkeypatch.setattr(predictors, "cuda_devices", lambda: 0)
    bare = onnx.load(files / "m.onnx")
    bare.metadata_props.clear()
    onnx.save(bare, tmp_path / "bare.onnx")
    flags, sentence = REFUSED[mistake]
    with pytest.raises(UserError, match=sentence) as caught:
        main_of("predict", *(flag.format(f=files, t=tmp_path) for flag in flags))
    assert "\n" not in str(caught.value)


def test_a_network_that_answers_nan_is_told(files, tmp_path, main_of):
    import onnx
    from onnx import numpy_helper

    graph = without_seal(onnx.load(files / "m.onnx"))
    for tensor in graph.graph.initializer:
        if list(tensor.dims) == [10]:
            tensor.CopyFrom(numpy_helper.from_array(np.full(10, np.nan, np.float32), tensor.name))
    onnx.save(graph, tmp_path / "nan.onnx")
    with pytest.raises(UserError, match=r"0\.png with numbers that are not finite"):
        main_of("predict", "-i", files / "pictures/0.png", "-m", "nan.onnx")


def test_one_that_is_missing_among_others(files, main_of, capsys):
    status, out = main_of("predict", "-i", files / "pictures/0.png", "none.png", "-m", files / "m.onnx", "--csv", "-")
    assert status == 3 and len(out.splitlines()) == 2


def test_status_and_stream_of_a_mistake(files, script):
    result = script("predict.py", "-i", "none.png", "-m", files / "m.onnx")
    assert (result.returncode, result.stdout, result.stderr) == (2, "", "error: none.png does not exist\n")


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_fixed_batch_is_filled_up(batch, tmp_path):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weights = random.normal(size=(3 * 64, 4)).astype(np.float32)
    takes = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [batch, 3, 8, 8])
    gives = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 4])
    nodes = [helper.make_node("Flatten", ["pixels"], ["flat"]), helper.make_node("MatMul", ["flat", "weights"], ["scores"])]
    graph = helper.make_graph(nodes, "linear", [takes], [gives], [numpy_helper.from_array(weights, "weights")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "f.onnx")
    predictor = open_predictor(tmp_path / "f.onnx", classes=list("abcd"))
    assert predictor.fixed_batch == batch and predictor.card.image_size == 8
    images = random.normal(size=(7, 3, 8, 8)).astype(np.float32)
    assert np.allclose(predictor(images), images.reshape(7, -1) @ weights, atol=1e-4)


def test_a_class_folder_is_known_by_its_place_not_by_how_it_is_spelled(files, labelled, main_of):
    image = next((labelled / "class 0").glob("*.*"))
    (labelled / "class 0" / "deeper").mkdir()
    place = f"labelled/class 0/deeper/../{image.name}"
    status, out = main_of("predict", "-i", place, "-m", files / "m.onnx", "--labelled")
    assert status == 0 and "of 1 image right" in out, out


@pytest.fixture
def labelled(tmp_path):
    """Eight digits in folders of two of the classes, and one in a folder that is no class."""
    for number, image in enumerate(DIGITS[:9]):
        folder = tmp_path / "labelled" / ("strange" if number == 8 else f"class {number % 2}")
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number}.png")
    return tmp_path / "labelled"


@pytest.mark.parametrize("tta", ["none", "flip"])
def test_the_accuracy_on_a_labelled_folder(tta, files, labelled, main_of):
    flags = ("-i", labelled, "-m", files / "m.onnx", "--labelled", "--threshold", 0.99, "--tta", tta)
    _, out = main_of("predict", *flags)
    model, card = network_of("custom")
    logits = reference_logits(model, card, DIGITS[:8])
    if tta == "flip":
        logits = (logits + reference_logits(model, card, [image.transpose(0) for image in DIGITS[:8]])) / 2
    right = sum(int(best == i % 2) for i, best in enumerate(logits.argmax(1)))
    assert f"accuracy {right / 8:.4f}: {right} of 8 images right; 1 image in other folders do not count" in out
    _, out = main_of("predict", *flags, "--json", "-")
    said = json.loads(out)
    assert (said["accuracy"], said["right"], said["labelled"]) == (right / 8, right, 8)
    with pytest.raises(UserError, match="no image lies in a folder that is called as one of the 10 classes"):
        main_of("predict", "-i", files / "pictures", "-m", files / "m.onnx", "--labelled")


def test_a_pipe_gets_names_as_they_are(files, tmp_path, monkeypatch):
    name = "soft\u00adhyphen\u200e.png"
    DIGITS[0].save(tmp_path / name)
    command = [sys.executable, str(ROOT / "predict.py"), "-i", str(tmp_path), "-m", str(files / "m.onnx")]
    found = subprocess.run([*command, "--json", "-"], capture_output=True, check=True, encoding="utf-8").stdout
    assert json.loads(found)["images"][0]["image"] == str(tmp_path / name)
    rows = subprocess.run([*command, "--csv", "-"], capture_output=True, check=True, encoding="utf-8").stdout
    assert list(csv.reader(rows.splitlines()))[1][0] == str(tmp_path / name)


def test_without_class_folders_no_image_is_asked(files, main_of, monkeypatch):
    monkeypatch.setattr("utils.inference.output.ask", lambda *_: pytest.fail("asked"))
    with pytest.raises(UserError, match="no image lies in a folder that is called as one of the 10 classes"):
        main_of("predict", "-i", files / "pictures", "-m", files / "m.onnx", "--labelled")


def test_names_that_are_no_text_get_into_the_json(files, tmp_path, main_of):
    model, broken = (os.path.join(os.fsencode(tmp_path), name) for name in (b"m\xff.onnx", b"broken\xff.png"))
    shutil.copy(files / "m.onnx", model)
    with open(broken, "wb") as file:
        file.write(b"no image")
    flags = ("-i", files / "pictures", os.fsdecode(broken), "-m", os.fsdecode(model), "--json", "a.json")
    assert main_of("predict", *flags)[0] == 3
    said = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert said["model"].endswith("m\ufffd.onnx") and len(said["images"]) == 3
    assert "broken\ufffd.png" in said["unreadable"][0]["reason"]
