"""Outputs are written completely or not at all, name what is wrong, and never replace an input, a device or a link."""

import errno
import os
import pathlib
import pickle
import stat
import subprocess
import sys

import pytest
from conftest import ROOT

from utils.core import files
from utils.core.files import TEMPORARY, WriteError, protect, replacing, write_bytes, write_json, write_text


@pytest.fixture(autouse=True)
def _no_inputs(monkeypatch):
    monkeypatch.setattr(files, "_inputs", {})


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(TEMPORARY)]


def test_a_failure_keeps_what_was_there_and_leaves_nothing_else(tmp_path):
    path = write_text(tmp_path / "new" / "a.txt", "before")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "before" and os.listdir(path.parent) == ["a.txt"]


def test_what_is_written_is_readable_by_others(tmp_path):
    mask = os.umask(0o022)
    try:
        assert stat.S_IMODE(write_text(tmp_path / "a", "").stat().st_mode) == 0o644
    finally:
        os.umask(mask)


def test_an_input_is_never_replaced(tmp_path):
    path = write_text(tmp_path / "photo.png", "mine")
    (tmp_path / "hard.png").hardlink_to(path)
    (tmp_path / "soft.png").symlink_to(path)
    protect(path, tmp_path / "missing")
    for name in ("photo.png", "hard.png", "soft.png"):
        with pytest.raises(WriteError, match=rf"{name} cannot be written \(it is an input of this run"):
            write_text(tmp_path / name, "")
    assert path.read_text() == "mine" and not leftovers(tmp_path)
    write_text(tmp_path / "missing", "free")


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_with_the_number_of_an_input_that_is_gone_is_no_input(replaced, tmp_path, monkeypatch):
    path = write_text(tmp_path / "flags.txt", "mine")
    protect(path)
    path.unlink()  # as an editor does that saves it anew, while the run goes on
    if replaced:
        write_text(path, "edited")
    output = write_text(tmp_path / "history.json", "")
    monkeypatch.setattr(files, "_identity", lambda status: next(iter(files._inputs)))  # file systems use a number again
    assert write_text(output, "the end of the run").read_text() == "the end of the run"


def test_the_fault_of_a_write_can_be_sent_to_another_process():
    sent = pickle.loads(pickle.dumps(WriteError("a.txt", "No space left")))
    assert str(sent) == "a.txt cannot be written (No space left)" and sent.reason == "No space left"


def test_places_are_checked_before_the_work_and_nothing_is_made(tmp_path):
    read = tmp_path / "read.txt"
    read.write_text("kept")
    files.protect(read)
    files.check_places(None, tmp_path / "new" / "a.txt", tmp_path / "b.txt")
    for place, why in ((read, "it is an input of this run"), (tmp_path, "it is a folder"), (read / "a.txt", "Not a directory")):
        with pytest.raises(WriteError, match=why):
            files.check_places(tmp_path / "b.txt", place)
    assert [path.name for path in tmp_path.iterdir()] == ["read.txt"] and read.read_text() == "kept"


def test_a_pipe_and_a_folder_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, why in (("pipe", "no regular file"), ("folder", "a folder")):
        with pytest.raises(WriteError, match=rf"{name} cannot be written \(it is {why}\)"):
            write_json(tmp_path / name, {})
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_link_is_followed(tmp_path):
    target = write_text(tmp_path / "there" / "target.txt", "before")
    link = tmp_path / "link.txt"
    link.symlink_to(target)
    dangling = tmp_path / "dangling.txt"
    dangling.symlink_to(tmp_path / "elsewhere" / "new.txt")
    write_text(link, "after")
    write_text(dangling, "new")
    assert link.is_symlink() and target.read_text() == "after"
    assert dangling.is_symlink() and (tmp_path / "elsewhere" / "new.txt").read_text() == "new"


def test_the_longest_names_can_be_written(tmp_path):
    name = "n" * 251 + ".txt"
    assert write_text(tmp_path / name, "x").read_text() == "x"
    with pytest.raises(WriteError, match="File name too long"):
        write_text(tmp_path / ("n" * 256), "x")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_every_fault_of_the_disk_names_the_target_and_the_reason(code, tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(WriteError, match=rf"a.bin cannot be written \({os.strerror(code)}\)"):
        write_bytes(tmp_path / "a.bin", b"x")
    assert not os.listdir(tmp_path)


def test_a_real_limit_of_the_file_size_is_one_sentence(tmp_path):
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "from utils.core.errors import run; from utils.core.files import write_bytes;"
        "run(lambda: write_bytes(sys.argv[1], bytes(100_000)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.bin")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and "a.bin cannot be written (File too large)" in result.stderr
    assert len(result.stderr.splitlines()) == 1 and not os.listdir(tmp_path)


def test_a_fault_of_another_file_keeps_its_own_name(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "out.txt"):
        (tmp_path / "input that is missing").read_bytes()


HOLDS = """
import sys, time
from utils.core.files import replacing
with replacing(sys.argv[1]) as temporary:
    print("on", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_run_left_is_removed_and_what_a_living_one_writes_stays(tmp_path):
    def start(name):
        command = [sys.executable, "-c", HOLDS, str(tmp_path / name)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        process.stdout.readline()
        return process

    alive, killed = start("alive.txt"), start("killed.txt")
    try:
        killed.kill()
        killed.wait()
        assert len(leftovers(tmp_path)) == 2
        write_text(tmp_path / "mine.txt", "x")
        assert len(leftovers(tmp_path)) == 1
    finally:
        alive.kill()
        alive.wait()
    write_text(tmp_path / "mine.txt", "y")
    assert os.listdir(tmp_path) == ["mine.txt"]
