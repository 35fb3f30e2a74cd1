"""Checkpoints are written by a thread, whole and in order, and what goes wrong there is not lost."""

import os
import threading

import pytest
import torch

from models.checkpoint import read_checkpoint
from utils.core.errors import UserError
from utils.core.files import write_text
from utils.training.writer import Writer, copied


def test_what_is_written_is_what_there_was_when_it_was_asked_for():
    writer, go, written = Writer(), threading.Event(), []
    contents = {"weights": torch.zeros(3), "epochs": [{"epoch": 1}], "places": (1, 2)}
    writer.add(lambda contents: (go.wait(10), written.append(contents)), contents)
    contents["weights"].fill_(1)
    contents["epochs"].append({"epoch": 2})
    contents["epochs"][0]["epoch"] = 7
    go.set()
    writer.wait()
    assert written[0]["weights"].tolist() == [0, 0, 0]
    assert written[0]["epochs"] == [{"epoch": 1}] and written[0]["places"] == (1, 2)


def test_order_and_errors():
    writer, done = Writer(), []

    def fail(number):
        raise UserError(f"no room for {number}")

    for number in range(5):
        writer.add(done.append, number)
    writer.wait()
    assert done == [0, 1, 2, 3, 4]
    writer.add(fail, 5)
    with pytest.raises(UserError, match="no room for 5"):
        writer.wait()
    writer.add(fail, 6)
    with pytest.raises(UserError, match="no room for 6"):
        for number in (7, 8, 9):
            writer.add(done.append, number)
    writer.wait()
    assert not set(done) & {7, 8, 9}
    writer.add(done.append, 10)
    writer.wait()
    assert done[-1] == 10


def test_a_copy_of_a_state_dict_is_one():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    state = model.state_dict()
    copy = copied(state)
    assert type(copy) is type(state) and copy._metadata == state._metadata and list(copy) == list(state)
    for key, value in state.items():
        assert torch.equal(copy[key], value) and copy[key].stride() == value.stride()
        assert copy[key].data_ptr() != value.data_ptr() and not copy[key].requires_grad


def test_training_goes_on_while_a_state_is_written(trainer_of, monkeypatch):
    trainer, steps, go = trainer_of(max_epoch=1, save_every=1e-9), [], threading.Event()
    plain = trainer.files._save_last

    def wait_for_the_third_step(contents):
        assert go.wait(30)
        plain(contents)

    def count(*_):
        steps.append(trainer.state.step)
        if len(steps) == 3:
            go.set()

    monkeypatch.setattr(trainer.files, "_save_last", wait_for_the_third_step)
    trainer.step.network.register_forward_hook(count)
    trainer.fit()
    assert len(steps) == 11 and read_checkpoint(trainer.files.last)["step"] == 11
    assert read_checkpoint(trainer.files.previous)["step"] == 10


def test_threads_that_write_leave_the_mask_of_the_process_as_it_was(tmp_path):
    before = os.umask(0o027)
    try:
        threads = [
            threading.Thread(target=lambda n=n: [write_text(tmp_path / f"{n}_{i}", "") for i in range(40)]) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert os.umask(0o027) == 0o027 and {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
    finally:
        os.umask(before)
