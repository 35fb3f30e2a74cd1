import io
import re
import sys
from types import SimpleNamespace

import pytest

from utils.training.progress import Board, Progress, summary, where_time_went

RECORD = {
    "epoch": 2,
    "lr": 0.0125,
    "train": {"loss": 1.25, "Acc@1": 0.5, "Acc@5": 0.875},
    "val": {"loss": 0.75, "Acc@1": 0.625, "Acc@5": 0.9375},
    "images/s": 1234.5,
    "seconds": 4.25,
}


def test_times_and_shares_add_up_to_the_whole():
    clock = SimpleNamespace(waiting=1.0, augmenting=2.0, computing=8.0, evaluating=3.0)
    text = where_time_went(clock, 20.0)
    parts = re.findall(r"([a-z -]+) (\d+\.\d) s \((\d+)\s?%\)", text)
    assert text.startswith("20.0 s")
    assert {name.strip(): (float(seconds), int(share)) for name, seconds, share in parts} == {
        "waiting for data": (1.0, 5),
        "augmenting": (2.0, 10),
        "computing": (8.0, 40),
        "evaluating": (3.0, 15),
        "set-up and saving": (6.0, 30),
    }


def test_clocks_that_run_over_the_total_leave_nothing_negative():
    clock = SimpleNamespace(waiting=1.0, augmenting=0.0, computing=9.5, evaluating=0.0)
    assert "set-up and saving 0.0 s (0%)" in where_time_went(clock, 10.0)


def test_the_line_of_an_epoch_names_every_figure():
    line = summary(RECORD, 300, better=False)
    train, val = line.index("train"), line.index("val")
    assert "epoch   2/300" in line and "1.25e-02" in line and "*" not in line
    assert line[train:val].split()[1:7] == ["loss", "1.2500", "Acc@1", "0.5000", "Acc@5", "0.8750"]
    assert line[val:].split()[1:7] == ["loss", "0.7500", "Acc@1", "0.6250", "Acc@5", "0.9375"]
    assert re.search(r"123[45] images/s", line) and re.search(r"\b4\.[23] s", line)


def test_the_best_epoch_so_far_has_a_star_and_one_without_validation_no_scores():
    assert "*" in summary(RECORD, 10, better=True)
    assert "val" not in summary({key: value for key, value in RECORD.items() if key != "val"}, 10, better=True)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_a_bar_goes_on_from_where_the_epoch_was_stopped(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress("epoch 3/9", 12, 5)
    assert "epoch 3/9" in terminal.getvalue() and "5/12" in terminal.getvalue()
    for group in (6, 7):
        progress(SimpleNamespace(group=group, totals=None), 0.1)
    progress.bar.refresh()
    assert "7/12" in terminal.getvalue() and not capsys.readouterr().out
    progress.close()


@pytest.fixture
def hour(monkeypatch):
    """A clock that is set: hour.now = seconds."""
    state = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("time.perf_counter", lambda: state.now)
    return state


def test_elsewhere_a_plain_line_comes_every_half_minute(monkeypatch, capsys, hour):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    progress = Progress("epoch 3/9", 12, 0)
    for group, seconds in ((1, 10), (2, 29), (3, 31), (4, 40), (5, 60), (6, 62)):
        hour.now = 1000.0 + seconds
        progress(SimpleNamespace(group=group, totals=None), 0.05)
    progress.close()
    lines = capsys.readouterr().out.splitlines()
    assert [re.search(r"(\d+)/12", line)[1] for line in lines] == ["3", "6"]
    assert all(line.startswith("epoch 3/9") and "5.00e-02" in line for line in lines) and not sys.stderr.getvalue()


def test_only_the_first_process_says_anything(monkeypatch, capsys, hour):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda *group: 1)
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = Progress("epoch 3/9", 12, 0)
    hour.now += 100
    progress(SimpleNamespace(group=1, totals=None), 0.05)
    progress.close()
    assert not capsys.readouterr().out and not sys.stderr.getvalue()


def test_tensorboard_has_every_figure_at_its_epoch(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = Board(tmp_path / "logs")
    board.epoch(RECORD)
    board.epoch({"epoch": 3, "lr": 0.001, "train": {"loss": 1.0}, "images/s": 1000.0, "seconds": 1.0})
    board.writer.close()
    events = EventAccumulator(board.folder)
    events.Reload()
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found == {
        "loss/train": [(2, 1.25), (3, 1.0)],
        "Acc@1/train": [(2, 0.5)],
        "Acc@5/train": [(2, 0.875)],
        "loss/val": [(2, 0.75)],
        "Acc@1/val": [(2, 0.625)],
        "Acc@5/val": [(2, 0.9375)],
        "learning rate": [(2, pytest.approx(0.0125)), (3, pytest.approx(0.001))],
        "images per second": [(2, 1234.5), (3, 1000.0)],
    }
