"""TensorBoard of a run: what is in its files, and what TensorBoard itself answers about them."""

import io
import pathlib
import urllib.parse
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard_server import TensorBoard

from utils.core.files import WriteError
from utils.data.splits import Split
from utils.evaluation.evaluate import Evaluation
from utils.training.board import Board, markdown

RECORD = {
    "epoch": 2,
    "lr": 0.0125,
    "train": {"loss": 1.25, "Acc@1": 0.5, "Acc@5": 0.875},
    "val": {"loss": 0.75, "Acc@1": 0.625, "Acc@5": 0.9375},
    "images/s": 1234.5,
}


def events_of(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


def scalars_of(folder):
    events = events_of(folder)
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def closed(board):
    for writer in (board.writer, *board.parts.values()):
        writer.close()
    return pathlib.Path(board.folder)


def test_train_and_val_are_two_runs_with_the_same_charts(tmp_path):
    board = Board(tmp_path / "logs")
    board.epoch(RECORD)
    board.epoch({"epoch": 3, "lr": 0.001, "train": {"loss": 1.0}, "images/s": 1000.0})
    folder = closed(board)
    assert scalars_of(folder / "train") == {"loss": [(2, 1.25), (3, 1.0)], "Acc@1": [(2, 0.5)], "Acc@5": [(2, 0.875)]}
    assert scalars_of(folder / "val") == {"loss": [(2, 0.75)], "Acc@1": [(2, 0.625)], "Acc@5": [(2, 0.9375)]}
    assert scalars_of(folder) == {
        "learning rate": [(2, pytest.approx(0.0125)), (3, pytest.approx(0.001))],
        "images per second": [(2, 1234.5), (3, 1000.0)],
    }


def test_every_step_has_its_loss_once(tmp_path):
    board, losses = Board(tmp_path / "logs"), [0.5, 0.25]
    for step, seen in ((1, []), (2, losses), (3, losses), (5, [4.0, 3.0, 2.0])):
        board.step(SimpleNamespace(step=step, recent_losses=seen))
    wanted = [(1, 0.5), (2, 0.25), (3, 4.0), (4, 3.0), (5, 2.0)]
    assert scalars_of(closed(board) / "train") == {"loss of the step": wanted}


def evaluation(classes, count):
    labels = torch.arange(count) % classes
    logits = torch.nn.functional.one_hot(labels.roll(1) if classes == 2 else labels, classes).float() * 9
    logits[0] = logits[0].roll(1)
    split = Split("test", labels.numpy(), np.zeros((count, 8, 8, 1), np.uint8))
    return Evaluation(logits, labels, 1.0), split


@pytest.mark.parametrize("classes", [3, 60])
def test_the_final_test_has_its_figures_and_curves(tmp_path, classes):
    board = Board(tmp_path / "logs", {"model": "custom", "base_lr": 0.1, "resume": None, "ema": True})
    names = ["$\\frac{$", "a|b\nc\x1b[2J", *(f"class {i}" for i in range(classes - 2))]
    board.final(*evaluation(classes, 2 * classes), names, epoch=7)
    events = events_of(board.folder)
    tags, scalars = events.Tags(), scalars_of(board.folder)
    assert sorted(tags["images"]) == ["confusion matrix/test", "mistakes/test"] and events.Images("mistakes/test")[0].step == 7
    assert scalars["test/Acc@1"] == [(0, pytest.approx(1 - 1 / (2 * classes)))] and "test/loss" in scalars
    of_classes = {tag: values for tag, values in scalars.items() if tag.startswith("F1 of a class")}
    curves = [tag for tag in tags["tensors"] if tag.startswith("precision and recall of a class/")]
    assert len(of_classes) == len(curves) == min(classes, 40)
    assert of_classes["F1 of a class/0 $\\frac{$"] == [(7, pytest.approx(2 / 3))]
    texts = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in tags["tensors"] if "text" in tag}
    assert "| base\\_lr | 0.1 |" in texts["flags/text_summary"] and "| resume | None |" in texts["flags/text_summary"]
    assert texts["F1 of each class/test/text_summary"].count("\n") == classes + 1


def test_classes_without_images_have_no_curves(tmp_path):
    labels = torch.arange(20) % 10
    split = Split("test", labels.numpy(), np.zeros((20, 8, 8, 1), np.uint8))
    board = Board(tmp_path / "logs")
    board.final(Evaluation(torch.randn(20, 60), labels, 1.0), split, [f"class {i}" for i in range(60)], epoch=1)
    of_classes = [tag for tag in scalars_of(board.folder) if tag.startswith("F1 of a class")]
    assert sorted(of_classes) == [f"F1 of a class/{i} class {i}" for i in range(10)]
    text = events_of(board.folder).Tensors("F1 of each class/test/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.count("| no image |") == 50


def test_a_cell_holds_no_markup():
    assert markdown(("a",), [["<b>|\n*x*"]]).splitlines()[2] == "| &lt;b>\\|\\\\n\\*x\\* |"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "logs").write_text("no folder")
    with pytest.raises(WriteError, match=r"logs/.* cannot be written"):
        Board(tmp_path / "logs")


def test_a_name_that_is_no_text_gets_a_folder_too(tmp_path):
    board = Board(tmp_path / "pho\udcffos")
    board.epoch(RECORD)
    assert scalars_of(closed(board) / "val")["loss"] == [(2, 0.75)]


@pytest.fixture
def server(main_of, tmp_path):
    """TensorBoard on a finished run."""
    flags = ("--image_size", 16, "--precision", "fp32", "--num_workers", 0, "--max_epoch", 2, "--base_lr", 0.003)
    main_of("train", "-m", "custom", "-d", "digits", *flags, "--tensorboard", "--path_to_save", "weights")
    with TensorBoard(tmp_path / "weights", losses=2) as opened:
        yield opened


def picture_of(server, run, tag):
    """The image that TensorBoard shows under a tag."""
    (shown,) = server.ask("images", "images", run=run, tag=tag, sample=0)
    return Image.open(io.BytesIO(server.read("images", "individualImage", **dict(urllib.parse.parse_qsl(shown["query"])))))


def row_of_the_run(server):
    """(flags, scores) of the only run in TensorBoard's table of runs (HParams)."""
    columns = [
        {"metric": info["name"]} for info in server.ask("hparams", "experiment", post={"experimentName": ""})["metricInfos"]
    ]
    statuses = [f"STATUS_{name}" for name in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    wanted = {"experimentName": "", "colParams": columns, "allowedStatuses": statuses, "startIndex": 0, "sliceSize": 10}
    (run,) = server.ask("hparams", "session_groups", post=wanted)["sessionGroups"]
    return run["hparams"], {found["name"]["tag"]: found["value"] for found in run["metricValues"]}


@pytest.mark.slow
def test_tensorboard_answers_with_everything_of_a_run(server):
    ask = server.ask
    tags = ask("scalars", "tags")
    whole = min(tags, key=len)
    train, val = f"{whole}/train", f"{whole}/val"
    assert {"loss", "Acc@1"} <= tags[train].keys() & tags[val].keys()  # the same tag: one chart
    for run in (train, val):
        assert [point[1] for point in ask("scalars", "scalars", run=run, tag="loss")] == [1, 2]
    steps = [point[1] for point in ask("scalars", "scalars", run=train, tag="loss of the step")]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 20
    assert len(ask("scalars", "scalars", run=whole, tag="learning rate")) == 2
    of_classes = [tag for tag in tags[whole] if tag.startswith("F1 of a class/")]
    assert len(of_classes) == 10
    for tag in of_classes:
        ((_, _, score),) = ask("scalars", "scalars", run=whole, tag=tag)
        assert 0 <= score <= 1
    for tag in ("training images", "confusion matrix/test", "mistakes/test"):
        assert min(picture_of(server, whole, tag).size) > 100
    curves = ask("pr_curves", "tags")[whole]
    assert len(curves) == 10
    for tag in curves:
        (curve,) = ask("pr_curves", "pr_curves", run=whole, tag=tag)[whole]
        assert len(curve["precision"]) == len(curve["recall"]) > 1
    text = ask("text", "text", run=whole, tag="flags/text_summary")
    assert "base_lr" in text[0]["text"] and "0.003" in text[0]["text"]
    ((_, _, accuracy),) = ask("scalars", "scalars", run=whole, tag="test/Acc@1")
    flags, scores = row_of_the_run(server)
    assert flags["base_lr"] == 0.003 and flags["model"] == "custom"
    assert scores["test/Acc@1"] == pytest.approx(accuracy) and 0 < accuracy <= 1
