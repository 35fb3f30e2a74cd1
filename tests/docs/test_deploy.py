"""The programs of docs/deploy/ ask an exported file as it wants to be asked, and answer as predict.py does."""

import importlib.util
import json
import re
import runpy
import sys

import onnx
import pytest
from conftest import ROOT
from digits_checkpoint import trained
from PIL import Image

from utils.data.samples import generated_images
from utils.export.verify import export_model

DEPLOY = ROOT / "docs" / "deploy"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network of the digits as ONNX with its preprocessing."""
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    network, card = trained()
    export_model(network, card, "onnx", path, images=generated_images(8), source="generated images", with_preprocessing=True)
    return path


def test_python_without_torch_answers_as_predict_does(model, main_of, tmp_path, capsys, monkeypatch):
    Image.open(ROOT / "docs" / "images" / "digit.png").resize((30, 20)).save(tmp_path / "wide.png")
    clear = Image.open(tmp_path / "wide.png").convert("RGBA")
    clear.putalpha(0)  # so that its own colours are nothing that is seen
    clear.save(tmp_path / "clear.png")
    pictures = [str(ROOT / "docs" / "images" / "digit.png"), str(tmp_path / "wide.png"), str(tmp_path / "clear.png")]
    main_of("predict", "-m", model, "-i", *pictures, "--json", "answers.json")
    spec = importlib.util.spec_from_file_location("classify", DEPLOY / "classify.py")
    program = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)  # an import of it fails
        spec.loader.exec_module(program)
        program.main(str(model), *pictures)
    said = capsys.readouterr().out.splitlines()
    answers = json.loads((tmp_path / "answers.json").read_text())
    answers = answers["images"] if isinstance(answers, dict) else answers
    assert said == [f"{a['image']}  {a['class']} {a['probability']:.2f}" for a in answers] and len(said) == 3


def test_python_without_torch_says_what_it_does_not_take(model, tmp_path):
    Image.new("I;16", (4, 4)).save(tmp_path / "deep.png")
    (tmp_path / "text.onnx").write_text("text")
    picture, published = ROOT / "docs/images/digit.png", ROOT / "weights/FashionMNIST/custom/converted_models/custom_onnx.onnx"
    mistakes = {
        (model, tmp_path / "deep.png"): "is grey of more than 8 bits",
        (model, tmp_path / "text.onnx"): "is not an image that can be read",
        (tmp_path / "text.onnx", picture): "is not an ONNX file that can be run",
        (published, picture): "is not a file of export.py -e onnx --with_preprocessing",
    }
    program = runpy.run_path(str(DEPLOY / "classify.py"))
    for (file, image), words in mistakes.items():
        with pytest.raises(SystemExit, match=words):
            program["main"](str(file), str(image))


@pytest.mark.parametrize("name", ["classify.py", "classify.cpp", "classify.html"])
def test_programs_name_the_input_and_the_output_of_the_graph(name, model):
    graph = onnx.load(model).graph
    text = (DEPLOY / name).read_text(encoding="utf-8")
    for value in (graph.input[0].name, graph.output[0].name):
        assert re.search(rf"[\"{{ ]{value}[\": }}]", text), f"{name} does not name {value}"
