"""Every scheme: the file is smaller, says what it is, opens everywhere, and answers as the network did."""

import copy

import numpy as np
import onnx
import pytest
import torch
from digits_checkpoint import trained
from onnx import numpy_helper

from models import half
from models.build import build_model
from models.checkpoint import load_model, save_checkpoint
from models.half import computes_in
from models.registry import list_models
from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.core.images import preprocess
from utils.core.machine import cpu_features
from utils.data.datasets import open_dataset
from utils.data.samples import calibration_images
from utils.export.equalize import equalized
from utils.export.quantize import QUANTIZERS, CalibrationImages
from utils.export.writers import Onnx
from utils.inference import predictors, read_onnx
from utils.inference.predictors import open_predictor

DIGITS = open_dataset("digits")
CHECKPOINTS = [name for name, scheme in QUANTIZERS.items() if scheme.suffix == ".pth"]
CPU = torch.device("cpu")
INTEGERS = ("int8-dynamic", "int8", "int8-vnni")
QUICK = {"custom", "resnet18", "mobilenet_v2", "mobilenet_v3_small"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{scheme: path} of the trained network, quantized by every scheme; "fp32" is the checkpoint."""
    folder = tmp_path_factory.mktemp("files")
    network, card = trained()
    paths = {"fp32": folder / "fp32.pth"}
    save_checkpoint(paths["fp32"], {"model": network.state_dict(), "card": card.to_dict()})
    weights = copy.deepcopy(network.state_dict())
    for name, scheme in QUANTIZERS.items():
        paths[name] = folder / scheme.file_name("custom")
        scheme.apply(network, card, paths[name], calibration_images(DIGITS.train, 64))
        assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items()), "the network is touched"
        assert not network._forward_hooks and card.scheme is None
    return paths


@pytest.fixture(scope="module")
def batch():
    return np.concatenate([preprocess(DIGITS.test.image(i), trained()[1]) for i in range(200)])


@pytest.mark.parametrize("name", QUANTIZERS)
def test_file_is_smaller_says_what_it_is_and_answers_alike(name, files, batch):
    before, after = open_predictor(files["fp32"]), open_predictor(files[name])
    assert after.bytes < 0.56 * before.bytes
    assert after.card.scheme == name and after.card.replace(scheme=None, quantization={}) == before.card
    assert after.engine == QUANTIZERS[name].format and after.arithmetic
    expected, logits = before(batch), after(batch)
    assert logits.dtype == np.float32 and logits.shape == expected.shape
    assert (logits.argmax(1) == expected.argmax(1)).mean() >= 0.98
    assert np.abs(logits - expected).max() < 0.1 * np.ptp(expected)
    assert not np.array_equal(logits, expected)  # it is another file


def test_file_names_differ():
    names = [scheme.file_name("resnet18") for scheme in QUANTIZERS.values()]
    assert names == ["resnet18_quantized.pth", "resnet18_bf16.pth", *(f"resnet18_{name}.onnx" for name in INTEGERS)]


@pytest.mark.parametrize("scheme", CHECKPOINTS)
@pytest.mark.parametrize("model", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in list_models()])
def test_every_model_goes_through_a_checkpoint(scheme, model, tmp_path):
    network = build_model(model, 7, 32)
    card = ModelCard(model, list("abcdefg"), 32)
    save_checkpoint(tmp_path / "fp32.pth", {"model": network.state_dict(), "card": card.to_dict()})
    QUANTIZERS[scheme].apply(network, card, tmp_path / "half.pth")
    assert (tmp_path / "half.pth").stat().st_size < 0.56 * (tmp_path / "fp32.pth").stat().st_size
    loaded, card = load_model(tmp_path / "half.pth")
    assert card.scheme == scheme and list(loaded.state_dict()) == list(network.state_dict())
    dtype = getattr(torch, QUANTIZERS[scheme].dtype)
    for key, value in network.state_dict().items():
        expected = value.to(dtype) if value.is_floating_point() else value
        assert torch.equal(loaded.state_dict()[key].to(expected.dtype), expected), key
    logits = loaded(torch.zeros(2, 3, 32, 32))
    assert logits.dtype == torch.float32 and logits.shape == (2, 7)


@pytest.mark.parametrize("norm_type", ["GN", "LN", "IN", "SyncBN"])
@pytest.mark.parametrize("scheme", CHECKPOINTS)
def test_every_norm_goes_through_a_checkpoint(scheme, norm_type, tmp_path):
    card = ModelCard("custom", list("abc"), 16, norm_type=norm_type)
    QUANTIZERS[scheme].apply(build_model("custom", 3, 16, norm_type), card, tmp_path / "half.pth")
    assert load_model(tmp_path / "half.pth")[0](torch.zeros(1, 3, 16, 16)).dtype == torch.float32


@pytest.mark.parametrize("scheme", CHECKPOINTS)
def test_without_hardware_it_computes_in_fp32_and_says_so(scheme, files, batch, monkeypatch):
    monkeypatch.setattr(half, "computes_in", lambda dtype, device: False)
    file = open_predictor(files[scheme])
    assert file.arithmetic == f"{scheme} weights, computes in fp32: this CPU has no {scheme} arithmetic"
    network, _ = copy.deepcopy(trained())
    dtype = getattr(torch, QUANTIZERS[scheme].dtype)
    network.load_state_dict({key: value.to(dtype) for key, value in network.state_dict().items()})
    expected = network.to(memory_format=torch.channels_last)(torch.from_numpy(batch)).detach().numpy()
    np.testing.assert_allclose(file(batch), expected, rtol=1e-5, atol=1e-5)
    assert next(file.network.parameters()).dtype == torch.float32


@pytest.mark.parametrize("scheme", CHECKPOINTS)
def test_it_changes_over_with_its_device(scheme, files, batch, monkeypatch):
    network, _ = load_model(files[scheme])
    dtype = getattr(torch, QUANTIZERS[scheme].dtype)
    weights = {key: value.to(dtype) for key, value in network.state_dict().items() if value.is_floating_point()}
    for supported in (True, False, True):  # as when it is moved between devices that can and that cannot
        monkeypatch.setattr(half, "computes_in", lambda dtype, device, answer=supported: answer)
        with torch.inference_mode():
            network(torch.from_numpy(batch[:2]))
        assert next(network.parameters()).dtype == (dtype if supported else torch.float32)
        assert all(torch.equal(network.state_dict()[key].to(dtype), value) for key, value in weights.items())


@pytest.mark.parametrize(("fp16", "bf16"), [(True, False), (False, True)])
def test_hardware_is_asked_for_the_kind_that_is_meant(fp16, bf16, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: fp16)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16 or including_emulation)
    assert (computes_in(torch.float16, CPU), computes_in(torch.bfloat16, CPU)) == (fp16, bf16)
    cuda = torch.device("cuda")
    assert (computes_in(torch.float16, cuda), computes_in(torch.bfloat16, cuda)) == (True, bf16)


def test_without_onednn_a_cpu_computes_in_neither_kind(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not computes_in(torch.float16, CPU) and not computes_in(torch.bfloat16, CPU)


def test_weights_beyond_fp16_are_refused(tmp_path):
    network, card = copy.deepcopy(trained())
    network.layer1[1].running_var[0] = 70000.0
    with pytest.raises(UserError, match=r"layer1\.1\.running_var has values beyond the range of fp16; take bf16"):
        QUANTIZERS["fp16"].apply(network, card, tmp_path / "half.pth")
    assert not list(tmp_path.iterdir())
    QUANTIZERS["bf16"].apply(network, card, tmp_path / "half.pth")
    assert load_model(tmp_path / "half.pth")[0].layer1[1].running_var[0].item() == pytest.approx(70000, rel=0.01)


@pytest.mark.parametrize("scheme", CHECKPOINTS)
def test_equalising_a_checkpoint_is_refused(scheme, tmp_path):
    with pytest.raises(UserError, match="evens out integer grids"):
        QUANTIZERS[scheme].apply(*trained(), tmp_path / "half.pth", equalize=True)


def test_int8_needs_images(tmp_path):
    with pytest.raises(UserError, match="calibrated on real images; name a data set"):
        QUANTIZERS["int8"].apply(*trained(), tmp_path / "int8.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scheme", ["int8", "int8-vnni"])
def test_int8_grids(scheme, files):
    """uint8 activations, int8 weights a channel, and the last layer in fp32."""
    graph = onnx.load(files[scheme]).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            assert values[node.input[2]].dtype == np.uint8
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 3
    for node in convolutions:
        weight = made_by[node.input[1]]
        assert values[weight.input[0]].dtype == np.int8 and values[weight.input[1]].shape == values[weight.input[0]].shape[:1]
    last = made_by["logits"]
    assert last.op_type == "Gemm" and values[last.input[1]].dtype == np.float32


def test_dynamic_grids(files):
    graph = onnx.load(files["int8-dynamic"]).graph
    assert [node.op_type for node in graph.node].count("MatMulInteger") == 1  # of the two Linear layers
    assert not any(node.op_type == "ConvInteger" for node in graph.node)


@torch.no_grad()
def test_equalising_restores_unequal_channels(batch, tmp_path):
    """The channels of two layers are unbalanced by up to 1000 in a way that the network does not feel, but the grid does."""
    network, card = copy.deepcopy(trained())
    expected = network(torch.from_numpy(batch)).argmax(1).numpy()
    for first, norm, second in ((network.layer1[0], network.layer1[1], network.layer2[0]),
                                (network.layer2[0], network.layer2[1], network.layer3[0])):  # fmt: skip
        scale = 10 ** torch.linspace(-1.5, 1.5, len(first.weight))
        norm.weight *= scale
        norm.bias *= scale
        second.weight /= scale.view(1, -1, 1, 1)
    assert (network(torch.from_numpy(batch)).argmax(1).numpy() == expected).all()
    images = calibration_images(DIGITS.train, 64)
    agreement = {}
    for equalize in (False, True):
        QUANTIZERS["int8"].apply(network, card, tmp_path / "int8.onnx", images, equalize)
        agreement[equalize] = (open_predictor(tmp_path / "int8.onnx")(batch).argmax(1) == expected).mean()
    assert agreement[False] < 0.9 and agreement[True] > 0.97, agreement


def test_equalised_network_is_a_copy():
    network, _ = trained()
    before = copy.deepcopy(network.state_dict())
    assert list(equalized(network, 16).state_dict()) != list(before)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_calibration_reader_gives_every_image_once_preprocessed():
    _, card = trained()
    images = calibration_images(DIGITS.train, 10)
    reader = CalibrationImages(images, card, batch_size=4)
    batches = list(iter(reader.get_next, None))
    assert [len(batch["input"]) for batch in batches] == [4, 4, 2]
    expected = np.concatenate([preprocess(image, card) for image in images])
    np.testing.assert_array_equal(np.concatenate([batch["input"] for batch in batches]), expected)


def test_cards_of_integer_files_say_how_many_bits_and_on_which_cpu(files):
    for name, scheme in QUANTIZERS.items():
        card = open_predictor(files[name]).card
        assert (card.weight_bits is not None) == (scheme.devices == ("cpu",)) == (name in INTEGERS)
        bits = {"int8": 7, "int8-dynamic": 7, "int8-vnni": 8}.get(name)
        assert card.weight_bits == bits and card.devices == scheme.devices
        assert card.quantization.get("cpu_features") == (cpu_features() if bits else None)
        assert card.quantization.get("dtype") == scheme.dtype


@pytest.mark.parametrize("name", [None, *INTEGERS])
def test_integer_files_take_the_cpu_unless_cuda_is_asked_for(name, files, tmp_path, monkeypatch):
    path, asked = files.get(name, tmp_path / "fp32.onnx"), []
    if name is None:
        network, card = trained()
        Onnx.save(Onnx.convert(network, card), card, path)
    monkeypatch.setattr(predictors, "cuda_devices", lambda: 1)
    monkeypatch.setattr(read_onnx, "_cuda_first", lambda ort: asked.append(1) or ["CPUExecutionProvider"])
    open_predictor(path)
    assert bool(asked) == (name is None)
    with pytest.raises(UserError, match="could not load its CUDA provider"):
        open_predictor(path, device="cuda")


def squeezed():
    torch.manual_seed(0)
    return build_model("squeezenet1_1", 10, 32).eval(), ModelCard("squeezenet1_1", list("0123456789"), 32)


def test_a_network_whose_last_layer_is_a_convolution_keeps_that_one_in_fp32(tmp_path):
    network, card = squeezed()
    QUANTIZERS["int8"].apply(network, card, tmp_path / "int8.onnx", calibration_images(DIGITS.train, 16))
    graph = onnx.load(tmp_path / "int8.onnx").graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    *others, last = (node.input[1] for node in graph.node if node.op_type == "Conv")
    assert weights[last].dtype == np.float32 and not {*others} & weights.keys()  # the others come out of DequantizeLinear


def test_without_linear_layers_there_is_nothing_for_the_dynamic_scheme(tmp_path):
    network, card = squeezed()
    with pytest.raises(UserError, match="squeezenet1_1 has no Linear layers before its last one; int8 suits it"):
        QUANTIZERS["int8-dynamic"].apply(network, card, tmp_path / "dynamic.onnx")
