"""Every script answers --help and wrong flags at once: before torch is imported, in one sentence."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))
HEAVY = ("matplotlib", "onnxruntime", "scipy", "torch", "torchvision")
RUNS_WITHOUT_FLAGS = ("train.py",)
INPUTS = {  # flags that name what must be there; all scripts that are not here have -w alone
    "benchmark.py": ("-w", "-c", "-d"),
    "check_dataset.py": ("-d", "-w"),
    "eval.py": ("-w", "-c", "-d"),
    "export.py": ("-w", "-c", "-d"),
    "predict.py": ("-m", "-c", "-i"),
    "predict_ckpoint.py": ("-w", "-c", "-i"),
    "quantize.py": ("-w", "-c", "-d"),
    "receptive_field.py": ("-w", "--image", "-d"),
    "report.py": ("-w", "-d"),
    "train.py": ("-d", "-w", "--resume", "--teacher"),
}
NEEDED = {"check_dataset.py": ("-d", str(ROOT)), "export.py": ("-e", "onnx"), "predict.py": ("-m", __file__, "-i", __file__),
          "predict_ckpoint.py": ("-w", __file__, "-i", __file__)}  # fmt: skip
CALLS = """
import contextlib, io, json, runpy, sys
script, calls = sys.argv[1], json.loads(sys.argv[2])
sys.path[0] = script.rpartition("/")[0]
answers = []
for flags in calls:
    sys.argv = [script, *flags]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(script, run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code
    answers.append((status, out.getvalue(), err.getvalue()))
print(json.dumps([answers, [name for name in sys.modules if "." not in name]]))
"""


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_and_wrong_flags_are_answered_before_heavy_imports(name, tmp_path):
    calls = [["--help"], ["--no_such_flag"], ["--max_epoch", "0"] if name in RUNS_WITHOUT_FLAGS else []]
    inputs = INPUTS.get(name, ("-w",))
    needed = NEEDED.get(name, () if name in RUNS_WITHOUT_FLAGS else ("-w", __file__))
    calls += [[*needed, *(("-w", __file__) if name == "export.py" else ()), flag, "gone.pth"] for flag in inputs]
    command = [sys.executable, "-c", CALLS, str(ROOT / name), json.dumps(calls)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (helped, unknown, refused, *absent), modules = json.loads(done.stdout)
    assert helped[0] == 0 and "--help" in helped[1] and helped[2] == ""
    for status, out, err in (unknown, refused):
        assert status == 2 and out == "" and err.startswith("error: ") and len(err.splitlines()) == 1
    assert "unknown flag --no_such_flag" in unknown[2]
    for flag, (status, out, err) in zip(inputs, absent, strict=True):
        assert status == 2 and out == "" and "gone.pth does not exist" in err and len(err.splitlines()) == 1, (flag, err)
    assert not set(HEAVY) & set(modules) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["torch", "torchvision"])
def test_an_environment_without_a_requirement_is_named_in_a_sentence(package, tmp_path):
    code = f"import runpy, sys; sys.modules[{package!r}] = None; sys.argv = sys.argv[1:]; sys.path[0] = {str(ROOT)!r}\n"
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(ROOT / "complexity.py"), "-m", "custom", "--image_size", "32"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    sentence = f"error: the package {package} is missing: activate the environment (source .venv/bin/activate)"
    assert done.returncode == 2 and done.stderr.startswith(sentence) and len(done.stderr.splitlines()) == 1
