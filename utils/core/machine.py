"""This machine: its cores, memory and processor, and the folder where measured answers are kept."""

import contextlib
import ctypes
import functools
import os
import pathlib
import sys
import tempfile

# The instruction sets that decide which integer and 16-bit kernels run, as Linux spells them for x86 and for Arm.
INSTRUCTION_SETS = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve"),
)


def keep_memory():
    """Tell glibc's allocator to keep freed memory instead of giving it back to the kernel after every step.

    Large tensors then cost no page faults when they come again (mallopt(3)). Returns whether there was a glibc to tell.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    m_trim_threshold, m_top_pad, m_mmap_threshold, m_mmap_max = -1, -2, -3, -4  # malloc.h
    return all(
        (
            mallopt(m_mmap_threshold, 1 << 30),
            mallopt(m_trim_threshold, -1),  # never: 2 GiB, the most that can be named, is less than a large batch
            mallopt(m_top_pad, 256 << 20),
            mallopt(m_mmap_max, 0),
        )
    )


def cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def peak_memory():
    """Most bytes of memory that this process has held.

    Linux hands on what getrusage counts from the process that started this one, so it is asked for the peak of this alone.
    """
    try:
        text = pathlib.Path("/proc/self/status").read_text()
        return 1024 * int(text.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        import resource  # not above: no such module on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def cpu_name():
    """The processor in words, for reports and for the key of what was measured on it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")


def cpu_features(cpuinfo="/proc/cpuinfo"):
    """Those of INSTRUCTION_SETS that the processor has, a list in that order; empty where there is no `cpuinfo` to read."""
    try:
        lines = pathlib.Path(cpuinfo).read_text().splitlines()
    except OSError:
        return []
    flags = next((line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features"))), [])
    return [name for name in INSTRUCTION_SETS if name in flags]


@functools.cache
def saturates():
    """Whether ONNX Runtime's fast product of uint8 and int8 clips its sums at 16 bits here, as on x86 without VNNI.

    Asked of ONNX Runtime itself with the largest product that there is: it is right, or it is clipped.
    """
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.full((8, 16), 127, np.int8), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["rows", "weights"], ["sums"])],
        "saturation",
        [helper.make_tensor_value_info("rows", TensorProto.UINT8, [4, 8])],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, [4, 16])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"rows": np.full((4, 8), 255, np.uint8)})
    return bool((sums != 8 * 255 * 127).any())


def cache_folder():
    """Where answers that hold for this machine are kept between runs."""
    try:
        place = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    except RuntimeError:  # a user without a home, as in some containers
        place = tempfile.gettempdir()
    return pathlib.Path(place) / "image-classification"


def free_memory():
    """Bytes of memory that can be had without swapping."""
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@contextlib.contextmanager
def network_timeout(seconds=10):
    """Let downloads inside fail after so long without an answer; without it a dead network hangs for minutes."""
    import socket  # not above: few runs download anything

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
