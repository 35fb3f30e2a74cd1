"""What the tests share: small real data, a tiny trained checkpoint, the scripts as a user runs them, two networks alike."""

import copy
import errno
import faulthandler
import multiprocessing
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from PIL import Image
from torch import nn

from models.build import build_model
from utils.core import files
from utils.kernels.convert import use_training_kernels

ROOT = pathlib.Path(__file__).parent.parent

# A test must not fail because the machine is slow or busy.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """What is measured on this machine during tests stays out of the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def full_results(monkeypatch):
    """The disk that holds results/ is full."""
    create = files._create

    def refuse(target):
        if "results" in target.parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return create(target)

    monkeypatch.setattr(files, "_create", refuse)


@pytest.fixture
def real_data():
    """The folder with FashionMNIST/raw and cifar10_sample; skips where it is not there."""
    folder = pathlib.Path(os.environ.get("DATA_DIR", ROOT.parent / "shared" / "data"))
    folder = folder if folder.is_absolute() else ROOT / folder
    if not (folder / "FashionMNIST" / "raw").is_dir():
        pytest.skip("the real data sets are not here")
    return folder


@pytest.fixture
def script(tmp_path):
    """Run a script of the project in an empty folder: script("train.py", "-d", "digits") -> CompletedProcess."""

    def call(name, *flags, **options):
        command = [sys.executable, str(ROOT / name), *map(str, flags)]
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ""}
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=300, **options)

    return call


@pytest.fixture
def main_of(tmp_path, monkeypatch, capsys):
    """Run a script's main() in this process, in an empty folder: main_of("train", "-d", "digits") -> (status, out)."""
    import importlib

    def call(name, *flags):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, flags)])
        monkeypatch.setattr(files, "_inputs", {})  # each script is a process of its own
        status = importlib.import_module(name).main()
        return status or 0, capsys.readouterr().out

    return call


@pytest.fixture
def figures(monkeypatch):
    """The matplotlib Figures that are written during the test, in order."""
    from matplotlib.figure import Figure

    written, plain = [], Figure.savefig

    def savefig(figure, *args, **options):
        written.append(figure)
        return plain(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return written


@pytest.fixture
def photos(tmp_path):
    """An image folder of three colours, of images in different sizes: train 8 a class, val 3."""
    return make_photos(tmp_path / "photos")


def make_photos(root, classes=("blue", "green", "red"), train=8, val=3, sides=(20, 60)):
    random = np.random.default_rng(0)
    for label, name in enumerate(classes):
        for split, count in (("train", train), ("val", val)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                height, width = random.integers(*sides, 2)
                pixels = random.integers(0, 90, (height, width, 3), dtype=np.uint8)
                pixels[..., 2 - label % 3] += 150
                Image.fromarray(pixels).save(folder / f"{i}.jpg", quality=95)
    return root


@pytest.fixture
def crash(monkeypatch):
    """A crash(path) that writes an image whose decoder aborts its process; fails where this one was to decode it."""
    decoded_here = []

    def accept(start):
        if start.startswith(b"CRASH"):
            if multiprocessing.parent_process():
                faulthandler.disable()  # its report would fill the log
                os.abort()
            decoded_here.append(start)

    monkeypatch.setattr(Image, "ID", ["CRASH", *Image.ID])
    monkeypatch.setattr(Image, "OPEN", Image.OPEN | {"CRASH": (None, accept)})
    yield lambda path: path.write_bytes(b"CRASH" + os.fsencode(path))
    assert not decoded_here


@pytest.fixture
def trained_alike():
    """Take one training step with a network as the CPU trains it, and with the same as it was built.

    trained_alike(name, side, kind, compile) -> our model, their model, images, and the modules of that kind in the network
    that was built for ours, for batches of four images. Both are in double precision and without dropout; names and gradients
    of the parameters are alike.
    """

    def step(name, side, kind=(), compile=False):
        torch.manual_seed(0)
        theirs = build_model(name, 5, side).double().train()
        for module in theirs.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        ours = copy.deepcopy(theirs)
        network = use_training_kernels(ours, (4, 3, side, side), compile).train()
        parts = [part for part in network.modules() if isinstance(part, kind)]
        images, labels = torch.randn(4, 3, side, side, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
        for model in (network, theirs):
            nn.functional.cross_entropy(model(images), labels).backward()
        for (one_name, one), (name, two) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            assert one_name == name
            torch.testing.assert_close(one.grad, two.grad, rtol=1e-6, atol=1e-9)
        return ours, theirs, images, parts

    return step
