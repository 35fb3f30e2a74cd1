import io
import re
import sys
from types import SimpleNamespace

import pytest

from utils.training.progress import Progress, summary, where_time_went

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


def state(step, group, loss=None):
    return SimpleNamespace(step=step, group=group, recent_loss=loss)


def test_on_a_terminal_a_bar_goes_on_from_where_the_epoch_was_stopped(monkeypatch, capsys, hour):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress(epochs=9, total_steps=108, done_steps=29)
    with progress.epoch(3, 12, done=5) as show:
        assert "epoch 3/9" in terminal.getvalue() and "5/12" in terminal.getvalue()
        hour.now += 30
        show(state(30, 6))
        assert "6/12" in terminal.getvalue() and "39:00 left in all" in terminal.getvalue()  # 78 steps of 30 s
        hour.now += 60
        show(state(31, 7, loss=0.25))
        assert "7/12" in terminal.getvalue() and "loss 0.250, 57:45 left in all" in terminal.getvalue()  # 77 of 45 s
    assert not capsys.readouterr().out


@pytest.fixture
def hour(monkeypatch):
    """A clock that is set: hour.now = seconds."""
    clock = SimpleNamespace(now=1000.0)
    for name in ("time.perf_counter", "tqdm.std.time"):
        monkeypatch.setattr(name, lambda: clock.now)
    return clock


def test_elsewhere_a_plain_line_comes_every_half_minute(monkeypatch, capsys, hour):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    progress = Progress(epochs=9, total_steps=12)
    with progress.epoch(3, 12) as show:
        for group, seconds in ((1, 10), (2, 29), (3, 31), (4, 40), (5, 60), (6, 62)):
            hour.now = 1000.0 + seconds
            show(state(group, group, loss=0.5))
        hour.now += 31
        show(state(12, 0, loss=0.5))  # after the last step
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "epoch 3/9: step 3/12, loss 0.500, 01:33 left in all",
        "epoch 3/9: step 6/12, loss 0.500, 01:02 left in all",
        "epoch 3/9: step 12/12, loss 0.500, 00:00 left in all",
    ]
    assert not sys.stderr.getvalue()


def test_only_the_first_process_says_anything(monkeypatch, capsys, hour):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda *group: 1)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress(epochs=9, total_steps=12).epoch(3, 12) as show:
        hour.now += 100
        show(state(1, 1))
    assert not capsys.readouterr().out and not sys.stderr.getvalue()


@pytest.mark.parametrize("width", [130, 110, 90, 70, 50, 47])
def test_the_line_of_an_epoch_fits_the_terminal(width):
    line = summary(RECORD, 300, better=True, width=width)
    assert len(line) <= width and line.startswith("epoch   2/300") and line.endswith(" *")
    assert "val loss 0.7500  Acc@1 0.6250" in line


def test_what_is_least_needed_goes_first():
    shown = [summary(RECORD, 300, better=False, width=width) for width in range(150, 30, -1)]
    words = ("lr", "train loss", "images/s", " s", "train", "val loss")
    narrowest = {word: min(len(line) for line in shown if word in line) for word in words}
    assert narrowest["lr"] > narrowest["images/s"] > narrowest["train loss"] > narrowest["val loss"]
    lost_first = next(line for line in shown if line != shown[0])
    assert lost_first.count("Acc@5") == 1 and "0.9375" in lost_first  # of training
    assert RECORD["train"]["Acc@5"] == 0.875  # the record itself stays whole
