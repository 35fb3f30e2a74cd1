"""Every kind of file behind the same call, with the same answers."""

import os

import numpy as np
import onnxruntime
import pytest
import torch
from digits_checkpoint import checkpoint, trained

from utils.data.samples import example_images
from utils.export.verify import export_model
from utils.inference.formats import FORMATS, converted_folder
from utils.inference.predictors import open_predictor


@pytest.mark.parametrize("engine", FORMATS)
def test_predict_and_call_agree_with_the_network(engine, tmp_path):
    network, card = trained()
    path = tmp_path / f"file{FORMATS[engine].suffix}"
    if engine == "checkpoint":
        checkpoint(path)
    else:
        images, source = example_images(card, 8)
        export_model(network, card, engine, path, images=images, source=source)
    threads = torch.get_num_threads()
    file = open_predictor(path, device="cpu", threads=1)
    images = torch.rand(3, 3, 16, 16)
    with torch.inference_mode():
        expected = network(images).numpy()
        np.testing.assert_allclose(file.predict(images).numpy(), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(file(images.numpy()), expected, rtol=1e-4, atol=1e-4)
    assert file.bytes == path.stat().st_size and file.card.classes == card.classes and file.device == "cpu"
    assert (file.engine, file.shown) == (engine, FORMATS[engine].shown) and file.arithmetic == "computes in fp32"
    assert engine == "onnx" or torch.get_num_threads() == 1
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    network, card = trained()
    path = tmp_path_factory.mktemp("onnx") / "file.onnx"
    images, source = example_images(card, 8)
    export_model(network, card, "onnx", path, images=images, source=source)
    return path


@pytest.mark.parametrize(("threads", "used"), [(None, 5), (3, 3), (1, 1)])
def test_onnx_runtime_has_a_thread_for_each_core_unless_told_otherwise(onnx_file, monkeypatch, threads, used):
    opened, plain = [], onnxruntime.InferenceSession

    def session(path, options, **rest):
        opened.append(options.intra_op_num_threads)
        return plain(path, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(5)), raising=False)
    open_predictor(onnx_file, device="cpu", threads=threads)
    assert opened == [used]


def test_converted_files_lie_beside_the_checkpoint():
    assert str(converted_folder("weights/a/best_model.pth")) == "weights/a/converted_models"
