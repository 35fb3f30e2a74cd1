"""check_dataset.py as a user runs it."""

import csv
import html.parser
import json
import shutil

import pytest
from conftest import make_photos

from utils.core.errors import UserError


class Page(html.parser.HTMLParser):
    """The addresses that a page asks for, and its text."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.texts, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data):
        self.texts.append(data)


def test_a_sound_folder(photos, main_of):
    status, out = main_of("check_dataset", "-d", photos)
    assert status in (0, 1) and "does not decode" not in out and "red" in out and "short side" in out


def test_findings_reach_every_output(photos, main_of, tmp_path):
    (photos / "train" / "red" / "0.jpg").write_text("text")
    shutil.copy(photos / "train" / "red" / "1.jpg", photos / "val" / "red" / "leak.jpg")
    flags = ("--json", "report.json", "--fix_list", "fixes.csv", "--html", "report.html")
    status, out = main_of("check_dataset", "-d", photos, *flags)
    assert status == 1 and "1  does not decode" in out and "leak.jpg" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["images"]["train"] == {"blue": 8, "green": 8, "red": 8}
    assert [f["paths"] for f in report["findings"]["does not decode"]] == [[str(photos / "train" / "red" / "0.jpg")]]
    rows = list(csv.DictReader((tmp_path / "fixes.csv").open()))
    assert {"path": str(photos / "train" / "red" / "0.jpg"), "finding": "does not decode"}.items() <= rows[0].items()
    page = Page((tmp_path / "report.html").read_text())
    assert page.addresses and all(address.startswith("data:image/") for address in page.addresses)


def test_a_finding_about_no_file(photos, main_of):
    for path in sorted((photos / "train" / "red").iterdir())[2:]:
        path.unlink()
    status, out = main_of("check_dataset", "-d", photos)
    assert status == 1 and "imbalance: 8 images of blue, 2 of red" in out


def test_a_decoder_that_ends_its_process_is_a_finding(photos, main_of, tmp_path, crash):
    before = main_of("check_dataset", "-d", photos, "--json", "before.json")[0]
    crashing = [photos / "train" / name for name in ("blue/0.jpg", "green/5.jpg", "red/7.jpg")]
    for path in crashing:
        crash(path)
    status, _ = main_of("check_dataset", "-d", photos, "--json", "after.json", "--html", "a.html", "--folds", 2)
    after, before = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("after", "before"))
    found = {(*finding["paths"], finding["what"]) for finding in after["findings"].pop("does not decode")}
    assert status == 1 and found == {(str(path), "ends the process that decodes it") for path in crashing}
    assert after["modes"] == {"RGB": before["modes"]["RGB"] - 3}  # the others were read


def test_what_is_printed_fits_into_80_columns_and_names_each_file_whole(tmp_path, main_of, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    photos = make_photos(
        tmp_path / "a folder of photographs with a long name" / "and another", ("a class with a long name", "b")
    )
    first, other = photos / "train" / "b" / "1.jpg", photos / "val" / "b" / "leak.jpg"
    shutil.copy(first, other)
    for name in "0.jpg", "2.jpg":
        (photos / "train" / "b" / name).write_text("text")
    (photos / "notes.txt").write_text("text")
    _, out = main_of("check_dataset", "-d", photos)
    lines = out.splitlines()
    place = lines.index(f"  {first}")
    assert lines[place - 1].startswith("duplicate: the same file in train and val") and lines[place + 1] == f"  = {other}"
    place = lines.index("does not decode: it holds text, not an image")  # once for both
    assert lines[place + 1 : place + 3] == [f"  {photos}/train/b/0.jpg", f"  {photos}/train/b/2.jpg"]
    assert all(len(line) <= 80 for line in lines if "/" not in line), out


def test_a_seed_without_folds_is_refused(photos, main_of):
    with pytest.raises(UserError, match="--seed is of the networks of --folds"):
        main_of("check_dataset", "-d", photos, "--seed", 5)


def test_a_finding_may_be_of_no_file_or_of_many(photos, main_of):
    for number in range(20):
        shutil.copy(photos / "train" / "red" / "1.jpg", photos / "train" / "red" / f"same_{number:02}.jpg")
    status, out = main_of("check_dataset", "-d", photos)
    assert status == 1 and "\nimbalance: 28 images of red, 8 of green\n" in f"{out}\n"
    assert out.count(f"  = {photos}") == 3 and "\n    and 17 files more\n" in out


def test_what_training_would_refuse_is_said_too(photos, main_of):
    (photos / "train" / "Red").mkdir()
    status, out = main_of("check_dataset", "-d", photos)
    assert status == 1
    said = f"train.py refuses this folder: class folder {photos / 'train' / 'Red'} holds no images; class 'Red' is missing in"
    assert said in " ".join(out.split())
    (photos / "train" / "Red").rmdir()
    assert main_of("check_dataset", "-d", photos)[0] == 0 and "refuses" not in main_of("check_dataset", "-d", photos)[1]


def test_names_are_no_markup_and_no_formula(photos, main_of, tmp_path):
    name = "=cmd<script>alert(1)</script>.jpg".replace("/", "")
    (photos / "train" / "red" / name).write_text("text")
    main_of("check_dataset", "-d", photos, "--fix_list", "fixes.csv", "--html", "report.html")
    page = Page((tmp_path / "report.html").read_text())
    assert "script" not in page.tags and any("<script>" in text for text in page.texts)


def test_outputs_never_replace_an_image(photos, main_of):
    victim = photos / "train" / "red" / "1.jpg"
    before = victim.read_bytes()
    for flag in ("--json", "--fix_list", "--html"):
        (photos / "train" / "red" / "0.jpg").write_text("text")
        with pytest.raises(UserError, match="is an input of this run"):
            main_of("check_dataset", "-d", photos, flag, victim)
    assert victim.read_bytes() == before


def test_two_outputs_are_two_files(photos, main_of):
    with pytest.raises(UserError, match="--json and --html name one file"):
        main_of("check_dataset", "-d", photos, "--json", "a", "--fix_list", "b", "--html", "./a")


def test_one_class_alone_is_refused_by_training_and_said_here(tmp_path, main_of):
    make_photos(tmp_path / "one", classes=["red"])
    status, out = main_of("check_dataset", "-d", tmp_path / "one")
    assert status == 1 and "refuses this folder: one has one class, red" in " ".join(out.split())
    assert "nothing found" not in out
    with pytest.raises(UserError, match="one has one class, red"):
        main_of("train", "-d", tmp_path / "one", "-m", "custom", "--image_size", 16, "--max_epoch", 1)


def test_what_is_no_folder(main_of):
    with pytest.raises(UserError, match="--dataset digits does not exist"):
        main_of("check_dataset", "-d", "digits")


def test_label_errors_by_folds_and_by_a_checkpoint(photos, main_of, script, tmp_path):
    moved = photos / "train" / "blue" / "moved.jpg"
    shutil.move(photos / "train" / "red" / "7.jpg", moved)
    status, _ = main_of("check_dataset", "-d", photos, "--folds", 3, "--json", "folds.json")
    suspects = json.loads((tmp_path / "folds.json").read_text())["findings"]["likely label error"]
    assert status == 1 and str(moved) in suspects[0]["paths"] and suspects[0]["answer"] == "red"
    main_of("train", "-d", photos, "-m", "custom", "--image_size", 32, "--batch_size", 8, "--max_epoch", 6, "--wp_epoch", 0)
    weights = tmp_path / "weights" / "photos" / "custom" / "best_model.pth"
    main_of("check_dataset", "-d", photos, "-w", weights, "--json", "weights.json")
