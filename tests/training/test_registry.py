import subprocess
import sys

from conftest import ROOT

import utils.data.augment
import utils.training.optim
from utils.data.registry import AUGMENTATIONS, list_augmentations
from utils.training.registry import OPTIMIZERS, list_optimizers


def test_names_are_known_without_torch():
    code = (
        "import sys; from utils.training.registry import list_optimizers; from utils.data.registry import list_augmentations; "
        "print(*list_optimizers(), *list_augmentations()); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split() == [*utils.training.optim.OPTIMIZERS, *utils.data.augment.AUGMENTATIONS]


def test_what_is_registered_elsewhere_is_among_them(monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "toy", None)
    monkeypatch.setitem(AUGMENTATIONS, "toy", None)
    assert "toy" in list_optimizers() and "toy" in list_augmentations()
