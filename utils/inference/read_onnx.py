"""ONNX files, run by ONNX Runtime."""

import os
import re

import numpy as np

from utils.core.card import CARD_KEY, ModelCard
from utils.core.errors import UserError
from utils.core.machine import cores
from utils.inference.predictors import Predictor, wants_cuda

# On x86 without VNNI, ONNX Runtime then multiplies int8 weights beyond ±64 with kernels that are slower but do not saturate.
EXACT_INTEGERS = ("session.x64quantprecision", "1")

INPUTS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}  # types, as it names them
FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)", "tensor(bfloat16)")


class OnnxPredictor(Predictor):
    """ONNX Runtime: fp32, fp16 and int8 (QDQ) files, on CUDA where there is a driver and the provider loads.

    Files that are made for the CPU, as the integer ones are, take it unless CUDA is asked for.
    """

    def __init__(self, path, device="auto", threads=None):
        super().__init__(path)
        cuda = wants_cuda(device)
        import onnxruntime

        onnxruntime.set_default_logger_severity(4)  # a provider that does not load is our sentence, not its page of text
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry(*EXACT_INTEGERS)
        options.intra_op_num_threads = threads or cores()
        source = _path_or_bytes(self.path)

        def open_session(providers):
            try:
                return onnxruntime.InferenceSession(source, options, providers=providers)
            except Exception as error:  # ONNX Runtime raises a dozen classes of its own, all for a file that it cannot use
                raise UserError(f"{path} is not an ONNX file that ONNX Runtime can run ({_reason(error, path)})") from None

        self.session = open_session(["CPUExecutionProvider"])
        try:
            self.card_text = self.session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
        except UnicodeDecodeError:
            raise UserError(f"{path} has metadata that are not text; it is damaged") from None
        if cuda and (device == "cuda" or self._is_for_cuda()):
            self.session = open_session(_cuda_first(onnxruntime))
        self.device = "cuda" if "CUDAExecutionProvider" in self.session.get_providers() else "cpu"
        if device == "cuda" and self.device == "cpu":
            hint = "install onnxruntime-gpu[cuda,cudnn]"
            raise UserError(f"cuda: ONNX Runtime could not load its CUDA provider; {hint}", option="device")
        self._read_shapes()

    def _is_for_cuda(self):
        devices = ModelCard.from_json(self.card_text, self.path).devices if self.card_text else ()
        return not devices or "cuda" in devices

    def _read_shapes(self):
        inputs = self.session.get_inputs()
        shape = [size if isinstance(size, int) else None for size in inputs[0].shape or ()] if len(inputs) == 1 else []
        self.dtype = INPUTS.get(inputs[0].type) if len(inputs) == 1 else None
        if len(shape) != 4 or self.dtype is None:
            raise UserError(f"{self.path} takes {_spelled(inputs)}; an image classifier takes one batch of images (N, 3, H, W)")
        self.input = inputs[0].name
        self.fixed_batch = shape[0]
        if self.dtype != np.uint8:
            if shape[1] not in (3, None) or shape[2] != shape[3]:
                raise UserError(f"{self.path} takes {_spelled(inputs)}; only square RGB images (N, 3, S, S) can be prepared")
            self.fixed_size = shape[2]
        elif not self.card_text:
            raise UserError(f"{self.path} takes uint8 images but has no model card that says how it prepares them")
        output = self._logits()
        self.output = output.name
        last = output.shape[-1] if len(output.shape or ()) == 2 else None
        self.num_outputs = last if isinstance(last, int) else None

    def _logits(self):
        """The output that has the logits: the only one, the one of that name, or the only one with a row of floats an image."""
        outputs = self.session.get_outputs()
        if len(outputs) == 1:
            return outputs[0]
        named = [output for output in outputs if output.name == "logits"]
        rows = [output for output in outputs if output.type in FLOATS and len(output.shape or ()) == 2]
        found = named or rows
        if len(found) != 1:
            wanted = "only one may have the shape (N, C), or one be named logits"
            raise UserError(f"{self.path} answers with {_spelled(outputs)}, and which are the logits is not clear: {wanted}")
        return found[0]

    def _run(self, batch):
        batch = batch.astype(self.dtype, copy=False)
        try:
            return self.session.run([self.output], {self.input: batch})[0]
        except Exception as error:  # as above: its own classes, for a shape that does not fit
            raise RuntimeError(_reason(error)) from None


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


def _path_or_bytes(path):
    """What ONNX Runtime opens: the path as text or, where its bytes are no UTF-8, which it demands, what is in the file."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return path.read_bytes()
    return str(path)


def _spelled(values):
    """Inputs or outputs in words."""
    return ", ".join(f"{value.name} {value.type} {value.shape}" for value in values) or "nothing"


def _reason(error, path=None):
    """The last telling part of an ONNX Runtime message, without its error class and source line."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if path and "protobuf" in text.lower():  # "Protobuf parsing failed." and "No graph was found in the protobuf."
        return "it is something else, cut off or damaged" if os.path.getsize(path) else "it is empty"
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
