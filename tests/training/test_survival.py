"""What is left of a run that dies, and how the next one goes on from it."""

import fcntl
import os
import shutil

import pytest
import torch
from runs import Killed, assert_same_end, history, kill_at

from models.checkpoint import read_checkpoint
from utils.core.errors import UserError

RUN = {"max_epoch": 2, "ema": True, "accumulation": 2}  # 6 steps in an epoch
AT_EVERY_STEP = 1e-9  # minutes


@pytest.fixture
def whole(trainer_of):
    """A run that nothing disturbed."""
    trainer = trainer_of(**RUN, path_to_save="whole")
    trainer.fit()
    return trainer


def killed(trainer, step):
    kill_at(trainer, step)
    with pytest.raises(Killed):
        trainer.fit()
    return trainer


def damage(path, how):
    if how == "cut off":
        path.write_bytes(path.read_bytes()[:-1000])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "gone":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize(("save_every", "kept"), [(AT_EVERY_STEP, 8), (0, 6), (15.0, 6)])
def test_a_run_that_is_killed_in_an_epoch_loses_no_more_than_what_save_every_says(save_every, kept, trainer_of, whole):
    killed(trainer_of(**RUN, save_every=save_every), step=9)
    again = trainer_of(**RUN, resume="auto")
    assert again.state.step == kept
    assert again.fit() == 0
    assert_same_end(whole, again)


@pytest.mark.parametrize(("first", "then"), [(2, 1), (0, 2)])
def test_transforms_of_single_images_draw_the_same_in_any_loader_process(first, then, trainer_of):
    options = {"max_epoch": 1, "augment": "torchvision", "plain_epochs": 0}
    whole = trainer_of(**options, num_workers=then, path_to_save="whole")
    whole.fit()
    killed(trainer_of(**options, num_workers=first, save_every=AT_EVERY_STEP), step=9)
    again = trainer_of(**options, num_workers=then, resume="auto")
    assert again.state.step == 8
    again.fit()
    assert_same_end(whole, again)


def test_the_time_to_save_begins_anew_with_each_save(trainer_of, monkeypatch):
    trainer, now, saves = trainer_of(max_epoch=1, save_every=0.5), [100.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    trainer.step.network.register_forward_hook(lambda *_: now.__setitem__(0, now[0] + 10))  # a step takes ten seconds
    monkeypatch.setattr(trainer.files, "save_last", lambda state, *_: saves.append(state.step))
    trainer.fit()
    assert saves == [3, 6, 9, 11]


@pytest.mark.parametrize("how", ["cut off", "empty", "flipped", "gone"])
def test_where_the_newest_state_is_damaged_the_one_before_is_taken(how, trainer_of, whole, capsys):
    first = killed(trainer_of(**RUN, save_every=AT_EVERY_STEP), step=9)
    damage(first.files.last, how)
    again = trainer_of(**RUN, resume="auto", save_every=AT_EVERY_STEP)
    (notice,) = [
        line for line in capsys.readouterr().out.splitlines() if "goes on from the state that was saved before" in line
    ]
    assert notice.startswith("weights/digits/custom/last.pth ") and again.state.step == 7
    killed(again, step=9)
    assert read_checkpoint(again.files.previous)["step"] == 7  # and not the damaged one
    last = trainer_of(**RUN, resume="auto")
    last.fit()
    assert_same_end(whole, last)


@pytest.mark.parametrize("how", ["cut off", "empty", "flipped"])
def test_a_damaged_state_without_one_before_it_is_a_sentence(how, trainer_of):
    first = killed(trainer_of(**RUN), step=9)  # saved once
    assert not first.files.previous.exists()
    damage(first.files.last, how)
    with pytest.raises(UserError, match=r"last\.pth .*no state before it, so the run can only start anew") as error:
        trainer_of(**RUN, resume="auto")
    assert error.value.option == "resume" and "\n" not in str(error.value)


def test_a_state_that_is_named_is_not_replaced_by_another(trainer_of):
    first = killed(trainer_of(**RUN, save_every=AT_EVERY_STEP), step=9)
    damage(first.files.last, "flipped")
    with pytest.raises(UserError, match="is damaged"):
        trainer_of(**RUN, resume=str(first.files.last))
    assert trainer_of(**RUN, resume=str(first.files.previous)).state.step == 7


def test_a_run_that_replaces_another_keeps_no_state_of_it(trainer_of):
    killed(trainer_of(**RUN, save_every=AT_EVERY_STEP), step=9)
    second = killed(trainer_of(**RUN, seed=1), step=8)
    assert read_checkpoint(second.files.last)["step"] == 6 and not second.files.previous.exists()


def test_a_best_model_of_an_epoch_that_the_state_does_not_know_is_found_again(trainer_of, whole, monkeypatch):
    part = trainer_of(**RUN)
    plain = part.files.save_last

    def die_before_the_second(*arguments):
        if part.state.epoch == 2:
            raise Killed
        plain(*arguments)

    part.files.save_last = die_before_the_second
    with pytest.raises(Killed):
        part.fit()
    assert read_checkpoint(part.files.best)["card"]["training"]["epoch"] == 2
    again = trainer_of(**RUN, resume="auto")
    assert again.state.best == {}
    again.fit()
    assert_same_end(whole, again)


def test_a_damaged_best_model_is_looked_for_again(trainer_of, capsys):
    first = trainer_of(max_epoch=1)
    first.fit()
    damage(first.files.best, "flipped")
    again = trainer_of(max_epoch=2, resume="auto")
    assert "best_model.pth is damaged" in capsys.readouterr().out
    assert again.fit() == 0 and read_checkpoint(again.files.best)["card"]["training"]["epoch"] == 2


@pytest.mark.parametrize("how", ["flipped", "gone"])
def test_where_no_epoch_is_left_the_last_one_is_the_best(how, trainer_of):
    first = trainer_of(max_epoch=2)
    first.fit()
    damage(first.files.best, how)
    again = trainer_of(max_epoch=2, resume="auto")
    assert again.fit() == 0
    facts = history(again)
    assert facts["best"] == {"epoch": 2, "val": facts["epochs"][1]["val"]} and facts["final"]["split"] == "test"


def test_weights_that_a_step_has_spoiled_are_not_saved_inside_an_epoch(trainer_of):
    trainer = trainer_of(**RUN, save_every=AT_EVERY_STEP)

    def spoil(*_):
        if trainer.state.step == 4:
            with torch.no_grad():
                trainer.state.parameters[0].fill_(float("nan"))

    trainer.state.optimizer.register_step_post_hook(spoil)
    with pytest.raises(UserError, match="weights are not finite at step 5"):
        trainer.fit()
    assert read_checkpoint(trainer.files.last)["step"] == 4


def test_a_state_is_kept_where_the_file_system_has_no_links(trainer_of, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    first = killed(trainer_of(**RUN, save_every=AT_EVERY_STEP), step=9)
    assert [read_checkpoint(path)["step"] for path in (first.files.last, first.files.previous)] == [8, 7]


def test_no_file_but_those_of_a_run_is_left(trainer_of, whole):
    for step in (3, 9):
        killed(trainer_of(**RUN, save_every=AT_EVERY_STEP, resume="auto"), step=step)
    folder = whole.files.folder.parents[2] / "weights" / "digits" / "custom"
    shutil.copy(folder / "last.pth", folder / ".tmp-0123456789ab.pth")  # as a run that is killed while it writes leaves it
    last = trainer_of(**RUN, resume="auto")
    assert not list(folder.glob(".tmp-*"))  # gone when the next one starts
    last.fit()
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.files.folder.iterdir()}


def test_a_second_run_in_one_folder_is_refused_and_changes_nothing(trainer_of):
    first = trainer_of(max_epoch=1)
    first.fit()
    before = {path: path.read_bytes() for path in first.files.folder.iterdir()}
    other = os.open(first.files.folder, os.O_RDONLY)  # as another process has it
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for resume in (None, "auto"):
        with pytest.raises(UserError, match="another run is at work in weights/digits/custom"):
            trainer_of(seed=1, resume=resume)
    assert before == {path: path.read_bytes() for path in first.files.folder.iterdir()}
    os.close(other)
    assert trainer_of(seed=1).fit() == 0


def test_the_folder_is_free_when_a_run_has_ended_however(trainer_of):
    trainer = killed(trainer_of(**RUN), step=2)
    other = os.open(trainer.files.folder, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
