"""What stands in the figures: read back from matplotlib's objects, as they are when they are written."""

import pathlib
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from utils.core import fonts
from utils.evaluation import plots


@pytest.fixture
def draw(figures, tmp_path):
    """draw(function, ...) -> the Figure that this function of `plots` writes; titles and the file are looked at here."""

    def call(function, *args, title="a title"):
        path = tmp_path / "new" / "figure.png"
        function(*args, path, title)
        assert Image.open(path).size > (100, 100) and [p.name for p in path.parent.iterdir()] == ["figure.png"]
        assert not plt.get_fignums()  # closed, or a long run would fill the memory
        (figure,) = figures
        return figure

    return call


def words(texts):
    return [text.get_text() for text in texts]


def curve(axis, label):
    """(xs, ys) of the line with this label."""
    (line,) = (line for line in axis.get_lines() if line.get_label() == label)
    return [list(values) for values in line.get_data()]


def legend(axis):
    return words(axis.get_legend().get_texts())


def test_the_confusion_matrix_has_true_classes_as_rows_and_answers_as_columns(draw):
    figure = draw(plots.confusion_matrix, [[6, 2, 0], [0, 1, 3], [0, 0, 0]], ["ant", "bee", "cat"])
    axis = figure.axes[0]
    (image,) = axis.images
    np.testing.assert_allclose(image.get_array(), [[75, 25, 0], [0, 25, 75], [0, 0, 0]])  # shares of the row, per cent
    assert image.get_clim() == (0, 100)
    numbers = {text.get_position(): text.get_text() for text in axis.texts}  # (column, row)
    assert numbers == {(0, 0): "6", (1, 0): "2", (1, 1): "1", (2, 1): "3"}
    assert (axis.get_ylabel(), axis.get_xlabel(), axis.get_title()) == ("true class", "answer", "a title")
    for ticks, labels in ((axis.get_xticks(), axis.get_xticklabels()), (axis.get_yticks(), axis.get_yticklabels())):
        assert list(ticks) == [0, 1, 2] and words(labels) == ["ant", "bee", "cat"]
    top, bottom = sorted(axis.get_ylim())
    assert axis.get_ylim() == (bottom, top)  # the first row is on top, as in a table


def test_a_confusion_matrix_of_many_classes_has_no_numbers(draw):
    figure = draw(plots.confusion_matrix, np.eye(31, dtype=int), [str(i) for i in range(31)])
    assert not figure.axes[0].texts and len(figure.axes[0].get_xticklabels()) == 31


@pytest.mark.parametrize("count", [41, 120])
def test_of_many_classes_the_most_confused_are_drawn(draw, count):
    matrix = np.diag(np.full(count, 60))
    matrix[7, 33] = 20
    matrix[np.arange(10, 33), 0] = 10
    figure = draw(plots.confusion_matrix, matrix, [f"class {i}" for i in range(count)])
    axis = figure.axes[0]
    names = words(axis.get_xticklabels())
    assert names == words(axis.get_yticklabels()) == [f"class {i}" for i in (0, 7, *range(10, 32), 33)]
    assert f"the 25 most confused of {count} classes" in axis.get_title()
    assert axis.images[0].get_array()[1, 24] == 25 and axis.images[0].get_array()[1, 1] == 75  # shares of all answers


def test_names_that_read_alike_when_shortened_have_their_number(draw):
    figure = draw(
        plots.confusion_matrix,
        np.eye(3, dtype=int),
        ["bee", *(f"a long name of class {i} which is one of three" for i in (1, 2))],
    )
    assert words(figure.axes[0].get_xticklabels()) == ["bee", "1 a long nam…ne of three", "2 a long nam…ne of three"]


NAMES = {  # what is given -> what is drawn
    "$\\frac{$": "$\\frac{$",
    "a\nb\x1b[2J": r"a\nb\x1b[2J",
    "\u202egnp": r"\u202egnp",
    "a very long name of a class of images": "a very long …s of images",
    "\udcff": r"\udcff",
    "مرحبا": "مرحبا",
}


def test_names_of_strangers_are_drawn_as_they_are(draw):
    figure = draw(plots.confusion_matrix, np.eye(len(NAMES), dtype=int), list(NAMES))
    labels = figure.axes[0].get_xticklabels()
    assert words(labels) == list(NAMES.values()) and max(map(len, words(labels))) <= 24
    assert not any(label.get_parse_math() for label in labels)


def test_a_font_is_taken_for_characters_that_the_first_one_lacks(draw, recwarn):
    if len(fonts.families("中国")[0]) == 1:
        pytest.skip("no font with Chinese is installed")
    figure = draw(plots.confusion_matrix, np.eye(2, dtype=int), ["中国", "\U0010fffe"])  # no font has the second
    assert words(figure.axes[0].get_xticklabels())[1] == r"\U0010fffe"
    chosen = figure.axes[0].get_xticklabels()[0].get_fontfamily()
    assert (
        set(fonts.families("中国")[0]) <= set(chosen)
        and chosen[0] == fonts.FIRST
        and not [w for w in recwarn if "Glyph" in str(w.message)]
    )


def test_every_colour_is_of_the_palette_for_all_eyes():
    source = pathlib.Path(plots.__file__).read_text()
    assert "#" not in "".join(re.findall(r'"#[0-9a-f]{6}"', source)).replace('"#dddddd"', "")  # but for a background


def test_mistakes_show_each_image_with_the_answer_and_the_truth_and_its_file(draw):
    colours = [(i, 0, 0) for i in range(8)]
    items = [
        (Image.new("RGB", (5, 4), c), f"true {c[0]}", f"answer {c[0]}", 0.99 - c[0] / 10, f"a/b/photo {c[0]}.png")
        for c in colours
    ]
    figure = draw(plots.mistakes, items)
    shown = [axis for axis in figure.axes if axis.images]
    assert len(figure.axes) == 12 and [axis.images[0].get_array()[0, 0, 0] for axis in shown] == list(range(8))
    assert shown[0].get_title() == "answer 0 (0.99)\nis true 0" and shown[7].get_title() == "answer 7 (0.29)\nis true 7"
    assert words(shown[7].texts) == ["b/photo 7.png"]
    assert not any(axis.axison for axis in figure.axes) and figure.get_suptitle() == "a title"


def test_without_mistakes_the_figure_says_none(draw):
    assert draw(plots.mistakes, []).get_suptitle() == "a title: none"


def test_training_curves_are_the_history(draw):
    history = [
        {"epoch": 1, "lr": 0.1, "train": {"loss": 2.0, "Acc@1": 0.2}},
        {"epoch": 2, "lr": 0.2, "train": {"loss": 1.5, "Acc@1": 0.4}, "val": {"loss": 1.7, "Acc@1": 0.3}},
        {"epoch": 3, "lr": 0.01, "train": {"loss": 1.0, "Acc@1": 0.6}},
        {"epoch": 4, "lr": 0.001, "train": {"loss": 0.5, "Acc@1": 0.8}, "val": {"loss": 1.2, "Acc@1": 0.5}},
    ]
    figure = draw(plots.training_curves, history)
    loss, accuracy, rate = figure.axes
    assert curve(loss, "train") == [[1, 2, 3, 4], [2.0, 1.5, 1.0, 0.5]] and curve(loss, "val") == [[2, 4], [1.7, 1.2]]
    assert curve(accuracy, "train") == [[1, 2, 3, 4], [20, 40, 60, 80]] and curve(accuracy, "val") == [[2, 4], [30, 50]]
    assert (loss.get_title(), accuracy.get_title()) == ("loss", "Acc@1, %") and legend(loss) == ["train", "val"]
    assert list(rate.get_lines()[0].get_ydata()) == [0.1, 0.2, 0.01, 0.001] and rate.get_yscale() == "linear"
    assert figure.get_suptitle() == "a title"


def test_a_run_without_validation_has_no_such_curve(draw):
    figure = draw(plots.training_curves, [{"epoch": 1, "lr": 0.1, "train": {"loss": 2.0, "Acc@1": 0.2}}])
    assert legend(figure.axes[0]) == ["train"]


def layer(module, kind, macs, parameters):
    return {"module": module, "kind": kind, "macs": macs, "parameters": parameters}


def bars(axis, horizontal=False):
    """{legend label: {place: length}}, places rounded to whole numbers."""
    found = {}
    for container in axis.containers:
        for bar in getattr(container, "patches", ()):
            place, length = bar.get_x() + bar.get_width() / 2, bar.get_height()
            if horizontal:
                place, length = bar.get_y() + bar.get_height() / 2, bar.get_width()
            found.setdefault(container.get_label(), {})[round(place)] = pytest.approx(length)
    return found


def test_layer_costs_are_bars_by_kind_and_the_share_so_far(draw):
    layers = [
        layer("layer1.conv", "convolution", 6_000_000, 500),
        layer("layer1.relu", "other", 0, 0),  # costs nothing: left out
        layer("layer1.norm", "normalisation", 0, 20),
        layer("head", "linear", 2_000_000, 1480),
    ]
    macs, parameters, macs_share, parameters_share = draw(plots.layer_costs, layers).axes
    assert bars(macs) == {"convolution": {0: 6.0}, "linear": {2: 2.0}} and macs.get_ylabel() == "MACs of the layer (M)"
    assert bars(parameters) == {"convolution": {0: 0.5}, "linear": {2: 1.48}, "normalisation": {1: 0.02}}
    assert parameters.get_ylabel() == "parameters of the layer (k)" and legend(macs) == ["convolution", "linear"]
    assert list(macs_share.get_lines()[0].get_ydata()) == [75, 75, 100]
    assert list(parameters_share.get_lines()[0].get_ydata()) == [25, 26, 100]
    assert words(parameters.get_xticklabels()) == ["layer1.conv", "layer1.norm", "head"]


def test_many_layers_are_labelled_by_their_blocks(draw):
    layers = [layer(f"block{i // 20}.layer{i % 20}", "convolution", 10, 10) for i in range(100)]
    axis = draw(plots.layer_costs, layers).axes[1]
    assert words(axis.get_xticklabels()) == [f"block{i}" for i in range(5)] and list(axis.get_xticks()) == [0, 20, 40, 60, 80]


def row(name, median, megabytes, rate, cold, accuracy=None):
    latency = [{"median_ms": median, "low_ms": median - 1, "high_ms": median + 3}, {"median_ms": 1, "low_ms": 1, "high_ms": 1}]
    scores = {} if accuracy is None else {"Acc@1": accuracy, "Acc@1 95 % interval": [accuracy - 0.02, accuracy + 0.01]}
    return {"name": name, "latency": latency, "bytes": megabytes * 10**6, "images/s": rate, "cold start s": cold} | scores


def test_the_benchmark_has_a_bar_for_each_file_the_first_on_top(draw):
    rows = [row("PyTorch fp32", 8, 40, 200, 3, 0.9), row("PyTorch fp16", 5, 20, 300, 2, 0.8)]
    figure = draw(plots.benchmark, rows)
    panels = {axis.get_title(): axis for axis in figure.axes}
    assert len(panels) == 5 and words(figure.axes[0].get_yticklabels()) == ["PyTorch fp32", "PyTorch fp16"]
    assert figure.axes[0].yaxis_inverted()
    assert words(figure.legends[0].get_texts()) == ["32-bit weights", "fewer bits"]

    def lengths(title):
        (found,) = bars(panels[title], horizontal=True).values()
        return found

    assert lengths("size, MB") == {0: 40, 1: 20} and lengths("latency at batch 1, ms") == {0: 8, 1: 5}
    assert lengths("images/s at the best batch") == {0: 200, 1: 300} and lengths("cold start, s") == {0: 3, 1: 2}
    (whiskers,) = panels["latency at batch 1, ms"].collections
    assert [segment[:, 0].tolist() for segment in whiskers.get_segments()] == [[7, 11], [4, 8]]
    accuracy = panels["Acc@1, % (95 % interval)"]
    dots = [c for c in accuracy.collections if len(c.get_offsets()) == 2][-1]
    np.testing.assert_allclose(dots.get_offsets(), [[90, 0], [80, 1]])
    segments = next(c.get_segments() for c in accuracy.collections if hasattr(c, "get_segments"))
    np.testing.assert_allclose([segment[:, 0] for segment in segments], [[88, 91], [78, 81]])


def test_a_benchmark_without_accuracy_has_no_panel_for_it(draw):
    rows = [row("PyTorch fp32", 8, 40, 200, 3, 0.9), row("PyTorch fp16", 5, 20, 300, 2)]
    assert not [axis for axis in draw(plots.benchmark, rows).axes if axis.get_title().startswith("Acc")]


def test_the_receptive_field_is_a_box_on_the_image_and_on_the_heat(draw):
    pixels, heat = np.zeros((10, 10, 3), np.uint8), np.zeros((10, 10))
    pixels[2, 3], heat[2, 3], heat[5, 6] = 200, 4.0, 1.0
    figure = draw(plots.receptive_field, pixels, (-2, 1, 6, 8), heat, title=("left", "right", "whole"))
    image, warm = figure.axes[:2]
    assert (image.get_title(), warm.get_title(), figure.get_suptitle()) == ("left", "right", "whole")
    assert image.images[0].get_array()[2, 3].tolist() == [200] * 3
    shown = warm.images[0].get_array()
    assert shown[2, 3] == 1 and shown[5, 6] == 0.5 and shown.sum() == 1.5  # the root of the share of the greatest
    for axis in (image, warm):
        (box,) = axis.patches
        assert box.get_bbox().extents.tolist() == [0.5, -2.5, 8.5, 6.5]  # whole pixels, both ends included
        assert not box.get_fill()
        left, right = axis.get_xlim()
        bottom, top = axis.get_ylim()
        assert left < -0.5 and right > 9.5 and top < -2.5 and bottom > 9.5  # box and image are seen whole, upright
    (bar,) = figure.axes[2:]
    marks = {label.get_text(): tick for label, tick in zip(bar.get_yticklabels(), bar.get_yticks(), strict=True)}
    assert marks["25 %"] == 0.5 and marks["100 %"] == 1


def test_scaling_has_a_line_for_each_batch_and_thread_count(draw):
    def measured(threads, batch, size, median):
        times = {"median": median, "min": median - 1, "max": median + 2}
        return {"threads": threads, "batch": batch, "image_size": size, "ns per pixel": times}

    rows = [measured(1, 8, 32, 9), measured(1, 8, 64, 7), measured(2, 8, 32, 6), measured(2, 8, 64, 5)]
    (axis,) = draw(plots.scaling, rows).axes
    (key,) = axis.figure.legends
    assert words(key.get_texts()) == ["1 thread, batch 8", "2 threads, batch 8"]
    lines = [container.lines for container in axis.containers]
    assert [[list(v) for v in points.get_data()] for points, _, _ in lines] == [[[32, 64], [9, 7]], [[32, 64], [6, 5]]]
    (whiskers,) = lines[0][2]
    assert [segment[:, 1].tolist() for segment in whiskers.get_segments()] == [[8, 11], [6, 9]]
    assert axis.get_ylim()[0] == 0  # or small differences would look large


def test_the_image_grid_undoes_the_normalisation_and_goes_row_by_row():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.1)
    wanted = torch.rand(5, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    images = (wanted - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    grid = plots.image_grid(images, mean, std, columns=3)
    assert grid.dtype == np.uint8 and grid.shape == (3, 2 * 6, 3 * 8)
    for i, image in enumerate(wanted.numpy()):
        y, x = i // 3 * 6, i % 3 * 8
        np.testing.assert_allclose(grid[:, y : y + 4, x : x + 6] / 255, image, atol=0.5 / 255 + 1e-6)
    assert not grid[:, 6:, 16:].any()  # there is no sixth image


def test_the_image_grid_clips_what_cannot_be_shown():
    grid = plots.image_grid(torch.tensor([-9.0, 9.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1), (0.5,) * 3, (1,) * 3)
    assert grid[:, 0, 0].tolist() == [0, 0, 0] and grid[:, 0, 3].tolist() == [255, 255, 255]
