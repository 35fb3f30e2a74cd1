"""The sample photographs of the docs."""

import itertools

from PIL import Image

from docs.make_photos import CLASSES, CROPS, make_photos


def overlap(one, two):
    return max(one[0], two[0]) < min(one[2], two[2]) and max(one[1], two[1]) < min(one[3], two[3])


def test_no_pixel_is_in_training_and_test():
    boxes = [(photo, split, box) for photo, splits in CLASSES.values() for split in splits for box in splits[split]]
    for (photo, split, box), (other_photo, other_split, other_box) in itertools.combinations(boxes, 2):
        assert photo != other_photo or split == other_split or not overlap(box, other_box), (box, other_box)


def test_every_run_makes_the_same_crops(tmp_path):
    for name in ("one", "two"):
        make_photos(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.jpg"))
    assert len(files) == len(CLASSES) * sum(CROPS.values())
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)
    assert all(min(Image.open(tmp_path / "one" / file).size) >= 48 for file in files)
