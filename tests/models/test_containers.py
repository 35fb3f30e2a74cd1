"""Checkpoints as others write them: each container is built here, loads with the same weights, or is refused in a sentence."""

import argparse
import collections

import numpy as np
import pytest
import torch
from crafted import SIDE, card, whole
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel
from torchvision.models import resnet18, squeezenet1_1

from models.build import build_model
from models.checkpoint import load_model, read_checkpoint
from models.containers import HOLDERS, PREFIXES, find_weights, plain_names, to_safetensors
from models.without_card import class_rows
from utils.core.errors import UserError
from utils.core.integrity import sealed, verify
from utils.inference.predictors import open_predictor


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_model("custom", 3, SIDE).eval()


def prefixed(state, *prefixes):
    return {"".join(prefixes) + key: value for key, value in state.items()}


def containers(network):
    """{what it is: what is saved} of one network."""
    state = network.state_dict()
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    compiled = torch.compile(network)  # nothing is compiled before it is called
    part = build_model("custom", 3, SIDE).eval()
    part.load_state_dict(state)
    part.layer1 = torch.compile(part.layer1)
    return {
        "a raw state_dict": state,
        "DataParallel": torch.nn.DataParallel(network).state_dict(),
        "torch.compile": compiled.state_dict(),
        "torch.compile in DataParallel": torch.nn.DataParallel(compiled).state_dict(),
        "torch.compile of a part": part.state_dict(),
        "nested prefixes": prefixed(state, "module.", "_orig_mod.", "model.", "net."),
        "an averaged model": AveragedModel(network).state_dict(),
        "Lightning": {
            "epoch": 3, "global_step": 99, "pytorch-lightning_version": "2.5.0", "state_dict": prefixed(state, "model."),
            "hyper_parameters": {"lr": 0.1}, "optimizer_states": [{"state": {}}], "lr_schedulers": [], "loops": {},
        },
        "timm": {"epoch": 3, "arch": "custom", "state_dict": state, "optimizer": {}, "version": 2,
                 "args": argparse.Namespace(model="custom", lr=0.1), "metric": 71.0},
        "timm, averaged": {"arch": "custom", "state_dict": other, "state_dict_ema": prefixed(state, "module.")},
        "torchvision's references": {"model": state, "optimizer": {"state": {}}, "epoch": 3, "args": argparse.Namespace(lr=1)},
        "torchvision's references, averaged": {"model": other, "model_ema": AveragedModel(network).state_dict()},
        "containers in each other": {"net": {"state_dict": collections.OrderedDict(prefixed(state, "backbone."))}},
        **{f"under {key}": {key: state, "epoch": 1} for key in HOLDERS},
        **{f"all with {prefix}": prefixed(state, prefix) for prefix in PREFIXES},
        "16 bits": {key: value.half() if value.is_floating_point() else value for key, value in state.items()},
    }  # fmt: skip


def test_each_container_gives_the_same_weights(network, tmp_path):
    state = network.state_dict()
    for name, contents in containers(network).items():
        for file in ("a.pth", "a.pt", "a.ckpt"):
            torch.save(contents, tmp_path / file)
            found = read_checkpoint(tmp_path / file)
            assert found.keys() == {"model"} and found["model"].keys() == state.keys(), name
        loaded = load_model(tmp_path / "a.pt", "custom", image_size=SIDE)[0].state_dict()
        tolerance = 1e-3 if name == "16 bits" else 0
        assert all(torch.allclose(loaded[key].double(), state[key].double(), atol=tolerance) for key in state), name


def test_the_scripts_read_a_state_dict_of_any_suffix(network, main_of, tmp_path):
    from PIL import Image

    Image.new("RGB", (20, 20), "red").save(tmp_path / "image.png")
    for number, old in enumerate((False, True)):
        path = tmp_path / f"{number}.pt"
        torch.save(containers(network)["Lightning"], path, _use_new_zipfile_serialization=not old)
        flags = ("-w", path, "-m", "custom", "--image_size", SIDE)
        assert main_of("predict_ckpoint", "-i", "image.png", *flags)[0] == 0
        with pytest.raises(UserError, match=r"is a checkpoint: use predict_ckpoint\.py for it"):
            main_of("predict", "-i", "image.png", "-w", path)


def test_safetensors_of_others(network, main_of, tmp_path):
    """As Hugging Face has them: no card, perhaps another prefix."""
    path = tmp_path / "model.safetensors"
    save_file(prefixed(network.state_dict(), "model."), path, {"format": "pt"})
    assert not verify(path)
    found, its_card = load_model(path, "custom", classes=["a", "b", "c"], image_size=SIDE)
    assert its_card.classes == ["a", "b", "c"] and torch.equal(found.classifier[3].bias, network.classifier[3].bias)
    with pytest.raises(UserError, match="say which network it is"):
        open_predictor(path, otherwise="checkpoint")


def test_safetensors_of_ours_have_card_and_seal(network, main_of, tmp_path):
    path, image = tmp_path / "custom.safetensors", np.random.default_rng(0).random((1, 3, SIDE, SIDE), np.float32)
    path.write_bytes(sealed(to_safetensors(network.state_dict(), card())))
    assert verify(path)
    predictor = open_predictor(path)
    assert predictor.card == card() and predictor.engine == "safetensors"
    with torch.inference_mode():
        np.testing.assert_allclose(predictor(image), network(torch.from_numpy(image)).numpy(), atol=1e-5)
    content = path.read_bytes()
    for place in (3, 20, 200, 700, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(UserError, match=r"custom\.safetensors"):
            open_predictor(path)


def test_export_writes_safetensors_and_every_script_reads_them(main_of, tmp_path):
    from PIL import Image

    (tmp_path / "best_model.pth").write_bytes(whole()["checkpoint"])
    Image.new("RGB", (20, 20), "red").save(tmp_path / "image.png")
    main_of("export", "-w", "best_model.pth", "-e", "safetensors", "--output", "x.safetensors", "--images", 7)
    checkpoint = ("predict_ckpoint", "best_model.pth")
    answers = [
        main_of(script, "-i", "image.png", "-w", file, "--csv", "-")[1]
        for script, file in (("predict", "x.safetensors"), ("predict_ckpoint", "x.safetensors"), checkpoint)
    ]  # fmt: skip
    assert answers[0] == answers[1] == answers[2]
    assert main_of("quantize", "-w", "x.safetensors", "--max_drop", 100, "--output", "x_fp16.pth")[0] in (0, 4)


def test_a_head_of_another_kind_is_named(tmp_path):
    torch.save(resnet18().state_dict(), tmp_path / "torchvision.pth")
    with pytest.raises(UserError, match=r"not those of resnet18: no head \(fc.3.weight\)"):
        load_model(tmp_path / "torchvision.pth", "resnet18")


def test_networks_of_torchvision_load_as_torchvision_saves_them(tmp_path):
    torch.save(squeezenet1_1(num_classes=7).state_dict(), tmp_path / "squeezenet.pth")
    assert load_model(tmp_path / "squeezenet.pth", "squeezenet1_1")[1].num_classes == 7


def test_rows_of_classes():
    assert class_rows("custom") == ["classifier.3.weight", "classifier.3.bias"]
    assert class_rows("resnet18") == ["fc.3.weight", "fc.3.bias"]


@pytest.mark.parametrize("contents", [{}, [], 3, {"model": {}}, {"state_dict": {"a": "text"}}, {"state_dict": [1]}])
def test_what_holds_no_weights_says_what_is_known(contents, tmp_path):
    torch.save(contents, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"holds no weights: known are a state_dict alone, or under one of .*state_dict"):
        read_checkpoint(tmp_path / "a.pth")


def test_names_that_only_some_have_stay():
    state = {"model.a": torch.zeros(1), "head.b": torch.zeros(1)}
    assert plain_names(state).keys() == state.keys() and find_weights({"a": {"b": 1}}) is None


def test_settings_are_passed_over_and_code_is_not(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "hyper_parameters": argparse.ArgumentParser}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"carries pickled code \(argparse.ArgumentParser\), which is never run"):
        read_checkpoint(tmp_path / "a.ckpt")


def test_half_precision_torchscript(tmp_path):
    network = build_model("custom", 3, 16).eval().half()
    torch.jit.save(torch.jit.trace(network, torch.zeros(1, 3, 16, 16).half(), check_trace=False), tmp_path / "half.pt")
    predictor = open_predictor(tmp_path / "half.pt", classes=["a", "b", "c"], image_size=16, device="cpu")
    image = np.random.default_rng(0).random((2, 3, 16, 16), np.float32)
    with torch.inference_mode():
        expected = network.float()(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(predictor(image), expected, atol=0.01)


@pytest.mark.parametrize("empty", ["state_dict_ema", "model_ema"])
def test_an_empty_average_is_passed_over(empty, network, tmp_path):
    torch.save({"model": network.state_dict(), empty: {}}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth")["model"].keys() == network.state_dict().keys()
