import subprocess
import sys

from conftest import ROOT

from models import build
from models.registry import MODELS, list_models


def test_the_names_are_known_without_torch():
    code = "import sys; from models.registry import list_models; print(*list_models()); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split() == list(MODELS)
    assert build.MODELS is MODELS


def test_a_model_of_this_process_is_among_them(monkeypatch):
    monkeypatch.setitem(MODELS, "toy", lambda *_: None)
    assert list_models() == [*MODELS] and "toy" in MODELS
