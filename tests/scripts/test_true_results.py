"""Results that would not be true are refused or said: names in another order, odd folders, files that replace others."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import make_photos
from digits_checkpoint import checkpoint, learn

from models.checkpoint import load_model, save_checkpoint
from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.core.files import origin, place_name, result_name
from utils.data.datasets import open_dataset
from utils.data.samples import generated_images
from utils.data.splits import Dataset
from utils.export.verify import export_model
from utils.inference.predictors import open_predictor

COLOURS = ["blue", "green", "red"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network that tells the colours of `photos` apart, and its card, which names no data set."""
    folder = make_photos(tmp_path_factory.mktemp("colours") / "photos")
    card = ModelCard("custom", COLOURS, 16)
    return learn(card, open_dataset(str(folder)).train, steps=30, batch=24), card


@pytest.fixture
def weights(trained, tmp_path):
    save_checkpoint(tmp_path / "best_model.pth", {"model": trained[0].state_dict(), "card": trained[1].to_dict()})
    return tmp_path / "best_model.pth"


@pytest.fixture
def bare(trained, tmp_path):
    """A file without a card."""
    torch.save(trained[0].state_dict(), tmp_path / "bare.pth")
    return tmp_path / "bare.pth"


@pytest.fixture
def evaluate(main_of, tmp_path):
    def call(*flags):
        main_of("eval", *flags, "--output", tmp_path / "x.json")
        return json.loads((tmp_path / "x.json").read_text())

    return call


def names(tmp_path, *lines):
    (tmp_path / "classes.txt").write_text("\n".join(lines))
    return tmp_path / "classes.txt"


def flat(photos):
    """The training images alone, as class folders."""
    for split in ("val", "test"):
        shutil.rmtree(photos / split, ignore_errors=True)
    for folder in list((photos / "train").iterdir()):
        folder.rename(photos / folder.name)
    (photos / "train").rmdir()
    return photos


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("red", "green", "blue"), "the classes in another order: 'red', 'blue' must stand as in 'blue', 'green', 'red'"),
        (("green", "bleu", "red"), r"another order: 'green' \('bleu' it does not know\)"),
        (("blue", "gren", "red"), "photos has other classes than the model was trained on: 'green'.*did you mean 'gren'"),
        (("blue", "red"), "it has 3 classes, not 2"),
    ],
)
@pytest.mark.parametrize("kind", ["checkpoint", "torchscript"])
def test_given_names_that_contradict_the_card_are_named(kind, lines, words, trained, weights, photos, evaluate, tmp_path):
    if kind == "torchscript":
        weights = tmp_path / "x.pt"
        export_model(*trained, kind, weights, images=generated_images(7), source="generated images")
    with pytest.raises(UserError, match=words if len(lines) == 3 else "3 classes, not 2|3 are named|2 classes are named"):
        evaluate("-w", weights, "-d", photos, "-c", names(tmp_path, *lines))


def test_a_translation_is_none(weights, tmp_path):
    assert load_model(weights, classes=["blau", "grün", "rot"])[1].classes == ["blau", "grün", "rot"]
    assert load_model(weights, classes=["blue", "vert", "rouge"])[1].classes == ["blue", "vert", "rouge"]


def test_names_given_to_a_file_without_any_are_matched_by_name(bare, photos, evaluate, tmp_path):
    """The outputs are called as the user says, in whatever order the folder has them."""
    flags = ("-w", bare, "-m", "custom", "--image_size", 16, "-d", photos)
    right = evaluate(*flags, "-c", names(tmp_path, *COLOURS))["Acc@1"]
    assert right > 0.8 and evaluate(*flags, "-c", names(tmp_path, "red", "green", "blue"))["Acc@1"] < 0.5
    with pytest.raises(UserError, match="did you mean 'gren'"):
        evaluate(*flags, "-c", names(tmp_path, "blue", "gren", "red"))


def test_invented_names_match_no_real_ones(trained, tmp_path, evaluate, bare, capsys):
    """Folders called as the invented names are: their order as text is not that of the outputs."""
    photos = make_photos(tmp_path / "numbers", classes=[str(i) for i in (1, 10, 2)])
    with pytest.raises(UserError, match="are numbers, whose order as text is another") as error:
        evaluate("-w", bare, "-m", "custom", "--image_size", 16, "-d", photos)
    assert error.value.option == "classes"
    photos = make_photos(tmp_path / "words")
    assert evaluate("-w", bare, "-m", "custom", "--image_size", 16, "-d", photos)["Acc@1"] > 0.8
    with pytest.raises(UserError, match="that its file does not name; name them"):
        evaluate("-w", bare, "-m", "custom", "--image_size", 16, "-d", make_photos(tmp_path / "two", classes=COLOURS[:2]))


def test_one_name_for_two_classes_is_refused(trained, photos, evaluate, tmp_path):
    card = trained[1].replace(classes=["blue", "green", "blue"]).to_dict()
    save_checkpoint(tmp_path / "twice.pth", {"model": trained[0].state_dict(), "card": card})
    shutil.rmtree(photos / "train" / "red")
    shutil.rmtree(photos / "val" / "red")
    with pytest.raises(UserError, match="two classes of the model are called 'blue'"):
        evaluate("-w", tmp_path / "twice.pth", "-d", photos)


def test_an_exported_file_without_a_card_is_fed_the_size_that_is_given(trained, photos, evaluate, tmp_path):
    """TorchScript takes any size where the network does; at 224 px this one would answer otherwise."""

    class Mean(torch.nn.Module):
        def forward(self, images):
            return images.mean((2, 3))

    torch.jit.save(torch.jit.script(Mean()), tmp_path / "mean.pt")
    flags = ("-w", tmp_path / "mean.pt", "-c", names(tmp_path, *COLOURS), "-d", photos)
    assert evaluate(*flags, "--image_size", 32)["image_size"] == 32
    assert evaluate(*flags)["image_size"] == 224


def test_any_folder_is_measured_whole(weights, photos, evaluate, tmp_path):
    whole = make_photos(tmp_path / "new", train=5, val=2)
    assert evaluate("-w", weights, "-d", whole)["measured"] == f"val of {whole}: 6 images"
    assert evaluate("-w", weights, "-d", flat(whole))["measured"] == f"the whole of {whole}: 15 images"
    only_test = make_photos(tmp_path / "tested", train=4, val=1)
    shutil.rmtree(only_test / "val")
    (only_test / "train").rename(only_test / "test")
    assert evaluate("-w", weights, "-d", only_test)["measured"] == f"test of {only_test}: 12 images"
    some = flat(make_photos(tmp_path / "some", classes=COLOURS[1:], train=5, val=1))
    result = evaluate("-w", weights, "-d", some)
    assert result["samples"] == 10 and result["per class"]["blue"]["support"] == 0
    with pytest.raises(UserError, match="'pink' is not among"):
        evaluate("-w", weights, "-d", flat(make_photos(tmp_path / "pink", classes=["blue", "pink"])))


def test_of_the_folder_that_was_trained_on_the_held_out_part_is_measured(trained, photos, evaluate, tmp_path):
    photos = flat(photos)
    card = trained[1].replace(training={"dataset": str(photos), "val_fraction": 0.25})
    save_checkpoint(tmp_path / "own.pth", {"model": trained[0].state_dict(), "card": card.to_dict()})
    held_out = evaluate("-w", tmp_path / "own.pth")["samples"]
    assert held_out < 24 and evaluate("-w", tmp_path / "own.pth", "-d", photos)["samples"] == held_out
    shutil.rmtree(photos / "red")  # some of it is gone
    assert evaluate("-w", tmp_path / "own.pth")["samples"] < held_out


def test_parts_of_a_folder_of_others_have_results_of_their_own(weights, photos, main_of, tmp_path):
    photos = flat(photos)
    main_of("eval", "-w", weights, "-d", photos)
    main_of("eval", "-w", weights, "-d", photos, "--val_fraction", 0.3)
    assert len(list((tmp_path / "results" / "accuracy").rglob("*.json"))) == 2


def test_results_of_unlike_measurements_have_unlike_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "a/photos", "b/photos"):
        (tmp_path / folder).mkdir(parents=True)
    assert [place_name(folder, "photos") for folder in ("photos/", "a/photos", "b/photos")] == [
        "photos",
        "a-photos",
        "b-photos",
    ]
    assert place_name("FashionMNIST", "FashionMNIST") == "FashionMNIST" and place_name(".", "x y") == "x-y"
    card = ModelCard("custom", COLOURS, training={"dataset": "data/photos"})
    usual = ("weights/photos/custom/best_model.pth", "weights/photos/custom/converted_models/custom_int8.onnx")
    assert {result_name(card, path) for path in usual} == {"custom"}
    assert result_name(card, "trials/photos/custom/best_model.pth", "int8", None) == "custom_int8_trials"
    named = card.replace(training=card.training | {"name": "wide"})
    assert result_name(named, "weights/photos/custom_wide/best_model.pth") == "custom_wide"
    (tmp_path / "old.pth").touch()
    assert result_name(card, "old.pth", "32px") == "custom_32px_old" and origin("../x/y") == "x-y"


def test_a_card_names_no_place(weights, trained, photos, main_of, tmp_path):
    """What would lead elsewhere is no name of an architecture, a scheme or a run."""
    for number, field in enumerate(({"architecture": "../../x"}, {"scheme": "../x"}, {"training": {"name": "../x"}})):
        values = trained[1].to_dict() | field
        path = tmp_path / f"crafted{number}.pth"
        save_checkpoint(path, {"model": trained[0].state_dict(), "card": values})
        with pytest.raises(UserError, match=f"{path.name} is not readable: {next(iter(field))} must be"):
            main_of("eval", "-w", path, "-d", photos)
    assert not list(tmp_path.parent.glob("x*")) and not (tmp_path / "results").exists()


def test_no_data_are_downloaded_to_where_a_file_says(trained, tmp_path, monkeypatch):
    from utils.data import datasets

    asked, empty = [], Dataset("empty", COLOURS, None)
    monkeypatch.setattr(datasets, "open_dataset", lambda name, place, *_, **options: asked.append(place) or empty)
    monkeypatch.setattr(datasets, "match_classes", lambda *_: None)
    card = trained[1].replace(training={"dataset": "FashionMNIST", "data_dir": str(tmp_path / "elsewhere")})
    datasets.dataset_of(card)
    datasets.dataset_of(card, data_dir="mine")
    assert asked == ["data/", "mine"]


@pytest.mark.parametrize("kind", ["torchscript", "pt2"])
def test_torch_files_compute_without_tf32(kind, trained, tmp_path, monkeypatch):
    path = tmp_path / f"x.{'pt' if kind == 'torchscript' else 'pt2'}"
    export_model(*trained, kind, path, images=generated_images(7), source="generated images")
    predictor, seen = open_predictor(path, device="cpu"), []
    network = predictor.network

    def watched(images):
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        return network(images)

    monkeypatch.setattr(predictor, "network", watched)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    predictor(np.zeros((1, 3, 16, 16), np.float32))
    assert seen == [(False, False)] and torch.backends.cudnn.allow_tf32


MEASURING = {
    "eval": ("Acc@1",),
    "quantize": ("int8-dynamic", "--scheme", "int8-dynamic"),
    "benchmark": ("images/s",),
    "complexity_fvcore": ("MACs",),
    "complexity_ptflops": ("MACs",),
    "complexity_thop": ("MACs",),
    "complexity_torchscan": ("MACs",),
}


@pytest.mark.parametrize(
    "script", [pytest.param(name, marks=pytest.mark.slow) if name == "benchmark" else name for name in MEASURING]
)
def test_what_was_measured_is_shown_though_it_cannot_be_written(script, main_of, tmp_path, capsys, full_results):
    shown, *flags = MEASURING[script]
    path = checkpoint(tmp_path / "best_model.pth")
    with pytest.raises(UserError, match=r"cannot be written \(No space left"):
        main_of(script, "-w", path, *flags)
    assert shown in capsys.readouterr().out


@pytest.mark.parametrize("script", ["eval", "quantize"])
def test_a_place_that_is_none_is_said_before_the_work(script, main_of, tmp_path, capsys):
    path = checkpoint(tmp_path / "best_model.pth")
    (tmp_path / "results").write_text("a file where the folder belongs")
    with pytest.raises(UserError, match="cannot be written"):
        main_of(script, "-w", path, *MEASURING[script][1:])
    assert MEASURING[script][0] not in capsys.readouterr().out
    assert sorted(place.name for place in tmp_path.iterdir()) == ["best_model.pth", "results"]
