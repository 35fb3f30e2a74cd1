"""The page of report.py: whole, harmless, the same figures as eval.py; and the model card beside it."""

import html.parser
import importlib
import itertools
import json
import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from browser import Browser, find_browser
from conftest import make_photos
from digits_checkpoint import checkpoint as save_trained
from labelled_images import shards_of
from PIL import Image

from models.build import build_model
from models.checkpoint import read_checkpoint, save_checkpoint
from utils.core import files
from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.data.datasets import open_dataset
from utils.data.splits import images_digest
from utils.report import files as report_files
from utils.report.model_card import check_card_place
from utils.report.page import SECTIONS

HOSTILE = ("<script>alert(1)<", '"><img src=x onerror=alert(1)>', "a &amp; b")  # names of classes, which are folders


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text outside of scripts and styles, of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.scripts, self.inside = [], "", [], None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.text += data

    def all(self, tag, name):
        return [attributes[name] for found, attributes in self.tags if found == tag and name in attributes]


def random_run(folder, classes, dataset, seed=0, history=None):
    """The folder of a run with random weights, as train.py leaves it."""
    torch.manual_seed(seed)
    card = ModelCard("custom", list(classes), 16, training={"dataset": str(dataset)})
    network = build_model("custom", len(classes), 16)
    save_checkpoint(folder / "best_model.pth", {"model": network.state_dict(), "card": card.to_dict()})
    if history:
        (folder / "history.json").write_text(json.dumps(history))
    return folder


def history(epochs=6, **flags):
    def record(epoch):
        scores = {"loss": 2 / epoch, "Acc@1": 1 - 1 / (epoch + 1)}
        return {"epoch": epoch, "lr": 0.01 / epoch, "train": scores, "val": scores, "seconds": 1.0}

    wanted = {"augment": "default", "mixup": 0.0, "cutmix": 0.0, "random_erasing": 0.0, "max_epoch": epochs, "plain_epochs": 2}
    records = [record(epoch) for epoch in range(1, epochs + 1)]
    return {"flags": wanted | flags, "epochs": records, "best": {"epoch": 5}, "seconds": {"total": 6.0}}


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """Run a script's main() in this process and in one folder for all tests here: call("report", "-w", …) -> that folder."""
    folder = tmp_path_factory.mktemp("reports")

    def run(name, *flags):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(sys, "argv", [f"{name}.py", *map(str, flags)])
            patch.setattr(files, "_inputs", {})
            assert not importlib.import_module(name).main()
        return folder

    return run


@pytest.fixture(scope="module")
def digits(call, tmp_path_factory):
    """The folder of a run on the digits that has learnt them, with an exported file."""
    folder = tmp_path_factory.mktemp("weights") / "custom"
    save_trained(folder / "best_model.pth")
    (folder / "history.json").write_text(json.dumps(history()))
    call("export", "-w", folder / "best_model.pth", "-e", "onnx")
    return folder


@pytest.fixture(scope="module")
def digits_page(call, digits):
    """The page on it."""
    return page_of(call("report", "-w", digits, "--card"), "digits_custom_*weights*.html")


def page_of(folder, pattern):
    """The last page written to results/reports/ whose name is so; of a run that lies elsewhere it ends in where."""
    return max((folder / "results" / "reports").glob(pattern), key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture(scope="module")
def hostile_page(call, tmp_path_factory):
    """The page on an image folder whose classes and files have names that would be markup; a card lies beside it."""
    folder = tmp_path_factory.mktemp("hostile")
    photos = make_photos(folder / "photos", sorted(HOSTILE), train=4, val=4)
    for path in sorted(photos.glob("val/*/0.jpg")):
        path.rename(path.with_name("<b onclick=alert(1)>'&quot;\u202e.jpg"))
    victim = sorted(photos.glob("train/*/1.jpg"))[0]
    shutil.copy(victim, victim.with_name("again.jpg"))
    random_run(folder, sorted(HOSTILE), photos, history=history(random_erasing=0.5, mixup=0.2, cutmix=1.0))
    call("report", "-w", folder, "--card", "--output", folder / "page.html")
    return folder / "page.html"


@pytest.fixture(scope="module")
def pair_page(call, digits, tmp_path_factory):
    """The page on that run of the digits and on one with random weights."""
    other = random_run(tmp_path_factory.mktemp("other") / "other", [str(i) for i in range(10)], "digits")
    return page_of(call("report", "-w", digits, "-w", other), "digits_custom_*_and_other*.html")


@pytest.fixture(scope="module")
def many_page(call, tmp_path_factory):
    """The page on 120 classes."""
    folder = tmp_path_factory.mktemp("many")
    names = [f"a class with a long name, number {number:03}" for number in range(120)]
    for split, count in (("train", 1), ("val", 2)):
        make_photos_of_noise(folder / "photos" / split, names, count)
    random_run(folder, names, folder / "photos", history=history())
    call("report", "-w", folder, "--output", folder / "page.html")
    return folder / "page.html"


def make_photos_of_noise(root, names, count):
    random = np.random.default_rng(count)
    for name in names:
        (root / name).mkdir(parents=True)
        for copy in range(count):
            Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(root / name / f"{copy}.png")


def test_the_page_is_whole_and_has_the_figures_of_eval(digits, digits_page, call):
    folder = call("eval", "-w", digits / "best_model.pth", "--output", "eval.json")
    wanted = json.loads((folder / "eval.json").read_text())
    page, matrix = Page(digits_page), wanted["confusion matrix"]
    assert set(SECTIONS) <= set(page.all("section", "id"))
    right = sum(matrix[i][i] for i in range(10))
    assert f"{right} of 359 images" in page.text and f"{100 * wanted['Acc@1']:.1f} %" in page.text
    assert (
        "held out (val)" in page.text and "chosen epoch, 5" in page.text and "epochs without augmentation, 5 to 6" in page.text
    )
    assert "custom_onnx.onnx answers all 359 images" in page.text and "no answer differs" in page.text
    assert "Augmentation default" in page.text and "receptive field" in page.text and "kMAC" in page.text
    assert "Its images are no files of their own, so there are none to look through" in page.text
    buttons = [facts for tag, facts in page.tags if tag == "button" and "data-cell" in facts]
    cells = {tuple(map(int, b["data-cell"].split(","))): int(b["aria-label"].rpartition(" ")[2]) for b in buttons}
    assert cells == {(r, c): matrix[r][c] for r in range(10) for c in range(10)}


def test_nothing_comes_from_elsewhere(digits_page):
    page = Page(digits_page)
    places = page.all("img", "src") + page.all("a", "href")
    assert len(page.all("img", "src")) > 20 and all(place.startswith(("data:image/", "#")) for place in places)
    assert not {"link", "iframe", "object", "base", "form"} & {tag for tag, _ in page.tags} and not page.all("script", "src")
    policy = next(facts["content"] for tag, facts in page.tags if "Security-Policy" in facts.get("http-equiv", ""))
    assert "default-src 'none'" in policy and "unsafe" not in policy and policy.count("'sha256-") == 2
    assert digits_page.stat().st_size < 500_000


def test_names_are_no_markup(hostile_page):
    page = Page(hostile_page)
    assert len(page.scripts) == 2 and not any("onerror" in facts or "onclick" in facts for _, facts in page.tags)
    assert "<script>alert(1)<" in page.text and "<b onclick=alert(1)>" in page.text and "a &amp; b" in page.text
    assert "\\u202e.jpg" in page.text and "\u202e" not in page.text
    assert json.loads(page.scripts[0])["names"] == sorted(HOSTILE)
    card = hostile_page.with_name("MODEL_CARD.md").read_text()
    assert "- val: 12 images, 4 for each class" in card and "4 to 5 for each class" in card
    assert r"\<script\>alert(1)\<" in card and "<img" not in card.replace(r"\<img", "") and "\u202e" not in card


def test_augmentation_and_findings_are_those_of_the_run(hostile_page):
    text = Page(hostile_page).text
    assert "Augmentation default, mixup, cutmix, random erasing" in text
    assert "duplicate (1)" in text and "again.jpg" in text and "Suggestion: keep one" in text


def test_long_names_lose_their_middle_beside_the_matrix(call, tmp_path):
    names = [f"a class with a long name, number {number}, of two" for number in range(2)]
    photos = make_photos(tmp_path / "photos", names, train=2, val=2)
    call("report", "-w", random_run(tmp_path, names, photos), "--output", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    for name, short in zip(names, ("0 a clas… of two", "1 a clas… of two"), strict=True):
        assert f'title="{name}"><span>{short}</span>' in text and f'title="{name}">{short}</th>' in text


def test_two_runs_stand_side_by_side(pair_page):
    text = Page(pair_page).text
    assert "So custom is better on images like these" in text and "under 0.0001" in text
    assert text.count("Order of the classes") == 2


def test_what_is_not_known_is_said_and_the_rest_is_shown(digits, call, tmp_path):
    (tmp_path / "history.json").write_text('{"epochs": [1]}')
    (tmp_path / "converted_models").mkdir()
    (tmp_path / "converted_models" / "a.onnx").write_bytes(b"no model")
    shutil.copy(digits / "best_model.pth", tmp_path)
    shutil.copy(digits / "converted_models" / "custom_onnx.onnx", tmp_path / "converted_models" / "b.onnx")
    call("report", "-w", tmp_path, "-w", tmp_path / "converted_models" / "b.onnx", "--output", tmp_path / "page.html")
    text = Page(tmp_path / "page.html").text
    assert "is not the history of a training run" in text and "There is no history.json beside the model" in text
    assert "Only a checkpoint is analysed" in text and "right on the same images" in text
    assert "The exported file b.onnx answers all 359 images" in text and "a.onnx" in text


def test_the_held_out_share_can_be_given(call, tmp_path, capsys):
    make_photos_of_noise(tmp_path / "photos", "ab", 10)
    folder = random_run(tmp_path, "ab", tmp_path / "photos")
    call("report", "-w", folder, "--split", "val", "--val_fraction", "0.5", "--output", tmp_path / "page.html")
    count = len(open_dataset(str(tmp_path / "photos"), val_fraction=0.5).val)
    assert f"asking about {count} images of photos (val)" in capsys.readouterr().out and count > 5


def test_held_out_images_of_other_data_chose_no_epoch(call, tmp_path):
    folder = random_run(tmp_path, ["blue", "green", "red"], make_photos(tmp_path / "own"), history=history())
    other = make_photos(tmp_path / "other")
    for flags, said in (((), True), (("-d", other), False)):
        call("report", "-w", folder, *flags, "--output", tmp_path / "page.html")
        text = Page(tmp_path / "page.html").text
        assert "the best on the held-out images" in text and ("a little too good" in text) is said


def test_the_page_on_another_split_leaves_that_on_the_usual_one(digits, digits_page, call):
    before = digits_page.read_bytes()
    folder = call("report", "-w", digits, "--split", "val")
    assert digits_page.read_bytes() == before and page_of(folder, "digits_custom_*_val.html")


def test_what_was_augmented_otherwise_or_not_there_is_not_shown(call, tmp_path):
    """Samples are of the images that the run learnt from, or a note says why there are none."""
    folder = random_run(tmp_path, ["blue", "green", "red"], make_photos(tmp_path / "own"), history=history(mixup=0.2))
    other, held_out = make_photos(tmp_path / "other"), make_photos(tmp_path / "own_val")
    shutil.rmtree(held_out / "train")
    for flags, words, shown in (
        ((), "mixup", True),
        (("-d", other), "The images that it was trained on are not here.", False),
        (("-d", held_out), "The images that it was trained on are not here.", False),
    ):
        call("report", "-w", folder, *flags, "--card", "--output", tmp_path / "page.html")
        page = Page(tmp_path / "page.html")
        assert words in page.text and (("table", {"class": "samples"}) in page.tags) is shown
        assert "does not hold the flags" not in page.text
        trained_on = "measured on other data" in (folder / "MODEL_CARD.md").read_text()
        assert trained_on is not shown


def test_a_training_folder_that_was_moved_is_still_its_own(call, tmp_path):
    photos = make_photos(tmp_path / "own")
    opened = open_dataset(str(photos))
    folder = random_run(tmp_path, ["blue", "green", "red"], photos)
    contents = read_checkpoint(folder / "best_model.pth")
    contents["card"]["training"]["images"] = images_digest(opened)
    save_checkpoint(folder / "best_model.pth", contents)
    photos.rename(tmp_path / "moved")
    call("report", "-w", folder, "-d", tmp_path / "moved", "--card", "--output", tmp_path / "page.html")
    card = (folder / "MODEL_CARD.md").read_text()
    assert "measured on other data" not in card and "a little too good" in card


def test_one_folder_takes_the_card_of_one_model(call, tmp_path):
    folder = random_run(tmp_path, ["blue", "green", "red"], make_photos(tmp_path / "own"))
    shutil.copy(folder / "best_model.pth", folder / "last.pth")
    both = ("-w", folder / "best_model.pth", "-w", folder / "last.pth")
    with pytest.raises(UserError, match="both models lie in one folder"):
        call("report", *both, "--card")


def test_nothing_is_claimed_of_classes_without_images(call, tmp_path):
    names = [f"class {number:02}" for number in range(60)]
    make_photos_of_noise(tmp_path / "photos" / "train", names, 4)
    make_photos_of_noise(tmp_path / "photos" / "test", names[45:], 2)
    folder = random_run(tmp_path, names, tmp_path / "photos")
    call("report", "-w", folder, "--card", "--output", tmp_path / "page.html")
    card = (folder / "MODEL_CARD.md").read_text()
    rows = [line.split(" | ")[0].lstrip("| ") for line in card.splitlines() if line.startswith("| class ")]
    assert rows[1:] == names[45:]  # after the header
    assert "No image of 45 classes was there, so nothing is known of: class 00, " in card and "left out" not in card
    page = (tmp_path / "page.html").read_text()
    assert page.count(">no image<") == 45 and page.count('<td class="number" data-value="-1">–</td>') == 2 * 45


def test_pages_on_runs_of_one_name_are_two(digits, call, tmp_path):
    before = {*call("report", "-w", digits).rglob("*.html")}
    shutil.copytree(digits, tmp_path / "second" / "custom")
    shutil.copy(digits / "best_model.pth", digits / "last.pth")
    folder = call("report", "-w", tmp_path / "second" / "custom")
    call("report", "-w", digits / "last.pth")
    (digits / "last.pth").unlink()
    assert len({*folder.rglob("*.html")} - before) == 2


@pytest.mark.parametrize("name", ["last.pth", "args.txt", "best_model.pth"])
def test_a_page_replaces_no_file_of_the_run(name, digits, call):
    (digits / name).touch()
    before = (digits / name).read_bytes()
    with pytest.raises(UserError, match="it is an input of this run"):
        call("report", "-w", digits, "--output", digits / name)
    assert (digits / name).read_bytes() == before


def test_page_and_card_are_two_files_and_a_model_is_not_compared_with_itself(digits, call):
    with pytest.raises(UserError, match="--output and --card name one file"):
        call("report", "-w", digits, "--card", "--output", digits / "MODEL_CARD.md")
    with pytest.raises(UserError, match="names one model twice"):
        call("report", "-w", digits, "-w", f"{digits}/")


@pytest.mark.parametrize("rows", ['{"files": [1]}', '{"files": [{"bytes": 1}]}', "[]", "{"])
def test_a_damaged_file_of_benchmark_costs_no_page(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(report_files, "benchmark_file", lambda *facts: tmp_path / "x.json")
    (tmp_path / "x.json").write_text(rows)
    run = SimpleNamespace(card=None, path=None, data=None, dataset=SimpleNamespace(name="digits"))
    assert report_files._benchmark(run) == {}


def test_figures_of_benchmark_are_found_however_the_path_is_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report_files, "benchmark_file", lambda *facts: tmp_path / "x.json")
    row = {"file": "run/converted_models/a.onnx", "bytes": 3}
    (tmp_path / "x.json").write_text(json.dumps({"files": [row]}))
    run = SimpleNamespace(card=None, path=None, data=None, dataset=SimpleNamespace(name="digits"))
    assert report_files._benchmark(run) == {str(tmp_path.resolve() / row["file"]): row}


def test_what_was_found_is_printed_though_it_cannot_be_written(digits, call, capsys, full_results):
    with pytest.raises(UserError, match=r"cannot be written \(No space left"):
        call("report", "-w", digits)
    assert "answers" in capsys.readouterr().out


def test_a_model_that_learnt_from_shards_has_a_page(call, tmp_path):
    shards = shards_of(make_photos(tmp_path / "photos", "ab"), tmp_path / "shards", "train", 2)
    call("report", "-w", random_run(tmp_path, "ab", shards), "--output", tmp_path / "page.html")
    assert "Its images are no files of their own" in Page(tmp_path / "page.html").text


def test_other_images_are_not_compared(digits, hostile_page, call, tmp_path):
    call("report", "-w", digits, "-w", hostile_page.parent, "--output", tmp_path / "page.html")
    assert "asked about other images" in Page(tmp_path / "page.html").text


def test_a_changed_model_card_is_kept(digits, digits_page, call):
    card = digits / "MODEL_CARD.md"
    for heading in ("Model details", "Intended use", "Data", "Metrics", "Limits", "How to use"):
        assert f"## {heading}" in card.read_text()
    check_card_place(card)  # its own is replaced
    card.write_text("mine")
    with pytest.raises(UserError, match="is kept"):
        call("report", "-w", digits, "--card")
    assert card.read_text() == "mine"


MISTAKES = {
    "no such folder": (("-w", "gone"), "gone does not exist"),
    "an empty folder": (("-w", "."), "best_model.pth does not exist"),
    "three": (("-w", ".", "-w", ".", "-w", "."), "one model or two"),
    "over its input": (("-w", "{digits}", "--output", "{digits}/best_model.pth"), "input of this run"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence(name, digits, main_of):
    flags, message = MISTAKES[name]
    with pytest.raises(UserError, match=message):
        main_of("report", *(flag.format(digits=digits) for flag in flags))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if find_browser() is None:
        pytest.skip("there is no Chromium here")
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def is_quiet(browser):
    """No error was logged, and nothing was asked for that is not in the page."""
    return browser.errors == []


def test_a_cell_shows_its_images_by_mouse_and_by_keyboard(digits_page, browser):
    browser.open(digits_page)
    label = "document.activeElement.getAttribute('aria-label')"
    browser.click('button[data-cell="3,3"]')
    assert browser.run("document.querySelector('#r0-panel').textContent").startswith("3 answered 3: ")
    assert browser.run("document.querySelectorAll('#r0-panel img').length") == 3
    loaded = "[...document.querySelectorAll('img')].every(i => i.complete && i.naturalWidth > 0)"
    assert browser.run(loaded)
    browser.press("ArrowRight")
    browser.press("ArrowDown")
    assert browser.run(label).startswith("4 answered 4")
    browser.press("Enter")
    assert browser.run("document.querySelector('#r0-panel').textContent").startswith("4 answered 4: ")
    stops = "document.querySelectorAll('.matrix button[tabindex=\"0\"]').length"
    assert browser.run(stops) == 1 and is_quiet(browser)


def test_the_tab_key_reaches_everything_that_can_be_chosen(digits_page, browser):
    browser.open(digits_page)
    browser.run("window.reached = []; document.addEventListener('focusin', event => window.reached.push(event.target))")
    for _ in range(60):
        browser.press("Tab")
    wanted = ("nav a", "summary", "select", ".matrix button[tabindex='0']", ".sortable thead button", ".scroll")
    for selector in wanted:
        shown = f"[...document.querySelectorAll({selector!r})].filter(one => one.checkVisibility())"
        assert browser.run(f"{shown}.length && {shown}.every(one => window.reached.includes(one))"), selector
    outline = "getComputedStyle(window.reached[0]).outlineStyle"
    browser.run("window.reached[0].focus()")
    assert browser.run(outline) == "solid" and is_quiet(browser)


def test_the_matrix_and_the_table_are_sorted(digits_page, browser):
    browser.open(digits_page)
    browser.run("(s => { s.value = 'recall'; s.dispatchEvent(new Event('change')); })(document.querySelector('select'))")
    numbers = "[...row.querySelectorAll('button')].map(b => Number(b.textContent))"
    rows = browser.run(f"[...document.querySelectorAll('.matrix tbody tr')].map(row => {numbers})")
    shares = [row[i] / sum(row) for i, row in enumerate(rows)]
    assert shares == sorted(shares) and shares[0] < 1  # the diagonal stays the diagonal
    browser.click(".sortable th:nth-child(6) button")
    values = browser.run("[...document.querySelectorAll('.sortable tbody tr')].map(r => Number(r.cells[5].textContent))")
    assert values == sorted(values, reverse=True) and values[0] > values[-1] and is_quiet(browser)


def luminance(colour):
    """That of WCAG 2, of a colour as a browser gives it: `rgb(0, 73, 122)` or `color(srgb 0 0.29 0.48)`."""
    numbers = [float(number) for number in re.findall(r"[\d.]+", colour)[:3]]
    shares = [number / (1 if colour.startswith("color") else 255) for number in numbers]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("dark", [False, True])
def test_the_count_in_a_cell_stands_out_from_every_shade(dark, digits_page, browser):
    browser.open(digits_page, dark=dark)
    cell, faint = "document.querySelector('.matrix td')", []
    for side, level in itertools.product(("right", "wrong"), range(11)):
        browser.run(f"{cell}.className = '{side} l{level}'")
        colours = browser.run(f"[getComputedStyle({cell}).backgroundColor, getComputedStyle({cell}.firstElementChild).color]")
        darker, lighter = sorted(map(luminance, colours))
        if (lighter + 0.05) / (darker + 0.05) < 4.5:
            faint.append((side, level, colours))
    assert faint == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_narrow_window_holds_the_page(dark, pair_page, browser):
    browser.open(pair_page, width=390, height=844, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    red = int(re.findall(r"\d+", browser.run("getComputedStyle(document.body).backgroundColor"))[0])
    assert (red < 60) == dark and is_quiet(browser)


def test_names_are_not_broken_into_letters(hostile_page, browser):
    browser.open(hostile_page, width=390, height=844)
    heights = browser.run("[...document.querySelectorAll('.matrix tbody tr')].map(row => row.offsetHeight)")
    assert len(heights) == 3 and max(heights) < 60
    assert browser.run("document.documentElement.scrollWidth") <= 390


def test_120_classes_show_the_most_confused_pairs(many_page, browser):
    browser.open(many_page, width=390, height=844)
    assert browser.run("document.querySelectorAll('.pairs tbody tr').length") == 25
    assert browser.run("document.querySelector('.matrix') === null")
    browser.click(".pairs button")
    count = browser.run("Number(document.querySelector('.pairs button').textContent)")
    assert browser.run("document.querySelectorAll('#r0-panel img').length") == min(6, count) > 0
    assert 0 <= browser.run("document.querySelector('#r0-panel').getBoundingClientRect().top") < 844
    assert browser.run("document.documentElement.scrollWidth") <= 390 and is_quiet(browser)


def test_names_do_nothing_in_a_browser(hostile_page, browser):
    browser.open(hostile_page)
    for cell in ("0,0", "1,1", "2,2"):
        browser.click(f'button[data-cell="{cell}"]')
    assert browser.run("document.querySelectorAll('[onclick], [onerror], main script').length") == 0 and is_quiet(browser)
