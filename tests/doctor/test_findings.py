"""Planted defects of every kind are found, and nothing else is."""

import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from utils.core.walk import HEIF, image_suffixes
from utils.doctor.facts import Facts, read_all, read_facts
from utils.doctor.findings import CHECKS, find
from utils.doctor.scan import scan_folder

ORIENTATION = 0x0112


def enlarged(path, side=256):
    return Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)


def replace_with(change):
    """A defect in the file itself: `change(path)` writes it; the file is what must be found."""
    return lambda path, number: (change(path), path)[1]


def copy_as(change):
    """A second file beside it: `change(path)` gives its image."""

    def plant(path, number):
        target = path.with_name(f"copy_{number}.jpg")
        change(path).save(target, quality=85)
        return target

    return plant


def garbage(path):
    path.write_bytes(b"no image" * 99 + path.name.encode())


def half(path):
    enlarged(path).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def turned(path):
    image = enlarged(path)
    exif = image.getexif()
    exif[ORIENTATION] = 6
    image.save(path, exif=exif)


def same_bytes(path, number):
    return shutil.copy(path, path.with_name(f"same_{number}.jpg"))


def under_another_class(path, number):
    other = sorted(folder for folder in path.parent.parent.iterdir() if folder != path.parent)[number % 2]
    target = other / f"conflict_{number}.jpg"
    enlarged(path, 90).save(target, quality=80)
    return target


# kind, how often, how it is planted
PLANTED = [
    ("does not decode", 4, replace_with(garbage)),
    ("truncated", 4, replace_with(half)),
    ("wrong extension", 3, replace_with(lambda path: enlarged(path).save(path, format="PNG"))),
    ("rotated by EXIF", 3, replace_with(turned)),
    ("extreme aspect ratio", 3, replace_with(lambda path: enlarged(path).resize((400, 40)).save(path))),
    ("nearly uniform", 3, replace_with(lambda path: Image.new("RGB", (99, 99), (len(path.name) * 9, 99, 60)).save(path))),
    ("dark", 3, replace_with(lambda path: ImageEnhance.Brightness(enlarged(path)).enhance(0.06).save(path))),
    ("blurred", 3, replace_with(lambda path: enlarged(path).filter(ImageFilter.GaussianBlur(16)).save(path))),
    ("duplicate", 3, same_bytes),
    ("near-duplicate", 3, copy_as(lambda path: enlarged(path, 180))),
    ("near-duplicate", 3, copy_as(lambda path: ImageOps.mirror(enlarged(path)))),
    ("near-duplicate", 3, copy_as(lambda path: enlarged(path).crop((7, 12, 243, 248)))),
    ("near-duplicate", 2, under_another_class),
]


def plant(root, seed=0):
    """Plant everything into images of `root` that are chosen at random; returns [(kind, path)]."""
    files = sorted(path for path in root.rglob("*.jpg"))
    chosen = iter(np.random.default_rng(seed).permutation(len(files)))
    return [(kind, put(files[next(chosen)], number)) for kind, count, put in PLANTED for number in range(count)]


def findings_of(root):
    classes, splits, _, _ = scan_folder(root)
    return find(read_all(splits, show=False), classes)


def missed_and_false(planted, findings):
    paths = {str(path) for _, path in planted}
    missed = [(kind, path) for kind, path in planted if not any(f.kind == kind and str(path) in f.paths for f in findings)]
    return missed, [finding for finding in findings if not paths & set(finding.paths)]


def test_defects_among_two_thousand_photographs(real_data, tmp_path):
    shutil.copytree(real_data / "cifar10_sample" / "train", tmp_path / "train")
    random = np.random.default_rng(1)
    files = sorted((tmp_path / "train").rglob("*.jpg"))
    for index in random.permutation(len(files))[::2]:
        enlarged(files[index], int(random.choice([64, 96, 128, 256]))).save(files[index], quality=92)
    planted = plant(tmp_path)
    missed, false = missed_and_false(planted, findings_of(tmp_path))
    assert len(planted) == 40 and len(missed) <= 1 and len(false) <= 5, (missed, false)


def test_fine_textures_and_colours_of_one_grey_are_not_uniform_and_odd_orientations_turn_nothing(tmp_path):
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    halves = np.zeros((60, 60, 3), np.uint8)
    halves[:, :30, 0], halves[:, 30:, 1] = 255, 130  # of one grey
    for name, pixels in {"board": board, "noise": noise, "halves": halves}.items():
        Image.fromarray(pixels).convert("RGB").save(folder / f"{name}.png")
    for orientation in (0, 1, 3, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(noise).save(folder / f"turned{orientation}.jpg", exif=exif)
    Image.new("RGB", (90, 90), (80, 70, 60)).save(folder / "plain.png")
    facts = {pathlib.Path(fact.path).stem: fact for fact in read_all(scan_folder(tmp_path)[1], show=False)}
    found = {(f.kind, pathlib.Path(path).stem) for f in find(list(facts.values()), ["a"]) for path in f.paths}
    assert {stem for kind, stem in found if kind == "nearly uniform"} == {"plain"}
    assert {stem for kind, stem in found if kind == "rotated by EXIF"} == {"turned3"}


@pytest.fixture
def noisy(tmp_path):
    """120 images of two classes, coarse noise, in train/, which no two have alike."""
    random = np.random.default_rng(0)
    for number in range(120):
        folder = tmp_path / "train" / ("a", "b")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(40, 220, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC)
        Image.fromarray((np.asarray(image) * 0.9 + random.integers(0, 25, (96, 96, 3))).astype(np.uint8)).save(
            folder / f"{number}.jpg", quality=95
        )
    return tmp_path


def test_a_sound_folder_has_no_findings(noisy):
    assert findings_of(noisy) == []


@pytest.mark.parametrize("number", range(len(PLANTED)), ids=lambda number: f"{PLANTED[number][0]} {number}")
def test_each_defect_alone_is_found_and_nothing_else(number, noisy):
    kind, _, put = PLANTED[number]
    path = put(noisy / "train" / "a" / "20.jpg", 0)
    missed, false = missed_and_false([(kind, path)], findings_of(noisy))
    assert not missed and not false


def test_copies_in_two_splits_and_in_two_classes_are_told_apart(noisy):
    for split, name in (("val", "a"), ("val", "b")):
        (noisy / split / name).mkdir(parents=True)
    shutil.copy(noisy / "train" / "a" / "0.jpg", noisy / "val" / "a" / "leak.jpg")
    shutil.copy(noisy / "train" / "a" / "2.jpg", noisy / "val" / "b" / "conflict.jpg")
    words = {pathlib.Path(f.paths[-1]).name: f.words for f in findings_of(noisy) if f.kind == "duplicate"}
    assert "what is measured was trained on" in words["leak.jpg"] and "label conflict" in words["conflict.jpg"]


def test_a_jpeg_of_several_pictures_as_phones_write_it_has_the_right_suffix(tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
    picture.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[picture])
    fact = read_facts((str(tmp_path / "a.jpg"), "train", 0))
    assert fact.format == "MPO" and fact.suffix_fits and fact.fault is None


def test_class_names_that_differ_by_spelling(noisy):
    (noisy / "val" / "A ").mkdir(parents=True)
    shutil.copy(noisy / "train" / "a" / "0.jpg", noisy / "val" / "A " / "0.jpg")
    (finding,) = [f for f in findings_of(noisy) if f.kind == "class names alike"]
    assert "'A ' and 'a'" in finding.words and len(finding.paths) == 2


def test_an_imbalance_names_the_flags_against_it(noisy):
    for path in sorted((noisy / "train" / "b").iterdir())[10:]:
        path.unlink()
    (finding,) = findings_of(noisy)
    assert finding.kind == "imbalance" and "60 images of a, 10 of b" in finding.words


def test_only_the_images_of_training_are_balanced():
    counts = {("train", 0): 10, ("train", 1): 10, ("val", 0): 90, ("val", 1): 1}
    facts = [Facts("x.jpg", split, label, "") for (split, label), count in counts.items() for _ in range(count)]
    assert CHECKS["imbalance"]("imbalance", facts, ["a", "b"]) == []


def test_every_kind_is_planted_or_has_its_own_test():
    assert set(CHECKS) == {kind for kind, *_ in PLANTED} | {"overexposed", "class names alike", "imbalance", "odd values"}


def test_values_of_12_bits_in_16(noisy):
    path = noisy / "train" / "a" / "20.png"
    Image.fromarray(np.asarray(Image.open(path.with_suffix(".jpg")).convert("L")).astype(np.uint16) * 16).save(path)
    path.with_suffix(".jpg").unlink()
    (words,) = [f.words for f in findings_of(noisy) if f.kind == "odd values" and str(path) in f.paths]
    assert "of 65,535, so it is nearly black, in 1" in words


def test_an_overexposed_image(noisy):
    path = noisy / "train" / "a" / "20.jpg"
    Image.open(path).point(lambda level: min(255, 200 + level // 2)).save(path, quality=95)
    assert "overexposed" in {f.kind for f in findings_of(noisy) if str(path) in f.paths}


def test_every_suffix_that_is_read_fits_the_format_that_it_stands_for(tmp_path):
    own = dict.fromkeys(HEIF, "HEIF") | Image.registered_extensions()
    wrong = [
        suffix for suffix in image_suffixes() if not Facts(f"a{suffix.upper()}", "train", 0, "", format=own[suffix]).suffix_fits
    ]
    assert not wrong
    for suffix in sorted(image_suffixes()):
        other = "PNG" if own[suffix] != "PNG" else "GIF"
        assert not Facts(f"a{suffix}", "train", 0, "", format=other).suffix_fits


@pytest.mark.filterwarnings("ignore")  # of formats that Pillow will drop
def test_no_file_that_pillow_writes_has_a_wrong_suffix(tmp_path):
    written = 0
    for suffix in sorted(image_suffixes()):
        path = tmp_path / f"a{suffix}"
        for mode in ("RGB", "L", "1", "F"):  # some formats take one of these only
            try:
                Image.linear_gradient("L").resize((64, 64)).convert(mode).save(path)
            except (OSError, KeyError, ValueError):
                continue
            fact = read_facts((str(path), "train", 0))
            assert fact.fault or fact.suffix_fits, (suffix, mode, fact.format)
            written += not fact.fault
    assert written > 60
