"""Runs that are asked to be deterministic give equal weights."""

import os

import pytest
import torch
from runs import assert_same_end

from utils.core.errors import UserError, explain
from utils.runtime.device import choose_algorithms

OPTIONS = {"deterministic": True, "max_epoch": 2, "ema": True, "mixup": 0.2, "random_erasing": 0.5}


def finished(trainer):
    trainer.fit()
    return trainer


@pytest.fixture(autouse=True)
def _as_before():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    "options", [{}, {"augment": "torchvision", "precision": "auto"}, {"accumulation": 2, "optimizer": "sgd"}]
)
def test_two_runs_are_equal(options, trainer_of):
    runs = [finished(trainer_of(**OPTIONS | options, path_to_save=place)) for place in "ab"]
    assert_same_end(*runs)
    assert runs[0].card.training["precision"] == "fp32"


@pytest.mark.slow
def test_two_runs_of_several_threads_are_equal(trainer_of, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr("utils.training.build.share_cores", lambda workers, device: (torch.set_num_threads(2) or 2, 0))
    runs = [finished(trainer_of(**OPTIONS, path_to_save=place)) for place in "ab"]
    torch.set_num_threads(before)
    assert_same_end(*runs)


def test_nothing_is_chosen_by_time_and_the_next_run_is_as_fast_as_ever(trainer_of, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    trainer_of(deterministic=True)
    backends = torch.backends
    assert torch.are_deterministic_algorithms_enabled() and backends.cudnn.deterministic and not backends.cudnn.benchmark
    assert not backends.cudnn.allow_tf32 and not backends.cuda.matmul.allow_tf32
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    choose_algorithms()
    assert not torch.are_deterministic_algorithms_enabled() and not backends.cudnn.deterministic and backends.cudnn.benchmark
    assert backends.cudnn.allow_tf32 and backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("options", [{"compile": True}, {"precision": "bf16"}, {"precision": "fp16"}])
def test_what_contradicts_it_is_a_sentence(options, trainer_of):
    with pytest.raises(UserError, match="a deterministic run is fp32 and not compiled") as error:
        trainer_of(deterministic=True, **options)
    assert error.value.option == "deterministic"


def test_an_operator_that_has_no_such_algorithm_is_a_sentence():
    choose_algorithms(deterministic=True)
    with pytest.raises(RuntimeError) as error:
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
    assert "an operator of this model has no deterministic algorithm on this device" in explain(error.value)
