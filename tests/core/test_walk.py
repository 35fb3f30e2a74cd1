import os
import socket

import pytest
from PIL import Image

from utils.core.walk import NO_IMAGE, TAKEN, find_images, image_suffixes, summary


@pytest.fixture
def folder(tmp_path):
    """Two images in folders, and one beside these."""
    for name in ("z.png", "a/2.jpg", "a/deep/1.png", "b/3.JPG"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    return tmp_path / "root"


def names(folder):
    return [str(path.relative_to(folder)) for path in find_images(folder).images]


def left_out(folder):
    return {str(path.relative_to(folder)): reason for path, reason in find_images(folder).left_out}


def test_files_come_before_folders_and_hidden_ones_do_not_count(folder):
    for name in (".hidden.png", "a/.hidden/x.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    assert names(folder) == ["z.png", "a/2.jpg", "a/deep/1.png", "b/3.JPG"] and not left_out(folder)


@pytest.mark.parametrize("suffix", [".jfif", ".avif", ".tga", ".webp", ".jpe", ".j2k", ".ico", ".mpo", ".PNG", ".tiff", ".gif"])
def test_what_pillow_reads_is_an_image(folder, suffix):
    (folder / f"b/x{suffix}").write_bytes(b"")
    assert f"b/x{suffix}" in names(folder)


@pytest.mark.parametrize(
    "suffix", [".pdf", ".eps", ".ps", ".mpg", ".h5", ".hdf", ".grib", ".bufr", ".wmf", ".txt", ".json", ""]
)
def test_what_is_no_image_is_reported(folder, suffix):
    (folder / f"b/x{suffix}").write_bytes(b"")
    assert left_out(folder) == {f"b/x{suffix}": NO_IMAGE} and len(names(folder)) == 4


def test_every_suffix_that_used_to_count_still_does():
    assert {
        ".jpg",
        ".jpeg",
        ".png",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".webp",
        ".ppm",
        ".pgm",
        ".pnm",
        ".jp2",
    } <= image_suffixes()


def test_links_are_followed_once_and_circles_end(folder, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    (store / "blob").write_bytes(b"")  # without a suffix, as in a content-addressed store
    Image.new("RGB", (4, 4)).save(store / "4.png")
    for link, target in {
        "a/self": folder,  # up
        "a/here": folder / "a",
        "a/other": folder / "b",  # a folder that is taken itself
        "a/again.png": folder / "z.png",
        "a/nowhere.png": tmp_path / "gone",
        "a/blob.png": store / "blob",
        "b/store": store,
        "b/store_too": store,
    }.items():
        (folder / link).symlink_to(target)
    (store / "back").symlink_to(folder)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    assert names(folder) == ["z.png", "a/2.jpg", "a/blob.png", "a/deep/1.png", "b/3.JPG", "b/store/4.png"]
    taken = ("a/self", "a/here", "a/other", "a/again.png", "b/store_too", "b/store/back", "b/store/blob")
    assert left_out(folder) == {
        **dict.fromkeys(taken, TAKEN),
        "a/nowhere.png": "a link to nothing",
        "loop.png": "a link to nothing",
    }


def test_a_link_to_a_folder_above_does_not_take_the_root_twice(folder, tmp_path):
    (folder / "up").symlink_to(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "above.png")
    assert names(folder) == ["z.png", "a/2.jpg", "a/deep/1.png", "b/3.JPG", "up/above.png"]
    assert left_out(folder) == {"up/root": TAKEN}


def test_a_file_that_a_link_took_is_not_taken_with_its_folder(folder, tmp_path):
    (tmp_path / "store").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "store" / "s.png")
    (folder / "a" / "first.png").symlink_to(tmp_path / "store" / "s.png")
    (folder / "b" / "store").symlink_to(tmp_path / "store")
    assert sum("first" in name or "/s.png" in name for name in names(folder)) == 1


def test_pipes_sockets_and_links_to_devices_are_not_waited_for(folder, monkeypatch):
    os.mkfifo(folder / "pipe.png")
    (folder / "null.png").symlink_to(os.devnull)
    monkeypatch.chdir(folder)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        assert left_out(folder) == {"pipe.png": "a pipe", "socket.png": "a socket", "null.png": "a device"}
    assert len(names(folder)) == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_reported(folder):
    (folder / "b").chmod(0)
    try:
        assert "cannot be read" in left_out(folder)["b"] and len(names(folder)) == 3
    finally:
        (folder / "b").chmod(0o755)


def test_a_root_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(OSError):
        find_images(tmp_path / "gone")


def test_a_folder_with_the_name_of_an_image_is_read_unless_it_is_empty(folder):
    (folder / "b" / "x.png").mkdir()
    assert left_out(folder) == {"b/x.png": "an empty folder"}
    Image.new("RGB", (4, 4)).save(folder / "b" / "x.png" / "1.png")
    assert not left_out(folder) and "b/x.png/1.png" in names(folder)


def test_a_summary_counts_and_names(folder):
    for name in "pqrst":
        (folder / "a" / f"{name}.txt").write_text("")
    (folder / "gone.png").symlink_to(folder / "nothing")
    lines = summary(find_images(folder).left_out)
    assert len(lines) == 2 and "5 files (no image by the suffix)" in lines[0] and "and 2 more" in lines[0]
    assert "1 file (a link to nothing)" in lines[1] and "gone.png" in lines[1]
