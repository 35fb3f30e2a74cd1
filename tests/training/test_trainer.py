"""Runs of a Trainer in this process: how they are interrupted, resumed, and what they do when memory runs out."""

import os
import signal

import pytest
import torch
from labelled_images import shards_of
from runs import CPU, history, same, signal_at, weights

from models.build import smallest_map
from models.checkpoint import load_model, read_checkpoint, save_checkpoint
from utils.core.errors import UserError
from utils.training.batches import BatchPlan
from utils.training.registry import OPTIMIZERS
from utils.training.state import TrainState


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_interrupted_goes_on_as_if_nothing_had_happened(signum, trainer_of, capsys):
    options = {"max_epoch": 3, "ema": True, "accumulation": 2}
    whole = trainer_of(**options, path_to_save="whole")
    assert whole.fit() == 0
    part = trainer_of(**options, path_to_save="part")
    signal_at(part, signum, step=9)
    assert part.fit() == signum and not part.files.curves.exists()
    assert "stopped after step 3 of epoch 2: part/digits/custom/last.pth is saved" in capsys.readouterr().out
    part = trainer_of(**options, path_to_save="part", resume="auto")
    assert "resumed part/digits/custom/last.pth at epoch 2, step 4" in capsys.readouterr().out
    assert part.fit() == 0
    for name in ("best", "last"):
        assert same(*(weights(getattr(trainer.files, name)) for trainer in (whole, part)))
    one, two = history(whole), history(part)
    assert one["final"] == two["final"] and one["best"] == two["best"]
    assert [e["train"] for e in one["epochs"]] == [e["train"] for e in two["epochs"]]


def test_a_head_is_not_trained_on_a_trunk_of_random_weights(trainer_of):
    with pytest.raises(UserError, match="weights that are random and stay so learn nothing") as error:
        trainer_of(freeze=True, resume="auto")
    assert error.value.option == "freeze"


def test_the_seconds_of_a_resumed_run_are_those_of_all_its_sessions(trainer_of):
    part = trainer_of(max_epoch=2)
    signal_at(part, signal.SIGTERM, step=9)  # of 11 in an epoch
    part.fit()
    saved = read_checkpoint(part.files.last)
    assert 0 < saved["seconds"]["epoch"] < saved["seconds"]["total"]
    for name in ("waiting", "computing", "epoch", "total"):
        saved["seconds"][name] += 5000
    save_checkpoint(part.files.last, saved)
    again = trainer_of(max_epoch=2, resume="auto")
    again.fit()
    found = history(again)
    seconds, (first, second) = found["seconds"], found["epochs"]
    assert 10_000 < sum(seconds[name] for name in ("waiting", "computing")) < 10_000 + seconds["total"] - 5000
    assert 5000 < first["seconds"] < seconds["total"] < 5100 and second["seconds"] < 100
    images = first["images/s"] * first["seconds"]
    assert images == pytest.approx(len(again.data.dataset.train), rel=0.01)  # an evaluation takes far less than 50 seconds


def test_a_streamed_run_goes_on_behind_the_last_image_and_decodes_none_twice(trainer_of, photos, tmp_path, monkeypatch):
    pytest.importorskip("webdataset", reason="the package webdataset is not installed")
    from utils.data import streams

    pattern, images, load = shards_of(photos, tmp_path / "x", "train", 4), [], streams.load_image
    monkeypatch.setattr(streams, "load_image", lambda place: images.append(str(place)) or load(place))
    monkeypatch.setattr(streams, "CHUNK", 4)
    (tmp_path / "x" / "classes.txt").write_text("blue\ngreen\nred\n")
    options = {"dataset": pattern, "stream_images": 30, "batch_size": 4, "accumulation": 1, "plain_epochs": 1}
    whole = trainer_of(**options, path_to_save="whole")
    assert whole.fit() == 0 and len(images) >= 60
    part = trainer_of(**options, path_to_save="part")
    signal_at(part, signal.SIGTERM, step=15)  # of 8 in an epoch, which reads the 24 images once more for the last two steps
    assert part.fit() == signal.SIGTERM
    images.clear()
    part = trainer_of(**options, path_to_save="part", resume="auto")
    assert part.fit() == 0 and len(images) <= 2 + 3
    assert same(weights(whole.files.last), weights(part.files.last))
    assert [epoch["train"] for epoch in history(whole)["epochs"]] == [epoch["train"] for epoch in history(part)["epochs"]]


def test_the_learning_rate_of_a_run_decays_by_depth(trainer_of, capsys):
    run = trainer_of(layer_decay=0.5, max_epoch=1, optimizer="sgd", base_lr=0.05)
    assert "a layer takes 0.5 of the learning rate of the next: the first takes 0.12 of the whole" in capsys.readouterr().out
    before = {key: value.clone() for key, value in run.state.model.state_dict().items()}
    assert run.fit() == 0
    moved = {key: (value - before[key]).abs().mean() for key, value in run.state.model.named_parameters()}
    rates = {group["lr_share"]: group["lr"] for group in run.state.optimizer.param_groups}
    assert rates == {share: pytest.approx(share * 1e-6) for share in (1, 0.5, 0.25, 0.125)}
    assert history(run)["epochs"][0]["lr"] == pytest.approx(1e-6)
    even = trainer_of(max_epoch=1, optimizer="sgd", base_lr=0.05, path_to_save="even")
    assert same(even.state.model.state_dict(), before) and even.fit() == 0
    of_even = {key: (value - before[key]).abs().mean() for key, value in even.state.model.named_parameters()}
    assert (
        moved["layer1.0.weight"] / of_even["layer1.0.weight"]
        < 0.5
        < moved["classifier.3.weight"] / of_even["classifier.3.weight"]
    )
    with pytest.raises(UserError, match=r"layer_decay was 0\.5 in that run and is 1\.0 now"):
        trainer_of(max_epoch=1, optimizer="sgd", base_lr=0.05, resume=str(run.files.last))


def test_a_run_from_trained_weights_keeps_its_warm_up_where_they_are_not_named_again(trainer_of):
    first = trainer_of(max_epoch=1)
    first.fit()
    os.replace(first.files.best, "start.pth")
    options = {"max_epoch": 12, "base_lr": 0.001, "path_to_save": "tuned"}
    tuned = trainer_of(**options, weights="start.pth")
    signal_at(tuned, signal.SIGTERM, step=14)
    assert tuned.fit() == signal.SIGTERM
    os.remove("start.pth")
    again = trainer_of(**options, resume="auto")
    assert again.step.schedule == tuned.step.schedule and again.card.training["from_trained"]
    assert trainer_of(**options | {"path_to_save": "fresh"}).step.schedule != tuned.step.schedule


def test_a_folder_that_cannot_be_made_is_a_sentence(trainer_of, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone" / "away")
    for place in ("file", "loop", "nowhere"):
        with pytest.raises(UserError, match="cannot be made") as error:
            trainer_of(path_to_save=place)
        assert error.value.option == "path_to_save"


def test_early_stopping_without_held_out_images_is_refused(trainer_of):
    with pytest.raises(UserError, match="no images are held out, so no epoch is better than another") as error:
        trainer_of(early_stop=2, val_fraction=0)
    assert error.value.option == "early_stop"


@pytest.mark.parametrize(
    ("model", "size", "larger"), [("resnet18", 32, 64), ("mobilenet_v3_small", 32, 64), ("timm/test_resnet", 16, 96)]
)
def test_instance_norm_is_refused_where_it_would_leave_nothing(trainer_of, model, size, larger):
    with pytest.raises(UserError, match="IN leaves nothing of a map of one pixel") as error:
        trainer_of(model=model, image_size=size, norm_type="IN")
    assert error.value.option == "norm_type"
    assert smallest_map(model, size) == 1 < smallest_map(model, larger)
    trainer_of(model=model, image_size=size, norm_type="GN")


def test_another_number_of_processes_begins_the_interrupted_epoch_again(trainer_of, capsys):
    part = trainer_of()
    signal_at(part, signal.SIGTERM, step=14)  # of 11 in an epoch
    assert part.fit() == signal.SIGTERM
    saved = read_checkpoint(part.files.last)
    saved["machine"]["processes"] = saved["batches"][2] = 2
    save_checkpoint(part.files.last, saved)
    again = trainer_of(batch_size=64, resume="auto")
    assert (again.state.epoch, again.state.group, again.state.step) == (1, 0, 21)
    out = capsys.readouterr().out
    assert "at epoch 2\n" in out and "processes was 2 in that run and is 1 now: it goes on, but not bit by bit" in out


def test_an_interrupt_in_the_last_evaluation_leaves_the_test_images_unread_until_the_run_is_resumed(trainer_of, capsys):
    trainer, sent = trainer_of(), []

    def send(model, images):
        if not model.training and trainer.state.epoch == 2 and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGINT))

    trainer.state.model.register_forward_pre_hook(send)
    assert trainer.fit() == signal.SIGINT and sent and "final" not in history(trainer)
    assert "stopped after epoch 2: " in capsys.readouterr().out
    for _ in range(2):  # and once more, of a finished run
        again = trainer_of(resume="auto")
        assert "after all of its 2 epochs" in capsys.readouterr().out
        assert again.fit() == 0 and history(again)["final"]["split"] == "test"
    assert history(again)["epochs"] == history(trainer)["epochs"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_goes_on_from_what_it_saved(trainer_of, name):
    trainer_of(max_epoch=1, optimizer=name).fit()
    again = trainer_of(max_epoch=1, optimizer=name, resume="auto")
    assert again.state.epoch == 1 and len(again.state.optimizer.state) == len(again.state.parameters)


def test_outside_of_a_run_signals_do_what_they_did_before(trainer_of):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    trainer_of(max_epoch=1).fit()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def needs_memory_for(trainer, most):
    """Make every batch of more than `most` images run out of memory."""

    def forward(network, images):
        if network.training and len(images[0]) > most:
            raise torch.cuda.OutOfMemoryError("out of memory")

    trainer.step.network.register_forward_pre_hook(forward)


def test_out_of_memory_halves_the_batch_and_doubles_the_accumulation(trainer_of, capsys):
    trainer = trainer_of(max_epoch=1)
    needs_memory_for(trainer, 40)
    assert trainer.fit() == 0 and trainer.plan == BatchPlan(32, 4)
    out = capsys.readouterr().out
    assert "batch size 64 and accumulation 2" in out and "batch size 32 and accumulation 4" in out
    assert trainer.state.step == 11 and read_checkpoint(trainer.files.last)["batches"] == [32, 4, 1]
    assert trainer_of(resume="auto").plan == BatchPlan(32, 4)  # a resumed run does not try in vain again


def test_images_before_the_one_that_does_not_fit_are_counted_once(trainer_of):
    trainer, batches = trainer_of(max_epoch=1, batch_size=32, accumulation=2), []

    def forward(network, images):
        if network.training:
            batches.append(len(images[0]))
            if len(batches) == 4:  # the second of its group
                raise torch.cuda.OutOfMemoryError("out of memory")

    trainer.step.network.register_forward_pre_hook(forward)
    assert trainer.fit() == 0 and trainer.plan == BatchPlan(16, 4)
    assert trainer.state.totals.sums[3] == len(trainer.data.dataset.train) == sum(batches) - 64


def test_where_halves_do_not_help_the_run_ends(trainer_of):
    trainer = trainer_of(max_epoch=1)
    needs_memory_for(trainer, 0)
    with pytest.raises(UserError, match="out of memory at batch size 2; give less") as error:
        trainer.fit()
    assert error.value.option == "batch_size"


def test_an_odd_batch_is_not_halved(trainer_of):
    """Half of it, twice, would be fewer images a step, and more steps than the learning rate falls over."""
    trainer = trainer_of(max_epoch=1, batch_size=50)
    needs_memory_for(trainer, 20)
    with pytest.raises(UserError, match="out of memory at batch size 25; give less"):
        trainer.fit()
    assert trainer.plan == BatchPlan(25, 2)


def test_a_state_of_an_older_version_can_be_resumed(trainer_of, capsys):
    first = trainer_of(max_epoch=1)
    first.fit()
    saved = read_checkpoint(first.files.last)
    del saved["data"], saved["machine"]
    names = ("ema", "optimizer", "weight_decay", "momentum", "freeze")
    saved["choices"] = {f"--{name}": saved["choices"][name] for name in names}
    save_checkpoint(first.files.last, saved)
    assert trainer_of(resume="auto").state.epoch == 1
    assert "is of an older version, which did not record the data and most options: give those" in capsys.readouterr().out
    with pytest.raises(UserError, match="optimizer was adamw in that run and is sgd now"):
        trainer_of(resume="auto", optimizer="sgd")


FILES = {
    "no state": ({"resume": "gone.pth"}, "gone.pth does not exist"),
    "weights alone": ({"resume": "weights.pth"}, "no training state"),
    "no ImageNet weights": ({"pretrained": True}, "no ImageNet weights for custom"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_checked_before_data_are_read(name, trainer_of, tmp_path, capsys):
    options, message = FILES[name]
    save_checkpoint(tmp_path / "weights.pth", {"model": {"weight": torch.zeros(1)}})
    with pytest.raises(UserError, match=message):
        trainer_of(dataset="nowhere", **options)  # which would be an error too
    assert not capsys.readouterr().out


def test_norms_over_all_processes_need_cuda(trainer_of, monkeypatch):
    monkeypatch.setattr("utils.runtime.distributed.world_size", lambda: 2)
    with pytest.raises(UserError, match="SyncBN in several processes needs CUDA"):
        trainer_of(norm_type="SyncBN")


def test_early_stopping_counts_evaluations_that_are_no_better(trainer_of, capsys):
    trainer = trainer_of(max_epoch=20, early_stop=2, eval_epoch=3)
    trainer.score = lambda split: {"loss": abs(trainer.state.epoch - 6.0), "Acc@1": 0.5}  # the best epoch is 6
    trainer.fit()
    epochs = history(trainer)["epochs"]
    assert len(epochs) == 12 and history(trainer)["best"]["epoch"] == 6
    assert [e["epoch"] for e in epochs if "val" in e] == [3, 6, 9, 12]
    assert "no better one in the last 2 evaluations: stopping early" in capsys.readouterr().out
    again = trainer_of(max_epoch=20, early_stop=2, eval_epoch=3, resume="auto")
    again.fit()  # is tested anew, and not trained
    assert len(history(again)["epochs"]) == 12 and "stopping early" in capsys.readouterr().out


def test_answers_that_are_not_finite_end_the_run_and_leave_the_last_good_state(trainer_of):
    trainer_of(max_epoch=1).fit()
    trainer = trainer_of(max_epoch=3, resume="auto")
    state, best = trainer.files.last.read_bytes(), trainer.files.best.read_bytes()
    steps = trainer.steps

    def diverging(groups):
        yield from steps(groups)
        with torch.no_grad():
            for parameter in trainer.state.model.parameters():
                parameter.fill_(1e38)

    trainer.steps = diverging
    with pytest.raises(UserError, match=r"the answers to the val images are not finite at step .*last good checkpoint is kept"):
        trainer.fit()
    assert (trainer.files.last.read_bytes(), trainer.files.best.read_bytes()) == (state, best)


def test_a_run_that_is_resumed_elsewhere_says_that_it_replaces_another(trainer_of, capsys):
    for folder in ("one", "two"):
        trainer_of(max_epoch=1, path_to_save=folder).fit()
    state = trainer_of(max_epoch=1, path_to_save="one").files.last
    capsys.readouterr()
    trainer_of(max_epoch=2, path_to_save="two", resume=str(state))
    assert "two/digits/custom holds an earlier run, which this one replaces; its best model stays" in capsys.readouterr().out
    one, two = (state.parent.parent.parent.parent / name / "digits" / "custom" for name in ("one", "two"))
    assert same(weights(one / "best_model.pth"), weights(two / "best_model.pth"))
    assert (two / "replaced_model.pth").exists() and not (one / "replaced_model.pth").exists()


def test_the_best_model_of_a_run_that_is_replaced_is_kept(trainer_of, capsys):
    first = trainer_of(max_epoch=1, seed=1)
    first.fit()
    kept = weights(first.files.best)
    trainer_of(max_epoch=2, seed=1, resume="auto")
    assert "replaces" not in capsys.readouterr().out and first.files.best.exists()
    first.files.last.unlink()  # as in a clone, which holds published models and no training state
    second = trainer_of(max_epoch=1, seed=2)
    assert "replaces; its best model stays as replaced_model.pth; to keep all of it" in capsys.readouterr().out
    second.fit()
    assert same(weights(second.files.replaced), kept) and not same(weights(second.files.best), kept)


def test_the_average_is_what_is_evaluated_and_kept(trainer_of):
    trainer = trainer_of(max_epoch=1, ema=True)
    trainer.fit()
    last = read_checkpoint(trainer.files.last)
    assert same(weights(trainer.files.best), last["ema"]["model"]) and not same(last["model"], last["ema"]["model"])
    assert same(load_model(trainer.files.last)[0].state_dict(), last["ema"]["model"])


def test_a_score_comes_again_and_leaves_the_model_as_it_is(trainer_of):
    trainer = trainer_of()
    before = {key: value.clone() for key, value in trainer.state.model.state_dict().items()}
    trainer.state.model.train()
    scores = [trainer.score(trainer.data.dataset.val) for _ in range(2)]
    assert scores[0] == scores[1] and same(before, trainer.state.model.state_dict())


def test_what_is_tested_at_the_end_is_the_best_model(trainer_of):
    trainer = trainer_of()
    score = trainer.score
    of_val = {"loss": 0.0, "Acc@1": 0.5}  # the first epoch is the best, as equal scores do not replace it
    trainer.score = lambda split: of_val if split.name == "val" else score(split)
    trainer.fit()
    best = weights(trainer.files.best)
    assert history(trainer)["best"]["epoch"] == 1 and not same(best, weights(trainer.files.last))
    network = load_model(trainer.files.best)[0]
    trainer.state.model.load_state_dict(network.state_dict())
    assert history(trainer)["final"]["loss"] == pytest.approx(score(trainer.data.dataset.test)["loss"], abs=1e-9)


OF_THE_UPDATE = {"base_lr": 0.1, "weight_decay": 0.5, "momentum": 0.5, "clip_grad": 1e-3, "label_smoothing": 0.3,
                 "class_weights": True, "balanced_sampler": True, "mixup": 0.5, "cutmix": 1.0, "random_erasing": 0.5,
                 "augment": "none", "accumulation": 2, "norm_type": "GN", "optimizer": "adam", "batch_size": 64, "seed": 1,
                 "wp_epoch": 0, "val_fraction": 0.2, "layer_decay": 0.5}  # fmt: skip


def test_every_option_of_the_update_reaches_the_weights(trainer_of):
    def after_two_steps(**options):
        trainer = trainer_of(plain_epochs=0, **{"optimizer": "sgd"} | options)
        steps = trainer.steps(trainer.groups())
        return [next(steps), next(steps)] and trainer.state.model.classifier[3].weight.detach().clone()

    plain = after_two_steps()
    assert torch.equal(plain, after_two_steps())
    without = [name for name, value in OF_THE_UPDATE.items() if torch.equal(plain, after_two_steps(**{name: value}))]
    assert not without


def test_a_state_takes_what_it_gives(trainer_of):
    trainer = trainer_of(max_epoch=1, ema=True)
    trainer.fit()
    saved = trainer.state.state_dict()
    other = trainer_of(ema=True, seed=1).state
    assert not same(saved["model"], other.model.state_dict())
    other.load_state_dict(saved, CPU)
    assert isinstance(other, TrainState) and same(saved["model"], other.state_dict()["model"])
    assert {k: saved[k] for k in ("epoch", "group", "step", "best", "history")} == {
        k: other.state_dict()[k] for k in ("epoch", "group", "step", "best", "history")
    }


PLAIN = "epochs train without augmentation, on images as an evaluation sees them"
WORDS = {
    "augmented to the end": (
        {"max_epoch": 1},
        "adamw takes 11 steps of 128 images; the learning rate rises to 0.004 in the first 2 (warm-up), ",
    ),
    "plain at the end": ({"max_epoch": 4}, f"\nthe last 3 of 4 {PLAIN}\n"),
    "nothing to augment": ({"max_epoch": 4, "augment": "none"}, "in the first 9 (warm-up), then falls to 1e-06\n"),
    "no warm-up": ({"max_epoch": 4, "wp_epoch": 0}, "; the learning rate begins at 0.004 and falls to 1e-06\n"),
    "a short run": ({"max_epoch": 4}, "as the run is short, its warm-up takes 0.8 epochs, a fifth of the run, instead of 20\n"),
    "mixed all the same": (
        {"max_epoch": 4, "augment": "none", "mixup": 0.2},
        f"\nthe last 3 of 4 {PLAIN}\n",
    ),
    "more than a batch": ({"accumulation": 3}, "takes 8 steps of 384 images (128 × 3 batches × 1 processes); "),
}


@pytest.mark.parametrize("name", WORDS)
def test_what_is_decided_is_said(name, trainer_of, capsys):
    options, words = WORDS[name]
    trainer_of(**options)
    out = capsys.readouterr().out
    assert words in out and (PLAIN in out) == (name not in ("augmented to the end", "nothing to augment"))


def test_the_star_is_explained_once(trainer_of, capsys):
    trainer_of().fit()
    out = capsys.readouterr().out
    assert out.count("* marks the best epoch so far on val: weights/digits/custom/best_model.pth") == 1


def test_only_a_split_that_selected_is_said_to_have(trainer_of, photos, capsys):
    trainer = trainer_of(max_epoch=1)
    trainer.fit()
    assert history(trainer)["final"]["selected_on_this_split"] is False and "also selected" not in capsys.readouterr().out
    trainer = trainer_of(max_epoch=1, dataset=str(photos), batch_size=8)
    trainer.fit()
    final = history(trainer)["final"]
    assert (final["split"], final["selected_on_this_split"], final["samples"]) == ("val", True, 9)
    assert load_model(trainer.files.best)[1].training["final"] == final
    assert "val also selected this epoch" in capsys.readouterr().out
