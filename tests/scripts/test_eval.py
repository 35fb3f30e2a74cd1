import csv
import json
import pathlib
import re
import shutil

import pytest
import torch
from conftest import make_photos
from digits_checkpoint import checkpoint as save_trained

from models.build import build_model
from models.checkpoint import load_model, read_checkpoint, save_checkpoint
from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.core.text import printable
from utils.data.datasets import open_dataset
from utils.data.loader import eval_batches
from utils.evaluation.metrics import METRICS, metric


@pytest.fixture
def checkpoint(tmp_path):
    """FashionCNN for the digits with random weights, and its card."""
    torch.manual_seed(0)
    card = ModelCard("custom", [str(i) for i in range(10)], 16, training={"dataset": "digits"})
    path = tmp_path / "a.pth"
    save_checkpoint(path, {"model": build_model("custom", 10, 16).state_dict(), "card": card.to_dict()})
    return path


def result(tmp_path, name="custom_a"):
    return json.loads((tmp_path / "results" / "accuracy" / "digits" / f"{name}.json").read_text())


def test_the_report_is_whole(checkpoint, main_of, tmp_path):
    status, out = main_of("eval", "-w", checkpoint)
    got = result(tmp_path)
    assert status == 0 and got["samples"] == 359 and got["split"] == "test" and got["precision"] == "computes in fp32"
    low, high = got["Acc@1 95 % interval"]
    assert low < got["Acc@1"] < high and len(got["confusion matrix"]) == 10
    assert set(got["per class"]["3"]) == {"precision", "recall", "F1", "support"}
    assert "95 % interval" in out and "_mistakes.png beside it" in out


def test_the_classes_with_the_lowest_f1_are_named(main_of, tmp_path):
    _, out = main_of("eval", "-w", save_trained(tmp_path / "trained.pth"))
    of_classes = {name: values["F1"] for name, values in result(tmp_path, "custom_trained")["per class"].items()}
    said = re.findall(r"(\d) \(F1 (\d\.\d+)\)", out.partition("weakest classes:")[2])
    lowest = sorted(of_classes.values())[:3]
    assert [float(f1) for _, f1 in said] == pytest.approx(lowest, abs=6e-4) and lowest[2] < max(of_classes.values())
    assert all(of_classes[name] == pytest.approx(float(f1), abs=6e-4) for name, f1 in said)


def test_the_figures_show_what_the_report_says(main_of, tmp_path, figures):
    main_of("eval", "-w", save_trained(tmp_path / "trained.pth"))
    got = result(tmp_path, "custom_trained")
    confusion, mistakes = figures
    numbers = {(row, column): int(text.get_text()) for text in confusion.axes[0].texts for column, row in [text.get_position()]}
    matrix = got["confusion matrix"]
    assert numbers == {(i, j): count for i, row in enumerate(matrix) for j, count in enumerate(row) if count}
    wrong = sum(count for (row, column), count in numbers.items() if row != column)

    titles = [axis.get_title() for axis in mistakes.axes if axis.images]
    shown = [re.fullmatch(r"(\d) \((\d\.\d+)\)\nis (\d)", title).groups() for title in titles]
    probabilities = [float(probability) for _, probability, _ in shown]
    assert len(shown) == min(wrong, 24) > 3 and all(answer != true for answer, _, true in shown)
    assert probabilities == sorted(probabilities, reverse=True) and probabilities[0] > probabilities[-1]
    assert all(matrix[int(true)][int(answer)] for answer, _, true in shown)


def test_of_many_mistakes_the_most_confident_are_shown(checkpoint, main_of, figures):
    saved = read_checkpoint(checkpoint)
    saved["model"]["classifier.3.weight"] *= 60  # of some answers it is sure, of others not
    save_checkpoint(checkpoint, saved)
    main_of("eval", "-w", checkpoint)
    network, card = load_model(checkpoint)
    split = open_dataset("digits").test
    with torch.inference_mode():
        answers = torch.cat([network(images).softmax(1) for images, _ in eval_batches(split, card, 128)])
    probability, answer = answers.max(1)
    wrong = probability[answer != torch.from_numpy(split.labels)].sort(descending=True).values
    assert wrong[23] > wrong[-1] + 0.2
    titles = [axis.get_title() for axis in figures[1].axes if axis.images]
    shown = [float(re.search(r"\((.*)\)", title)[1]) for title in titles]
    assert len(shown) == 24 and shown == pytest.approx(wrong[:24].tolist(), abs=0.006)


def test_a_checkpoint_without_a_card_takes_model_and_data_set(main_of, tmp_path):
    torch.save({"model": build_model("custom", 10, 16).state_dict()}, tmp_path / "bare.pth")
    main_of("eval", "-w", tmp_path / "bare.pth", "-m", "custom", "--image_size", 16, "-d", "digits")
    assert result(tmp_path, "custom_16px_bare")["samples"] == 359


def test_results_of_files_that_are_made_of_one_checkpoint_do_not_replace_each_other(checkpoint, main_of, tmp_path):
    made = (
        ("export", "-e", "onnx"),
        ("export", "-e", "onnx", "--with_preprocessing"),
        ("export", "-e", "onnx", "--fp16"),
        ("quantize",),
    )
    for script, *flags in made:
        main_of(script, "-w", checkpoint, *flags)
    files = sorted((checkpoint.parent / "converted_models").iterdir())
    for path in files:
        main_of("eval", "-w", path)
    names = sorted(path.stem for path in (tmp_path / "results" / "accuracy" / "digits").glob("*.json"))
    assert len(files) == len(made) and names == [path.stem for path in files]


def test_a_checkpoint_that_is_called_as_its_model_has_results_and_files_of_its_own(checkpoint, main_of, tmp_path):
    for name in ("best_model.pth", "custom.pth"):
        shutil.copy(checkpoint, checkpoint.with_name(name))
        main_of("eval", "-w", checkpoint.with_name(name))
        main_of("export", "-w", checkpoint.with_name(name), "-e", "torchscript", "--images", 7)
    assert len(list((tmp_path / "results" / "accuracy" / "digits").glob("*.json"))) == 2
    converted = checkpoint.parent / "converted_models"
    assert sorted(path.name for path in converted.iterdir()) == ["custom_custom_torchscript.pt", "custom_torchscript.pt"]


def test_the_batch_of_a_file_that_takes_images_of_any_size_is_one(checkpoint, main_of, tmp_path):
    main_of("export", "-w", checkpoint, "-e", "onnx", "--with_preprocessing", "--output", tmp_path / "x.onnx")
    _, out = main_of("eval", "-w", tmp_path / "x.onnx", "--output", tmp_path / "x.json")
    assert "batches of 1\n" in out and json.loads((tmp_path / "x.json").read_text())["batch_size"] == 1


@pytest.mark.parametrize("name", ["x_confusion.png", "x_mistakes.png", "x_confusions.csv"])
def test_a_csv_over_what_is_written_beside_the_json_is_refused(name, checkpoint, main_of, tmp_path):
    with pytest.raises(UserError, match=r"is written beside .*x\.json, with other contents") as error:
        main_of("eval", "-w", checkpoint, "--output", "x.json", "--csv", name)
    assert error.value.option == "csv" and not list(tmp_path.glob("x*"))


def test_standard_output_is_not_meant_by_a_dash(checkpoint, main_of, tmp_path):
    for flag in ("--output", "--csv"):
        with pytest.raises(UserError, match=f"{flag} - stands for no output here"):
            main_of("eval", "-w", checkpoint, flag, "-")


@pytest.mark.parametrize("flags", [("-e", "onnx"), ("-e", "torchscript"), ("-e", "onnx", "--with_preprocessing")])
def test_exported_files_go_through_the_same_evaluation(checkpoint, main_of, tmp_path, flags):
    main_of("eval", "-w", checkpoint)
    fp32 = result(tmp_path)
    main_of("export", "-w", checkpoint, *flags, "--output", tmp_path / ("x.onnx" if "onnx" in flags else "x.pt"))
    main_of("eval", "-w", tmp_path / ("x.onnx" if "onnx" in flags else "x.pt"))
    exported = result(tmp_path, f"custom_{flags[1]}_x")
    assert abs(exported["Acc@1"] - fp32["Acc@1"]) <= 1 / 359 and exported["samples"] == 359


def test_a_new_metric_is_in_the_json_and_on_the_screen(checkpoint, main_of, tmp_path):
    @metric("images answered 3", per="split", shown=lambda count: f"{count} of them")
    def threes(logits, labels):
        return int((logits.argmax(1) == 3).sum())

    try:
        _, out = main_of("eval", "-w", checkpoint)
    finally:
        del METRICS["images answered 3"]
    got = result(tmp_path)
    answered = sum(row[3] for row in got["confusion matrix"])
    assert got["images answered 3"] == answered and f"{answered} of them" in out


def test_output_goes_where_it_is_wanted(checkpoint, main_of, tmp_path):
    main_of("eval", "-w", checkpoint, "--output", "here/x.json")
    assert {p.name for p in (tmp_path / "here").iterdir()} == {"x.json", "x_confusion.png", "x_mistakes.png"}


def test_each_split_has_a_name_of_its_own(checkpoint, main_of, tmp_path):
    for flags, name in (((), "custom_a"), (("--split", "test"), "custom_a"), (("--split", "val"), "custom_val_a")):
        main_of("eval", "-w", checkpoint, *flags)
        assert result(tmp_path, name)["split"] == (flags[-1] if flags else "test")


def test_a_class_without_images_is_not_among_the_weakest(main_of, photos, tmp_path):
    card = ModelCard("custom", ["absent", "blue", "green", "red"], 16, training={"dataset": "gone"})
    save_checkpoint(tmp_path / "p.pth", {"model": build_model("custom", 4, 16).state_dict(), "card": card.to_dict()})
    _, out = main_of("eval", "-w", tmp_path / "p.pth", "-d", photos)
    assert "absent (F1" not in out and "red (F1" in out


def test_damaged_weights_are_a_sentence(main_of, photos, tmp_path):
    network = build_model("custom", 3, 16)
    network.classifier[-1].weight.data[0, 0] = float("nan")
    card = ModelCard("custom", ["blue", "green", "red"], 16, training={"dataset": str(photos)})
    save_checkpoint(tmp_path / "p.pth", {"model": network.state_dict(), "card": card.to_dict()})
    with pytest.raises(UserError, match=r"p\.pth answers with numbers that are not finite"):
        main_of("eval", "-w", tmp_path / "p.pth")


def test_an_image_of_another_split_is_not_replaced(main_of, photos, tmp_path):
    card = ModelCard("custom", ["blue", "green", "red"], 16, training={"dataset": str(photos)})
    save_checkpoint(tmp_path / "p.pth", {"model": build_model("custom", 3, 16).state_dict(), "card": card.to_dict()})
    for script, flags in (("eval", ("--split", "val")), ("report", ("--split", "val"))):
        victim = photos / "train" / "red" / "0.jpg"
        before = victim.read_bytes()
        with pytest.raises(UserError, match="is an input of this run"):
            main_of(script, "-w", tmp_path / "p.pth", *flags, "--output", victim)
        assert victim.read_bytes() == before


MISTAKES = {
    "one output for two": (("-w", "a.pth", "--csv", "x", "--output", "./x"), "--output and --csv name one file"),
    "no weights": ((), "weights"),
    "missing file": (("-w", "gone.pth"), "gone.pth does not exist"),
    "contradiction": (("-w", "a.pth", "-m", "resnet18"), "resnet18 contradicts the card"),
    "other classes": (("-w", "a.pth", "-c", "two.txt"), "10 classes, not 2"),
    "text": (("-w", "two.txt"), "not a readable checkpoint"),
    "no such split": (("-w", "a.pth", "--split", "val", "--val_fraction", "0"), "no val split; there are: train, test"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence(name, checkpoint, main_of, tmp_path):
    (tmp_path / "two.txt").write_text("a\nb\n")
    flags, message = MISTAKES[name]
    with pytest.raises(UserError) as error:
        main_of("eval", *flags)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_mistakes_are_named_by_their_files(main_of, tmp_path, figures):
    photos = make_photos(tmp_path / "photos", classes=("$a$", "=b", "c d"))
    card = ModelCard("custom", ["$a$", "=b", "c d"], 16, training={"dataset": str(photos)})
    save_checkpoint(tmp_path / "m.pth", {"model": build_model("custom", 3, 16).state_dict(), "card": card.to_dict()})
    main_of("eval", "-w", "m.pth", "--output", "a.json")
    wrong = json.loads((tmp_path / "a.json").read_text())["mistakes"]
    assert wrong and all(pathlib.Path(item["image"]).parent.name == item["class"] != item["answer"] for item in wrong)
    below = [axis.texts[0].get_text() for axis in figures[1].axes if axis.images]
    assert below == [printable("/".join(pathlib.Path(item["image"]).parts[-2:])) for item in wrong]


def test_many_classes_have_their_confusions_as_a_table(main_of, tmp_path):
    names = [f"={number}" for number in range(41)]
    photos = make_photos(tmp_path / "photos", classes=names, train=1, val=1)
    card = ModelCard("custom", names, 16, training={"dataset": str(photos)})
    save_checkpoint(tmp_path / "m.pth", {"model": build_model("custom", 41, 16).state_dict(), "card": card.to_dict()})
    out = main_of("eval", "-w", "m.pth", "--output", "a.json")[1]
    rows = list(csv.DictReader((tmp_path / "a_confusions.csv").open()))
    matrix = json.loads((tmp_path / "a.json").read_text())["confusion matrix"]
    pairs = sum(count > 0 for i, row in enumerate(matrix) for j, count in enumerate(row) if i != j)
    assert "a_confusions.csv beside it" in out and len(rows) == pairs
    for row in rows:  # names that a spreadsheet would compute have an apostrophe
        true, answer = (names.index(row[key].removeprefix("'")) for key in ("class", "answer"))
        assert int(row["images"]) == matrix[true][answer] and float(row["share of the class"]) == 1


def test_the_csv_has_every_image_with_its_loss(checkpoint, main_of, photos, tmp_path):
    main_of("eval", "-w", checkpoint, "--csv", "all.csv")
    rows = list(csv.DictReader((tmp_path / "all.csv").open()))
    got, split = result(tmp_path), open_dataset("digits").test
    assert [row["class"] for row in rows] == [str(label) for label in split.labels]
    assert sum(row["class"] == row["answer"] for row in rows) / len(rows) == got["Acc@1"]
    assert sum(float(row["loss"]) for row in rows) / len(rows) == pytest.approx(got["loss"], abs=1e-6)
    assert all(float(row["probability of the answer"]) >= float(row["probability of the class"]) for row in rows)
    card = ModelCard("custom", ["blue", "green", "red"], 16, training={"dataset": str(photos)})
    save_checkpoint(tmp_path / "p.pth", {"model": build_model("custom", 3, 16).state_dict(), "card": card.to_dict()})
    main_of("eval", "-w", tmp_path / "p.pth", "--csv", "photos.csv", "--split", "train")
    rows = list(csv.DictReader((tmp_path / "photos.csv").open()))
    assert rows[0]["image"].endswith("train/blue/0.jpg") and rows[0]["split"] == "train" and len(rows) == 24


def test_flip_averages_over_the_mirrored_image(checkpoint, main_of, tmp_path):
    main_of("eval", "-w", checkpoint, "--tta", "flip", "--csv", "flip.csv")
    model, card = load_model(checkpoint)
    batches = eval_batches(open_dataset("digits").test, card, 400)
    with torch.inference_mode():
        images, labels = next(batches)
        logits = (model(images) + model(images.flip(3))) / 2
    got = result(tmp_path, "custom_flip_a")
    assert got["tta"] == "flip" and got["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), 1e-5)
    answers = [row["answer"] for row in csv.DictReader((tmp_path / "flip.csv").open())]
    assert answers == [str(i) for i in logits.argmax(1).tolist()]
    main_of("eval", "-w", checkpoint)
    assert result(tmp_path)["tta"] == "none" and result(tmp_path)["loss"] != got["loss"]


def test_weights_without_a_card_are_evaluated_on_the_default_data(main_of, real_data, tmp_path):
    torch.save({"model": build_model("custom", 10, 28).state_dict()}, tmp_path / "old.pth")
    main_of("eval", "-m", "custom", "-w", "old.pth", "--image_size", 28, "--data_dir", real_data)
    (path,) = (tmp_path / "results" / "accuracy" / "FashionMNIST").glob("*.json")
    assert json.loads(path.read_text())["samples"] == 10000


def test_quantized_is_a_known_flag_that_refuses_others(checkpoint, main_of, tmp_path):
    with pytest.raises(UserError, match="are not quantized") as error:
        main_of("eval", "-w", checkpoint, "-q")
    assert error.value.option == "quantized"
    weights = {key: value.half() for key, value in read_checkpoint(checkpoint)["model"].items()}
    card = ModelCard("custom", [str(i) for i in range(10)], 16, scheme="fp16", training={"dataset": "digits"})
    save_checkpoint(tmp_path / "half.pth", {"model": weights, "card": card.to_dict()})
    assert main_of("eval", "-w", tmp_path / "half.pth", "-q")[0] == 0
    save_checkpoint(tmp_path / "plain.pth", {"model": weights})  # without a card, so its weights were widened to 32 bits
    main_of("eval", "-w", tmp_path / "plain.pth", "-q", "-m", "custom", "--image_size", 16, "-d", "digits")
    assert result(tmp_path, "custom_fp16_16px_plain")["precision"] == "computes in fp32"
