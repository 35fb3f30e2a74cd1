"""quantize.py: what it writes, prints and refuses, and that its verdict tells the truth."""

import functools
import json
import os
import shutil

import pytest
import torch
from digits_checkpoint import checkpoint, learn, trained
from networks import network_of

from models.build import build_model
from models.checkpoint import load_model, read_checkpoint, save_checkpoint
from utils.core.card import ModelCard
from utils.core.errors import ACCURACY_LOST, UserError
from utils.core.machine import cpu_features
from utils.data.datasets import open_dataset
from utils.data.samples import calibration_images, generated_images
from utils.evaluation.latency import race
from utils.export import gains, measure
from utils.export.quantize import QUANTIZERS, HalfPrecision, finite_weights
from utils.export.verify import export_model
from utils.inference.predictors import open_predictor

BATCHES = gains.BATCHES


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Latencies from one block of runs of few images: these tests do not judge them."""
    monkeypatch.setattr(gains, "BATCHES", (1, 4))
    monkeypatch.setattr(measure, "race", functools.partial(race, least=1, most=1, seconds=0, pause=lambda seconds: None))


def facts(accuracy, megabytes, *latencies, images=10_000):
    times = [
        {"batch": batch, "median_ms": ms, "low_ms": 0.9 * ms, "high_ms": 1.1 * ms}
        for batch, ms in zip((1, 32), latencies, strict=True)
    ]
    score = {} if accuracy is None else {"Acc@1": accuracy, "Acc@1 95 % interval": [accuracy - 0.006, accuracy + 0.006]}
    return score | {"bytes": megabytes * 1e6, "latency": times}


@pytest.mark.parametrize(
    ("before", "after", "words", "status"),
    [
        (facts(0.90, 40, 4, 80), facts(0.899, 10, 2, 40), "use it: 4.00 × smaller, 2.00 × the speed at batch 1", 0),
        (facts(0.90, 40, 4, 80), facts(0.90, 10, 4.1, 80), "use it: 4.00 × smaller, no difference in speed at batch 1", 0),
        (facts(0.90, 40, 4, 80), facts(0.90, 10, 8, 100), "smaller but slower here: keep fp32 for speed; 4.00 × smaller", 0),
        (facts(0.90, 40, 4, 80), facts(0.90, 10, 2, 100), "smaller but slower here at batch 32: keep fp32 for speed there", 0),
        (facts(0.90, 40, 4, 80), facts(0.893, 10, 2, 40), "accuracy lost: 0.70 points, beyond the interval; 4.00 × smaller", 0),
        (facts(0.90, 40, 4, 80), facts(0.88, 10, 2, 40), "accuracy lost: 2.00 points, beyond the interval (limit 1)", 4),
        (facts(0.90, 40, 4, 80), facts(0.50, 10, 8, 90), "accuracy lost: 40.00 points, beyond the interval", 4),
        (facts(0.90, 40, 4, 80), facts(0.95, 10, 2, 40), "use it", 0),
        (facts(0.90, 40, 4, 80), facts(0.90, 39.9, 4, 80), "hardly smaller: keep fp32", 0),
        (facts(None, 40, 4, 80), facts(None, 10, 2, 40), "use it", 0),
    ],
)
def test_verdict(before, after, words, status):
    verdict = gains.judge({"before": before, "after": after, "images": 10_000, "agreement": 0.995}, max_drop=1.0)
    assert verdict[0].startswith(words) and verdict[1] == status
    assert ("not measured" in verdict[0]) == ("Acc@1" not in before)


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ((2.6, 10, 19), "use it: 4.00 × smaller, no difference in speed"),  # ms of int8 beside 10.2, 10.4 and 11 of fp32
        ((11.1, 12, 13), "smaller but slower here: keep fp32 for speed"),
        ((5, 8, 10.3), "use it: 4.00 × smaller, no difference in speed"),
        ((5, 6, 7), "use it: 4.00 × smaller, 1.73 × the speed"),
    ],
)
def test_a_speed_within_the_spread_does_not_differ(times, words):
    names = ("low_ms", "median_ms", "high_ms")
    before, after = facts(0.90, 40, 4, 80), facts(0.90, 10, 4, 80)
    before["latency"] = [{"batch": 1, **dict(zip(names, (10.2, 10.4, 11), strict=True))}]
    after["latency"] = [{"batch": 1, **dict(zip(names, times, strict=True))}]
    result = {"before": before, "after": after, "images": 100, "agreement": 1.0}
    assert gains.judge(result, max_drop=1.0)[0].startswith(words)


@pytest.mark.parametrize(
    ("agreement", "words"),
    [(0.9, "answers otherwise: 90.00 % of 50 images alike, under 99 %, though about as many are right; "), (0.99, "use it")],
)
def test_a_file_that_answers_otherwise_is_not_recommended(agreement, words):
    result = {"before": facts(0.90, 40, 4, 80), "after": facts(0.90, 10, 2, 40), "images": 50, "agreement": agreement}
    verdict, status = gains.judge(result, max_drop=1.0)
    assert verdict.startswith(words) and status == 0


def test_without_labels_nothing_is_said_of_how_many_are_right():
    result = {"before": facts(None, 40, 4, 80), "after": facts(None, 10, 2, 40), "images": 50, "agreement": 0.9}
    assert gains.judge(result, max_drop=1.0)[0].startswith("answers otherwise: 90.00 % of 50 images alike, under 99 %; ")


@pytest.mark.parametrize("accuracy", [0.95, 0.93, 0.90, 0.80])
def test_a_drop_of_just_what_is_allowed_is_allowed(accuracy):
    """In binary, 0.95 - 0.94 is more than 0.01."""
    before, after = facts(accuracy, 40, 4, 80), facts(round(accuracy - 0.01, 2), 10, 2, 40)
    before["Acc@1 95 % interval"] = [0.5, 0.99]
    result = {"before": before, "after": after, "images": 100, "agreement": 1.0}
    assert gains.judge(result, max_drop=1.0)[1] == 0 and gains.judge(result, max_drop=0.99)[1] == 4


def test_a_drop_within_a_wide_interval_still_counts():
    before, after = facts(0.90, 40, 4, 80), facts(0.88, 10, 2, 40)
    before["Acc@1 95 % interval"] = [0.80, 0.95]
    verdict, status = gains.judge({"before": before, "after": after, "images": 50, "agreement": 1.0}, max_drop=1.0)
    assert verdict.startswith("accuracy lost: 2.00 points, within the interval of 50 images (limit 1)") and status == 4
    assert gains.judge({"before": before, "after": after, "images": 50, "agreement": 1.0}, max_drop=2.5)[1] == 0


@pytest.mark.parametrize("scheme", QUANTIZERS)
def test_every_scheme_on_digits(scheme, main_of, tmp_path):
    weights = checkpoint(tmp_path / "run" / "best_model.pth")
    status, out = main_of(
        "quantize", "-w", weights, "--scheme", scheme, *(["--calibration", 64] * QUANTIZERS[scheme].calibrated)
    )
    path = tmp_path / "run" / "converted_models" / QUANTIZERS[scheme].file_name("custom")
    result = json.loads((tmp_path / "results" / "quantization" / "digits" / f"custom_{scheme}_run.json").read_text())
    assert status == result["status"] == 0
    assert result["measured on"] == "digits test" and result["images"] == 359
    assert result["after"]["bytes"] == path.stat().st_size < 0.56 * result["before"]["bytes"]
    assert result["before"]["Acc@1"] > 0.9 and result["after"]["Acc@1"] > result["before"]["Acc@1"] - 0.01
    assert result["agreement"] > 0.98
    low, high = result["after"]["Acc@1 95 % interval"]
    assert low < result["after"]["Acc@1"] < high
    assert [time["batch"] for time in result["after"]["latency"]] == [1, 4]
    assert all(time["low_ms"] <= time["median_ms"] <= time["high_ms"] for time in result["after"]["latency"])
    assert result["machine"]["threads"] == result["threads"] and result["after"]["arithmetic"] in out
    assert (result["calibration"] == "64 images of digits train, seed 0") == QUANTIZERS[scheme].calibrated
    assert (
        result["quantization"] == open_predictor(path).card.quantization and result["machine"]["cpu_features"] == cpu_features()
    )
    for word in ("Acc@1", "95 % interval", "argmax agreement", "latency, batch 1 ", "latency, batch 4 ", str(path)):
        assert word in out
    assert f"verdict: {result['verdict']}" in out


class Ruined(HalfPrecision):
    """A scheme that forgets what the network has learnt."""

    name, dtype = "bf16", "bfloat16"

    def apply(self, network, card, path, images=(), equalize=False):
        card = card.replace(scheme=self.name)
        state = {key: torch.zeros_like(value) for key, value in network.state_dict().items()}
        save_checkpoint(path, {"model": state, "card": card.to_dict()})
        return card


def test_lost_accuracy_is_status_4_and_the_file_is_there(main_of, tmp_path, monkeypatch):
    monkeypatch.setitem(QUANTIZERS, "bf16", Ruined())
    weights = checkpoint(tmp_path / "best_model.pth")
    status, out = main_of("quantize", "-w", weights, "--scheme", "bf16")
    assert status == ACCURACY_LOST and "verdict: accuracy lost: " in out and "beyond the interval (limit 1)" in out
    assert (tmp_path / "converted_models" / "custom_bf16.pth").exists()
    assert main_of("quantize", "-w", weights, "--scheme", "bf16", "--max_drop", 100)[0] == 0


class Watched(HalfPrecision):
    """A scheme that remembers the images that it was calibrated on."""

    name, dtype, calibrated, seen = "bf16", "bfloat16", True, ()

    def apply(self, network, card, path, images=(), equalize=False):
        self.seen = images
        return super().apply(network, card, path)


def test_calibration_sees_training_images_of_the_seed(main_of, tmp_path, monkeypatch):
    monkeypatch.setitem(QUANTIZERS, "bf16", Watched())
    weights = checkpoint(tmp_path / "best_model.pth")
    main_of("quantize", "-w", weights, "--scheme", "bf16", "--calibration", 12, "--seed", 3)
    expected = calibration_images(open_dataset("digits").train, 12, 3)
    assert [image.tobytes() for image in QUANTIZERS["bf16"].seen] == [image.tobytes() for image in expected]


def test_equalize_is_noted(main_of, tmp_path):
    weights = checkpoint(tmp_path / "best_model.pth")
    output = tmp_path / "elsewhere" / "even.onnx"
    flags = ("--scheme", "int8", "--equalize", "--calibration", 32, "--output", output)
    assert main_of("quantize", "-w", weights, *flags)[0] == 0
    assert output.exists() and not (tmp_path / "converted_models").exists()
    assert json.loads((tmp_path / "elsewhere/even.onnx.json").read_text())["equalized"] is True
    assert not (tmp_path / "results").exists()
    main_of("quantize", "-w", weights, *flags[:-2])
    files = (next((tmp_path / folder).rglob(name)) for folder, name in (("converted_models", "*.onnx"), ("results", "*.json")))
    assert all(path.name.startswith("custom_equalized_int8") for path in files)


@pytest.mark.parametrize(("classes", "raw"), [(7, True), (10, False)])
@pytest.mark.parametrize("model", ["custom", "resnet18", "mobilenet_v3_small"])
def test_bare_checkpoint(model, classes, raw, main_of, tmp_path):
    """A file without a card needs --model and --classes only; its accuracy is then not known, and that is said."""
    state = build_model(model, classes, 32).state_dict()
    torch.save(state if raw else {"model": state}, tmp_path / "bare.pth")
    names = [f"kind {i}" for i in range(classes)]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    flags = ("-m", model, "-c", tmp_path / "classes.txt", "--image_size", 32)
    status, out = main_of("quantize", "-w", tmp_path / "bare.pth", *flags)
    assert status == 0 and "accuracy is not measured: the model card names no data set" in out
    assert "4 images of digits" in out
    card = load_model(tmp_path / "converted_models" / f"{model}_bare_quantized.pth")[1]
    assert card.classes == names and card.scheme == "fp16" and card.image_size == 32


def test_batches_that_are_timed():
    assert BATCHES == (1, 32)


def test_half_precision_is_half_the_bytes(main_of, tmp_path):
    weights = checkpoint(tmp_path / "best_model.pth")
    main_of("quantize", "-w", weights)
    state = read_checkpoint(tmp_path / "converted_models" / "custom_quantized.pth")["model"]
    assert {value.dtype for value in state.values()} == {torch.float16, torch.int64}
    assert open_predictor(tmp_path / "converted_models" / "custom_quantized.pth").card.scheme == "fp16"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--scheme", "int4"), "invalid choice: 'int4'"),
        (("--calibration", "5"), "--calibration is for schemes that are calibrated"),
        (("--scheme", "int8", "--device", "cuda"), "makes a file for ONNX Runtime on the CPU: leave --device cuda out"),
        (("--scheme", "int8", "--output", "x.pth"), "--output x.pth must end in .onnx"),
        (("--equalize",), "this evens out integer grids"),
        (("--max_drop", "-1"), "--max_drop -1.0 must be from 0 to 100"),
        (("--dataset", "nowhere"), "--dataset nowhere does not exist; give FashionMNIST, digits, a folder"),
    ],
)
def test_what_a_user_can_get_wrong(flags, words, main_of, tmp_path):
    weights = checkpoint(tmp_path / "best_model.pth")
    with pytest.raises(UserError, match=words):
        main_of("quantize", "-w", weights, *flags)
    assert not (tmp_path / "converted_models").exists()


def test_int8_without_data_says_what_to_give(main_of, tmp_path):
    save_checkpoint(tmp_path / "bare.pth", {"model": trained()[0].state_dict()})
    with pytest.raises(UserError, match="the model card names no data set; say which") as error:
        main_of("quantize", "-w", tmp_path / "bare.pth", "-m", "custom", "--image_size", 16, "--scheme", "int8")
    assert error.value.option == "dataset"


def test_an_exported_file_and_a_pipe_are_refused_in_a_sentence(main_of, tmp_path):
    model, card = network_of("custom")
    export_model(model, card, "torchscript", tmp_path / "x.pt", images=generated_images(7), source="generated images")
    with pytest.raises(UserError, match=r"x\.pt is an exported file, not a checkpoint"):
        main_of("quantize", "-w", tmp_path / "x.pt")
    os.mkfifo(tmp_path / "pipe.pth")
    for script, *flags in (("quantize",), ("export", "-e", "onnx"), ("predict_ckpoint", "-i", tmp_path / "x.png")):
        generated_images(1)[0].save(tmp_path / "x.png")
        with pytest.raises(UserError, match=r"pipe\.pth is not a file"):
            main_of(script, "-w", tmp_path / "pipe.pth", *flags)


def test_quantizing_twice_is_refused(main_of, tmp_path):
    weights = checkpoint(tmp_path / "best_model.pth")
    main_of("quantize", "-w", weights)
    with pytest.raises(UserError, match=r"is quantized already \(fp16\); give the fp32 checkpoint"):
        main_of("quantize", "-w", tmp_path / "converted_models" / "custom_quantized.pth")


def test_as_a_script_it_ends_in_one_sentence(script):
    done = script("quantize.py", "-w", "nowhere.pth")
    sentence = "error: --weights nowhere.pth does not exist; train.py makes such files\n"
    assert (done.returncode, done.stderr, done.stdout) == (2, sentence, "")


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(
    ("model", "most", "smaller"), [("custom", 0.5, 3.5), ("resnet18", 0.5, 3.5), ("mobilenet_v3_small", 1.0, 2.5)]
)
def test_int8_keeps_the_accuracy_on_fashion_mnist(model, most, smaller, main_of, real_data, tmp_path):
    """On the 10,000 test images, after a short training: hardly a point lost, and much smaller."""
    data = open_dataset("FashionMNIST", str(real_data))
    card = ModelCard(model, data.classes, 32, training={"dataset": "FashionMNIST", "data_dir": str(real_data)})
    network = learn(card, data.train, steps=300)
    save_checkpoint(tmp_path / "best_model.pth", {"model": network.state_dict(), "card": card.to_dict()})
    status, _ = main_of("quantize", "-w", tmp_path / "best_model.pth", "--scheme", "int8")
    result = json.loads((tmp_path / "results" / "quantization" / "FashionMNIST" / f"{model}_int8.json").read_text())
    assert status == 0 and result["images"] == 10_000
    assert result["before"]["Acc@1"] > 0.7
    assert 100 * (result["before"]["Acc@1"] - result["after"]["Acc@1"]) <= most
    assert result["before"]["bytes"] >= smaller * result["after"]["bytes"]


def test_a_data_set_of_training_images_only(main_of, tmp_path, photos):
    """What was trained on measures no accuracy."""
    shutil.rmtree(photos / "val")
    card = ModelCard("custom", ["blue", "green", "red"], 16, training={"dataset": str(photos), "val_fraction": 0})
    state = build_model("custom", 3, 16).state_dict()
    save_checkpoint(tmp_path / "best_model.pth", {"model": state, "card": card.to_dict()})
    status, out = main_of("quantize", "-w", tmp_path / "best_model.pth")
    assert status == 0 and "accuracy is not measured: photos has no images apart from those of training" in out


def ruined(path, value):
    """A checkpoint of custom that names no data set, one of whose weights has become `value`."""
    network = build_model("custom", 10, 16)
    network.classifier[3].weight.data[0, 0] = value
    card = ModelCard("custom", [str(i) for i in range(10)], 16)
    save_checkpoint(path, {"model": network.state_dict(), "card": card.to_dict()})
    return path


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_leave_the_old_file_alone(value, main_of, tmp_path):
    weights = ruined(tmp_path / "best_model.pth", value)
    (tmp_path / "out.pth").write_bytes(b"a good one")
    with pytest.raises(UserError, match=r"best_model\.pth is damaged: classifier\.3\.weight has numbers that are not finite"):
        main_of("quantize", "-w", weights, "--output", "out.pth")
    assert (tmp_path / "out.pth").read_bytes() == b"a good one" and not (tmp_path / "out.pth.json").exists()


def test_buffers_may_have_infinite_limits():
    network = torch.nn.Linear(2, 2)
    network.register_buffer("limit", torch.tensor(float("inf")))
    finite_weights(network, "x.pth")
    network.limit.fill_(float("nan"))
    with pytest.raises(UserError, match=r"x\.pth is damaged: limit has"):
        finite_weights(network, "x.pth")


def test_answers_that_are_not_finite_are_refused_without_a_data_set_too(main_of, tmp_path):
    weights = tmp_path / "best_model.pth"
    network = build_model("custom", 10, 16)
    network.classifier[3].weight.data[:] = 3e38  # finite in bf16 too, but their sums are not
    card = ModelCard("custom", [str(i) for i in range(10)], 16)
    save_checkpoint(weights, {"model": network.state_dict(), "card": card.to_dict()})
    with pytest.raises(UserError, match="answers with numbers that are not finite: its weights are damaged or too great"):
        main_of("quantize", "-w", weights, "--scheme", "bf16")
