"""Files of others with several outputs: the logits are found where that is clear, and else a sentence lists the outputs."""

import os

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from utils.core.errors import UserError
from utils.inference.predictors import open_predictor

CLASSES = ["a", "b", "c"]
IMAGES = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).normal(size=(192, 3)).astype(np.float32)
LOGITS = IMAGES.reshape(2, -1) @ WEIGHTS


def onnx_file(path, *outputs, inputs=True):
    """An ONNX file with the named ones of: map (N, 3, 8, 8), features (N, 192), scores and logits (N, 3), label int64 (N,)."""
    shapes = {"map": ["N", 3, 8, 8], "features": ["N", 192], "scores": ["N", 3], "logits": ["N", 3], "label": ["N"]}
    nodes = [
        helper.make_node("Relu", ["input"], ["map"]),
        helper.make_node("Flatten", ["input"], ["features"]),
        helper.make_node("MatMul", ["features", "weights"], ["logits"]),
        helper.make_node("Identity", ["logits"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
    ]
    kinds = {name: TensorProto.INT64 if name == "label" else TensorProto.FLOAT for name in shapes}
    gives = [helper.make_tensor_value_info(name, kinds[name], shapes[name]) for name in outputs]
    takes = [helper.make_tensor_value_info("input", TensorProto.FLOAT, shapes["map"])]
    constants = [numpy_helper.from_array(WEIGHTS, "weights")]
    if not inputs:
        takes, constants = [], [*constants, numpy_helper.from_array(IMAGES, "input")]
    graph = helper.make_graph(nodes, "several", takes, gives, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    "outputs",
    [
        ("logits",),
        ("scores",),
        ("label", "scores"),
        ("map", "scores"),
        ("features", "logits"),
        ("scores", "features", "logits"),
    ],
)
def test_the_logits_among_the_outputs_of_onnx(outputs, tmp_path):
    predictor = open_predictor(onnx_file(tmp_path / "a.onnx", *outputs), classes=CLASSES, device="cpu")
    assert predictor.num_outputs == 3
    np.testing.assert_allclose(predictor(IMAGES), LOGITS, rtol=1e-4, atol=1e-4)


def test_outputs_of_onnx_that_leave_it_open_are_listed(tmp_path):
    for outputs in (("features", "scores"), ("label", "map")):
        with pytest.raises(
            UserError, match=rf"answers with {outputs[0]} tensor.*, {outputs[1]} tensor.*is not clear: only one"
        ):
            open_predictor(onnx_file(tmp_path / "a.onnx", *outputs), classes=CLASSES, device="cpu")


def test_onnx_without_an_input_is_told(tmp_path):
    with pytest.raises(UserError, match="takes nothing; an image classifier takes one batch of images"):
        open_predictor(onnx_file(tmp_path / "a.onnx", "logits", inputs=False), classes=CLASSES, device="cpu")


def test_onnx_at_a_path_that_is_no_text(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"m\xff.onnx")
    os.rename(onnx_file(tmp_path / "a.onnx", "logits"), path)
    predictor = open_predictor(os.fsdecode(path), classes=CLASSES, device="cpu")
    np.testing.assert_allclose(predictor(IMAGES), LOGITS, rtol=1e-4, atol=1e-4)


class Several(torch.nn.Module):
    """A network whose answer is what `form` makes of feature maps, features and logits."""

    def __init__(self, form):
        super().__init__()
        self.weights, self.form = torch.nn.Parameter(torch.from_numpy(WEIGHTS)), form

    def forward(self, images):
        features = images.flatten(1)
        return self.form(images, features, features @ self.weights)


FORMS = {
    "a tensor": lambda maps, features, logits: logits,
    "maps before": lambda maps, features, logits: (maps, logits),
    "a list": lambda maps, features, logits: [maps, logits],
    "a tuple of one": lambda maps, features, logits: (logits,),
    "a dict of one": lambda maps, features, logits: {"out": logits},
    "a dict with logits": lambda maps, features, logits: {"features": features, "logits": logits},
}
UNCLEAR = {
    r"a tuple of 0 \(2, 192\), 1 \(2, 3\)": lambda maps, features, logits: (features, logits),
    r"a dict of x \(2, 192\), out \(2, 3\)": lambda maps, features, logits: {"x": features, "out": logits},
    r"a tuple of 0 tuple, 1 \(2, 3, 8, 8\), 2 \(2, 3, 8, 8\)": lambda maps, features, logits: ((logits,), maps, maps),
    r"a tuple of 0 tuple": lambda maps, features, logits: ((features, logits),),
}


def torchscript(path, form):
    torch.jit.save(torch.jit.trace(Several(form), torch.from_numpy(IMAGES), strict=False), path)
    return open_predictor(path, classes=CLASSES, image_size=8, device="cpu")


@pytest.mark.parametrize("form", FORMS)
def test_the_logits_in_what_torchscript_answers(form, tmp_path):
    predictor = torchscript(tmp_path / "a.pt", FORMS[form])
    np.testing.assert_allclose(predictor(IMAGES), LOGITS, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("words", UNCLEAR)
def test_what_leaves_it_open_is_spelled_out(words, tmp_path):
    predictor = torchscript(tmp_path / "a.pt", UNCLEAR[words])
    predictor.fixed_batch = 2
    with pytest.raises(
        UserError, match=rf"does not take .* images \(it answers with {words}, and which are .* is not clear\)$"
    ):
        predictor(IMAGES)


class Text(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> str:
        return "cat"


class Pair(torch.nn.Module):
    """As torchvision's GoogLeNet is scripted: a named tuple, whose other parts may be None."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return images.mean((2, 3)), None


def test_what_torchscript_answers_beside_tensors(tmp_path):
    for network, name in ((Text(), "text.pt"), (Pair(), "pair.pt")):
        torch.jit.save(torch.jit.script(network), tmp_path / name)
    pair, text = (
        open_predictor(tmp_path / name, classes=CLASSES, image_size=8, device="cpu") for name in ("pair.pt", "text.pt")
    )
    np.testing.assert_allclose(pair(IMAGES), IMAGES.mean((2, 3)), atol=1e-5)
    with pytest.raises(UserError, match=r"\(it answers with a str, and which are the logits is not clear\)"):
        text(IMAGES)
