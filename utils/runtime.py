"""Where and how the arithmetic runs: device, precision, memory, threads, processes. Nothing below asks a second time."""

import copy
import ctypes
import functools
import json
import logging
import os
import pathlib
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import rendezvous

from utils.errors import UserError
from utils.report import write_json

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


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


def choose_device(device="auto", cuda=False):
    """`auto` takes CUDA where there is one. Raises UserError for an explicit `cuda` without one; `--cuda` only says so."""
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UserError("--device cuda: no CUDA device is usable here; leave the flag out to use the CPU")
    if cuda and not available:
        print("--cuda: no CUDA device is usable here, so the CPU is used")
    if device == "cpu" or not available:
        return torch.device("cpu")
    if local_rank() >= torch.cuda.device_count():
        raise UserError(f"this machine has {torch.cuda.device_count()} GPUs; give torchrun no more of --nproc_per_node")
    return torch.device("cuda", local_rank())


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def world_size():
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank():
    return int(os.environ.get("LOCAL_RANK", 0))


def launched():
    """Whether torchrun has started this process, known before it has joined the others."""
    return "WORLD_SIZE" in os.environ


def processes_here():
    """How many processes of this run share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def join_group(device):
    """Join the processes that torchrun started, if it did: NCCL on CUDA, gloo on the CPU."""
    if launched() and not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        store, number, count = next(rendezvous("env://"))
        # After a restart the store still holds the addresses of the processes that were lost: each start has its own names.
        store = dist.PrefixStore(f"start_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", store=store, rank=number, world_size=count,
            timeout=timedelta(hours=1),  # the others wait while the first one decodes a folder of pictures
        )  # fmt: skip


def leave_group():
    if dist.is_initialized():
        dist.destroy_process_group()


def on_main(function, *args, **kwargs):
    """Call `function` in the first process of the run only; the others return None."""
    return function(*args, **kwargs) if rank() == 0 else None


def from_main(function, *args):
    """What `function` gives in the first process, or the UserError that it raises there, in all of them."""
    if world_size() == 1:
        return function(*args)
    answer = [None, None]
    if rank() == 0:
        try:
            answer[0] = function(*args)
        except UserError as error:
            answer[1] = error
    dist.broadcast_object_list(answer)
    if answer[1]:
        raise answer[1]
    return answer[0]


@contextmanager
def first_here_first():
    """The first process on each machine does what is inside before the others there do: they find the files it has made."""
    if local_rank():
        wait_for_all()
    try:
        yield
    finally:
        if not local_rank():
            wait_for_all()


def say(*words, **options):
    """print, from one process of the run."""
    on_main(print, *words, flush=True, **options)


def share_cores(workers, device):
    """Split the cores of this process between torch threads and loader workers, so that the sum never exceeds them.

    Returns `(threads, workers)` and sets torch's thread count. On the CPU at most half of the cores decode images; with a
    GPU all but one do. OMP_NUM_THREADS, where it is set, bounds the threads.
    """
    available = max(1, cores() // processes_here())
    most = max(1, available - 1) if device.type == "cuda" else available // 2
    workers = min(workers, most)
    threads = max(1, min(available - workers, int(os.environ.get("OMP_NUM_THREADS", available))))
    torch.set_num_threads(threads)
    return threads, workers


@dataclass
class Runtime:
    """What was chosen, once, for the whole run."""

    device: torch.device
    precision: str = "fp32"  # a key of AUTOCAST
    threads: int = 1
    workers: int = 0
    keeps_memory: bool = False
    compiled: bool = False

    def autocast(self):
        dtype = AUTOCAST[self.precision]
        return torch.autocast(self.device.type, dtype) if dtype else nullcontext()

    def scaler(self):
        """Loss scaling, on only where fp16 gradients would underflow."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16" and self.device.type == "cuda")

    @property
    def keeps_gradients(self):
        """Whether gradients are added to tensors that stay: CUDA graphs give theirs in memory that the next replay needs."""
        return self.compiled and self.device.type == "cuda"

    def describe(self):
        """The one line: device, precision, memory format, threads, workers, allocator, compile."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        parts = [
            name,
            self.precision,
            "channels_last",
            f"{self.threads} thread{'s' * (self.threads != 1)}",
            f"{self.workers} loader worker{'s' * (self.workers != 1)}",
            "allocator keeps memory" if self.keeps_memory else "default allocator",
            "compiled" if self.compiled else "eager",
        ]
        if world_size() > 1:
            parts.append(f"{world_size()} processes ({dist.get_backend()})")
        return ", ".join(parts)


def choose_precision(wanted, device, time_step=None, key=""):
    """One of `fp32`, `bf16`, `fp16`, and a sentence where it is not what was asked for.

    `fp16` needs CUDA and becomes bf16 on a CPU. `auto` is bf16 on CUDA devices that have it; on a CPU that has bf16
    arithmetic it is whichever of fp32 and bf16 is measured faster: `time_step(precision)` gives the seconds of one
    training step, and the answer is kept for the next run under `key`.
    """
    if wanted == "fp16" and device.type == "cpu":
        return "bf16", "--fp16 on a CPU: there is no fast half precision there, so bf16 autocast is used"
    if wanted != "auto":
        return wanted, None
    if device.type == "cuda":
        return ("bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"), None
    if not cpu_has_bf16() or time_step is None:
        return "fp32", None
    # The file has a new number where the step has changed. bf16 rounds more, so it must gain.
    return _remembered("precision-3", key, lambda: _quicker(("fp32", "bf16"), time_step, gain=0.1))


def faster(key, ways):
    """Which of two functions takes less time on this machine: a key of the dict `ways`, kept for the next run under `key`."""

    def seconds(way):
        start = time.perf_counter()
        ways[way]()
        return time.perf_counter() - start

    return _remembered("convolutions-1", f"{_here()}|{key}", lambda: _quicker(tuple(ways), seconds, gain=0.03))[0]


def _remembered(name, key, measure):
    """What `measure()` gave on this machine when it was first asked, and a sentence where that could not be kept."""
    cache = cache_folder() / f"{name}.json"
    known = json.loads(cache.read_text()) if cache.exists() else {}
    if key not in known:
        known[key] = measure()
        try:
            write_json(cache, known)
        except OSError as error:
            return known[key], f"what was measured could not be kept in {cache} ({error.strerror})"
    return known[key], None


def _quicker(ways, seconds, gain):
    """Alternate both; the second where its shortest time, the least disturbed one, is shorter by the share `gain`."""
    times = {way: [] for way in ways}
    for attempt in range(4):
        for way in ways:
            elapsed = seconds(way)
            if attempt:  # the first of each pays for compilation, primitives and page faults
                times[way].append(elapsed)
    first, second = ways
    return second if min(times[second]) < (1 - gain) * min(times[first]) else first


def _here():
    """What a measured time depends on besides the work."""
    return f"{cpu_name()}|torch {torch.__version__}|{torch.get_num_threads()} threads"


def precision_probe(name, model, batch_size, image_size):
    """`time_step` and `key` for `choose_precision`: training steps of (a copy of) `model`, called `name`, on blank images.

    The batch is that of the run, cut to as many pixels as 32 images of 224 px have, so that a probe takes seconds.
    """
    count = min(batch_size, max(2, 32 * 224**2 // image_size**2))
    key = f"{_here()}|{name} {count} × {image_size} px"
    return functools.partial(_step_seconds, functools.cache(lambda: _blank_step(model, count, image_size))), key


def _blank_step(model, count, image_size):
    network = copy.deepcopy(model).to(memory_format=torch.channels_last).train()
    images = torch.zeros(count, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
    return network, images, torch.zeros(count, dtype=torch.long)


def _step_seconds(blank_step, precision):
    network, images, labels = blank_step()
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]):  # the probe's dropout must not move the run's random numbers
        with Runtime(torch.device("cpu"), precision).autocast():
            loss = nn.functional.cross_entropy(network(images), labels)
        loss.backward()
    network.zero_grad()
    return time.perf_counter() - start


def cpu_has_bf16():
    """Whether this CPU multiplies bf16 in hardware (AVX512-BF16 or AMX)."""
    capabilities = torch.backends.cpu.get_cpu_capability() if hasattr(torch.backends.cpu, "get_cpu_capability") else ""
    try:
        flags = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "AVX512" in capabilities and ("avx512_bf16" in flags or "amx_bf16" in flags)


def send(values, device):
    """A numpy array or a CPU tensor as a tensor on `device`: to a GPU from pinned memory, as a copy from other memory waits."""
    tensor = torch.as_tensor(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


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


def keep_compiled():
    """Have compiled code kept in the cache folder, unless the environment names another.

    Imported, torch itself puts its default there, which a restart of the machine empties.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    default, name = default_cache_dir(), "TORCHINDUCTOR_CACHE_DIR"
    if os.environ.get(name, default) == default:
        os.environ[name] = str(cache_folder() / "compiled")


def step_model(model, setup, batch_shape, compile_it):
    """The model as the training step calls it: compiled if wanted and possible, and in step with the other processes."""
    called = _compiled(model, setup, batch_shape) if compile_it else model
    if world_size() > 1:
        ids = [setup.device.index] if setup.device.type == "cuda" else None
        called = nn.parallel.DistributedDataParallel(called, device_ids=ids, gradient_as_bucket_view=True)
    return called


def _compiled(model, setup, batch_shape):
    """The model compiled, tried on one batch; where it fails, one line says so and the eager model is taken.

    On CUDA the fixed shapes of training are replayed as CUDA graphs. On a CPU, where a MobileNet compiled whole is slower than
    eager, only the parts with a method `compile_training` are: they know what gains.
    """
    keep_compiled()
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of every CUDA that it does not find
    on_cuda = setup.device.type == "cuda"
    # Not dynamic: the smaller last batch would have all that follow it taken for batches of any size.
    candidate = torch.compile(model, mode="reduce-overhead", dynamic=False) if on_cuda else model
    parts = [] if on_cuda else [part for part in model.modules() if hasattr(part, "compile_training")]
    for part in parts:
        part.compile_training(batch_shape[0], faster)
    images = torch.zeros(batch_shape, device=setup.device).contiguous(memory_format=torch.channels_last)
    devices = [setup.device] if on_cuda else []
    before = {key: value.clone() for key, value in model.state_dict().items()}
    try:
        # On CUDA together, as SyncBatchNorm has them meet; on a CPU the others find what the first has measured and compiled.
        with nullcontext() if on_cuda else first_here_first(), torch.random.fork_rng(devices=devices), setup.autocast():
            candidate(images).sum().backward()
        setup.compiled = on_cuda or any(part.is_compiled for part in parts)
        if not setup.compiled:
            say("--compile: no part of this model is faster for it here, so it runs eager")
    except Exception as error:  # its back ends raise anything: no C++ compiler, no Triton, an operator they do not know
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        say(f"--compile: not possible here ({why}), so the model runs eager")
        for part in parts:
            part.compile_training(0, faster)
        candidate = model
    model.load_state_dict(before)  # the trial moved the running statistics
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if setup.keeps_gradients and parameter.requires_grad else None
    return candidate


def lost_process(error):
    """Whether `error` is how the collective operations say that another process of the group has gone."""
    signs = ("Connection closed", "Connection reset", "Broken pipe", "NCCL", "Timed out waiting", "Application timeout")
    return world_size() > 1 and any(sign in str(error) for sign in signs)


def wait_for_all():
    """Return once every process of the run has come here, so that what the first has written can be read."""
    if world_size() > 1:
        dist.barrier()


def share_buffers(model):
    """Give all processes the first one's buffers: each has counted BatchNorm statistics of its own pictures."""
    for buffer in model.buffers() if world_size() > 1 else ():
        dist.broadcast(buffer, 0)


def prefer_fast_matmul():
    """TF32 for the fp32 matrix products and convolutions of training on CUDA."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True


@contextmanager
def exact_matmul():
    """No TF32 inside: what is measured and answered in fp32 is fp32, which cuDNN by itself would not keep to."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


def describe_machine():
    """What stands beside a measured speed: processor, cores, threads, torch, GPU."""
    machine = {"cpu": cpu_name(), "cores": cores(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return machine
