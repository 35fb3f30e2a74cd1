import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.core.errors import UserError
from utils.report.curves import BOTTOM, HEIGHT, LEFT, TOP, curves_of, nice_ticks, read_history


def history(losses):
    epochs = [
        {"epoch": i + 1, "lr": 0.1, "train": {"loss": loss, "Acc@1": 0.5}, "val": {"loss": loss}}
        for i, loss in enumerate(losses)
    ]
    return {"flags": {}, "epochs": epochs, "best": {"epoch": 2}, "seconds": {"total": 60}}


def test_a_point_lies_where_its_value_is():
    charts = curves_of(history([2.0, 1.0, 0.0]), plain_from=1)
    loss = charts.charts[0]
    train = loss.lines[0].points
    assert train[0][1] == TOP and train[2][1] == HEIGHT - BOTTOM and train[1][1] == pytest.approx((TOP + HEIGHT - BOTTOM) / 2)
    assert LEFT < train[0][0] < train[1][0] < train[2][0]
    assert charts.chosen == 2 and loss.chosen == train[1][0] and charts.plain == (2, 3)
    assert loss.plain[0] < train[1][0] and loss.plain[0] > train[0][0]


def test_accuracy_is_drawn_in_per_cent():
    accuracy = curves_of(history([2.0, 1.0])).charts[1]
    assert accuracy.title == "Acc@1, %" and "50" in [label for _, label in accuracy.y_ticks]


def test_a_run_without_held_out_images_has_no_line_for_them():
    found = history([2.0, 1.0])
    assert curves_of(found).held_out
    for record in found["epochs"]:
        del record["val"]
    assert not curves_of(found).held_out and [line.name for line in curves_of(found).charts[0].lines] == ["train"]


def test_values_that_are_no_numbers_are_left_out():
    found = curves_of(history([2.0, math.nan, 1.0]))
    assert len(found.charts[0].lines[0].points) == 2 and found.plain is None
    assert curves_of({"flags": {}, "epochs": []}) is None


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_are_few_and_hold_the_values(low, span):
    ticks = nice_ticks(low, low + span)
    slack = 1e-6 * max(abs(low), span, 1e-3)
    assert 2 <= len(ticks) <= 9 and ticks[0] <= low + slack and ticks[-1] >= low + span - slack


ONE = '{"epochs": [{"epoch": %s, "lr": %s}], "flags": {}, "seconds": {"total": %s}}'


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"epochs": [1], "flags": {}}', ONE % ('"1"', 1, 1), ONE % (1, 1e308, 1), ONE % (10**400, 1, 1),
             ONE % (1, 1, '"x"')]
)  # fmt: skip
def test_what_is_no_history_is_refused(text, tmp_path):
    path = tmp_path / "history.json"
    path.write_text(text)
    with pytest.raises(UserError, match="not the history"):
        read_history(path)


def test_a_history_is_read(tmp_path):
    path = tmp_path / "history.json"
    assert read_history(path) is None
    path.write_text(json.dumps(history([1.0])))
    assert read_history(path) == history([1.0])


def test_a_run_that_was_resumed_took_all_of_its_epochs():
    """Older versions wrote the total of the last session alone into history.json."""
    found = history([2.0, 1.0, 3.0]) | {"seconds": {"total": 8.0}}
    assert curves_of(found).seconds == 8.0
    for record in found["epochs"]:
        record["seconds"] = 100.0
    assert curves_of(found).seconds == 300.0


def test_epochs_keep_their_numbers_where_the_first_is_a_later_one():
    found = history([2.0, 1.0, 3.0])
    for record in found["epochs"]:
        record["epoch"] += 3
    found["best"]["epoch"] += 3
    curves = curves_of(found)
    assert (curves.epochs, curves.chosen, curves.last) == (3, 5, 6)


def test_weights_of_the_last_epoch_are_not_called_the_best():
    found = history([2.0, 1.0, 3.0])
    best, last = curves_of(found), curves_of(found, chosen=3)
    assert (best.chosen, best.is_best, last.chosen, last.is_best) == (2, True, 3, False)
