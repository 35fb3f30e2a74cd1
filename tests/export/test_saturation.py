"""int8 files on CPUs without VNNI: shown on every CPU, by the bounds of the weights and by a simulation of vpmaddubsw.

Such a CPU multiplies uint8 activations by int8 weights in pairs and adds the two products in 16 bits, saturating; sums of
pairs are then added in 32 bits. Two products fit as long as no weight lies beyond ±64: 2 × 255 × 64 = 32,640 < 32,768.
"""

import dataclasses
import io
from contextlib import redirect_stderr

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from digits_checkpoint import trained
from networks import without_seal
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from utils.core.card import CARD_KEY, ModelCard
from utils.core.images import preprocess
from utils.data.datasets import open_dataset
from utils.data.samples import calibration_images
from utils.export.quantize import QUANTIZERS
from utils.inference import predictors
from utils.inference.predictors import open_predictor

DIGITS = open_dataset("digits")
BITS = {name: scheme.weight_bits for name, scheme in QUANTIZERS.items() if scheme.devices == ("cpu",)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{scheme: path} of the integer files, and "old", an int8 file from before the card named its bits."""
    folder = tmp_path_factory.mktemp("integers")
    network, card = trained()
    paths = {}
    for name in BITS:
        paths[name] = folder / f"{name}.onnx"
        QUANTIZERS[name].apply(network, card, paths[name], calibration_images(DIGITS.train, 64))
    old = without_seal(onnx.load(paths["int8-vnni"]))
    for entry in old.metadata_props:
        if entry.key == CARD_KEY:
            entry.value = dataclasses.replace(ModelCard.from_json(entry.value), scheme="int8", quantization={}).to_json()
    paths["old"] = folder / "old.onnx"
    onnx.save(old, str(paths["old"]))
    return paths


def weights_of(path):
    """{name: int8 array} of the weights in a file."""
    tensors = ((tensor.name, numpy_helper.to_array(tensor)) for tensor in onnx.load(path).graph.initializer)
    return {name: array for name, array in tensors if array.dtype == np.int8 and array.ndim > 1}


def vpmaddubsw(rows, weights):
    """uint8 (M, K) by int8 (K, N) -> int32 (M, N) as without VNNI, and the share of its pairs that saturate."""
    rows, weights = (np.pad(array, pad) for array, pad in ((rows, ((0, 0), (0, len(weights) % 2))),
                                                           (weights, ((0, len(weights) % 2), (0, 0)))))  # fmt: skip
    products = rows.astype(np.int32)[:, :, None] * weights.astype(np.int32)
    pairs = products[:, ::2] + products[:, 1::2]
    clipped = pairs.clip(-(2**15), 2**15 - 1)
    return clipped.sum(1), (clipped != pairs).mean()


def convolutions(path, images):
    """(uint8 rows of patches (M, K), int8 weights (K, N)) of each 3×3 convolution, in ONNX Runtime's order: channels last."""
    model = onnx.load(path)
    made_by = {output: node for node in model.graph.node for output in node.output}
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    inputs = [made_by[node.input[0]].input[0] for node in nodes]  # before DequantizeLinear
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in inputs)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for node, name, activations in zip(nodes, inputs, session.run(inputs, {"input": images}), strict=True):
        zero = int(values[made_by[made_by[node.input[0]].input[0]].input[2]]) if name in made_by else 0
        padded = np.pad(activations, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=zero)
        patches = sliding_window_view(padded, (3, 3), (2, 3)).transpose(0, 2, 3, 4, 5, 1)  # (N, H, W, 3, 3, C)
        weights = values[made_by[node.input[1]].input[0]].transpose(2, 3, 1, 0)  # (3, 3, C, out)
        yield patches.reshape(-1, weights[..., 0].size), weights.reshape(-1, weights.shape[-1])


@pytest.mark.parametrize("name", BITS)
def test_weights_are_bounded_so_that_no_pair_can_saturate(name, files):
    weights = weights_of(files[name])
    assert len(weights) == (1 if name == "int8-dynamic" else 4)
    largest = max(int(np.abs(array.astype(int)).max()) for array in weights.values())
    assert largest == {7: 64, 8: 127}[BITS[name]]
    assert (2 * 255 * largest < 2**15) == (BITS[name] == 7)


def test_only_by_choice_has_a_file_8_bits():
    assert [name for name, bits in BITS.items() if bits == 8] == ["int8-vnni"]


@pytest.mark.parametrize("name", ["int8", "int8-vnni"])
def test_real_activations_saturate_8_bits_and_not_7(name, files):
    images = np.concatenate([preprocess(DIGITS.test.image(i), trained()[1]) for i in range(20)])
    shares, worst = [], 0.0
    for rows, weights in convolutions(files[name], images):
        sums, share = vpmaddubsw(rows, weights)
        exact = rows.astype(np.int32) @ weights.astype(np.int32)
        shares.append(share)
        worst = max(worst, np.abs(sums - exact).max() / np.abs(exact).max())
    assert len(shares) == 3
    if name == "int8":
        assert shares == [0, 0, 0] and worst == 0
    else:
        assert max(shares) > 1e-4 and worst > 0.05


def test_simulated_instruction():
    sums, share = vpmaddubsw(np.uint8([[255, 255, 1]]), np.int8([[127, -128], [127, -128], [5, -5]]))
    assert sums.tolist() == [[32767 + 5, -32768 - 5]] and share == 0.5


@pytest.mark.parametrize("name", [*BITS, "old"])
def test_scripts_say_where_8_bits_meet_a_cpu_that_saturates(name, files, main_of, tmp_path, monkeypatch):
    Image.new("RGB", (20, 20)).save(tmp_path / "picture.png")
    for here in (True, False):
        monkeypatch.setattr(predictors, "saturates", lambda here=here: here)
        for script, flags in (("predict", ("-i", tmp_path / "picture.png", "-m")), ("eval", ("-w",))):
            with redirect_stderr(io.StringIO()) as said:
                assert main_of(script, *flags, files[name])[0] == 0
            lines = [line for line in said.getvalue().splitlines() if "8-bit integer weights" in line]
            assert len(lines) == (here and name in ("int8-vnni", "old")), (script, here)


def test_cuda_and_floats_do_not_saturate(files, monkeypatch):
    monkeypatch.setattr(predictors, "saturates", lambda: True)
    predictor = open_predictor(files["int8-vnni"])
    assert predictor.warning()
    predictor.device = "cuda"
    assert predictor.warning() is None


@pytest.mark.parametrize("name", [*BITS, "old"])
def test_every_file_is_right_on_this_cpu(name, files):
    """Also one with 8-bit weights on a CPU that saturates: it is opened so that exact kernels run."""
    network, card = trained()
    images = np.concatenate([preprocess(DIGITS.test.image(i), card) for i in range(100)])
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()
    logits = open_predictor(files[name])(images)
    assert (logits.argmax(1) == expected.argmax(1)).mean() >= 0.99
    assert np.abs(logits - expected).max() < 0.02 * np.ptp(expected)
