import errno
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

from utils.core.errors import UserError, run

CORE = sorted(file.stem for file in (ROOT / "utils" / "core").glob("*.py") if file.stem != "__init__")
LIGHT = [*(f"utils.core.{name}" for name in CORE), "utils.inference.predictors"]


def _raise(error):
    raise error


CAUSED = [
    (UserError("no such file"), 2),
    (PermissionError(errno.EACCES, "Permission denied", "results"), 2),
    (OSError(errno.ENOSPC, "No space left on device"), 2),
    (KeyboardInterrupt(), 130),
]


@pytest.mark.parametrize(("outcome", "status"), CAUSED)
def test_what_a_user_causes_is_one_sentence_and_a_status(outcome, status, capsys):
    with pytest.raises(SystemExit) as end:
        run(lambda: _raise(outcome))
    captured = capsys.readouterr()
    assert end.value.code == status and len(captured.err.splitlines()) == 1 and captured.out == ""


def test_the_script_adds_the_flag_of_the_value_at_fault(capsys):
    with pytest.raises(SystemExit):
        run(lambda: _raise(UserError("image size 4 is below 8", option="image_size")))
    assert capsys.readouterr().err == "error: --image_size: image size 4 is below 8\n"


@pytest.mark.parametrize("bug", [ZeroDivisionError(), FileNotFoundError(errno.ENOENT, "No such file", "x"), OSError("odd")])
def test_a_bug_keeps_its_traceback(bug):
    with pytest.raises(type(bug)):
        run(lambda: _raise(bug))


def test_sigterm_exits_143():
    code = "import time; from utils.core.errors import run; run(lambda: (print('on', flush=True), time.sleep(30)))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": "."})
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143


@pytest.mark.parametrize("module", LIGHT)
def test_the_light_modules_import_neither_torch_nor_torchvision_nor_matplotlib(module):
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'torchvision', 'matplotlib'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": "."}).returncode == 0
