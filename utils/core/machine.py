"""This machine: its cores, memory and processor, and the folder where measured answers are kept."""

import ctypes
import os
import pathlib


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


def cpu_name():
    """The processor in words, for reports and for the key of what was measured on it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")


def cache_folder():
    """Where answers that hold for this machine are kept between runs."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "image-classification"


def free_memory():
    """Bytes of memory that can be had without swapping."""
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
