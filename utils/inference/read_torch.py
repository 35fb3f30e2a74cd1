"""TorchScript and torch.export files, run by torch."""

import warnings

import numpy as np

from utils.core.card import CARD_KEY
from utils.core.errors import UserError
from utils.inference.predictors import Predictor, wants_cuda
from utils.inference.program_check import verify_program


class TorchPredictor(Predictor):
    """What TorchScript and `.pt2` share: the device, and tensors in and out."""

    def __init__(self, path, device="auto", threads=None):
        super().__init__(path)
        self._check(path)
        cuda = wants_cuda(device)
        import torch

        self.torch = torch
        if threads:
            torch.set_num_threads(threads)
        self.device = "cuda" if cuda and torch.cuda.is_available() else "cpu"
        if device == "cuda" and self.device == "cpu":
            raise UserError("cuda: this torch cannot use the CUDA device; install a build for its driver", option="device")
        extra = {CARD_KEY: ""}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.network = self._load(path, extra)
        except Exception as error:  # both loaders raise whatever their parser meets
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"{path} is no file that this torch {torch.__version__} can load ({reason})") from None
        self.card_text = extra[CARD_KEY]
        kinds = {parameter.dtype for parameter in self.network.parameters()}
        self.dtype = kinds.pop() if len(kinds) == 1 and kinds <= {torch.float16, torch.bfloat16} else torch.float32

    def _check(self, path):
        """Raises UserError for a file that must not be given to torch."""

    def _run(self, batch):
        from utils.runtime.device import exact_matmul  # not above: torch is imported when a file is opened

        images = self.torch.from_numpy(np.ascontiguousarray(batch)).to(self.device, self.dtype)
        try:
            with self.torch.inference_mode(), exact_matmul():
                outputs = self.network(images)
        except Exception as error:  # a program raises what its author wrote: AssertionError, torch.jit.Error, …
            raise RuntimeError(str(error).strip() or type(error).__name__) from None
        return _logits(outputs, self.torch).float().cpu().numpy()


def _logits(outputs, torch):
    """The logits in what a network answers with: a tensor, or of a tuple, a list or a dict the tensor that has them.

    That is the only one, the one named `logits`, or the only one with a row of floats an image. Raises RuntimeError where
    none of these is there.
    """
    if isinstance(outputs, torch.Tensor):
        return outputs
    tensors = {name: value for name, value in _named(outputs).items() if isinstance(value, torch.Tensor)}
    rows = [value for value in tensors.values() if value.ndim == 2 and value.is_floating_point()]
    found = [tensors["logits"]] if "logits" in tensors else rows if len(tensors) > 1 else [*tensors.values()]
    if len(found) != 1:
        raise RuntimeError(f"it answers with {_spelled(outputs, torch)}, and which are the logits is not clear")
    return found[0]


def _named(outputs):
    """The parts of a dict, a named tuple, a tuple or a list by their names or places; {} for all else."""
    if isinstance(outputs, tuple | list):
        return dict(zip(getattr(outputs, "_fields", range(len(outputs))), outputs, strict=True))
    return outputs if isinstance(outputs, dict) else {}


def _spelled(outputs, torch):
    """What a network answers with in words: `a dict of a (1, 10), b (1, 10)`."""
    kind = next((kind.__name__ for kind in (dict, tuple, list) if isinstance(outputs, kind)), type(outputs).__name__)
    parts = [
        f"{name} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"{name} {type(value).__name__}"
        for name, value in _named(outputs).items()
    ]
    return f"a {kind} of {', '.join(parts)}" if parts else f"a {kind}"


class TorchScriptPredictor(TorchPredictor):
    """`torch.jit.load`."""

    def _load(self, path, extra):
        return self.torch.jit.load(str(path), map_location=self.device, _extra_files=extra).eval()


class Pt2Predictor(TorchPredictor):
    """`torch.export.load`, once nothing in the archive can run code."""

    def _check(self, path):
        verify_program(path)

    def _load(self, path, extra):
        program = self.torch.export.load(str(path), extra_files=extra)
        if self.device == "cuda":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, "cuda")
        return program.module()
