import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT
from torchvision.models import MobileNet_V3_Small_Weights, mobilenet_v3_small

import train
from models.checkpoint import load_model, read_checkpoint
from utils.core.errors import UserError
from utils.data.stores import ArrayStore
from utils.runtime.device import kind_of
from utils.training import data as training_data
from utils.training.loop import Step
from utils.training.options import TrainOptions

TINY = ("-m", "custom", "-d", "digits", "--image_size", "16", "--precision", "fp32", "--num_workers", "0")


def final(folder):
    return json.loads((folder / "history.json").read_text())


def same_weights(one, two):
    one, two = (read_checkpoint(path)["model"] for path in (one, two))
    return all(torch.equal(one[key], two[key]) for key in one)


def test_a_run_writes_everything_and_eval_reports_the_same(main_of, tmp_path):
    status, out = main_of("train", *TINY, "--max_epoch", 3, "--ema", "--base_lr", 0.01)
    folder = tmp_path / "weights" / "digits" / "custom"
    assert status == 0 and {p.name for p in folder.iterdir()} == {
        "best_model.pth", "last.pth", "last_previous.pth", "history.json", "curves.png", "classes.txt", "args.txt"}  # fmt: skip
    assert (folder / "classes.txt").read_text().split() == [str(i) for i in range(10)]
    facts = final(folder)
    assert [e["epoch"] for e in facts["epochs"]] == [1, 2, 3] and facts["epochs"][-1]["lr"] == 1e-6
    assert facts["final"]["split"] == "test" and facts["final"]["samples"] == 359
    assert f"Acc@1 {facts['final']['Acc@1']:.4f}" in out and "its warm-up takes 0.6 epochs" in out and "waiting for data" in out
    _, card = load_model(folder / "best_model.pth")
    assert card.training["final"] == facts["final"]

    for batch_size in (1, 7, 359):
        main_of("eval", "-w", folder / "best_model.pth", "--batch_size", batch_size)
        result = json.loads((tmp_path / "results" / "accuracy" / "digits" / "custom.json").read_text())
        assert list(result)[:3] == ["loss", "Acc@1", "Acc@5"] and result["Acc@1"] == facts["final"]["Acc@1"]
        assert result["Acc@5"] == facts["final"]["Acc@5"] > result["Acc@1"]
    main_of("eval", "-w", folder / "best_model.pth", "--split", "val")
    result = json.loads((tmp_path / "results" / "accuracy" / "digits" / "custom_val.json").read_text())
    assert result["Acc@1"] == max(e["val"]["Acc@1"] for e in facts["epochs"])
    assert len(list((tmp_path / "results" / "accuracy" / "digits").glob("*.png"))) == 4


def test_the_history_says_what_the_time_went_into_and_how_training_scored(main_of, tmp_path, monkeypatch):
    gather = ArrayStore.gather

    def slow(store, indices):
        time.sleep(0.02)
        return gather(store, indices)

    monkeypatch.setattr(ArrayStore, "gather", slow)
    _, out = main_of("train", *TINY, "--max_epoch", 1, "--batch_size", 64)
    facts = final(tmp_path / "weights" / "digits" / "custom")
    seconds = facts["seconds"]
    assert seconds["waiting"] >= 20 * 0.02  # 1294 images are 20.2 batches, and evaluations are not waiting
    assert seconds["evaluating"] >= 0.02 and min(seconds.values()) > 0
    assert sum(value for name, value in seconds.items() if name != "total") <= seconds["total"]
    said, share = re.search(r"waiting for data (\S+) s \((\d+)\s?%\)", out).groups()
    assert float(said) == pytest.approx(seconds["waiting"], abs=0.06)
    assert int(share) == pytest.approx(100 * seconds["waiting"] / seconds["total"], abs=1)
    train = facts["epochs"][0]["train"]
    assert 0 < train["Acc@1"] < train["Acc@5"] < 1


def test_the_same_seed_gives_the_same_weights(main_of, tmp_path):
    for place, seed in (("a", 0), ("b", 0), ("c", 1)):
        main_of("train", *TINY, "--max_epoch", 1, "--seed", seed, "--path_to_save", place)
    path = "digits/custom/best_model.pth"
    assert same_weights(tmp_path / "a" / path, tmp_path / "b" / path)
    assert not same_weights(tmp_path / "a" / path, tmp_path / "c" / path)


def test_a_run_is_repeated_by_the_file_with_its_flags_and_kept_apart_by_a_name(main_of, tmp_path):
    (tmp_path / "recipe.txt").write_text(" ".join(TINY) + "\n--max_epoch 1 # short\n--seed 5\n--wp_epoch 0.5\n")
    main_of("train", "@recipe.txt", "-r")
    digits = tmp_path / "weights" / "digits"
    written = (digits / "custom" / "args.txt").read_text()
    assert "\n--wp_epoch 0.5\n" in written and "\n# --resume auto\n" in written and "\n# --base_lr 0.004\n" in written
    main_of("train", f"@{digits / 'custom' / 'args.txt'}", "--name", "again-1")
    assert same_weights(digits / "custom" / "best_model.pth", digits / "custom_again-1" / "best_model.pth")
    assert final(digits / "custom_again-1")["flags"]["seed"] == 5
    main_of("train", f"@{digits / 'custom_again-1' / 'args.txt'}", "--seed", 6)  # its own record is no input that stays
    assert "\n--seed 6\n" in (digits / "custom_again-1" / "args.txt").read_text()
    main_of("eval", "-w", digits / "custom_again-1" / "best_model.pth")
    assert (tmp_path / "results" / "accuracy" / "digits" / "custom_again-1.json").exists()


def test_the_test_images_can_stay_unread(main_of, tmp_path, monkeypatch):
    opened = []
    whole = training_data.open_store
    monkeypatch.setattr(training_data, "open_store", lambda split, *rest: opened.append(split.name) or whole(split, *rest))
    _, out = main_of("train", *TINY, "--max_epoch", 2, "--no_test")
    facts = final(tmp_path / "weights" / "digits" / "custom")
    assert opened == ["train", "val"] and "the test images stay unread" in out
    assert facts["test_read"] is False and facts["flags"]["no_test"] is True
    assert facts["final"]["split"] == "val" and facts["final"]["selected_on_this_split"]
    main_of("train", *TINY, "--max_epoch", 2, "--resume", "auto")  # the trial that was chosen is tested
    facts = final(tmp_path / "weights" / "digits" / "custom")
    assert facts["test_read"] is True and facts["final"]["split"] == "test"


def test_resume_refuses_what_does_not_fit(main_of, tmp_path):
    main_of("train", *TINY, "--max_epoch", 1)
    folder = tmp_path / "weights" / "digits" / "custom"
    for flags, message in (
        (("--max_epoch", 2, "--ema"), "ema was False"),
        (("--max_epoch", 2, "--optimizer", "sgd"), "optimizer was adamw"),
        (("--max_epoch", 2, "--weight_decay", 0.1), "weight_decay was 0.05 in that run and is 0.1 now"),
    ):
        with pytest.raises(UserError, match=message) as error:
            main_of("train", *TINY, *flags, "--resume", "auto")
        assert error.value.option == "resume"
    with pytest.raises(UserError, match="no training state"):
        main_of("train", *TINY, "--max_epoch", 2, "--resume", folder / "best_model.pth")
    status, _out = main_of("train", *TINY, "--max_epoch", 2, "--resume", folder / "last.pth")
    assert status == 0 and [e["epoch"] for e in final(folder)["epochs"]] == [1, 2]


def test_a_run_that_goes_on_in_another_folder_takes_its_best_model_along(main_of, tmp_path):
    main_of("train", *TINY, "--max_epoch", 3, "--path_to_save", "a")
    a, b = (tmp_path / place / "digits" / "custom" for place in "ab")
    flags = ("--max_epoch", 4, "--path_to_save", "b")
    saved = read_checkpoint(a / "last.pth")
    saved["best"]["val"] |= {"Acc@1": 1.0, "loss": -1.0}  # which no later epoch can beat
    torch.save(saved, a / "last.pth")
    main_of("train", *TINY, *flags, "--resume", a / "last.pth")
    assert final(b)["best"] == saved["best"] and same_weights(a / "best_model.pth", b / "best_model.pth")
    (a / "best_model.pth").unlink()
    main_of("train", *TINY, *flags, "--resume", a / "last.pth")
    assert final(b)["best"]["epoch"] == 4  # of those that there are


def test_resume_auto_without_an_earlier_run_starts_one(main_of):
    status, out = main_of("train", *TINY, "--max_epoch", 1, "-r")
    assert status == 0 and "starts from the beginning" in out


OPTIONS = {
    "mixup": ("--mixup", 0.2, "--cutmix", 1.0, "--random_erasing", 0.5),
    "trivial": ("--augment", "trivial", "--label_smoothing", 0.1),
    "torchvision": ("--augment", "torchvision", "--clip_grad", 1),
    "none": ("--augment", "none", "--optimizer", "sgd", "--base_lr", 0.05, "--balanced_sampler"),
    "all of train": ("--val_fraction", 0, "--optimizer", "adam", "--weight_decay", 0, "--class_weights"),
    "bf16": ("--bf16", "--eval_epoch", 2),
    "norm": ("--norm_type", "GN", "--start_epoch", 1),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_options_train(name, main_of, tmp_path):
    flags = tuple(f for f in TINY if f not in ("--precision", "fp32")) if name == "bf16" else TINY
    status, _out = main_of("train", *flags, "--max_epoch", 2, *OPTIONS[name])
    facts = final(tmp_path / "weights" / "digits" / "custom")
    assert status == 0 and facts["final"]["Acc@1"] > 0.15 and facts["epochs"][-1]["lr"] == 1e-6
    if name == "norm":
        assert [e["epoch"] for e in facts["epochs"]] == [2]


@pytest.mark.parametrize("flags", [("--fp16",), ("--precision", "fp16")])
def test_fp16_on_a_cpu_is_what_the_cpu_has_and_the_folder_does_not_say_fp16(flags, main_of, tmp_path):
    tiny = ("-m", "custom", "-d", "digits", "--image_size", 16, "--max_epoch", 1, "--device", "cpu")
    _status, out = main_of("train", *tiny, *flags)
    both = "bf16" in kind_of(torch.device("cpu")).precisions()
    assert f"trains in {'the faster of fp32 and bf16' if both else 'fp32'} instead" in out
    taken = re.search(r"threads?, in (\w+)", out)[1]
    assert taken in ("fp32", "bf16")[: 1 + both]
    (folder,) = (tmp_path / "weights" / "digits").iterdir()
    assert folder.name == "custom" and read_checkpoint(folder / "best_model.pth")["card"]["training"]["precision"] == taken


@pytest.mark.parametrize("cache", ["disk", "off"])
def test_an_image_folder_of_three_classes_from_start_to_finish(cache, main_of, photos, tmp_path):
    flags = ("-m", "custom", "-d", photos, "--image_size", 16, "--precision", "fp32", "--batch_size", 8, "--cache", cache)
    _status, out = main_of("train", *flags, "--max_epoch", 6, "--base_lr", 0.003)
    facts = final(tmp_path / "weights" / "photos" / "custom")
    assert facts["final"]["split"] == "val" and facts["final"]["Acc@1"] >= 0.8 and "Acc@5" not in facts["final"]
    assert "Acc@5" not in out
    _status, out = main_of("eval", "-w", tmp_path / "weights" / "photos" / "custom" / "best_model.pth", "--batch_size", 2)
    result = json.loads((tmp_path / "results" / "accuracy" / "photos" / "custom.json").read_text())
    assert result["Acc@1"] == facts["final"]["Acc@1"] and "Acc@5" not in result and "Acc@5" not in out


def test_the_resize_before_the_crop_is_trained_with_kept_and_evaluated_with(main_of, tmp_path):
    main_of("train", *TINY, "--max_epoch", 2, "--resize_size", 16, "--augment", "none")
    folder = tmp_path / "weights" / "digits" / "custom"
    assert read_checkpoint(folder / "best_model.pth")["card"]["resize_size"] == 16
    main_of("eval", "-w", folder / "best_model.pth")
    result = json.loads((tmp_path / "results" / "accuracy" / "digits" / "custom.json").read_text())
    assert result["loss"] == pytest.approx(final(folder)["final"]["loss"], abs=1e-12)
    with pytest.raises(UserError, match="resize_size was 16 in that run and is 18 now"):
        main_of("train", *TINY, "--max_epoch", 3, "--resume", folder / "last.pth")


def test_early_stopping(main_of, tmp_path):
    main_of("train", *TINY, "--max_epoch", 30, "--base_lr", 1e-9, "--min_lr", 0, "--early_stop", 2)
    assert len(final(tmp_path / "weights" / "digits" / "custom")["epochs"]) < 30


def test_a_frozen_trunk_keeps_its_pretrained_weights_and_statistics(main_of, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))  # torchvision takes weights that are there already
    torch.manual_seed(5)
    start = mobilenet_v3_small().state_dict()
    file = pathlib.Path(MobileNet_V3_Small_Weights.DEFAULT.url).name
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(start, tmp_path / "torch" / "hub" / "checkpoints" / file)
    main_of("train", "-m", "mobilenet_v3_small", *TINY[2:], "--max_epoch", 1, "--pretrained", "--freeze")
    state = read_checkpoint(tmp_path / "weights" / "digits" / "mobilenet_v3_small" / "best_model.pth")["model"]
    trunk = [key for key in state if not key.startswith("classifier")]
    assert trunk and all(torch.equal(state[key], start[key]) for key in trunk)
    assert all(
        state[key].shape != start.get(key, torch.empty(0)).shape for key in ("classifier.0.weight", "classifier.3.weight")
    )


def test_an_interrupted_run_has_the_status_of_its_signal(main_of, monkeypatch):
    take, sent = Step.take, []

    def interrupted(step, *rest):
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
        return take(step, *rest)

    monkeypatch.setattr(Step, "take", interrupted)
    status, out = main_of("train", *TINY, "--max_epoch", 1)
    assert status == 128 + signal.SIGTERM and "--resume auto goes on from there" in out


def test_a_diverging_run_keeps_the_last_good_checkpoint(main_of, tmp_path):
    main_of("train", *TINY, "--max_epoch", 1)
    last = tmp_path / "weights" / "digits" / "custom" / "last.pth"
    before = last.read_bytes()
    with pytest.raises(UserError, match="not finite at step"):
        main_of("train", *TINY, "--max_epoch", 3, "--optimizer", "sgd", "--base_lr", 1e30)
    assert last.read_bytes() == before


def test_a_place_that_is_a_file_is_named_before_anything_is_decoded(script, tmp_path):
    (tmp_path / "weights").write_text("mine")
    result = script("train.py", *TINY, "--max_epoch", 1)
    assert (
        result.returncode == 2
        and result.stderr.startswith("error: --path_to_save weights/ cannot be written: ")
        and "CPU," not in result.stdout
    )
    assert len(result.stderr.splitlines()) == 1 and (tmp_path / "weights").read_text() == "mine"


def test_tensorboard_logs(main_of, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    main_of("train", *TINY, "--max_epoch", 2, "--tensorboard")
    (folder,) = (tmp_path / "weights" / "digits" / "custom" / "logs").iterdir()
    for split in ("train", "val"):
        assert {"loss", "Acc@1", "Acc@5"} <= set(EventAccumulator(str(folder / split)).Reload().Tags()["scalars"])
    tags = EventAccumulator(str(folder)).Reload().Tags()
    assert {"learning rate", "images per second", "test/loss", "test/Acc@1"} <= set(tags["scalars"])
    assert tags["images"] == ["training images", "confusion matrix/test", "mistakes/test"]


def test_options_without_flags_are_those_of_train_without_flags():
    args = train.parser().parse(train.contradictions, argv=[])
    assert dataclasses.replace(train.options_of(args), flags={}, defaulted=()) == TrainOptions()


def test_flags_become_options():
    argv = ["-m", "custom", "--fp16", "--wp_epoch", "3", "--max_epoch", "9", "-r", "--ema"]
    options = train.options_of(train.parser().parse(train.contradictions, argv=argv))
    assert (options.precision, options.wp_epoch, options.resume, options.ema) == ("fp16", 3, "auto", True)
    assert options.flags["fp16"] and options.flags["precision"] == "auto" and "given" not in options.flags


MISTAKES = {
    "name of a run": (("--name", "../x"), "--name ../x must be at most 80 letters"),
    "wrong model": (("-m", "resnet19"), "--model resnet19 is no known model. Did you mean 'resnet18'"),
    "missing folder": (("-d", "./nowhere"), "./nowhere does not exist"),
    "unknown data set": (("-d", "digit"), "--dataset digit does not exist (did you mean digits?)"),
    "negative batch": (("--batch_size", "-4"), "--batch_size -4 must be from 1"),
    "no whole number": (("--batch_size", "many"), "--batch_size"),
    "short resize": (("--resize_size", "15"), "--resize_size 15 is below --image_size 16"),
    "long warm-up": (("--wp_epoch", "20", "--max_epoch", "12"), "--wp_epoch 20 leaves nothing of --max_epoch 12"),
    "misspelt flag": (("--batchsize", "4"), "did you mean --batch_size"),
    "misspelt flag of others": (("--epocs", "4"), "did you mean --max_epoch"),
    "two precisions": (("--fp16", "--bf16"), "exclude each other"),
    "deterministic and fast": (("--deterministic", "--compile"), "--deterministic excludes --compile"),
    "deterministic in bf16": (("--deterministic", "--bf16"), "--deterministic is in fp32"),
    "frozen random": (("--freeze",), "--pretrained"),
    "pretrained norm": (("-m", "resnet18", "--pretrained", "--norm_type", "GN"), "BatchNorm"),
    "too small": (("--image_size", "4"), "--image_size 4 must be from 8 to 4096"),
    "large seed": (("--seed", str(2**32)), "--seed 4294967296 must be from 0 to 4294967295"),
    "no resume": (("--resume", ""), "--resume is empty; give a value, or leave it out"),
    "never saved": (("--save_every", "-1"), "--save_every -1.0 must be 0 or more"),
    "resume nothing": (("--resume", "gone.pth"), "gone.pth does not exist"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence(name, main_of):
    flags, message = MISTAKES[name]
    with pytest.raises(UserError) as error:
        main_of("train", *TINY, *flags)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_all_faults_of_a_command_line_together(main_of):
    with pytest.raises(UserError) as error:
        main_of("train", *TINY, "--fp16", "--bf16", "--min_lr", 1, "--freeze")
    assert str(error.value).count(";") >= 2


def test_as_a_process_a_mistake_has_status_2_and_no_traceback(script):
    result = script("train.py", *TINY, "--max_epoch", "-1")
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr == "error: --max_epoch -1 must be 1 or more\n"


AT_WORK = ("--augment", "torchvision", "--plain_epochs", "0", "--num_workers", "1", "--batch_size", "16")  # loader workers


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), AT_WORK])
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_to_all_of_a_run_save_the_state(signum, status, flags, tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), *TINY, "--max_epoch", "500", *flags]
    environment = os.environ | {"PYTHONPATH": ""}
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    time.sleep(0.5)
    workers = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while flags and workers.exists() and not workers.read_text():
        time.sleep(0.01)
    os.killpg(process.pid, signum)  # as a terminal and torchrun do
    rest = process.stdout.read()
    assert process.wait(60) == status and "last.pth is saved\n--resume auto goes on from there" in rest
    assert "optimizer" in read_checkpoint(tmp_path / "weights" / "digits" / "custom" / "last.pth")


def test_an_interrupt_before_the_first_step_ends_the_run(tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), "-m", "mobilenet_v3_small", "-d", "digits", "--image_size", "96"]
    environment = os.environ | {"PYTHONPATH": "", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout.readline().startswith("digits: 10 classes")
    process.send_signal(signal.SIGTERM)  # not SIGINT, which processes that run in the background of a shell ignore
    _rest, errors = process.communicate(timeout=120)
    assert process.returncode == 143 and "Traceback" not in errors


@pytest.mark.slow
def test_the_compiled_model_learns(main_of, tmp_path):
    status, out = main_of("train", *TINY, "--max_epoch", 2, "--compile")
    expected = ", compiled" if shutil.which("g++") else "so the network runs without"
    assert status == 0 and expected in out
    assert final(tmp_path / "weights" / "digits" / "custom")["final"]["Acc@1"] > 0.15


@pytest.mark.slow
@pytest.mark.data
def test_real_photographs(real_data, main_of, tmp_path):
    main_of("train", "-m", "custom", "-d", real_data / "cifar10_sample", "--image_size", 32, "--max_epoch", 15, "--ema")
    assert final(tmp_path / "weights" / "cifar10_sample" / "custom")["final"]["Acc@1"] >= 0.40
