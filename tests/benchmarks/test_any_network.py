"""Networks of libraries through every script, and the results that the docs show."""

import json

import pytest
from conftest import ROOT

from benchmarks import any_network
from utils.core.errors import UserError

TINY = ("timm/test_vit", "timm/test_resnet", "timm/test_convnext", "timm/test_efficientnet", "squeezenet1_1", "googlenet")
FAST = ("train", "resume", "eval", "TorchScript", "complexity")


@pytest.fixture
def walk(tmp_path, monkeypatch):
    """Take a tiny network through steps; returns what the results then say of them."""
    monkeypatch.setattr(any_network, "WORK", tmp_path)
    monkeypatch.setattr("sys.argv", [])
    path = tmp_path / "any_network.json"

    def call(name, only=None, size=32, anew=False):
        monkeypatch.setitem(any_network.NETWORKS, name, ("tiny", size))
        steps = [step for step in any_network.all_steps(name, size) if only is None or step[0] in only]
        any_network.walk(name, steps, path, anew)
        return json.loads(path.read_text())["networks"][name]["steps"]

    return call


def test_a_vision_transformer_goes_through_the_scripts(walk):
    found = walk("timm/test_vit", FAST)
    assert {step: outcome["status"] for step, outcome in found.items()} == dict.fromkeys(FAST, "works"), found
    assert found["complexity"]["said"] == "1.445 MMAC" and found["eval"]["said"].startswith("Acc@1 ")


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_tiny_networks_of_six_families_go_through_every_script(name, walk):
    found = walk(name, size=64)
    assert {outcome["status"] for outcome in found.values()} == {"works"}, found


def test_what_is_noted_is_not_done_again_and_bugs_are_told_from_refusals(walk, monkeypatch):
    said = iter([UserError("it is too small"), ValueError("a bug"), None])
    asked = []

    def script():
        asked.append(1)
        error = next(said)
        if error:
            raise error

    monkeypatch.setattr(any_network, "main_of", lambda name: script)
    found = walk("timm/test_vit", ("train", "predict"))
    statuses = [(outcome["status"], outcome["said"]) for outcome in found.values()]
    assert statuses == [("refused", "it is too small"), ("failed", "ValueError: a bug")]
    assert walk("timm/test_vit", ("train", "predict")) == found and len(asked) == 2
    assert walk("timm/test_vit", ("train",), anew=True)["train"]["status"] == "works"


def test_a_training_that_was_interrupted_is_not_noted(walk, monkeypatch):
    monkeypatch.setattr(any_network, "main_of", lambda name: lambda: 130)
    with pytest.raises(KeyboardInterrupt):
        walk("timm/test_vit", ("train",))


def test_the_results_hold_what_the_docs_promise():
    networks = json.loads((ROOT / "results" / "any_network.json").read_text())["networks"]
    assert len(networks) >= 24 and len({network["family"] for network in networks.values()}) >= 12
    steps = {step for step, *_ in any_network.all_steps("any", 32)}
    for name, network in networks.items():
        assert steps <= network["steps"].keys(), name
        assert all(outcome["status"] != "failed" for outcome in network["steps"].values()), name
    assert sum(network["steps"].get(any_network.REAL, {}).get("status") == "works" for network in networks.values()) >= 10
