"""A full disk: each script that writes ends in a sentence that names the file, and what was there before stays."""

import errno
import os
import re
import shutil
import subprocess
import tempfile

import pytest
from conftest import ROOT, make_photos
from digits_checkpoint import trained
from networks import DIGITS
from warm_python import WarmPython

from models.checkpoint import save_checkpoint
from utils.core import errors, files
from utils.export.verify import export_model

TRAIN = ("-d", "digits", "-m", "custom", "--image_size", "8", "--max_epoch", "1", "--batch_size", "500", "--num_workers", "0")
NETWORKS = (*(f"complexity{tool}" for tool in ("", "_fvcore", "_ptflops", "_thop", "_torchscan")), "receptive_field")
WRITERS = {  # script and flags; {…} are files that are there
    "train": ("train", *TRAIN, "--precision", "fp32"),
    "eval": ("eval", "-w", "{pth}", "--output", "accuracy.json"),
    "predict --json": ("predict", "-m", "{onnx}", "-i", "{png}", "--json", "answers.json"),
    "predict --csv": ("predict", "-m", "{onnx}", "-i", "{png}", "--csv", "answers.csv"),
    "predict --save_dir": ("predict", "-m", "{onnx}", "-i", "{png}", "--save_dir", "drawn"),
    "predict_ckpoint": ("predict_ckpoint", "-w", "{pth}", "-i", "{png}", "--json", "answers.json"),
    "export to ONNX": ("export", "-w", "{pth}", "-e", "onnx"),
    "export to TorchScript": ("export", "-w", "{pth}", "-e", "torchscript"),
    "quantize": ("quantize", "-w", "{pth}", "--scheme", "fp16"),
    "check_dataset": ("check_dataset", "-d", "{photos}", "--json", "a.json", "--fix_list", "a.csv", "--html", "a.html"),
    "benchmark": ("benchmark", "-w", "{pth}"),
    "report": ("report", "-w", "{pth}", "--card"),
    **{name: (name, "-m", "custom", "--image_size", "32") for name in NETWORKS},
}
PLACES = {"pth": "model.pth", "onnx": "model.onnx", "png": "image.png", "photos": "photos"}
QUICK = {"eval", "predict --json", "predict --csv", "predict_ckpoint"}
NAMED = re.compile(r"(.*) cannot be written \((No space left on device|File too large)\)", re.DOTALL)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A folder with a checkpoint, an ONNX file, an image and a folder of photos."""
    folder = tmp_path_factory.mktemp("given")
    network, card = trained()
    save_checkpoint(folder / "model.pth", {"model": network.state_dict(), "card": card.to_dict()})
    export_model(network, card, "onnx", folder / "model.onnx", images=DIGITS[:3], source="3 digits")
    DIGITS[0].save(folder / "image.png")
    make_photos(folder / "photos", train=3, val=1)
    return folder


@pytest.fixture
def given(originals, tmp_path, monkeypatch):
    """{name: path} of copies of them; what a script writes beside them, and its temporary files, are in `tmp_path` too."""
    shutil.copytree(originals, tmp_path, dirs_exist_ok=True)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    return {name: tmp_path / place for name, place in PLACES.items()}


@pytest.fixture
def disk(monkeypatch):
    """disk(number): the file that is flushed as number so-and-so does not fit, counted from 0; `disk.count` were flushed."""
    plain = files._flush

    def flush(path):
        if path.is_dir():
            return plain(path)
        flush.count += 1
        if flush.count - 1 == flush.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(path)

    def fill(number):
        flush.full, flush.count = number, 0
        return flush

    monkeypatch.setattr(files, "_flush", flush)
    return fill


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_one(name, given, main_of, tmp_path, disk, monkeypatch):
    script, *flags = WRITERS[name]
    flags = [flag.format(**given) for flag in flags]
    monkeypatch.setattr("benchmark.cold_start", lambda *_: 1.0)  # processes of their own, which write nothing
    watched = disk(None)
    assert main_of(script, *flags)[0] in (0, 1)
    assert watched.count  # it writes through utils.core.files
    for number in sorted({0, watched.count // 2, watched.count - 1}):
        before = contents(tmp_path)
        full = disk(number)
        try:
            main_of(script, *flags)
        except Exception as error:
            sentence = errors.explain(error)
            assert sentence, repr(error)
        else:
            assert full.count <= number, f"{name} went on without file {number}"
            continue  # it writes less where its files are there already
        named = NAMED.search(sentence)
        assert named, (number, sentence)
        target = os.path.relpath(named[1].split(" cache ")[-1], ".")
        after = contents(tmp_path)
        assert after.get(target) == before.get(target), (number, sentence)
        assert target in before or target.startswith("temporary"), (number, sentence)
        assert not [path for path in after if files.TEMPORARY in path]


@pytest.mark.parametrize("name", sorted(QUICK))
def test_a_full_disk_costs_nothing_that_was_there(name, given, main_of, tmp_path, disk, monkeypatch):
    check_one(name, given, main_of, tmp_path, disk, monkeypatch)


@pytest.mark.faults
@pytest.mark.parametrize("name", sorted(WRITERS.keys() - QUICK))
def test_a_full_disk_costs_nothing_that_was_there_in_slow_scripts(name, given, main_of, tmp_path, disk, monkeypatch):
    check_one(name, given, main_of, tmp_path, disk, monkeypatch)


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (60, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
root, name, *flags = sys.argv[1:]
sys.argv, sys.path[0] = [name, *flags], root
runpy.run_path(f"{root}/{name}.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    with WarmPython(tmp_path_factory.mktemp("warm") / "bin") as python:
        yield python


@pytest.mark.faults
@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_file_that_the_system_does_not_let_grow_is_named(name, given, warm, tmp_path):
    """The limit is the system's own (RLIMIT_FSIZE), in a process of its own, whatever library writes."""
    script, *flags = WRITERS[name]
    command = [warm.folder / "python", "-c", LIMITED, ROOT, script, *(flag.format(**given) for flag in flags)]
    environment = warm.environment({"TMPDIR": os.environ["TMPDIR"]})
    ended = subprocess.run(
        [*map(str, command)], cwd=tmp_path, capture_output=True, text=True, env=environment, pass_fds=warm.fds, timeout=300
    )
    assert ended.returncode == 2, ended.stderr[-2000:]
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: ") and NAMED.search(last) and "Traceback" not in ended.stderr
    assert not [path for path in contents(tmp_path) if files.TEMPORARY in path]
