"""A folder is held by one process, for as long as that lives."""

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

from utils.core.errors import UserError
from utils.core.lock import hold, release

HOLDER = """
import os, sys, time
from utils.core.lock import hold
hold(sys.argv[1])
if os.fork() == 0:  # a loader worker, which says so once it runs
    print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path / "run", and has forked one of its own."""
    (tmp_path / "run").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "run"], stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_second_process_is_refused_also_by_another_name(holder, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for name in ("run", "link", "run/../run"):
        with pytest.raises(UserError, match=r"another run is at work in .*; wait for it, stop it, or save elsewhere") as error:
            hold(tmp_path / name)
        assert error.value.option == "path_to_save"
    assert not list((tmp_path / "run").iterdir())


def test_a_dead_process_holds_nothing_even_while_its_children_live(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert hold(tmp_path / "run") is None
    release(tmp_path / "run")


def test_a_process_may_hold_again_what_it_holds_and_release_it(tmp_path):
    assert hold(tmp_path) is None and hold(tmp_path) is None
    other = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    release(tmp_path)
    release(tmp_path)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr("fcntl.flock", refuse)
    assert "without locks (Bad file descriptor): see to it that no second run writes there" in hold(tmp_path)
