"""Networks of torchvision and timm: names, heads, image sizes, pretrained weights, and what they refuse."""

import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file
from torch import nn

from models import from_torchvision
from models.build import build_model, build_outline, default_size, freeze_trunk, head_of, preprocessing
from models.listing import matching, outlines
from models.registry import MODELS, library_models, library_of, unknown_model
from utils.core.errors import UserError

SMALL = {"squeezenet1_1": 64, "shufflenet_v2_x0_5": 32, "mnasnet0_5": 32, "googlenet": 64, "timm/test_vit": 32,
         "timm/test_resnet": 32, "timm/test_convnext": 32}  # fmt: skip
OTHERS = [
    "squeezenet1_1",
    "shufflenet_v2_x0_5",
    "alexnet",
    "vgg11_bn",
    "densenet121",
    "convnext_tiny",
    "swin_t",
    "maxvit_t",
    "vit_b_16",
    "regnet_y_400mf",
]


def test_the_names_are_those_of_the_installed_libraries_and_need_no_torch():
    import timm
    from torchvision import models

    code = """if True:
        import sys
        from models.registry import library_models
        print(*library_models("torchvision"), *(f"timm/{name}" for name in library_models("timm")))
        sys.exit("torch" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    wanted = {f"torchvision/{name}" if name in MODELS else name for name in models.list_models(module=models)}
    assert done.returncode == 0
    assert set(done.stdout.split()) == wanted | {f"timm/{name}" for name in timm.list_models()}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("convnex_tiny", "Did you mean 'convnext_tiny'"),
        ("resnt18", "Did you mean 'resnet18'"),
        ("timm/vit_tiny", "Did you mean 'timm/vit_tiny_patch16_224'"),
        ("timm/resnet10t.../x", "no known model"),
        ("timm/../resnet10t", "no known model"),
        ("hf-hub:timm/resnet10t", "no known model"),
        ("fasterrcnn_resnet50_fpn", "no known model"),  # of torchvision, but it does not classify
    ],
)
def test_a_name_that_is_no_models_is_answered_with_the_nearest(name, said):
    assert said in unknown_model(name) and library_of(name) is None
    with pytest.raises(UserError, match="is no known model"):
        build_model(name, 3)


def test_without_timm_a_sentence_says_so(monkeypatch):
    monkeypatch.setattr("models.registry.library_models", lambda library: [])
    assert unknown_model("timm/resnet10t") == "needs timm, which is not installed: pip install timm"


@pytest.mark.parametrize(("name", "size"), SMALL.items())
def test_they_train_and_answer_for_any_number_of_classes(name, size):
    torch.manual_seed(0)
    model = build_model(name, 7, size)
    model.train()(torch.rand(2, 3, size, size)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.eval()(torch.rand(1, 3, size, size)).shape == (1, 7)
    freeze_trunk(model, name)
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert 0 < len(trained) < len(list(model.parameters())) and trained == {id(p) for p in head_of(model, name).parameters()}


@pytest.mark.parametrize("name", [*OTHERS[:2], *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS[2:])])
def test_the_head_is_one_layer_for_the_classes_and_all_else_is_as_torchvision_builds_it(name):
    from torchvision.models import get_model

    theirs = {key: value.shape for key, value in get_model(name, weights=None).state_dict().items()}
    model = build_outline(name, 7, default_size(name))
    ours = {key: value.shape for key, value in model.state_dict().items()}
    changed = [key for key in theirs if theirs[key] != ours[key]]
    assert theirs.keys() == ours.keys() and 1 <= len(changed) <= 2
    assert all(theirs[key] == (1000, *ours[key][1:]) and ours[key][0] == 7 for key in changed)
    weights = {id(value) for value in head_of(model, name).parameters()}
    assert weights == {id(value) for key, value in model.named_parameters() if key in changed}


@pytest.mark.slow
@pytest.mark.parametrize("name", library_models("torchvision"))
def test_every_classification_network_of_torchvision_is_taken_at_its_own_size(name):
    size = default_size(name)
    model = build_outline(name, 5, size).eval()
    assert model(torch.empty(2, 3, size, size, device="meta")).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("squeezenet1_1", 16, r"^squeezenet1_1 does not take images of 16 px \(.*\); 32 px would do$"),
        ("timm/test_vit", 33, r"^timm/test_vit does not take images of 33 px \(.*\); 32 px would do$"),
        ("timm/test_vit", 7, r"^7 px is too small for timm/test_vit; give 8 or more$"),
        pytest.param("maxvit_t", 64, "224 px would do", marks=pytest.mark.slow),
        pytest.param("inception_v3", 64, "96 px would do", marks=pytest.mark.slow),
    ],
)
def test_a_size_that_a_network_does_not_take_is_refused_with_one_that_it_takes(name, size, said):
    with pytest.raises(UserError, match=said) as error:
        build_model(name, 3, size)
    assert error.value.option == "image_size"


@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_efficientnet"])  # the second has BatchNorm with its activation
@pytest.mark.parametrize("norm", ["GN", "LN", "IN", "SyncBN"])
def test_a_norm_type_that_has_nothing_to_replace_is_refused(name, norm):
    with pytest.raises(UserError, match=f"no plain BatchNorm layers that {norm} could replace") as error:
        build_model(name, 3, 32, norm)
    assert error.value.option == "norm_type"


def test_a_norm_type_replaces_the_batch_norms_of_a_library_too():
    model = build_model("shufflenet_v2_x0_5", 3, 32, "GN")
    kinds = {type(layer).__name__ for layer in model.modules()}
    assert "GroupNorm" in kinds and "BatchNorm2d" not in kinds


def test_two_heads_of_a_distilled_network_are_trained_together():
    model = build_outline("timm/levit_128s", 3, 64)
    assert len(head_of(model, "timm/levit_128s")) == 2


def test_a_network_without_a_head_cannot_be_frozen():
    network = nn.Sequential(nn.Linear(2, 2))
    network.get_classifier = nn.Identity
    with pytest.raises(UserError, match="no head that could be trained alone") as error:
        freeze_trunk(network, "timm/test_vit")
    assert error.value.option == "freeze"


# Pretrained weights, from a cache that the tests fill


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder where torch.hub keeps weights; nothing can be downloaded."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def dead(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.urlopen", dead)
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_weights_of_timm_are_read_from_the_cache_and_their_absence_names_file_and_folder(cache):
    import timm

    name = "timm/test_vit.r160_in1k"
    with pytest.raises(UserError) as error:
        build_model(name, 3, 160, pretrained=True)
    assert "test_vit.r160_in1k.safetensors into " + str(cache) in str(error.value) and "no network" in str(error.value)
    theirs = timm.create_model("test_vit", num_classes=1000)
    save_file(theirs.state_dict(), cache / "test_vit.r160_in1k.safetensors")
    model = build_model(name, 3, 160, pretrained=True)
    assert torch.equal(model.blocks[1].mlp.fc1.weight, theirs.blocks[1].mlp.fc1.weight)
    assert model.head.out_features == 3
    resized = build_model(name, 3, 96, pretrained=True)  # its position embeddings are interpolated
    assert resized(torch.zeros(1, 3, 96, 96)).shape == (1, 3)


def test_a_tag_that_timm_does_not_know_is_answered_with_those_that_it_does():
    with pytest.raises(UserError, match=r"test_vit has no weights tagged 'r16_in1k'. Did you mean 'r160_in1k'"):
        preprocessing("timm/test_vit.r16_in1k", pretrained=True)


def test_weights_of_another_size_bring_interpolated_position_embeddings(monkeypatch):
    from torchvision.models import VisionTransformer, ViT_B_16_Weights

    torch.manual_seed(0)

    def tiny(name, weights=None, image_size=32, **options):
        made = VisionTransformer(image_size, 16, 1, 2, 8, 8)
        if weights:
            made.load_state_dict(weights)
        return made

    own = tiny("vit", image_size=32).state_dict()
    monkeypatch.setattr(from_torchvision, "get_model", tiny)
    weights = from_torchvision.Weights("", "", 32, 32, "bilinear", (0,) * 3, (1,) * 3, entry=own)
    model = from_torchvision.build("vit_b_16", 3, 64, weights)
    assert model.encoder.pos_embedding.shape == (1, 17, 8) and own["encoder.pos_embedding"].shape == (1, 5, 8)
    assert torch.equal(model.encoder.pos_embedding[:, 0], own["encoder.pos_embedding"][:, 0])
    assert torch.equal(model.conv_proj.weight, own["conv_proj.weight"])
    assert ViT_B_16_Weights.DEFAULT.meta["min_size"] == (224, 224)


@pytest.mark.parametrize("name", ["googlenet", pytest.param("inception_v3", marks=pytest.mark.slow)])
def test_pretrained_networks_with_auxiliary_heads_answer_as_torchvision_does(name, monkeypatch):
    """Without those heads, and with the normalisation of their weights in the card instead of the network."""
    from torchvision.models import get_model, get_model_weights

    torch.manual_seed(0)
    entry = get_model_weights(name).DEFAULT
    state = get_model(name, weights=None, init_weights=False).state_dict()
    monkeypatch.setattr(type(entry), "get_state_dict", lambda self, *a, **k: state)
    theirs = get_model(name, weights=entry).eval()
    model = build_model(name, 1000, pretrained=True).eval()
    model.fc = theirs.fc
    card, images = preprocessing(name, pretrained=True), torch.rand(2, 3, 96, 96)
    plain = entry.transforms()

    def normalised(mean, std):
        return (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    with torch.no_grad():
        wanted = theirs(normalised(plain.mean, plain.std))
        assert torch.allclose(model(normalised(card["mean"], card["std"])), wanted, atol=1e-4)
    assert type(model.train()(images)) is torch.Tensor


@pytest.mark.parametrize(
    ("name", "size", "wanted"),
    [
        ("resnet18", None, (224, 256, "bilinear", 0.485)),
        ("resnet50", None, (224, 232, "bilinear", 0.485)),
        ("resnet50", 112, (112, 116, "bilinear", 0.485)),
        ("efficientnet_v2_s", None, (384, 384, "bilinear", 0.485)),
        ("efficientnet_b0", None, (224, 256, "bicubic", 0.485)),
        ("googlenet", None, (224, 256, "bilinear", 0.5)),
        ("timm/vit_tiny_patch16_224", None, (224, 248, "bicubic", 0.5)),
        ("timm/resnet10t", 88, (88, 100, "bicubic", 0.485)),
    ],
)
def test_images_are_prepared_as_the_weights_ask(name, size, wanted):
    found = preprocessing(name, size, pretrained=True)
    assert (found["image_size"], found["resize_size"], found["interpolation"], found["mean"][0]) == wanted


def test_without_weights_only_the_size_is_the_networks_own():
    assert preprocessing("inception_v3") == {"image_size": 299}
    assert preprocessing("timm/resnet10t") == {"image_size": 176}
    assert preprocessing("efficientnet_v2_s") == {"image_size": 224}
    assert preprocessing("timm/resnet10t", 64) == {"image_size": 64}


# The list


def test_the_list_matches_names_with_and_without_the_library():
    assert matching("squeezenet*") == ["squeezenet1_0", "squeezenet1_1"]
    assert matching("resnet18") == ["resnet18", "torchvision/resnet18", "timm/resnet18"]
    assert matching("timm/test_vi*")[0] == "timm/test_vit"
    with pytest.raises(UserError, match="'nothing' matches no model"):
        matching("nothing")


def test_parameters_are_those_with_a_thousand_classes():
    import timm
    from torchvision.models import SqueezeNet1_1_Weights

    published = SqueezeNet1_1_Weights.DEFAULT.meta["num_params"]
    theirs = sum(parameter.numel() for parameter in timm.create_model("test_vit").parameters())
    wanted = [("squeezenet1_1", published, 224), ("timm/test_vit", theirs, 160)]
    assert list(outlines(name for name, *_ in wanted)) == wanted


def test_an_outline_takes_no_memory_also_where_widths_are_computed_with_tensors():
    from torchvision.models import RegNet_Y_400MF_Weights

    network = build_outline("regnet_y_400mf", 1000, 224)
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
    assert sum(p.numel() for p in network.parameters()) == RegNet_Y_400MF_Weights.DEFAULT.meta["num_params"]
    assert build_model("regnet_y_400mf", 3, 32, "GN") is not None


def test_train_prints_the_list(main_of):
    status, out = main_of("train", "--list_models", "squeezenet1_?")
    assert not status and [line.split()[0] for line in out.splitlines()] == ["squeezenet1_0", "squeezenet1_1"]
    assert "1.24 M parameters" in out and "224 px" in out
