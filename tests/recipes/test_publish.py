"""recipes/publish.py: what of a run becomes part of a clone."""

import hashlib
import json
import sys

import pytest
import torch
from digits_checkpoint import checkpoint as save_trained

from models.checkpoint import load_model, read_checkpoint
from recipes import publish
from utils.core.errors import UserError
from utils.inference.predictors import open_predictor


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Publish the run of a small network on digits, with these flags, and return the folder that it goes to."""
    source, target = tmp_path / "trials" / "digits" / "custom_7", tmp_path / "weights" / "digits"
    source.mkdir(parents=True)
    save_trained(source / "best_model.pth")
    for name in publish.KEPT:
        (source / name).write_text(name)
    (source / "history.json").write_text('{"test_read": true}')
    monkeypatch.setattr(publish, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(publish, "PUBLISHED", tmp_path / "published")

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["publish.py", str(source), *flags])
        publish.main()
        return source / "best_model.pth", target

    return run


@pytest.mark.slow
def test_a_large_checkpoint_is_stored_in_16_bits_and_computes_in_32(call, monkeypatch):
    monkeypatch.setattr(publish, "LARGEST", 100)
    source, target = call("--to", "custom")
    best = target / "custom" / "best_model.pth"
    state = read_checkpoint(best)["model"]
    assert all(value.dtype == torch.float16 for value in state.values() if value.is_floating_point())
    assert best.stat().st_size < 0.6 * source.stat().st_size
    images = torch.rand(8, 3, *[load_model(source)[1].image_size] * 2)
    before, after = (load_model(path)[0](images) for path in (source, best))
    assert after.dtype == torch.float32 and (before - after).abs().max() < 0.01 * before.abs().max()
    names = {path.name for path in (target / "custom" / "converted_models").iterdir()}
    assert names == {"custom_onnx_fp16.onnx", "custom_int8.onnx"}
    assert (target / "custom" / "history.json").read_text() == '{"test_read": true}'


@pytest.mark.slow
def test_a_small_one_stays_as_it_is(call):
    source, target = call()
    before, after = (read_checkpoint(path) for path in (source, target / "custom_7" / "best_model.pth"))
    assert all(value.equal(after["model"][key]) for key, value in before["model"].items())
    assert before["card"] | {"training": {"dataset": "digits", "name": "7"}} == after["card"]
    file = open_predictor(target / "custom_7" / "converted_models" / "custom_onnx.onnx", device="cpu")
    assert file.card.parity


def test_figures_without_the_weights(call, tmp_path):
    source, target = call("--figures_only")
    size = json.loads((target / "custom_7" / "best_model.json").read_text())
    assert size == {"bytes": source.stat().st_size, "SHA-256": hashlib.sha256(source.read_bytes()).hexdigest()}
    assert not list(target.rglob("*.pth"))
    found = json.loads((tmp_path / "published" / "accuracy" / "digits" / "custom_7.json").read_text())
    assert found["weights"] == "weights/digits/custom_7/best_model.pth" and found["Acc@1"] > 0.5


def test_what_an_earlier_run_left_there_goes(call, tmp_path):
    old = tmp_path / "weights" / "digits" / "custom_7"
    for name in ("best_model.pth", "converted_models/custom_onnx.onnx", "logs/1/events"):
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        (old / name).write_text("of an earlier run")
    call("--figures_only")
    assert {path.name for path in old.iterdir()} == {*publish.KEPT, "best_model.json"}


def test_a_run_that_lies_where_it_would_go_is_kept(call, tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "WEIGHTS", tmp_path / "trials")
    before = {path: path.read_bytes() for path in (tmp_path / "trials").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="lies where it would be published"):
        call("--figures_only")
    assert {path: path.read_bytes() for path in (tmp_path / "trials").rglob("*") if path.is_file()} == before


def test_what_was_published_stays_where_publishing_fails(call, tmp_path, monkeypatch):
    old = tmp_path / "weights" / "digits" / "custom_7"
    (old / "converted_models").mkdir(parents=True)
    (old / "converted_models" / "custom_onnx.onnx").write_text("of an earlier run")

    def fail(*_):
        raise UserError("there are no data")

    monkeypatch.setattr(publish, "script", fail)
    with pytest.raises(UserError, match="no data"):
        call()
    assert (old / "converted_models" / "custom_onnx.onnx").read_text() == "of an earlier run"
    assert [path.name for path in old.parent.iterdir()] == ["custom_7"] and len([*old.iterdir()]) == 1


def test_a_run_without_its_history_is_refused(call, tmp_path):
    (tmp_path / "trials/digits/custom_7/history.json").unlink()
    with pytest.raises(UserError, match="it has no history"):
        call()


def test_a_run_that_has_not_read_the_test_images_is_refused(call, tmp_path):
    (tmp_path / "trials/digits/custom_7/history.json").write_text('{"test_read": false}')
    with pytest.raises(UserError, match="has not read the test images"):
        call()
