"""Every model in every engine against its network, on real pictures; and that a file that differs is not written."""

import contextlib
import zipfile

import numpy as np
import onnx
import pytest
import torch
from markdown_blocks import ROOT
from networks import DIGITS, QUICK, SETTLED, mixed_images, network_of

from models.checkpoint import load_model
from models.registry import list_models
from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.data.samples import generated_images
from utils.export import preprocessing_graph, writers
from utils.export.preprocessing_graph import prepend_preprocessing
from utils.export.quantize import QUANTIZERS
from utils.export.verify import BATCHES, ParityError, check, compare, differences, export_model, reference_logits
from utils.inference.formats import FORMATS, exported
from utils.inference.predictors import open_predictor, softmax
from utils.inference.program_check import verify_program

MADE_FOR_SMALL = ("resnet18_small", "resnet34_small", "wrn")  # their first maps are as large as the image
MODELS = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in list_models()]


def answers_in(predictor, images, batch):
    chunks = [images[i : i + batch] for i in range(0, len(images), batch)]
    return np.concatenate([predictor.answer([predictor.prepare(image) for image in chunk]) for chunk in chunks])


@pytest.mark.parametrize("name", MODELS)
def test_every_engine_answers_as_the_network(name, tmp_path):
    model, card = network_of(name, 32 if name in QUICK or name.startswith(MADE_FOR_SMALL) else 64)
    images = DIGITS if name in QUICK else DIGITS[:12]  # a large one takes about a second an image
    expected = reference_logits(model, card, images)
    assert (len(set(expected.argmax(axis=1))) > 1) >= (name in SETTLED)  # else equal argmax would say nothing
    assert np.ptp(expected, axis=0).max() > 0
    for engine in exported():
        path = tmp_path / f"{name}{FORMATS[engine].suffix}"
        written = export_model(model, card, engine, path, images=images, source="digits")
        predictor = open_predictor(path)
        assert predictor.engine == engine and predictor.card == written
        for batch in (1, 2, 7):
            logits = answers_in(predictor, images, batch)
            assert np.array_equal(logits.argmax(axis=1), expected.argmax(axis=1)), (engine, batch)
            assert np.abs(logits - expected).max() <= 1e-4 * np.ptp(expected), (engine, batch)
    assert_preprocessing_in_the_graph(model, written, onnx.load(tmp_path / f"{name}.onnx"), tmp_path / "whole.onnx")


def assert_preprocessing_in_the_graph(model, card, graph, path):
    """The exported network behind its preprocessing, on pictures of 20 sizes and all modes, against ours."""
    card = card.replace(with_preprocessing=True)
    FORMATS["onnx"].load_writer().save(prepend_preprocessing(graph, card), card, path)
    images = mixed_images()
    expected = reference_logits(model, card, images)
    logits = answers_in(open_predictor(path), images, 1)
    assert np.array_equal(logits.argmax(axis=1), expected.argmax(axis=1))
    assert np.abs(softmax(logits) - softmax(expected)).max() <= 0.01


def test_export_with_preprocessing(custom, tmp_path):
    model, card = custom
    images = mixed_images()
    written = export_model(model, card, "onnx", tmp_path / "w.onnx", images=images, source="mixed", with_preprocessing=True)
    assert written.with_preprocessing and written.parity["grey_levels"] <= 2.01 and written.parity["above_one"] <= 0.001
    assert max(row["max_dlogit"] for row in written.parity["rows"]) <= written.parity["tolerance"]
    predictor = open_predictor(tmp_path / "w.onnx")
    assert predictor.card == written
    same_size = np.stack([np.asarray(image.resize((50, 40))) for image in images])  # (20, 40, 50, 3)
    assert np.allclose(predictor(same_size), np.concatenate([predictor(one[None]) for one in same_size]), atol=1e-5)
    with pytest.raises(UserError, match="uint8"):
        predictor(np.zeros((1, 3, 32, 32), np.float32))


def test_at_224_pixels(tmp_path):
    photos = generated_images(7)
    model, card = network_of("custom", 224, settle_on=photos)
    written = export_model(model, card, "torchscript", tmp_path / "large.pt", images=photos, source="7 generated")
    assert [row["batch"] for row in written.parity["rows"]] == list(BATCHES)
    assert all(row["max_dlogit"] < 1e-4 * written.parity["logit_range"] for row in written.parity["rows"])


@pytest.fixture(scope="module")
def custom():
    return network_of("custom")


def test_onnx_is_one_file_as_stated(custom, tmp_path):
    model, card = custom
    export_model(model, card, "onnx", tmp_path / "m.onnx", images=DIGITS, source="64 digits")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    graph = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(graph, full_check=True)
    assert {entry.domain: entry.version for entry in graph.opset_import}[""] == 18
    (takes,), (gives,) = graph.graph.input, graph.graph.output
    assert (takes.name, gives.name) == ("input", "logits")
    dims = [d.dim_param or d.dim_value for d in takes.type.tensor_type.shape.dim]
    assert dims == ["batch", 3, 32, 32]


def test_fp16_onnx_has_half_the_bytes(custom, tmp_path):
    model, card = custom
    half = tmp_path / "half.onnx"
    written = export_model(model, card, "onnx", half, images=DIGITS, source="64 digits", fp16=True)
    assert half.stat().st_size < 0.55 * 4 * sum(p.numel() for p in model.parameters())
    assert written.scheme == "fp16" and open_predictor(half).card == written
    expected = reference_logits(model, card, DIGITS)
    logits = answers_in(open_predictor(half), DIGITS, 7)
    assert 0 < np.abs(logits - expected).max() < 0.02 * np.ptp(expected)


@pytest.mark.parametrize(("scheme", "engine"), [("fp16", "onnx"), ("bf16", "onnx"), ("fp16", "torchscript"), ("bf16", "pt2")])
def test_quantized_checkpoints_export(custom, scheme, engine, tmp_path):
    model, card = custom
    QUANTIZERS[scheme].apply(model, card, tmp_path / "small.pth")
    network, small = load_model(tmp_path / "small.pth")
    path = tmp_path / f"small{FORMATS[engine].suffix}"
    written = export_model(network, small, engine, path, images=DIGITS, source="64 digits")
    assert written.scheme == scheme
    stored_in_half = engine == "onnx" and scheme == "fp16"
    assert (path.stat().st_size < 0.75 * 4 * sum(p.numel() for p in model.parameters())) == stored_in_half


SPOILED = [("swapped", engine) for engine in exported()] + [("shifted", "torchscript"), ("nan", "torchscript")]


@pytest.mark.parametrize(("fault", "engine"), SPOILED)
def test_a_file_that_differs_keeps_neither_its_name_nor_replaces_another(custom, engine, fault, tmp_path, monkeypatch):
    model, card = custom
    wrong = network_of("custom")[0]
    with torch.no_grad():
        if fault == "swapped":
            last = wrong.classifier[3]
            last.weight.copy_(last.weight.flip(0))
        else:
            wrong.classifier[3].bias[0] += {"shifted": 1e-3, "nan": float("nan")}[fault]
    writer = FORMATS[engine].load_writer()
    convert = writer.convert
    monkeypatch.setattr(writer, "convert", staticmethod(lambda _, *rest: convert(wrong, *rest)))
    path = tmp_path / f"kept{FORMATS[engine].suffix}"
    path.write_bytes(b"what was there")
    with pytest.raises(ParityError, match="is not written") as caught:
        export_model(model, card, engine, path, images=DIGITS, source="64 digits")
    assert caught.value.parity["images"] == 64
    assert path.read_bytes() == b"what was there" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("engine", [engine for engine in exported() if engine != "onnx"])
@pytest.mark.parametrize("flag", ["fp16", "with_preprocessing"])
def test_what_only_onnx_has_is_refused(custom, engine, flag, tmp_path):
    with pytest.raises(UserError, match=f"{engine} cannot do this; onnx can") as error:
        export_model(*custom, engine, tmp_path / "x.pt", images=DIGITS, source="digits", **{flag: True})
    assert error.value.option == flag


def test_weights_beyond_what_an_onnx_file_holds_are_refused(custom, tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "LARGEST", 1000)
    with pytest.raises(UserError, match="an ONNX file holds 2 GiB"):
        export_model(*custom, "onnx", tmp_path / "custom.onnx", images=DIGITS[:2], source="digits")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [1, 3, 9])
def test_each_batch_of_the_certificate_is_asked_for_though_there_are_few_images(count, custom, tmp_path):
    """And with more images than the largest batch, all of them are."""
    images = DIGITS[:count]
    path = tmp_path / "custom.pt"
    export_model(*custom, "torchscript", path, images=images, source="digits")
    predictor, asked = open_predictor(path, device="cpu"), []
    answer = predictor.answer
    predictor.answer = lambda prepared: asked.append(len(prepared)) or answer(prepared)
    found = compare(reference_logits(*custom, images), predictor, images, "digits", 1e-4)
    assert {*asked} >= {*BATCHES} and found["images"] == count and sum(asked) == len(BATCHES) * max(count, *BATCHES)


NAN = float("nan")
AGREEING = {"batch": 1, "flips": 0, "ties": 0, "max_dlogit": 0.0}


@pytest.mark.parametrize("row", [{"max_dlogit": NAN}, {"max_dlogit": 0.2}])
def test_a_difference_that_is_large_or_no_number_is_no_agreement(row):
    with pytest.raises(ParityError, match="differs"):
        check({"rows": [AGREEING | row], "tolerance": 0.1, "images": 7}, "a.onnx")


@pytest.mark.parametrize(
    ("levels", "above_one", "passes"), [(2.0001, 0.0009, True), (3, 0.0001, False), (2, 0.002, False), (NAN, NAN, False)]
)
def test_pixels_may_be_two_grey_levels_from_pillows_and_more_than_one_on_few(levels, above_one, passes):
    parity = {"rows": [AGREEING], "tolerance": 0.1, "images": 7, "grey_levels": levels, "above_one": above_one}
    with contextlib.nullcontext() if passes else pytest.raises(ParityError, match="its preprocessing differs from Pillow's"):
        check(parity, "a.onnx")


def test_a_rounded_pixel_is_no_fault_of_a_network_that_answers_it_otherwise(custom, tmp_path):
    model, card = custom
    images = [image.resize((56, 80)) for image in DIGITS[:16]]  # exact halves are frequent there
    written = export_model(model, card, "onnx", tmp_path / "w.onnx", images=images, source="16", with_preprocessing=True)
    assert 0 < written.parity["differing"] < 0.3 and 0.99 < written.parity["grey_levels"] < 2.01
    logits, from_pillows = answers_in(open_predictor(tmp_path / "w.onnx"), images, 1), reference_logits(model, card, images)
    assert np.abs(logits - from_pillows).max() > 2 * written.parity["tolerance"]


@pytest.mark.parametrize("fault", ["mean", "short"])
def test_a_file_whose_preprocessing_is_another_is_not_written(custom, fault, tmp_path, monkeypatch):
    constants = preprocessing_graph._constants
    wrong = {"mean": np.float32((0.5, 0.4, 0.6)), "short": np.int64([36])}
    monkeypatch.setattr(preprocessing_graph, "_constants", lambda card: constants(card) | {fault: wrong[fault]})
    model, card = custom
    with pytest.raises(ParityError, match="its preprocessing differs from Pillow's"):
        export_model(model, card, "onnx", tmp_path / "w.onnx", images=mixed_images(), source="20", with_preprocessing=True)
    assert not list(tmp_path.iterdir())


def test_flips_and_ties_are_told_apart():
    reference = np.float32([[1, 0, 0], [1, 0.99, 0], [0, 0, 5]])
    other = np.float32([[0, 1, 0], [0.99, 1, 0], [0, 0, 5]])
    found = differences(reference, other, tie=0.05)
    assert (found["flips"], found["ties"]) == (2, 1)
    assert found["max_dlogit"] == 1 and 0 < found["mean_dprob"] < found["max_dprob"] < 1


@pytest.mark.parametrize(("opset", "flags"), [(18, {}), (20, {"fp16": True}), (21, {"with_preprocessing": True}), (17, {})])
def test_an_onnx_file_has_the_opset_that_is_asked_for(opset, flags, tmp_path):
    model, card = network_of("custom", 32)
    path = tmp_path / "x.onnx"
    export_model(model, card, "onnx", path, images=DIGITS, source="64 digits", opset=opset, **flags)
    assert {entry.domain: entry.version for entry in onnx.load(path).opset_import}[""] == opset


def test_an_opset_that_cannot_be_written_is_refused_in_a_sentence(tmp_path):
    model, card = network_of("custom", 32)
    for opset in (3, 99):
        with pytest.raises(UserError, match=f"opset {opset}") as error:
            export_model(model, card, "onnx", tmp_path / "x.onnx", images=DIGITS, source="64 digits", opset=opset)
        assert error.value.option == "opset" and not (tmp_path / "x.onnx").exists()
    with pytest.raises(UserError, match="torchscript cannot do this; onnx can"):
        export_model(model, card, "torchscript", tmp_path / "x.pt", images=DIGITS, source="64 digits", opset=18)


class OwnPrecision(torch.nn.Module):
    """A part of it leaves the autocast around it, as attention in some networks does."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3 * 8 * 8, 2)

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            x = self.layer(x.flatten(1).float())
        return x.relu()


def test_a_part_with_a_precision_of_its_own_is_exported_as_plain_operators(tmp_path):
    card, writer = ModelCard("custom", ["a", "b"], 8), FORMATS["pt2"].load_writer()
    writer.save(writer.convert(OwnPrecision().eval(), card), card, tmp_path / "own.pt2")
    verify_program(tmp_path / "own.pt2")


@pytest.mark.parametrize("name", ["onnx", "pt2"])
def test_a_file_does_not_name_the_folders_of_the_machine_that_wrote_it(name, tmp_path):
    model, card = network_of("custom")
    path = tmp_path / f"model{FORMATS[name].suffix}"
    export_model(model, card, name, path, images=generated_images(8), source="generated images")
    contents = [path.read_bytes()]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            contents = [archive.read(member) for member in archive.namelist()]
    assert not any(str(ROOT).encode() in content or b"site-packages" in content for content in contents)
