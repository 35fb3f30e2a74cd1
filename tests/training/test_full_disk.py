"""A disk that is full, or a file that may not grow, in the middle of a run."""

import errno
import pathlib
import resource

import pytest
from runs import Killed, assert_same_end, kill_at

from utils.core.errors import UserError
from utils.core.files import WriteError

RUN = {"max_epoch": 2, "ema": True, "accumulation": 2}


@pytest.fixture
def small_files():
    """small_files(bytes): no file may grow over that from now on, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("save_every", [0, 1e-9])
def test_no_room_for_a_state_is_a_sentence_and_the_last_one_stays(save_every, trainer_of, small_files):
    whole = trainer_of(**RUN, path_to_save="whole")
    whole.fit()
    first = trainer_of(**RUN, save_every=1e-9)
    kill_at(first, step=9)
    with pytest.raises(Killed):
        first.fit()
    before = contents(first.files.folder)
    again = trainer_of(**RUN, save_every=save_every, resume="auto")
    small_files(100_000)
    with pytest.raises(WriteError) as error:
        again.fit()
    small_files(resource.RLIM_INFINITY)
    name = "last.pth" if save_every else "best_model.pth"
    assert str(error.value) == f"weights/digits/custom/{name} cannot be written (File too large)"
    now = contents(first.files.folder)
    assert now.keys() == before.keys() and all(now[key] == before[key] for key in now if key != "history.json")
    last = trainer_of(**RUN, resume="auto")
    last.fit()
    assert_same_end(whole, last)


@pytest.mark.parametrize("name", ["best_model.pth", "last.pth", "history.json", "curves.png", "classes.txt", "args.txt"])
def test_a_full_disk_names_the_file_whichever_it_is(name, trainer_of, monkeypatch):
    trainer_of(max_epoch=1).fit()
    folder = pathlib.Path("weights", "digits", "custom")
    before = (folder / name).read_bytes()
    fill_for(name, monkeypatch)
    with pytest.raises(UserError) as error:
        trainer_of(max_epoch=2, resume="auto").fit()
    assert str(error.value) == f"weights/digits/custom/{name} cannot be written (No space left on device)"
    assert (folder / name).read_bytes() == before and not list(folder.glob(".tmp-*"))


def fill_for(name, monkeypatch):
    """Let the disk be full when the contents of the file `name` are flushed."""
    import utils.core.files as files

    replace = files.os.replace

    def full(temporary, target):
        if pathlib.Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(temporary, target)

    monkeypatch.setattr(files.os, "replace", full)


def test_a_folder_that_may_not_be_written_is_a_sentence(trainer_of, monkeypatch):
    def refuse(*_arguments, **_options):
        raise PermissionError(errno.EACCES, "Permission denied", "weights/digits/custom")

    monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
    with pytest.raises((UserError, PermissionError), match="Permission denied"):
        trainer_of(max_epoch=1)
