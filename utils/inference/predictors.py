"""Exported files behind one call: float32 (N, 3, H, W) in, float32 logits (N, C) out, whatever engine runs them.

Nothing here needs torch until a TorchScript or `.pt2` file is opened: each engine imports its runtime inside `__init__`.
"""

import ctypes
import os
import pathlib
import re
import warnings
import zipfile

import numpy as np

from utils.core.card import CARD_KEY, ModelCard
from utils.core.errors import UserError
from utils.core.images import preprocess
from utils.core.machine import saturates
from utils.core.registry import Registry

PREDICTORS = Registry("engine")

# On x86 without VNNI, ONNX Runtime then multiplies int8 weights beyond ±64 with kernels that are slower but do not saturate.
EXACT_INTEGERS = ("session.x64quantprecision", "1")


def open_predictor(path, engine=None, classes=None, device="auto", image_size=None, threads=None):
    """Open an exported file and return its predictor: `.card`, `.engine`, `.device`, `prepare(image)`, and a call.

    `engine` follows from the suffix unless given. A file without a card needs `classes` and is fed by the ImageNet
    numbers at `image_size`, the size that its input is fixed to, or 224. `threads` limits the engine's own. Raises
    UserError for a file that is missing or of another kind, a contradiction with its card, and a device that is not there.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if not path.is_file():
        raise UserError(f"{path} is not a file; name the exported file itself")
    engine = engine or engine_of(path)
    predictor = PREDICTORS[engine](path, device, threads)
    predictor.take_card(classes, image_size)
    return predictor


def engine_of(path):
    """The engine that a file is for, by its suffix. Raises UserError for a checkpoint and for a strange suffix."""
    suffix = pathlib.Path(path).suffix.lower()
    for name, entry in PREDICTORS.items():
        if suffix == entry.suffix:
            return name
    if suffix == ".pth":
        raise UserError(f"{path} is a checkpoint: use predict_ckpoint.py for it, or export it first with export.py")
    known = ", ".join(f"{entry.suffix} ({name})" for name, entry in PREDICTORS.items())
    raise UserError(f"the engine does not follow from the name of {path}: say it with --engine; known suffixes: {known}")


def must_be_checkpoint(path):
    """Raises UserError where `path` is an exported file, which the scripts for checkpoints cannot take."""
    if pathlib.Path(path).suffix.lower() == ".onnx" or archive_kind(path) in PREDICTORS:
        raise UserError(f"{path} is an exported file, not a checkpoint: predict.py and eval.py take it as it is")


def cuda_devices():
    """How many CUDA devices the driver shows; 0 without a driver. Asks the driver itself, so it needs no framework."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def wants_cuda(device):
    """Whether to try CUDA for `auto`, `cpu` or `cuda`. Raises UserError for `cuda` where there is no driver or device."""
    if device == "cpu":
        return False
    if cuda_devices():
        return True
    if device == "cuda":
        raise UserError("--device cuda: there is no CUDA driver or no device here; leave it out, or use --device cpu")
    return False


class Predictor:
    """What the engines share: the card, preparing one image, and feeding batches in the size that the file takes.

    An engine sets `device`, `card_text` (JSON or None), and where its file fixes them `fixed_batch` and `fixed_size`
    (pixels), and gives `_run(batch)`, which may raise RuntimeError for a batch that does not fit.
    """

    engine = suffix = None
    device = "cpu"
    card_text = None
    fixed_batch = fixed_size = num_outputs = None

    def __init__(self, path):
        self.path = path
        self.card = None

    def take_card(self, classes=None, image_size=None):
        """Read the card of the file, or make one of `classes`; what is given must agree with what the file says."""
        if self.card_text:
            card = ModelCard.from_json(self.card_text, self.path)
            if image_size not in (None, card.image_size):
                raise UserError(f"--image_size {image_size} contradicts the card of {self.path}, which says {card.image_size}")
        elif classes is None:
            raise UserError(f"{self.path} has no model card; name its classes with --classes classes.txt, one a line")
        else:
            if image_size and self.fixed_size and image_size != self.fixed_size:
                raise UserError(f"--image_size {image_size}: {self.path} takes only {self.fixed_size} pixels")
            card = ModelCard(self.path.stem, classes, image_size or self.fixed_size or 224)
        count = self.num_outputs or card.num_classes
        if classes is not None and len(classes) != count:
            raise UserError(f"--classes names {len(classes)} classes, but {self.path} answers with {count}")
        if card.num_classes != count:
            raise UserError(f"the card of {self.path} names {card.num_classes} classes, but the file answers with {count}")
        self.card = card.replace(classes=classes) if classes is not None else card
        return self.card

    def warning(self):
        """One sentence where the file's 8-bit weights meet a CPU on which the fast integer kernels saturate, else None."""
        if self.device != "cpu" or self.card.weight_bits != 8 or not saturates():
            return None
        return (
            f"{self.path} has 8-bit integer weights, whose sums saturate on this CPU (no VNNI): exact but slower kernels are "
            "used here, and programs that do not ask for them get wrong answers; quantize.py's scheme int8 is right everywhere"
        )

    def prepare(self, image):
        """Pillow RGB image -> what the file takes for it: float32 (1, 3, S, S), or uint8 (1, H, W, 3) as it is."""
        return np.asarray(image)[None] if self.card.with_preprocessing else preprocess(image, self.card)

    def answer(self, prepared):
        """A list of what `prepare` gave -> float32 logits (N, C); pictures of several sizes go through one by one."""
        if len({array.shape for array in prepared}) == 1:
            return self(np.concatenate(prepared))
        return np.concatenate([self(array) for array in prepared])

    def __call__(self, batch):
        """float32 (N, 3, S, S), or uint8 (N, H, W, 3) for a file `with_preprocessing` -> float32 logits (N, C)."""
        kind = np.uint8 if self.card.with_preprocessing else np.float32
        if batch.dtype != kind:
            raise UserError(f"{self.path} takes {np.dtype(kind)} images, not {batch.dtype}; see its card: with_preprocessing")
        size = self.fixed_batch or len(batch)
        try:
            logits = np.concatenate([self._padded(batch[i : i + size], size) for i in range(0, len(batch), size)])
        except RuntimeError as error:
            if len(batch) > 1 and self.fixed_batch is None:  # made for one image at a time without saying so
                self.fixed_batch = 1
                return self(batch)
            reason = str(error).strip().splitlines()
            raise UserError(f"{self.path} does not take {batch.shape} images ({reason[-1] if reason else error})") from None
        if logits.shape[1] != self.card.num_classes:
            flag = "the card" if self.card_text else "--classes"
            raise UserError(f"{flag} names {self.card.num_classes} classes, but {self.path} answers with {logits.shape[1]}")
        return logits if self.card_text else as_logits(logits)

    def _padded(self, part, size):
        """One call of the engine with exactly `size` images: the last part is filled up with black."""
        filled = (
            part
            if len(part) == size
            else np.concatenate([part, np.zeros_like(part, shape=(size - len(part), *part.shape[1:]))])
        )
        logits = np.asarray(self._run(filled), dtype=np.float32)
        if logits.ndim != 2 or len(logits) != size:
            raise RuntimeError(f"it answers {filled.shape} with {logits.shape} instead of one row of logits an image")
        return logits[: len(part)]

    def _run(self, batch):
        raise NotImplementedError


def as_logits(outputs):
    """Logits as they are; rows of probabilities (a file without a card may end in a softmax) as their logarithms."""
    if outputs.min() >= 0 and np.allclose(outputs.sum(axis=1), 1, atol=1e-3):
        return np.log(np.maximum(outputs, 1e-12))
    return outputs


def softmax(logits):
    """Logits (N, C) -> probabilities (N, C), in float64 so that the rows add up to 1."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


@PREDICTORS.register("onnx")
class OnnxPredictor(Predictor):
    """ONNX Runtime: fp32, fp16 and int8 (QDQ) files, on CUDA where there is a driver and the provider loads.

    Integer files take the CPU unless CUDA is asked for, as its provider would compute them in floating point.
    """

    engine, suffix = "onnx", ".onnx"

    def __init__(self, path, device="auto", threads=None):
        super().__init__(path)
        cuda = wants_cuda(device)
        import onnxruntime

        onnxruntime.set_default_logger_severity(4)  # a provider that does not load is our sentence, not its page of text
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry(*EXACT_INTEGERS)
        options.intra_op_num_threads = threads or _cores()

        def open_session(providers):
            try:
                return onnxruntime.InferenceSession(str(path), options, providers=providers)
            except Exception as error:  # ONNX Runtime raises a dozen classes of its own, all for a file that it cannot use
                raise UserError(f"{path} is not an ONNX file that ONNX Runtime can run ({_reason(error)})") from None

        self.session = open_session(["CPUExecutionProvider"])
        self.card_text = self.session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
        if cuda and (device == "cuda" or not self._has_integers()):
            self.session = open_session(_cuda_first(onnxruntime))
        self.device = "cuda" if "CUDAExecutionProvider" in self.session.get_providers() else "cpu"
        if device == "cuda" and self.device == "cpu":
            raise UserError("--device cuda: ONNX Runtime could not load its CUDA provider; install onnxruntime-gpu[cuda,cudnn]")
        self._read_shapes()

    def _has_integers(self):
        return bool(self.card_text) and ModelCard.from_json(self.card_text, self.path).weight_bits is not None

    def _read_shapes(self):
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        shape = [size if isinstance(size, int) else None for size in inputs[0].shape]
        self.input, self.output = inputs[0].name, outputs[0].name
        self.dtype = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}.get(inputs[0].type)
        if len(inputs) != 1 or len(shape) != 4 or self.dtype is None:
            raise UserError(f"{self.path} takes {_spelled(inputs)}; an image classifier takes one batch of images (N, 3, H, W)")
        self.fixed_batch = shape[0]
        if self.dtype != np.uint8:
            if shape[1] not in (3, None) or shape[2] != shape[3]:
                raise UserError(f"{self.path} takes {_spelled(inputs)}; only square RGB images (N, 3, S, S) can be prepared")
            self.fixed_size = shape[2]
        elif not self.card_text:
            raise UserError(f"{self.path} takes uint8 images but has no model card that says how it prepares them")
        last = outputs[0].shape[-1] if len(outputs[0].shape) == 2 else None
        self.num_outputs = last if isinstance(last, int) else None

    def _run(self, batch):
        batch = batch.astype(self.dtype, copy=False)
        try:
            return self.session.run([self.output], {self.input: batch})[0]
        except Exception as error:  # as above: its own classes, for a shape that does not fit
            raise RuntimeError(_reason(error)) from None


def _cores():
    """Cores that this process may use: by itself ONNX Runtime counts those of the whole machine, also in a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _cuda_first(onnxruntime):
    """Providers with CUDA before the CPU, where this ONNX Runtime has it."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return ["CPUExecutionProvider"]
    if hasattr(onnxruntime, "preload_dlls"):  # finds the CUDA libraries that were installed as packages
        from contextlib import redirect_stderr, redirect_stdout

        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            onnxruntime.preload_dlls()
    # TF32 would move the answers away from those of the certificate; the exhaustive search costs seconds at start
    return [("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}), "CPUExecutionProvider"]


def _spelled(inputs):
    return ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)


def _reason(error):
    """The last telling part of an ONNX Runtime message, without its error class and source line."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)


class TorchPredictor(Predictor):
    """What TorchScript and `.pt2` share: the device, and tensors in and out."""

    def __init__(self, path, device="auto", threads=None):
        super().__init__(path)
        _same_kind(path, self.engine)
        cuda = wants_cuda(device)
        import torch

        self.torch = torch
        if threads:
            torch.set_num_threads(threads)
        self.device = "cuda" if cuda and torch.cuda.is_available() else "cpu"
        if device == "cuda" and self.device == "cpu":
            raise UserError("--device cuda: this torch cannot use the CUDA device; install a build for its driver")
        extra = {CARD_KEY: ""}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.network = self._load(path, extra)
        except Exception as error:  # both loaders raise whatever their parser meets
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{path} is not a {self.engine} file that this torch {torch.__version__} can load ({reason})"
            ) from None
        text = extra[CARD_KEY]
        self.card_text = text.decode() if isinstance(text, bytes) else text

    def _run(self, batch):
        with self.torch.inference_mode():
            outputs = self.network(self.torch.from_numpy(np.ascontiguousarray(batch)).to(self.device))
        outputs = outputs[0] if isinstance(outputs, tuple | list) else outputs
        return outputs.float().cpu().numpy()


@PREDICTORS.register("torchscript")
class TorchScriptPredictor(TorchPredictor):
    """`torch.jit.load`."""

    engine, suffix = "torchscript", ".pt"

    def _load(self, path, extra):
        return self.torch.jit.load(str(path), map_location=self.device, _extra_files=extra).eval()


@PREDICTORS.register("pt2")
class Pt2Predictor(TorchPredictor):
    """`torch.export.load`."""

    engine, suffix = "pt2", ".pt2"

    def _load(self, path, extra):
        program = self.torch.export.load(str(path), extra_files=extra)
        if self.device == "cuda":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, "cuda")
        return program.module()


def _same_kind(path, engine):
    """Look into the archive before torch is imported. Raises UserError for a file that is not of the engine's kind."""
    kind = archive_kind(path)
    if kind == engine:
        return
    what = {
        "torchscript": "a TorchScript file: give --engine torchscript",
        "pt2": "a torch.export file: give --engine pt2",
        "checkpoint": "a checkpoint: use predict_ckpoint.py for it, or export it first with export.py",
        None: "something else, or damaged",
    }[kind]
    raise UserError(f"{path} is not a {engine} file but {what}")


def archive_kind(path):
    """What a file that torch wrote holds, by the names in its zip: "torchscript", "pt2", "checkpoint", or None."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError):
        return None
    if "constants.pkl" in names:
        return "torchscript"
    if "archive_format" in names:
        return "pt2"
    return "checkpoint" if "data.pkl" in names else None
