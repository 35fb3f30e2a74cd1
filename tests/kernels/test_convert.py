"""The network that trains and the model that it is built from: other modules, the same tensors."""

import copy
import pathlib
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn

from models.build import build_model, freeze_trunk, head_of
from utils.complexity.exact import analyse
from utils.core.card import ModelCard
from utils.export.writers import Onnx
from utils.kernels.convert import is_compiled, use_training_kernels
from utils.kernels.convolution import SmallMapConv2d, WinogradConv2d
from utils.training.loop import set_train_mode

ROOT = pathlib.Path(__file__).parents[2]
NAMES = ("custom", "resnet18", "mobilenet_v3_small")
IMAGES = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)


@pytest.fixture
def uncompiled(monkeypatch):
    """Fused passes and Winograd's filtering as plain functions; the latter is always faster."""
    monkeypatch.setattr("utils.kernels.blocks.compiled", lambda passes, **how: passes)
    monkeypatch.setattr("utils.kernels.convolution.compiled", lambda kernels: kernels)
    monkeypatch.setattr("utils.kernels.convert.faster", lambda key, ways: True)


def step(network):
    torch.manual_seed(1)
    network(torch.randn(4, 3, 32, 32)).square().sum().backward()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    network.zero_grad()


def copied(tensors):
    return {name: value.clone() for name, value in tensors}


def seen(model):
    """What the rest of the project sees of a model: keys, modules, its cost, its graph, its answers."""
    with torch.no_grad():
        answers = model.eval()(IMAGES)
        assert torch.equal(copy.deepcopy(model)(IMAGES), answers)
    modules = [(name, type(module)) for name, module in model.named_modules()]
    return (
        list(model.state_dict()),
        modules,
        repr(analyse(model, 32)),
        str(torch.export.export(model, (IMAGES,)).graph),
        answers,
    )


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_model_looks_the_same_before_and_after(name, compile, uncompiled):
    model = build_model(name, 5, 32)
    *before, answers = seen(model)
    network = use_training_kernels(model, (4, 3, 32, 32), compile)
    *after, same = seen(model)
    assert after == before and torch.equal(same, answers)
    assert list(network.state_dict()) == before[0]
    assert is_compiled(network) is (compile and name != "mobilenet_v3_small") and not is_compiled(model)
    with torch.no_grad():
        for evaluated in (network, copy.deepcopy(network)):
            torch.testing.assert_close(evaluated.eval()(IMAGES), answers, rtol=1e-4, atol=1e-4)
    analyse(network, 32)


def test_the_onnx_file_is_the_same_before_and_after(uncompiled):
    model, card = build_model("custom", 5, 32).eval(), ModelCard("custom", list("abcde"), 32)
    before = Onnx.convert(model, card).graph.SerializeToString(deterministic=True)
    use_training_kernels(model, (4, 3, 32, 32), compile=True)
    assert Onnx.convert(model, card).graph.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_training_moves_the_tensors_of_the_model(name, compile, uncompiled):
    model = build_model(name, 5, 32)
    network = use_training_kernels(model, (4, 3, 32, 32), compile)
    for one, two in zip([*model.parameters(), *model.buffers()], [*network.parameters(), *network.buffers()], strict=True):
        assert one is two
    model.load_state_dict(build_model(name, 5, 32).state_dict())
    model.to(memory_format=torch.channels_last)
    before = copied(model.state_dict().items())
    step(network.train())
    for key, value in model.state_dict().items():
        assert not torch.equal(value, before[key]), key
        assert torch.equal(value, network.state_dict()[key])


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_of_a_frozen_trunk_nothing_moves(name, compile, uncompiled, capsys):
    model = build_model(name, 5, 32)
    freeze_trunk(model, name)
    network = use_training_kernels(model, (4, 3, 32, 32), compile)
    assert not is_compiled(network)  # with frozen norms and convolutions nothing is gained
    assert ("no part of this model" in capsys.readouterr().out) is compile
    before, head = copied(model.state_dict().items()), "fc" if name == "resnet18" else "classifier"
    set_train_mode(network, head_of(network, name))
    step(network)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) is (not key.startswith(f"{head}.")), key


def test_to_build_it_leaves_weights_statistics_gradients_and_random_numbers(uncompiled):
    model = build_model("resnet18", 5, 32)
    before, random = copied(model.state_dict().items()), torch.get_rng_state()
    use_training_kernels(model, (4, 3, 32, 32), compile=True)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_each_shape_of_convolution_is_timed_once_and_only_winners_are_put_in(uncompiled, monkeypatch):
    timed = []

    def faster(key, ways):
        timed.append((key, {answer: type(way.args[0]) for answer, way in ways.items()}))
        for way in ways.values():
            way()
        return "(4, 128, 8, 8)" in key

    monkeypatch.setattr("utils.kernels.convert.faster", faster)
    model = build_model("resnet18", 5, 64)
    network = use_training_kernels(model, (4, 3, 64, 64), compile=True)
    shapes = [(64, 16), (128, 8), (256, 4), (512, 2)]
    assert [key for key, _ in timed] == [f"3×3 convolution, torch.float32, (4, {c}, {s}, {s}) to {c}" for c, s in shapes]
    assert all(types == {False: SmallMapConv2d, True: WinogradConv2d} for _, types in timed)
    filtered = [name for name, module in network.named_modules() if isinstance(module, WinogradConv2d)]
    assert filtered == ["layer2.0.conv2", "layer2.1.conv1", "layer2.1.conv2"]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_under_autocast_winograd_is_timed_in_half_precision(uncompiled, monkeypatch):
    keys = []
    monkeypatch.setattr("utils.kernels.convert.faster", lambda key, ways: keys.append(key) or True)
    layer = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1))
    with torch.autocast("cpu", torch.bfloat16):
        network = use_training_kernels(layer, (4, 64, 9, 9), compile=True)
    assert keys == ["3×3 convolution, torch.bfloat16, (4, 64, 9, 9) to 64"]
    assert network[0].batches == {((4, 64, 9, 9), torch.bfloat16)}


def test_a_forward_times_nothing_and_writes_nothing(uncompiled, monkeypatch, tmp_path):
    network = use_training_kernels(build_model("resnet18", 5, 32), (4, 3, 32, 32), compile=True).train()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("utils.kernels.convert.faster", lambda key, ways: pytest.fail("timed"))
    states = [{k: v for k, v in vars(m).items() if k not in ("_buffers", "_parameters")} for m in network.modules()]
    states = [dict(state) for state in states]
    step(network)
    assert [{k: v for k, v in vars(m).items() if k not in ("_buffers", "_parameters")} for m in network.modules()] == states
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [RuntimeError("no C++ compiler\nin any place"), NotImplementedError()])
def test_where_the_compiler_fails_the_network_stays_eager_and_one_line_says_so(error, monkeypatch, capsys):
    def fail(*args):
        raise error

    monkeypatch.setattr("utils.kernels.batchnorm._NormPool.forward", staticmethod(fail))
    model = build_model("custom", 5, 32).eval()  # the trial is a step of training all the same
    before = copied(model.state_dict().items())
    network = use_training_kernels(model, (4, 3, 32, 32), compile=True)
    why = "no C++ compiler" if str(error) else "NotImplementedError"
    assert capsys.readouterr().out == f"compiling is not possible here ({why}), so the network runs without\n"
    assert not is_compiled(network)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    step(network.train())


def wide_convolution():
    return nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())


NOTHING_GAINS = {  # the network, and a batch for it
    "a layer that is measured slower": (wide_convolution, (4, 64, 9, 9)),
    "no layer that could gain": (lambda: build_model("mobilenet_v3_small", 3, 32), (4, 3, 32, 32)),
}


@pytest.mark.parametrize("name", NOTHING_GAINS)
def test_where_nothing_is_faster_compiled_one_line_says_so(name, monkeypatch, capsys):
    monkeypatch.setattr("utils.kernels.convert.faster", lambda key, ways: False)
    build, shape = NOTHING_GAINS[name]
    assert not is_compiled(use_training_kernels(build(), shape, compile=True))
    assert "no part of this model is faster" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="a C++ compiler")
def test_compiled_layers_train_alike(monkeypatch):
    monkeypatch.setattr("utils.kernels.convert.faster", lambda key, ways: True)
    torch.manual_seed(0)
    model, images, answers = wide_convolution(), torch.randn(4, 64, 9, 9), []
    weights = torch.randn(4, 64, 9, 9)  # without them the norm would have no gradient to pass on
    for compile in (False, True):
        network = use_training_kernels(model, images.shape, compile)
        assert is_compiled(network) is compile
        answer = network(images)
        model.zero_grad()
        (answer * weights).sum().backward()
        answers.append([answer.detach(), *(p.grad.clone() for p in model.parameters())])
    for eager, compiled in zip(*answers, strict=True):
        assert (eager - compiled).abs().max() < 1e-3 * eager.abs().max()


KEEPS_COMPILED = """
from models.build import build_model
from utils.kernels.convert import is_compiled, use_training_kernels
assert is_compiled(use_training_kernels(build_model("custom", 10, 16), (4, 3, 16, 16), compile=True))
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="a C++ compiler")
@pytest.mark.parametrize("named", [False, True])
def test_what_is_compiled_is_kept_for_the_next_run(tmp_path, monkeypatch, named):
    ours, theirs = tmp_path / "image-classification" / "compiled", tmp_path / "theirs"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    if named:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(theirs))
    subprocess.run([sys.executable, "-c", KEEPS_COMPILED], cwd=ROOT, check=True, timeout=300)
    assert list((theirs if named else ours).rglob("*.so")) and not (ours if named else theirs).exists()


def test_other_devices_train_the_model_itself():
    model = nn.Linear(3, 2, device="meta")
    assert use_training_kernels(model, (4, 3), compile=True) is model
