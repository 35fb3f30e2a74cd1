"""The exact count against layers counted by hand, and the five counters against the exact count, on every model."""

import json
import pathlib
import re
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn import functional as F

from docs import make_tables
from models.build import build_model
from models.checkpoint import save_checkpoint
from models.registry import list_models
from utils.complexity.comparison import describe, measure
from utils.complexity.counters import COUNTERS, Profile
from utils.complexity.exact import analyse
from utils.complexity.formulas import CAUSES, PRODUCTS
from utils.complexity.reconcile import reconcile
from utils.core.card import ModelCard
from utils.core.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = [f"complexity_{tool}" for tool in ("fvcore", "ptflops", "thop", "torchscan")]
BIG = {"efficientnet_v2_m", "efficientnet_v2_l", "resnet34", "resnet101", "resnet152", "wide_resnet50_2", "mobilenet_v3_large"}
MODELS_FAST_AND_SLOW = [pytest.param(name, marks=pytest.mark.slow) if name in BIG else name for name in list_models()]


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def flops(layer, image_size=8):
    analysis = analyse(layer, image_size)
    assert not analysis.unknown
    return {cause: n for cause, n in analysis.flops_by_cause.items() if n}


# Counted by hand for an input of 1×3×8×8 = 192 elements.
BY_HAND = {
    "convolution 3×3 with padding and bias": (
        nn.Conv2d(3, 4, 3, padding=1),  # 4·8·8 outputs of 3·3·3 products
        {"convolution": 2 * 256 * 27, "bias": 256},
    ),
    "convolution with stride, no bias": (nn.Conv2d(3, 5, 3, stride=2, bias=False), {"convolution": 2 * (5 * 3 * 3) * 27}),
    "convolution in groups": (nn.Conv2d(3, 6, 3, groups=3, bias=False), {"convolution": 2 * (6 * 6 * 6) * 9}),
    "convolution with dilation": (nn.Conv2d(3, 1, 3, dilation=2, bias=False), {"convolution": 2 * (4 * 4) * 27}),
    "asymmetric convolution": (nn.Conv2d(3, 2, (1, 5), bias=False), {"convolution": 2 * (2 * 8 * 4) * 15}),
    "transposed convolution": (  # each of the 192 inputs feeds 2·2 places of 5 channels
        nn.ConvTranspose2d(3, 5, 2, stride=2),
        {"convolution": 2 * 192 * 20, "bias": 5 * 16 * 16},
    ),
    "linear": (nn.Sequential(nn.Flatten(), nn.Linear(192, 7)), {"linear": 2 * 192 * 7, "bias": 7}),
    "linear without bias": (nn.Sequential(nn.Flatten(), nn.Linear(192, 7, bias=False)), {"linear": 2 * 192 * 7}),
    "batch norm": (nn.BatchNorm2d(3), {"normalisation": 2 * 192}),
    "group norm": (nn.GroupNorm(1, 3), {"normalisation": 5 * 192}),
    "layer norm": (nn.LayerNorm((3, 8, 8)), {"normalisation": 5 * 192}),
    "instance norm": (nn.InstanceNorm2d(3), {"normalisation": 5 * 192}),
    "batch norm without running statistics": (nn.BatchNorm2d(3, track_running_stats=False), {"normalisation": 5 * 192}),
    "ReLU": (nn.ReLU(), {"activation": 192}),
    "ReLU in place": (nn.ReLU(inplace=True), {"activation": 192}),
    "ReLU6": (nn.ReLU6(), {"activation": 2 * 192}),
    "sigmoid": (nn.Sigmoid(), {"activation": 4 * 192}),
    "hard sigmoid": (nn.Hardsigmoid(), {"activation": 4 * 192}),
    "hard swish": (nn.Hardswish(), {"activation": 5 * 192}),
    "SiLU": (nn.SiLU(), {"activation": 5 * 192}),
    "maximum of 3×3": (nn.MaxPool2d(3, 2, 1), {"pooling": (3 * 4 * 4) * 8}),
    "maximum of 2×3": (nn.MaxPool2d((2, 3)), {"pooling": (3 * 4 * 2) * 5}),
    "average of 2×2": (nn.AvgPool2d(2), {"pooling": (3 * 4 * 4) * 4}),
    "global average": (nn.AdaptiveAvgPool2d(1), {"pooling": 192}),
    # 8 into 3 bins: 0–2, 2–5, 5–7, of 3, 4 and 3 taps, along each side
    "adaptive average with windows that overlap": (nn.AdaptiveAvgPool2d(3), {"pooling": 3 * 10 * 10}),
    "sum": (Function(lambda x: x + x), {"elementwise": 192}),
    "gate over channels": (Function(lambda x: x * x[:, :, :1, :1]), {"elementwise": 192}),
    "product of matrices": (Function(lambda x: x[0] @ x[0]), {"attention": 2 * 3 * 8 * 8 * 8}),
    "length of vectors": (Function(lambda x: x.norm(dim=1)), {"normalisation": 2 * 192}),
    "sum over an axis": (Function(lambda x: x.sum(1)), {"pooling": 192}),
    "sine": (Function(torch.sin), {"elementwise": 192}),
    "leaky ReLU": (nn.LeakyReLU(), {"activation": 2 * 192}),
    "bilinear enlarging": (nn.Upsample(scale_factor=2, mode="bilinear"), {"elementwise": 7 * 4 * 192}),  # 4 products, 3 sums
    "nearest neighbours and mirrored borders": (nn.Sequential(nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1)), {}),
    "nothing": (nn.Sequential(nn.Dropout(), nn.Flatten(), nn.Identity()), {}),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_layers_counted_by_hand(name):
    layer, expected = BY_HAND[name]
    assert flops(layer) == expected


@settings(max_examples=40)
@given(
    groups=st.integers(1, 3),
    ins=st.integers(1, 3),
    outs=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    size=st.integers(8, 12),
)
def test_macs_of_a_convolution_are_what_a_convolution_of_ones_sums_up(groups, ins, outs, kernel, stride, dilation, size):
    layer = nn.Conv2d(groups * ins, groups * outs, kernel, stride, dilation=dilation, groups=groups, bias=False)
    network = nn.Sequential(nn.Conv2d(3, groups * ins, 1, bias=False), layer)
    nn.init.ones_(layer.weight)
    sum_of_ones = layer(torch.ones(1, groups * ins, size, size)).sum().item()
    assert analyse(network, size).macs - size * size * 3 * groups * ins == sum_of_ones


@pytest.mark.parametrize("decide", [lambda x: x if x.mean() > 0.1 else -x, lambda x: x[x > 0], lambda x: x * x.sum().item()])
def test_a_network_that_decides_by_values_is_a_user_error(decide):
    with pytest.raises(UserError, match="Function decides by the values of its image, which a count from shapes"):
        analyse(Function(decide), 8)
    with pytest.raises(UserError, match="mine decides by"):
        analyse(Function(decide), 8, "mine")
    with pytest.raises(RuntimeError, match="invalid for input of size"):  # any other fault keeps its traceback
        analyse(Function(lambda x: x.view(5, 5)), 8)


def test_memory_of_a_chain_by_hand():
    analysis = analyse(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()), 8)
    image, hidden = 3 * 64 * 4, 4 * 64 * 4  # bytes
    assert analysis.peak_bytes == 2 * hidden  # at the ReLU, the image being gone
    assert analysis.eager_peak_bytes == image + 2 * hidden  # the caller still holds the image
    assert analysis.weight_bytes == (4 * 27 + 4) * 4
    assert analysis.bytes_moved == (image + (4 * 27 + 4) * 4 + hidden) + 2 * hidden
    in_place = analyse(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True)), 8)
    assert in_place.peak_bytes == in_place.eager_peak_bytes == image + hidden


def test_memory_of_a_branch_by_hand():
    class Branch(nn.Module):
        def forward(self, x):
            return torch.relu(torch.relu(x)) + x

    assert analyse(Branch(), 8).peak_bytes == 3 * 192 * 4  # x lives until the sum; so do both sides of an operator


def test_views_of_one_memory_count_once():
    assert analyse(Function(lambda x: x.flatten(1).view(1, 3, 8, 8).transpose(2, 3)), 8).peak_bytes == 192 * 4


def test_an_operator_that_is_not_in_the_table_is_named():
    analysis = analyse(Function(lambda x: torch.cumprod(x, 1)), 8)
    assert analysis.unknown == {"cumprod": 1}


def test_shared_layers_run_twice_and_weigh_once():
    layer = nn.Conv2d(3, 3, 1, bias=False)
    analysis = analyse(nn.Sequential(layer, layer), 8)
    assert analysis.macs == 2 * 64 * 9 and analysis.parameters["all"] == 9 and analysis.weight_bytes == 36


def snapshot(model):
    """All of a model that a tool could disturb."""
    return {
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "attributes": {
            path: {name: value for name, value in vars(module).items() if not name.startswith("_")}
            for path, module in model.named_modules()
        },
        "names": {path: sorted(vars(module)) for path, module in model.named_modules()},
        "hooks": {
            path: [len(getattr(module, name)) for name in vars(module) if name.endswith("_hooks")]
            for path, module in model.named_modules()
        },
        "buffers": [name for name, _ in model.named_buffers()],
        "training": [module.training for module in model.modules()],
        "trainable": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [parameter.grad is None for parameter in model.parameters()],
        "torch": [
            F.relu,
            F.silu,
            F.max_pool2d,
            F.adaptive_avg_pool2d,
            torch.mul,
            torch.add,
            torch.matmul,
            set(vars(torch.Tensor)),
        ],
    }


def assert_same(before, after):
    assert before["state"].keys() == after["state"].keys()
    assert all(torch.equal(tensor, after["state"][name]) for name, tensor in before["state"].items())
    for what in before.keys() - {"state"}:
        assert before[what] == after[what], what


def check_counters(model, image_size):
    """Every counter, with its books closed to the last operation and the model left as it was; {tool: reconciliation}."""
    before = snapshot(model)
    analysis = analyse(model, image_size)
    assert_same(before, snapshot(model))
    results = {}
    for tool, count in COUNTERS.items():
        profile = count(model, image_size)
        assert_same(before, snapshot(model))
        result = reconcile(analysis, profile.counts, profile.macs)
        assert all(type(n) is int for n in (profile.macs, result["total"], *profile.counts.values()))
        assert result["unexplained"] == 0, tool
        assert sum(result["difference"].values()) == result["total"] == 2 * profile.macs - analysis.flops, tool
        assert sum(result["counted"].values()) == 2 * profile.macs, tool
        assert -result["difference"]["not counted"] == sum(row["flops"] for row in result["left_out"]), tool
        assert profile.rows[0]["macs"] == profile.macs and profile.rows[0]["module"] == "", tool
        assert profile.text(None) and len(profile.text(1)) <= len(profile.text(None))
        results[tool] = result
    return analysis, results


@pytest.mark.parametrize("name", MODELS_FAST_AND_SLOW)
def test_all_counters_on_every_model_add_up_exactly_and_leave_it_alone(name):
    model = build_model(name, 10, 32).train()
    next(model.children()).eval()  # a mixture of modes must come back as it was
    analysis, results = check_counters(model, 32)
    assert not analysis.unknown
    for tool, result in results.items():
        for cause in PRODUCTS:  # on these networks all five agree on what convolutions and linear layers cost
            assert result["difference"][cause] == 0 and result["counted"][cause] == analysis.flops_by_cause[cause], (
                tool,
                cause,
            )
    assert results["torch"]["total"] == 2 * analysis.macs - analysis.flops


OF_LIBRARIES = {"timm/test_vit": 32, "timm/test_convnext": 32, "timm/levit_128s": 64, "squeezenet1_1": 32, "googlenet": 64,
                "timm/mixer_s32_224": 32, "timm/xcit_nano_12_p16_224": 32, "timm/edgenext_xx_small": 64, "vit_b_16": 32,
                "timm/mobilevit_xxs": 64, "timm/swin_tiny_patch4_window7_224": 32, "densenet121": 32}  # fmt: skip
QUICK = list(OF_LIBRARIES)[:5]


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in OF_LIBRARIES]
)
def test_all_counters_add_up_on_networks_of_libraries_too(name):
    size = OF_LIBRARIES[name]
    analysis, results = check_counters(build_model(name, 10, size), size)
    assert not analysis.unknown
    assert results["torch"]["total"] == 2 * analysis.macs - analysis.flops


@pytest.mark.parametrize("norm", ["GN", "LN", "IN", "SyncBN"])
def test_counters_add_up_with_every_normalisation(norm):
    analysis, results = check_counters(build_model("resnet18", 10, 32, norm), 32)
    missed = {row["module"] for row in results["thop"]["left_out"] if row["cause"] == "normalisation"}
    assert len(missed) == (0 if norm == "SyncBN" else 20)  # thop knows no group norm
    assert not analysis.unknown


@pytest.mark.parametrize("make", ["shared", "functional"])
def test_counters_add_up_on_shared_layers_and_functional_calls(make):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            y = F.relu(self.convolution(x))
            y = F.max_pool2d(torch.add(y, torch.mul(x, y)), 2)
            return F.adaptive_avg_pool2d(F.silu(y), 1).flatten(1)

    model = Functional() if make == "functional" else nn.Sequential(*[nn.Conv2d(3, 3, 1)] * 2, nn.ReLU())
    check_counters(model, 8)


def test_a_difference_is_charged_to_its_cause_or_to_not_counted():
    analysis = analyse(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()), 8)
    counts = {("0", "convolution"): 256 * 27, ("1", "normalisation"): 4 * 256, ("2", "pooling"): 5}
    result = reconcile(analysis, counts, 256 * 27 + 4 * 256 + 5 + 3)
    assert result["difference"] == dict.fromkeys(CAUSES, 0) | {
        "normalisation": (8 - 2) * 256,
        "pooling": 10,
        "not counted": -256 - 256,  # bias, ReLU
    }
    assert [(row["module"], row["cause"]) for row in result["left_out"]] == [("0", "bias"), ("2", "activation")]
    assert result["unexplained"] == 6  # three MACs of the total are in no part


# From the tools themselves, at 224 px with 10 classes: (parameters, torchscan's MACs, fvcore's by operator)
KNOWN = {
    "custom": (12_871_690, "153.29", {"conv": 137_281_536, "linear": 12_847_616, "batch_norm": 2_809_856}),
    "resnet18": (11_310_410, "1819.09", {"conv": 1_813_561_344, "linear": 133_632}),
    "mobilenet_v3_small": (1_077_290, "58.19", {"conv": 54_896_576, "linear": 150_016}),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_figures_at_224_px(name):
    parameters, macs, operators = KNOWN[name]
    model = build_model(name, 10)
    fvcore, torchscan, torch_ = (COUNTERS[tool](model, 224) for tool in ("fvcore", "torchscan", "torch"))
    assert analyse(model, 224).parameters == {"trainable": parameters, "all": parameters}
    assert fvcore.parameters == torchscan.parameters == parameters
    assert f"{torchscan.macs / 1e6:.2f}" == macs
    assert operators.items() <= fvcore.by_operator.items()
    assert torch_.macs == analyse(model, 224).macs == fvcore.by_operator["conv"] + fvcore.by_operator["linear"]


def test_a_network_in_training_mode_is_counted_as_one_at_rest():
    model = build_model("custom", 10, 32)
    resting, training = analyse(model.eval(), 32), analyse(model.train(), 32)
    assert training.flops_by_cause == resting.flops_by_cause and training.unknown == {} and model.training


def test_frozen_parameters_are_told_apart():
    model = build_model("custom", 10, 32)
    model.layer1.requires_grad_(False)
    assert analyse(model, 32).parameters == {"trainable": 288_778 - 480, "all": 288_778} == _counted_by_hand()


def _counted_by_hand():
    layers = [(3 * 9 + 1) * 16 + 32, (16 * 9 + 1) * 32 + 64, (32 * 9 + 1) * 64 + 128, (64 * 16 + 1) * 256, 257 * 10]
    return {"trainable": sum(layers[1:]), "all": sum(layers)}


def test_a_failure_of_ptflops_is_not_swallowed():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(5, 5, 1)

        def forward(self, x):
            return self.layer(x)

    before = F.relu
    with pytest.raises(RuntimeError, match="ptflops could not count"):
        COUNTERS["ptflops"](Broken(), 8)
    assert F.relu is before


@pytest.mark.parametrize("script_name", SCRIPTS)
def test_scripts_write_the_tools_table_our_summary_and_json(script_name, main_of, tmp_path):
    tool = script_name.removeprefix("complexity_")
    status, out = main_of(script_name, "-m", "custom", "--image_size", 32, "--num_classes", 7, "--device", "cpu")
    path = tmp_path / "results" / "complexity" / f"custom_32px_7classes_complexity_{tool}.txt"
    text, record = path.read_text(), json.loads(path.with_suffix(".json").read_text())
    assert status == 0 and out.startswith(text.rstrip())
    assert record["tool"] == tool and record["input_shape"] == [1, 3, 32, 32]
    assert record["flops"] == 2 * record["macs"] and f"{record['macs']:,}" in text and "1 MAC = 2 FLOPs" in text
    assert record["parameters"]["all"] == record["parameters"]["trainable"] == _counted_by_hand()["all"] - 3 * 257
    assert [row["module"] for row in record["rows"]] == [name for name, _ in build_model("custom", 7, 32).named_modules()]
    assert (record["dmas"] is not None) == (tool == "torchscan")
    assert (record["by_operator"] is not None) == (tool == "fvcore")
    for row in record["difference"]["left_out"]:
        assert re.search(rf"^{row['module'] or '.the network.'} .*{row['cause']} .*{row['flops']:,}$", text, re.MULTILINE)


def test_torchscan_shows_our_receptive_field_and_no_negative_memory(main_of, tmp_path):
    _, out = main_of("complexity_torchscan", "-m", "custom", "--image_size", 64, "--device", "cpu")
    column = re.findall(r"MaxPool2d .*?(\S+)$", out, re.MULTILINE)
    assert column[:3] == ["4", "10", "22"] and re.search(r"Linear .*global$", out, re.MULTILINE)
    assert not re.search(r"-\d", out)
    rows = json.loads((tmp_path / "results/complexity/custom_64px_complexity_torchscan.json").read_text())["rows"]
    fields = {row["module"]: row["receptive_field"] for row in rows}
    assert fields["layer3.3"] == [22, 22] and fields["classifier.0"] == [None, None]


def test_torchscan_names_the_layers_that_it_does_not_know():
    profile = COUNTERS["torchscan"](build_model("mobilenet_v3_small", 10, 32), 32)
    assert any("Hardswish" in remark and "partial" in remark for remark in profile.remarks)
    assert {row["type"] for row in profile.rows if row["status"] == "partial"} >= {"Hardswish", "Hardsigmoid"}


@pytest.mark.parametrize("tool", COUNTERS)
def test_max_depth_cuts_the_table(tool):
    profile = COUNTERS[tool](build_model("resnet18", 10, 32), 32)
    lengths = [len(profile.text(depth).splitlines()) for depth in (0, 1, 2, 9, None)]
    assert lengths == sorted(lengths) and lengths[0] < lengths[1] < lengths[2] < lengths[3] == lengths[4]


def save_custom(path, image_size=32, classes=5):
    model = build_model("custom", classes, image_size)
    card = ModelCard("custom", [str(i) for i in range(classes)], image_size)
    save_checkpoint(path, {"model": model.state_dict(), "card": card.to_dict()})
    return path


def test_a_checkpoint_with_a_card_needs_no_other_flag(main_of, tmp_path):
    weights = save_custom(tmp_path / "best_model.pth")
    status, out = main_of("complexity", "-w", weights, "--device", "cpu")
    result = json.loads((tmp_path / "results/complexity/custom_32px_5classes_complexity.json").read_text())
    assert status == 0 and result["input_shape"] == [1, 3, 32, 32]
    assert result["exact"]["parameters"]["all"] == _counted_by_hand()["all"] - 5 * 257
    assert all(tool["unexplained"] == 0 for tool in result["tools"].values()) and "unexplained" not in out
    assert sum(layer["macs"] for layer in result["layers"]) == result["exact"]["macs"]
    assert sum(layer["parameters"] for layer in result["layers"]) == result["exact"]["parameters"]["all"]
    assert out.startswith((tmp_path / "results/complexity/custom_32px_5classes_complexity.txt").read_text().rstrip())
    with Image.open(tmp_path / "results/complexity/custom_32px_5classes_complexity.png") as picture:
        assert picture.width > 1000 and len(picture.convert("RGB").getcolors(1 << 24)) > 50


def test_a_run_without_a_network_is_refused(main_of, tmp_path):
    with pytest.raises(UserError, match="-m/--model NAME or -w/--weights FILE"):
        main_of("complexity")
    assert not (tmp_path / "results").exists()


def test_what_a_tool_cannot_explain_is_shown(monkeypatch):
    result = measure(build_model("custom", 10, 32), "custom", 32)
    result["tools"]["thop"]["unexplained"] = 12
    assert re.search(r"^unexplained .*\+12", describe(result), re.MULTILINE)
    assert "unexplained" not in describe(result | {"tools": {"torch": result["tools"]["torch"]}})


def test_committed_results_are_what_the_tools_say_now():
    results = [json.loads(path.read_text()) for path in sorted(ROOT.glob("results/reference/complexity/*_complexity.json"))]
    names = {"custom", "resnet18", "mobilenet_v3_small", "resnet50", "efficientnet_v2_s"}
    assert names <= {result["model"] for result in results}
    for result in results:
        assert result["input_shape"] == [1, 3, 224, 224]
        for tool in result["tools"].values():
            assert sum(tool["difference"].values()) == tool["total"] == tool["flops"] - result["exact"]["flops"]
        for tool in SCRIPTS:
            name = tool.replace("complexity", f"{result['model']}_complexity")
            assert (ROOT / "results/reference/complexity" / f"{name}.txt").stat().st_size > 1000
            record = json.loads((ROOT / "results/reference/complexity" / f"{name}.json").read_text())
            assert record["macs"] == result["tools"][record["tool"]]["macs"] == record["rows"][0]["macs"]
    custom = next(result for result in results if result["model"] == "custom")
    analysis = analyse(build_model("custom", 10), 224)
    assert custom["exact"]["flops_by_cause"] == analysis.flops_by_cause
    assert custom["memory"]["peak_activation_bytes"] == analysis.peak_bytes


def test_the_table_in_the_docs_is_drawn_from_the_committed_results():
    drawn = make_tables.table("complexity")
    assert "| custom | 12,871,690 | 150.13 |" in drawn and "| resnet18 | 11,310,410 | 1,813.69 |" in drawn


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["custom", "resnet18", "mobilenet_v3_small"])
def test_on_a_gpu_the_counts_are_the_same_and_the_peak_is_measured(name):
    network = build_model(name, 10).eval()
    on_cpu, on_gpu = measure(network, name, 224), measure(network.cuda(), name, 224)
    assert on_cpu["tools"] == on_gpu["tools"] and on_cpu["exact"] == on_gpu["exact"]
    assert on_gpu["memory"]["peak_activation_bytes_measured"] >= on_gpu["memory"]["peak_activation_bytes"]
    assert on_cpu["memory"]["peak_activation_bytes_measured"] is None


@pytest.mark.slow
def test_the_whole_of_complexity_takes_at_most_20_s_for_resnet18(script):
    start = time.perf_counter()
    done = script("complexity.py", "-m", "resnet18")
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start <= 20  # seconds


def test_profile_fields_are_filled_by_every_counter():
    for tool, count in COUNTERS.items():
        profile = count(build_model("custom", 10, 32), 32)
        assert isinstance(profile, Profile) and profile.tool == tool and profile.version
