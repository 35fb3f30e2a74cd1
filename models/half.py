"""Networks with 16-bit weights: which devices compute in 16 bits, and how a network switches."""

import torch

from models.checkpoint import save_checkpoint
from utils.core.errors import UserError


def computes_in(dtype, device):
    """Whether `device` (a torch.device) multiplies `dtype` (torch.float16 or torch.bfloat16) in hardware."""
    if device.type == "cuda":
        return dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    if not torch.backends.mkldnn.is_available():
        return False
    supported = {torch.float16: "_is_mkldnn_fp16_supported", torch.bfloat16: "_is_mkldnn_bf16_supported"}[dtype]
    return getattr(torch.ops.mkldnn, supported)()


class HalfPrecision:
    """Weights in 16 bits, in a checkpoint with the same keys. Computes in 16 bits where the device does, else in fp32."""

    suffix, calibrated, engine, devices = ".pth", False, "PyTorch", ("cpu", "cuda")

    def __init__(self, dtype, name, ending):
        self.dtype, self.name, self.ending = dtype, name, ending

    def file_name(self, architecture):
        return f"{architecture}_{self.ending}.pth"

    def apply(self, network, card, path, images=(), equalize=False):
        """Raises UserError for a weight beyond the range of 16 bits (65504 in fp16), which would become infinite."""
        if equalize:
            raise UserError(f"--equalize evens out integer grids; --scheme {self.name} has none: leave it out, or take int8")
        state = {key: self._half(key, value) for key, value in network.state_dict().items()}
        card = card.replace(scheme=self.name, parity={})
        save_checkpoint(path, {"model": state, "card": card.to_dict()})
        return card

    def restructure(self, network):
        """The network with 16-bit weights that takes float32 images and gives float32 logits on every device."""
        network.register_forward_pre_hook(self._enter)
        network.register_forward_hook(lambda module, images, logits: logits.float())
        return network.to(self._runs_in(torch.device("cpu")))

    def arithmetic(self, device, engine="PyTorch"):
        """What computes, in words; a file that was exported from such a checkpoint is bound to its engine's choice."""
        if engine != "PyTorch" and not (engine == "ONNX Runtime" and self.name == "fp16"):
            return f"weights rounded to {self.name}, computes in fp32"
        if engine == "ONNX Runtime" and device.type == "cpu":
            return "fp16 weights, computes in fp32: ONNX Runtime has no fp16 kernels for this CPU"
        if computes_in(self.dtype, device):
            return f"computes in {self.name}"
        return f"{self.name} weights, computes in fp32: this {device.type.upper()} has no {self.name} arithmetic"

    def _half(self, key, value):
        if not value.is_floating_point():
            return value
        half = value.to(self.dtype)
        if not torch.equal(half.isfinite(), value.isfinite()):
            raise UserError(f"{key} has values beyond the range of {self.name}; take --scheme bf16")
        return half

    def _runs_in(self, device):
        return self.dtype if computes_in(self.dtype, device) else torch.float32

    def _enter(self, network, images):
        wanted = self._runs_in(images[0].device)
        if next(network.parameters()).dtype != wanted:
            network.to(wanted)  # moved to another kind of device since the last batch; 16 bits to 32 and back is exact
        return images[0].to(wanted)
