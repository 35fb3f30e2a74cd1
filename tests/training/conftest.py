import dataclasses

import pytest
from runs import CPU, TINY

from utils.training.build import build_trainer


@pytest.fixture
def trainer_of(tmp_path, monkeypatch):
    """A small Trainer on the digits, in an empty folder: trainer_of(max_epoch=2) -> Trainer."""
    monkeypatch.chdir(tmp_path)

    def make(**options):
        return build_trainer(dataclasses.replace(TINY, **options), CPU)

    return make
