import errno
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

from utils.core import cli
from utils.core.errors import UserError, run

CORE = sorted(file.stem for file in (ROOT / "utils" / "core").glob("*.py") if file.stem != "__init__")
LIGHT = [*(f"utils.core.{name}" for name in CORE), "utils.inference.predictors"]


def _raise(error):
    raise error


CAUSED = [
    (UserError("no such file"), 2),
    (PermissionError(errno.EACCES, "Permission denied", "results"), 2),
    (OSError(errno.ENOSPC, "No space left on device"), 2),
    (OSError(errno.EFBIG, "File too large"), 2),
    (UserError("no such file: a\nb\x1b[2J"), 2),
    (MemoryError(), 2),
    (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), 2),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), 2),
    (KeyboardInterrupt(), 130),
]


@pytest.mark.parametrize(("outcome", "status"), CAUSED)
def test_what_a_user_causes_is_one_sentence_and_a_status(outcome, status, capsys):
    with pytest.raises(SystemExit) as end:
        run(lambda: _raise(outcome))
    captured = capsys.readouterr()
    assert end.value.code == status and len(captured.err.splitlines()) == 1 and captured.out == ""
    assert "\x1b" not in captured.err


@pytest.mark.parametrize(
    ("option", "start"), [("image_size", "error: --image_size: "), ("resize_size", "error: "), (None, "error: ")]
)
def test_the_flag_of_the_value_at_fault_is_named_where_the_script_has_it(option, start, capsys):
    parser = cli.Parser("A script.")
    cli.add_size(parser)

    def main():
        parser.parse(argv=[])
        raise UserError("size 4 is below 8", option=option)

    with pytest.raises(SystemExit):
        run(main)
    assert capsys.readouterr().err == f"{start}size 4 is below 8\n"


def test_a_missing_package_names_the_environment(capsys):
    with pytest.raises(SystemExit) as end:
        run(lambda: _raise(ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")))
    message = capsys.readouterr().err
    assert end.value.code == 2 and "package torch is missing" in message and "source .venv/bin/activate" in message


@pytest.mark.parametrize("name", ["--help", "--gibberish"])
def test_a_terminal_that_lacks_characters_gets_escapes(name):
    code = "from utils.core import cli, errors; errors.run(lambda: cli.Parser('α × 中 ─').parse())"
    environment = os.environ | {"PYTHONPATH": ".", "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([sys.executable, "-c", code, name, "中"], capture_output=True, env=environment)
    assert done.returncode == (0 if name == "--help" else 2) and b"Traceback" not in done.stderr
    assert (b"\\u03b1 \xd7 \\u4e2d \\u2500" in done.stdout) == (name == "--help")


BUGS = [
    ZeroDivisionError(),
    FileNotFoundError(errno.ENOENT, "No such file", "x"),
    OSError("odd"),
    RuntimeError("shapes"),
    ModuleNotFoundError("No module named 'utils.gone'", name="utils.gone"),
]


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_keeps_its_traceback(bug):
    with pytest.raises(type(bug)):
        run(lambda: _raise(bug))


def test_sigterm_exits_143():
    code = "import time; from utils.core.errors import run; run(lambda: (print('on', flush=True), time.sleep(30)))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": "."})
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143


def test_a_closed_pipe_exits_141_without_a_word():
    code = "from utils.core.errors import run; run(lambda: [print('line', flush=True) for _ in range(10_000)])"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": "."}
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(10) == 141


@pytest.mark.parametrize("module", LIGHT)
def test_the_light_modules_import_neither_torch_nor_torchvision_nor_matplotlib(module):
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'torchvision', 'matplotlib'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": "."}).returncode == 0
