"""benchmark.py: every kind of file is in the table, what is not is named, and the figures are those of the files."""

import io
import json
import os
import re
from contextlib import redirect_stderr
from types import SimpleNamespace

import pytest
from digits_checkpoint import checkpoint, trained
from PIL import Image

import benchmark
from models.checkpoint import save_checkpoint
from utils.core.errors import UserError
from utils.core.machine import cpu_features
from utils.data.datasets import open_dataset
from utils.data.samples import calibration_images
from utils.evaluation.latency import race
from utils.export import measure
from utils.export.quantize import QUANTIZERS
from utils.export.variants import Variant
from utils.inference import predictors
from utils.inference.formats import FORMATS, exported


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few runs of few images, and no processes started: timing is not judged here."""

    def short(calls, batch, **options):
        return race(calls, batch, least=1, most=1, seconds=0, pause=lambda seconds: None)

    monkeypatch.setattr(benchmark, "BATCHES", (1, 4))
    monkeypatch.setattr(measure, "race", short)
    monkeypatch.setattr(benchmark, "cold_start", lambda variant, picture, args: 0.5)


@pytest.fixture
def result_of(main_of, tmp_path):
    """Run it and return (standard output, the JSON, the picture's path)."""

    def call(*flags, name="digits_custom"):
        status, out = main_of("benchmark", *flags)
        assert status == 0
        path = tmp_path / "results" / "benchmark" / f"{name}.json"
        return out, json.loads(path.read_text()), path.with_suffix(".png")

    return call


def test_all_makes_and_measures_everything(result_of, tmp_path):
    weights = checkpoint(tmp_path / "best_model.pth")
    out, result, picture = result_of("--weights", weights, "--all")
    rows = {row["name"]: row for row in result["files"]}
    assert result["missing"] == {} and next(iter(rows)) == "PyTorch fp32"
    assert set(rows) == {
        *("PyTorch fp32", "PyTorch fp16", "PyTorch bf16"),
        *("ONNX Runtime fp32", "ONNX Runtime fp16", "ONNX Runtime int8", "ONNX Runtime int8-dynamic", "ONNX Runtime int8-vnni"),
        *("TorchScript fp32", "torch.export fp32"),
    }
    assert len(rows) == 1 + len(QUANTIZERS) + len(exported()) + 1  # + fp16 ONNX: a new entry of a table is in here by itself
    assert result["images"] == 359 and result["measured on"] == "digits test"
    assert result["machine"]["cpu_features"] == cpu_features()
    network, _ = trained()
    assert result["parameters"] == sum(p.numel() for p in network.parameters())
    convolutions = 16 * 16 * 16 * 27 + 8 * 8 * 32 * 16 * 9 + 4 * 4 * 64 * 32 * 9
    assert result["MACs"] == convolutions + 64 * 2 * 2 * 256 + 256 * 10
    exact = rows["PyTorch fp32"]
    for name, row in rows.items():
        assert row["bytes"] == os.path.getsize(row["file"])
        assert abs(row["Acc@1"] - exact["Acc@1"]) < (1e-9 if name.endswith("fp32") else 0.01)
        assert row["Acc@1"] <= row["Acc@5"] <= 1 and row["Acc@1 95 % interval"][0] < row["Acc@1"]
        assert [latency["batch"] for latency in row["latency"]] == [1, 4]
        best = max(row["latency"], key=lambda latency: latency["batch"] / latency["median_ms"])
        assert row["best batch"] == best["batch"] and row["images/s"] == pytest.approx(1000 * best["batch"] / best["median_ms"])
        assert name in out
    with Image.open(picture) as image:
        assert min(image.size) > 200


def test_without_all_only_what_is_there_and_fresh(result_of, tmp_path):
    weights = checkpoint(tmp_path / "best_model.pth")
    network, card = trained()
    fresh, stale = (tmp_path / "converted_models" / QUANTIZERS[name].file_name("custom") for name in ("fp16", "bf16"))
    QUANTIZERS["fp16"].apply(network, card, fresh)
    QUANTIZERS["bf16"].apply(network, card, stale)
    os.utime(stale, (1, 1))
    out, result, _ = result_of("--weights", weights)
    assert [row["name"] for row in result["files"]] == ["PyTorch fp32", "PyTorch fp16"]
    assert "not in the table: PyTorch bf16: custom_bf16.pth is older than the checkpoint; --all makes it" in out
    assert "not in the table: TorchScript fp32: custom_torchscript.pt is not there; --all makes it" in out
    assert stale.stat().st_mtime == 1  # nothing is made without being asked for


def test_the_report_shows_what_was_measured(result_of, main_of, tmp_path):
    weights = checkpoint(tmp_path / "best_model.pth")
    QUANTIZERS["fp16"].apply(*trained(), tmp_path / "converted_models" / QUANTIZERS["fp16"].file_name("custom"))
    _, result, _ = result_of("--weights", weights)
    (row,) = [row for row in result["files"] if row["name"] == "PyTorch fp16"]
    main_of("report", "-w", weights, "--output", "page.html")
    cells = re.findall(r'<td class="number">([^<]*)</td>', (tmp_path / "page.html").read_text())
    assert f"{row['latency'][0]['median_ms']:.3g}" in cells


def test_a_file_whose_process_fails_is_named_and_the_rest_is_measured(result_of, main_of, tmp_path, monkeypatch):
    weights = checkpoint(tmp_path / "best_model.pth")
    QUANTIZERS["fp16"].apply(*trained(), tmp_path / "converted_models" / QUANTIZERS["fp16"].file_name("custom"))

    def fails_for(*precisions):
        def start(variant, picture, args):
            if variant.precision in precisions:
                raise UserError(f"predict_ckpoint.py failed on {variant.precision}")
            return 0.5

        monkeypatch.setattr(benchmark, "cold_start", start)

    fails_for("fp16")
    out, result, _ = result_of("--weights", weights)
    assert [row["name"] for row in result["files"]] == ["PyTorch fp32"]
    assert "not in the table: PyTorch fp16: predict_ckpoint.py failed on fp16" in out
    (tmp_path / "converted_models" / "custom_onnx.onnx").write_text("text")
    out, result, _ = result_of("--weights", weights)
    assert [row["name"] for row in result["files"]] == ["PyTorch fp32"]
    assert "not in the table: ONNX Runtime fp32: " in out and "custom_onnx.onnx is not an ONNX file" in out
    fails_for("fp32", "fp16")
    with pytest.raises(UserError, match="failed on fp32"):
        main_of("benchmark", "--weights", weights)


def test_what_cannot_be_made_is_named_and_the_rest_is_measured(result_of, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise UserError("no such luck")

    for engine in exported():
        monkeypatch.setattr(FORMATS[engine].load_writer(), "convert", staticmethod(fails))
    out, result, _ = result_of("--weights", checkpoint(tmp_path / "best_model.pth"), "--all")
    assert [row["name"] for row in result["files"]] == ["PyTorch fp32", "PyTorch fp16", "PyTorch bf16"]
    assert "not in the table: torch.export fp32: no such luck" in out


def test_checkpoint_without_card_or_data(result_of, tmp_path):
    save_checkpoint(tmp_path / "bare.pth", {"model": trained()[0].state_dict()})
    (tmp_path / "classes.txt").write_text("\n".join("abcdefghij"))
    flags = ("--weights", tmp_path / "bare.pth", "-m", "custom", "-c", tmp_path / "classes.txt", "--image_size", 16)
    out, result, picture = result_of(*flags, name="no_dataset_custom_16px_bare")
    assert "no accuracy" in out and "Acc@1" not in result["files"][0] and picture.exists()


@pytest.mark.parametrize("scheme", ["int8", "int8-vnni"])
def test_8_bits_on_a_cpu_that_saturates_are_named_once(scheme, main_of, tmp_path, monkeypatch):
    monkeypatch.setattr(predictors, "saturates", lambda: True)
    weights = checkpoint(tmp_path / "best_model.pth")
    images = calibration_images(open_dataset("digits").train, 8)
    QUANTIZERS[scheme].apply(*trained(), tmp_path / "converted_models" / QUANTIZERS[scheme].file_name("custom"), images)
    with redirect_stderr(io.StringIO()) as said:
        assert main_of("benchmark", "--weights", weights)[0] == 0
    assert said.getvalue().count("8-bit integer weights") == (scheme == "int8-vnni")


def test_quantized_weights_are_refused(main_of, tmp_path):
    network, card = trained()
    QUANTIZERS["fp16"].apply(network, card, tmp_path / "half.pth")
    with pytest.raises(UserError, match=r"is quantized \(fp16\); give the fp32 checkpoint"):
        main_of("benchmark", "--weights", tmp_path / "half.pth")


def test_cold_start_is_that_of_the_whole_script(tmp_path, monkeypatch):
    """One real process, with the flags that a checkpoint without a card needs."""
    monkeypatch.undo()
    monkeypatch.setattr(benchmark, "COLD_STARTS", 1)
    save_checkpoint(tmp_path / "bare.pth", {"model": trained()[0].state_dict()})
    (tmp_path / "classes.txt").write_text("\n".join("abcdefghij"))
    Image.new("RGB", (20, 20)).save(tmp_path / "picture.png")
    flags = ["--weights", str(tmp_path / "bare.pth"), "-m", "custom", "-c", str(tmp_path / "classes.txt"), "--image_size", "16"]
    args = benchmark.parser().parse(argv=flags)
    variant = Variant("checkpoint", "fp32", tmp_path / "bare.pth")
    assert 0.1 < benchmark.cold_start(variant, tmp_path / "picture.png", args) < 250
    with pytest.raises(UserError, match="failed"):
        benchmark.cold_start(variant, tmp_path / "nothing.png", args)


def test_a_cold_start_is_the_median_of_three(tmp_path, monkeypatch):
    monkeypatch.undo()
    ends = iter([0, 5, 5, 6, 6, 8])  # they take 5, 1 and 2 seconds
    monkeypatch.setattr(benchmark, "time", SimpleNamespace(perf_counter=lambda: next(ends)))
    monkeypatch.setattr(benchmark.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0))
    (tmp_path / "a.pth").touch()
    args = benchmark.parser().parse(argv=["--weights", str(tmp_path / "a.pth")])
    assert benchmark.cold_start(Variant("onnx", "fp32", tmp_path / "a.onnx", make=print), "image.png", args) == 2
