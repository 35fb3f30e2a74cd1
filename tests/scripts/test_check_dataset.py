import json
import shutil

import pytest

from utils.core.errors import UserError


def test_a_sound_folder(photos, main_of):
    status, out = main_of("check_dataset", photos)
    assert status == 0 and "0 files do not decode" in out and "0 images are in two splits" in out
    assert "red" in out and "short side" in out


def test_broken_repeated_and_unbalanced_pictures_are_named(photos, main_of, tmp_path):
    (photos / "train" / "red" / "0.jpg").write_text("text")
    shutil.copy(photos / "train" / "red" / "1.jpg", photos / "val" / "red" / "leak.jpg")
    for i in range(3, 8):
        (photos / "train" / "green" / f"{i}.jpg").unlink()
    (photos / "train" / "green" / "2.jpg").unlink()
    status, out = main_of("check_dataset", photos, "--json", "report.json")
    assert status == 3 and "1 file does not decode" in out and "red/0.jpg is not a readable image" in out
    assert "1 image is in two splits" in out and "leak.jpg" in out and "unbalanced" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["images"]["train"] == {"blue": 8, "green": 2, "red": 8} and len(report["unreadable"]) == 1


def test_what_is_no_folder(main_of):
    with pytest.raises(UserError, match="digits is not a folder"):
        main_of("check_dataset", "digits")
