"""Tables and lists give what class folders give; groups stay together; what is wrong is named."""

import json
import pathlib
import random
import shutil
import sys

import numpy as np
import pytest
from conftest import make_photos
from labelled_images import write_table
from PIL import Image

from models.checkpoint import read_checkpoint
from utils.core.card import ModelCard
from utils.core.errors import UserError
from utils.data.data_card import data_card
from utils.data.datasets import dataset_of, open_dataset
from utils.data.reading import Reading
from utils.data.rows import Rows, from_class_folder, relative_name
from utils.data.samples import open_split
from utils.data.splits import split_by_name


def images_in(folder, root=None):
    """[(path from `root`, class)], shuffled."""
    found = sorted((path.relative_to(root or folder).as_posix(), path.parent.name) for path in folder.rglob("*.jpg"))
    random.Random(0).shuffle(found)
    return found


def same(one, two):
    """Whether two data sets have the same images in the same order under the same labels and names."""
    assert one.classes == two.classes and [s.name for s in one.splits] == [s.name for s in two.splits]
    for a, b in zip(one.splits, two.splits, strict=True):
        assert [p.resolve() for p in a.paths] == [p.resolve() for p in b.paths] and list(a.names()) == list(b.names())
        assert np.array_equal(a.labels, b.labels)
    return True


@pytest.fixture
def flat(tmp_path):
    """Three classes of 30 images without split folders."""
    make_photos(tmp_path / "all", train=30, val=1)
    return pathlib.Path(shutil.move(tmp_path / "all" / "train", tmp_path / "flat"))


def test_tables_and_lists_hold_out_what_the_folder_holds_out(flat):
    folder, rows = open_dataset(str(flat)), images_in(flat)
    assert len(folder.val) > 3
    assert same(folder, open_dataset(write_table(flat / "a.csv", rows)))
    assert same(folder, open_dataset(write_table(flat / "a.tsv", [(flat.resolve() / p, c) for p, c in rows], delimiter="\t")))
    beside = [(label, path) for path, label in images_in(flat, flat.parent)]
    assert same(folder, open_dataset(write_table(flat.parent / "b.csv", beside, ("class", "file"), ";")))
    (flat / "list.txt").write_text("# images\n\n" + "\n".join(f"{path} {label}" for path, label in rows) + "\n")
    assert same(folder, open_dataset(str(flat / "list.txt")))


def test_splits_come_from_a_column_from_folders_in_the_paths_or_from_tables_beside_it(photos):
    folder, rows = open_dataset(str(photos)), images_in(photos)
    with_splits = [(path, label, "Validation" if path.startswith("val") else "train") for path, label in rows]
    named = open_dataset(write_table(photos / "named.csv", with_splits, ("path", "species", "subset")))
    assert same(folder, named) and "splits are in 'subset'" in " ".join(named.notices)
    by_path = open_dataset(write_table(photos / "by_path.csv", rows))
    assert same(folder, by_path) and "folders in the paths do" in " ".join(by_path.notices)
    moved = [(shutil.copy(photos / path, photos / f"{i}_{label}.jpg"), label) for i, (path, label) in enumerate(rows)]
    write_table(photos / "train.csv", moved[:20])
    write_table(photos / "valid.csv", moved[20:])
    beside = open_dataset(str(photos / "train.csv"))
    assert (len(beside.train), len(beside.val), beside.name) == (20, 13, "photos")


def test_folders_above_a_table_say_nothing_of_its_images(photos, tmp_path):
    """A data set that is moved into a folder called test/ keeps its splits, and holds out the same images."""
    rows = images_in(photos)
    here = {
        "split": write_table(photos / "split.csv", rows),
        "flat": write_table(photos / "train" / "a.csv", images_in(photos / "train")),
    }
    names = {name: [list(split.names()) for split in open_dataset(table).splits] for name, table in here.items()}
    assert len(names["split"]) == len(names["flat"]) == 2
    moved = shutil.move(photos, tmp_path / "test" / "photos")
    for name, table in here.items():
        there = open_dataset(str(moved / pathlib.Path(table).relative_to(photos)))
        assert [list(split.names()) for split in there.splits] == names[name]


def test_a_group_column_that_only_one_of_the_tables_has(photos):
    rows = images_in(photos / "train")
    write_table(
        photos / "train" / "train.csv", [(*row, f"p{i // 4}") for i, row in enumerate(rows[:20])], ("image", "label", "patient")
    )
    write_table(photos / "train" / "test.csv", rows[20:])
    dataset = open_dataset(str(photos / "train" / "train.csv"), val_fraction=0.3)
    train, val = set(dataset.train.groups), set(dataset.val.groups)
    assert train | val == {f"p{i}" for i in range(5)} and not train & val and len(set(dataset.test.groups)) == len(dataset.test)


def test_images_of_tables_beside_a_grouped_one_may_have_equal_names(photos):
    for name, end in (("val", "val"), ("test", "val")):  # an image of its own in each
        shutil.copytree(photos / end, photos / "all" / name)
        rows = [(path, label) for path, label in images_in(photos / "all") if path.startswith(name)]
        write_table(photos / "all" / f"{name}.csv", rows)
    shutil.copytree(photos / "train", photos / "all" / "train")
    rows = [(*row, "p") for row in images_in(photos / "all") if row[0].startswith("train")]
    dataset = open_dataset(write_table(photos / "all" / "train.csv", rows, ("image", "label", "patient")))
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (24, 9, 9)


def test_names_that_two_images_would_share_are_whole_paths(flat, tmp_path):
    for site in range(6):
        make_photos(tmp_path / "sites" / f"site{site}", classes=("a", "b"), train=5, val=0)
        shutil.move(tmp_path / "sites" / f"site{site}" / "train" / "a", tmp_path / "sites" / f"site{site}" / "a")
        shutil.move(tmp_path / "sites" / f"site{site}" / "train" / "b", tmp_path / "sites" / f"site{site}" / "b")
    table = write_table(tmp_path / "sites" / "a.csv", images_in(tmp_path / "sites"))
    dataset = open_dataset(table, val_fraction=0.2)
    names = [*dataset.train.names(), *dataset.val.names()]
    assert len(set(names)) == len(names) == 60 and "site1/a/1.jpg" in names and 6 <= len(dataset.val) <= 18
    assert any("60 images share their names from the class folder on" in notice for notice in dataset.notices)
    groups = open_dataset(table, val_fraction=0.2, reading=Reading(group_regex="site[0-9]")).val.groups
    assert 1 <= len(set(groups)) <= 3


def test_a_column_is_taken_for_that_of_splits_or_groups_where_it_can_be(flat):
    rows = [
        (path, label, "vidir", "" if number % 3 else f"p{number % 2}") for number, (path, label) in enumerate(images_in(flat))
    ]
    dataset = open_dataset(write_table(flat / "a.csv", rows, ("image", "label", "dataset", "patient")), val_fraction=0.3)
    assert any("column 'dataset' names no split ('vidir')" in notice for notice in dataset.notices)
    groups = [*dataset.train.groups, *dataset.val.groups]
    assert len(groups) == 90 and len(set(groups)) == 60 + 2
    with pytest.raises(UserError, match="row 2 names the split 'vidir'"):
        open_dataset(str(flat / "a.csv"), reading=Reading(split_column="dataset"))
    with pytest.raises(UserError, match="the group is empty"):
        open_dataset(str(flat / "a.csv"), reading=Reading(group_column="patient"))


def test_a_column_of_patients_groups_the_rows_of_hugging_face_too(flat, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf_cache"))
    found = images_in(flat)
    images = [{"bytes": (flat / path).read_bytes(), "path": path} for path, _ in found]
    columns = {"image": images, "label": [label for _, label in found], "Patient": [i // 3 for i in range(90)]}
    columns["video"] = [None] * 90  # tells nothing
    features = datasets.Features(
        image=datasets.Image(), label=datasets.Value("string"), Patient=datasets.Value("int64"), video=datasets.Value("string")
    )
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(tmp_path / "a.parquet"))
    dataset = open_dataset(f"hf:{tmp_path / 'a.parquet'}", val_fraction=0.3)
    assert any("groups in 'Patient'" in notice for notice in dataset.notices)
    train, val = set(dataset.train.groups), set(dataset.val.groups)
    assert len(train | val) == 30 and not train & val and val


def test_a_parquet_table_is_read_like_a_csv(flat):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame(images_in(flat), columns=["image", "label"])
    frame.to_parquet(flat / "a.parquet")
    assert same(open_dataset(str(flat)), open_dataset(str(flat / "a.parquet")))


def test_without_pyarrow_a_parquet_table_asks_for_it_in_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"a.parquet needs the package pyarrow \(pip install pyarrow\)"):
        open_dataset(str(tmp_path / "a.parquet"))


def test_numbers_are_named_by_the_classes_file_beside_the_list(flat):
    names = ["blue", "green", "red"]
    lines = [f"{path}\t{names.index(label)}" for path, label in images_in(flat)]
    (flat / "numbers.txt").write_text("\n".join(lines))
    assert open_dataset(str(flat / "numbers.txt")).classes == ["0", "1", "2"]
    (flat / "classes.txt").write_text("\n".join(names))
    assert same(open_dataset(str(flat)), open_dataset(str(flat / "numbers.txt")))


def test_numbers_that_the_classes_file_names_as_such_stay_what_they_are(tmp_path):
    """train.py writes the names sorted as text: "10" stands third there, and is not the class 2."""
    names = sorted(str(number) for number in range(12))
    for name in names:
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4), (int(name), 0, 0)).save(tmp_path / name / "0.png")
    (tmp_path / "list.txt").write_text("\n".join(f"{name}/0.png {name}" for name in names))
    (tmp_path / "classes.txt").write_text("\n".join(names))
    opened = open_dataset(str(tmp_path / "list.txt"), val_fraction=0)
    found = {opened.classes[label]: opened.train.image(i).getpixel((0, 0))[0] for i, label in enumerate(opened.train.labels)}
    assert found == {name: int(name) for name in names}


def plant_groups(folder, groups=200):
    """Class folders of tiny images, two to six of each animal, in two classes: [(path, class, animal)]."""
    numbers, rows = random.Random(1), []
    for group in range(groups):
        for i in range(numbers.randint(2, 6)):
            label = "ab"[numbers.random() < 0.4]
            path = folder / label / f"animal{group:03}_{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (group, i, 0)).save(path)
            rows.append((path.relative_to(folder).as_posix(), label, f"animal{group:03}"))
    return rows


def test_no_group_of_200_stands_in_two_splits_for_tables_and_folders(tmp_path):
    rows = plant_groups(tmp_path / "animals")
    table = open_dataset(write_table(tmp_path / "animals" / "a.csv", rows, ("image", "label", "animal_id")))
    assert "groups are in 'animal_id'" in " ".join(table.notices)
    folder = open_dataset(str(tmp_path / "animals"), reading=Reading(group_regex="animal[0-9]+"))
    assert same(table, folder)
    for dataset in (table, folder):
        train, val = (set(split.groups) for split in dataset.splits)
        assert not train & val and len(train | val) == 200 and 8 <= len(val) <= 40
    fewer = [row for row in rows if row[2] != min(table.val.groups)]
    again = open_dataset(write_table(tmp_path / "animals" / "a.csv", fewer, ("image", "label", "animal_id")))
    assert set(again.val.groups) == set(table.val.groups) - {min(table.val.groups)}  # none changes sides
    assert "200" not in data_card(again) and "groups" in data_card(again)


def test_a_class_keeps_a_group_to_train_on_and_gives_one_if_it_can():
    kept, held = split_by_name(["p", "p", "q", "q", "r"], np.array([0, 1, 0, 1, 1]), 1e-9)
    assert len(held) and set(kept) | set(held) == set(range(5))
    kept, held = split_by_name(["p", "p", "q", "q"], np.array([0, 1, 0, 1]), 0.999999)
    assert len(kept) == len(held) == 2 and {0, 1} in (set(kept), set(held))


TABLES = {
    "group in two splits": (
        "image,label,split,patient\n{0},a,train,7\n{1},b,val,7\n{2},b,train,8",
        "1 group in two splits: 7 ",
    ),
    "no header": ("{0},a\n{1},b", "no header line"),
    "unknown split": ("image,label,split\n{0},a,holdout", "names the split 'holdout'"),
    "missing image": ("image,label\n{0},a\nnowhere.png,b", "1 of 2 images are not there: .*nowhere.png"),
    "two labels": ("image,label\n{0},a\n{0},b", "is listed as a and as b"),
    "empty label": ("image,label\n{0},", "row 2: the label is empty"),
    "short row": ("image,label,split\n{0},a", "row 2: 2 values under 3 column names"),
    "which label": ("image,x,y1\n{0},a,b", "which of the columns image, x, y1 is the label"),
    "only val": ("image,label,split\n{0},a,val", "has val images but none to train on"),
    "strange class": (
        "image,label,split\n{0},a,train\n{1},b,test",
        "the test images have classes .*: b",
    ),
    "empty": ("\n", "is empty"),
    "open quote": ('image,label\n"{0},a', "is not a table"),
}


@pytest.mark.parametrize("fault", TABLES)
def test_what_is_wrong_with_a_table_is_named(fault, flat):
    text, message = TABLES[fault]
    (flat / "bad.csv").write_text(text.format(*(path for path, _ in images_in(flat))))
    with pytest.raises(UserError, match=message):
        open_dataset(str(flat / "bad.csv"))


@pytest.mark.parametrize(
    ("name", "reading", "message"),
    [
        ("a.csv", Reading(label_column="kind"), "has no column 'kind'; its columns are image, label"),
        ("", Reading(label_column="kind"), "an image folder has no such column"),
        ("", Reading(group_regex="(x"), "is no regular expression"),
        ("", Reading(group_regex="animal"), "90 of 90 train images have no match"),
        ("a.csv", Reading(group_column="label", group_regex="a"), "names the groups already"),
        ("b.csv", None, "b.csv does not exist"),
    ],
)
def test_what_does_not_fit_the_data_is_named(name, reading, message, flat):
    write_table(flat / "a.csv", images_in(flat))
    with pytest.raises(UserError, match=message):
        open_dataset(str(flat / name), reading=reading)


def test_data_with_a_name_have_no_columns():
    with pytest.raises(UserError, match="digits has neither columns nor names"):
        open_dataset("digits", reading=Reading(label_column="x"))


def test_what_is_listed_twice_counts_once(flat):
    rows = images_in(flat)
    dataset = open_dataset(write_table(flat / "a.csv", [*rows, *rows[:3]]))
    assert same(open_dataset(str(flat)), dataset) and "left out 3 images (listed more than once)" in dataset.notices[-1]


def test_names_are_the_same_wherever_the_images_lie():
    for path in ("/data/photos/train/cat/1.jpg", "train/cat/1.jpg", "photos/Training/cat/1.jpg", "cat/1.jpg"):
        assert relative_name(path) == "cat/1.jpg"
    assert relative_name("../cat/1.jpg") == "../cat/1.jpg" and relative_name("train/1.jpg") == "train/1.jpg"
    assert from_class_folder("p/a/q/1", "a") == "a/q/1" and from_class_folder("a/a/1", "a") == "a/a/1"
    assert from_class_folder("p/a/1", "b") == "p/a/1" and from_class_folder("a", "a") == "a"


def test_no_image_of_a_table_changes_sides_when_one_of_another_folder_joins(flat):
    rows = [(f"images/{label}_{number}.jpg", label) for number, (_, label) in enumerate(images_in(flat))]
    (flat / "images").mkdir()
    (flat / "more").mkdir()
    for (source, _), (target, _) in zip(images_in(flat), rows, strict=True):
        shutil.copy(flat / source, flat / target)
    shutil.copy(flat / rows[0][0], flat / "more" / "new.jpg")
    before = open_dataset(write_table(flat / "a.csv", rows), val_fraction=0.3)
    after = open_dataset(write_table(flat / "b.csv", [*rows, ("more/new.jpg", rows[0][1])]), val_fraction=0.3)
    assert len(before.val) > 9 and {*before.val.names()} == {*after.val.names()} - {"more/new.jpg"}


def test_an_image_without_a_group_is_one_by_its_name_wherever_it_lies():
    rows = Rows()
    rows.append(pathlib.Path("/photos/a/1.jpg"), "a/1.jpg", "a")
    rows.append(pathlib.Path("/photos/a/2.jpg"), "a/2.jpg", "a", group="g")
    assert rows.all_groups().tolist() == ["a/1.jpg", "g"]


def test_the_data_card_counts_splits_classes_and_sizes(photos):
    text = data_card(open_dataset(str(photos), val_fraction=0))
    assert "all       24    9" in text and "train: 24 images, JPEG, short sides of" in text and "no test split" in text
    assert "8×8 px, in memory" in data_card(open_dataset("digits"))


def test_a_data_set_is_the_one_of_the_card_however_its_path_is_spelled(flat, monkeypatch):
    rows = [(path, label, f"p{i // 3}") for i, (path, label) in enumerate(images_in(flat))]
    table = pathlib.Path(write_table(flat / "a.csv", rows, ("where", "kind", "who")))
    monkeypatch.chdir(flat)
    reading = Reading(image_column="where", label_column="kind", group_column="who")
    training = {"dataset": "a.csv", "val_fraction": 0.3, "reading": reading.given}
    card = ModelCard("custom", ["blue", "green", "red"], training=training)
    held_out = set(dataset_of(card).val.groups)
    for spelling in ("./a.csv", str(table), str(flat / ".." / flat.name / "a.csv")):
        assert set(dataset_of(card, spelling).val.groups) == held_out
        assert set(open_split(card, spelling, split="val")[0].groups) == held_out


def test_training_and_evaluation_read_the_same_columns(main_of, flat, tmp_path):
    rows = [(path, label, f"p{i // 3}") for i, (path, label) in enumerate(images_in(flat))]
    table = write_table(flat / "a.csv", rows, ("where", "kind", "who"))
    columns = ("--image_column", "where", "--label_column", "kind", "--group_column", "who")
    _, card = main_of("train", "-d", table, *columns, "--data_card")
    assert "a: 3 classes" in card and "30 groups" not in card and " groups, the largest of 3 images" in card
    assert not list(tmp_path.glob("weights"))
    flags = ("-m", "custom", "--image_size", 16, "--precision", "fp32", "--batch_size", 16, "--max_epoch", 2, "--cache", "ram")
    main_of("train", "-d", table, *columns, *flags)
    history = json.loads((tmp_path / "weights" / "a" / "custom" / "history.json").read_text())
    main_of("eval", "-w", tmp_path / "weights" / "a" / "custom" / "best_model.pth")
    (written,) = (tmp_path / "results" / "accuracy").rglob("*.json")
    result = json.loads(written.read_text())
    assert result["Acc@1"] == history["final"]["Acc@1"] and result["split"] == "val"
    other = write_table(flat / "other.csv", [(p, c) for p, c, _ in rows], ("image", "label"))
    main_of("eval", "-w", tmp_path / "weights" / "a" / "custom" / "best_model.pth", "-d", other)  # columns of its own
    card = ModelCard.from_dict(read_checkpoint(tmp_path / "weights" / "a" / "custom" / "best_model.pth")["card"])
    notices = open_split(card, str(other))[1].notices  # groups of animals cannot be held out as they were
    assert "holds the images that the model was trained on: images that it has seen count too" in notices[-1]
    with pytest.raises(UserError, match="has no column 'x'"):
        main_of("eval", "-w", tmp_path / "weights" / "a" / "custom" / "best_model.pth", "-d", other, "--label_column", "x")
