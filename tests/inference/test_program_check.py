"""Crafted `.pt2` archives are refused before torch sees them; exported networks pass."""

import io
import json
import pickle
import zipfile

import pytest
import torch

from models.build import build_model
from models.registry import MODELS
from utils.core.errors import UserError
from utils.inference.program_check import verify_program

QUICK = ("custom", "resnet18", "mobilenet_v3_small")


def exported(network, path, side=32):
    batch = torch.export.Dim("batch")
    program = torch.export.export(network.eval(), (torch.zeros(2, 3, side, side),), dynamic_shapes=({0: batch},))
    program._example_inputs = None
    torch.export.save(program, str(path), extra_files={"model_card": "{}"})
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return exported(build_model("custom", 3, 32), tmp_path_factory.mktemp("programs") / "custom.pt2")


def rewritten(whole, path, change, member="models/model.json"):
    """A copy of the archive whose member went through `change`, JSON to JSON, or bytes to bytes for other members."""
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            content = source.read(info)
            if info.filename.endswith(member):
                content = change(content) if not member.endswith(".json") else json.dumps(change(json.loads(content)))
            target.writestr(info, content)
    return path


def replace_text(old, new):
    """Replace a piece of the JSON text, which must be there."""

    def change(value):
        text = json.dumps(value)
        assert old in text
        return json.loads(text.replace(old, new))

    return change


def expression(code):
    def change(value):
        text = json.dumps(value)
        start = text.index('"expr_str": "') + len('"expr_str": "')
        return json.loads(text[:start] + code + text[text.index('"', start) :])

    return change


def first_node(**fields):
    def change(value):
        value["graph_module"]["graph"]["nodes"][0].update(fields)
        return value

    return change


def first_input(name):
    def change(value):
        value["graph_module"]["graph"]["inputs"][0]["as_tensor"]["name"] = name
        return value

    return change


def with_guards(value):
    value["guards_code"] = ["__import__('os').getcwd()"]
    return value


def with_pickled_weight(value):
    next(iter(value["config"].values()))["use_pickle"] = True
    return value


def with_opaque_constant(value):
    value["config"]["x"] = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False, "tensor_meta": None}
    return value


class Payload:
    def __reduce__(self):
        return (print, ("run",))


def pickled(content):
    buffer = io.BytesIO()
    torch.save(Payload(), buffer, pickle_module=pickle)
    return buffer.getvalue()


ATTACKS = {
    "expression": (expression("__import__('os').getcwd()"), "models/model.json", "expression"),
    "attribute in an expression": (expression("Symbol('s').__class__"), "models/model.json", "expression"),
    "lambda in an expression": (expression("(lambda: 0)()"), "models/model.json", "expression"),
    "comprehension in an expression": (expression("[0 for s in s]"), "models/model.json", "expression"),
    "endless power": (expression("9**9**9**9"), "models/model.json", "expression"),
    "function of torch": (first_node(target="torch.hub.load"), "models/model.json", "operator"),
    "function of operator": (first_node(target="_operator.attrgetter"), "models/model.json", "operator"),
    "operator that writes a file": (first_node(target="torch.ops.aten.from_file.default"), "models/model.json", "operator"),
    "operator that saves": (first_node(target="torch.ops.aten.save.default"), "models/model.json", "operator"),
    "extension": (first_node(target="#thing"), "models/model.json", "operator"),
    "default of an input": (first_input("x=print('run')"), "models/model.json", "name"),
    "guards": (with_guards, "models/model.json", "guards"),
    "pickled weight": (with_pickled_weight, "model_weights_config.json", "pickled object"),
    "opaque constant": (with_opaque_constant, "model_constants_config.json", "pickled object"),
    "pickled sample inputs": (pickled, "data/sample_inputs/model.pt", "pickled sample inputs"),
}


@pytest.mark.parametrize("name", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in MODELS])
def test_exported_networks_pass(name, tmp_path):
    verify_program(exported(build_model(name, 3, 32), tmp_path / "network.pt2"))


@pytest.mark.parametrize("code", ["Mul(Integer(16), Symbol('s77', positive=True))", "Add(Symbol('s77'), Integer(-1))"])
def test_sizes_that_follow_from_the_batch_pass(code, whole, tmp_path):
    """As networks write them that fold windows or patches into the batch."""
    verify_program(rewritten(whole, tmp_path / "folded.pt2", expression(code)))


def test_a_layer_may_have_a_hyphen_in_its_name(whole, tmp_path):
    change = replace_text("layer1.0.weight", "layer1.block1-0.weight")
    verify_program(rewritten(whole, tmp_path / "hyphen.pt2", change))


@pytest.mark.parametrize("name", ATTACKS)
def test_what_could_run_code_is_refused_by_name(name, whole, tmp_path):
    change, member, words = ATTACKS[name]
    path = rewritten(whole, tmp_path / "crafted.pt2", change, member)
    with pytest.raises(UserError, match=rf"crafted.pt2 is not opened: it holds .*{words}.*, which could run code"):
        verify_program(path)


def test_torch_itself_would_run_it(whole, tmp_path, monkeypatch):
    """Why the check is there: loading evaluates the expression."""
    monkeypatch.chdir(tmp_path)
    path = rewritten(whole, tmp_path / "crafted.pt2", expression("__import__('pathlib').Path('run').touch()"))
    try:
        torch.export.load(str(path))
    except Exception as error:
        assert error  # whatever it says, it is too late
    if not (tmp_path / "run").exists():
        pytest.skip(f"torch {torch.__version__} no longer evaluates the expressions of an archive")


@pytest.mark.parametrize("change", [lambda value: [], lambda value: {"graph_module": 1, "expr_str": 3}, lambda value: None])
def test_other_json_is_no_traceback(change, whole, tmp_path):
    path = rewritten(whole, tmp_path / "crafted.pt2", change)
    try:
        verify_program(path)
    except UserError as error:
        assert "crafted.pt2" in str(error)
