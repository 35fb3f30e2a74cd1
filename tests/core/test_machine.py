"""What is said of the processor: its instruction sets, and whether its integer kernels saturate."""

import pathlib
import platform
import subprocess
import sys
import tempfile

import pytest
from conftest import ROOT

from utils.core.machine import INSTRUCTION_SETS, cache_folder, cpu_features, saturates

X86 = (
    "processor : 0\nvendor_id : AuthenticAMD\nflags\t\t: fpu avx2 avx512f avx512_vnni avx512_bf16 avx512_vbmi2\nflags : none\n"
)
ARM = "processor\t: 0\nFeatures\t: fp asimd evtstrm asimddp\n"


@pytest.mark.parametrize(
    ("text", "features"),
    [(X86, ["avx2", "avx512f", "avx512_vnni", "avx512_bf16"]), (ARM, ["asimd", "asimddp"]), ("model name : none\n", [])],
)
def test_features_are_the_relevant_ones(text, features, tmp_path):
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_features(tmp_path / "cpuinfo") == features


def test_features_of_a_system_without_cpuinfo(tmp_path):
    assert cpu_features(tmp_path / "nothing") == []


def test_kernels_saturate_on_x86_without_vnni_alone():
    """What ONNX Runtime answers here is what the instruction sets say."""
    features = cpu_features()
    assert set(features) <= set(INSTRUCTION_SETS)
    if platform.machine() not in ("x86_64", "AMD64"):
        assert not saturates()
    elif features:
        assert saturates() == (not {"avx512_vnni", "avx_vnni"} & set(features))


@pytest.mark.skipif(sys.platform != "linux", reason="another system counts in another way")
def test_the_peak_of_memory_is_that_of_this_process_alone():
    held = bytes(200 << 20)
    code = "from utils.core.machine import peak_memory; print(peak_memory())"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert 0 < int(out) < 100 << 20 < len(held)


def test_the_cache_is_where_the_system_says_and_without_a_home_among_temporary_files(monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "home", nowhere)
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == pathlib.Path("/caches/image-classification")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == pathlib.Path(tempfile.gettempdir(), "image-classification")
