"""Networks with 16-bit weights: which devices compute in 16 bits, and how a network switches."""

import torch

NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16"}


def computes_in(dtype, device):
    """Whether `device` (a torch.device) multiplies `dtype` (torch.float16 or torch.bfloat16) in hardware."""
    if device.type == "cuda":
        return dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    if not torch.backends.mkldnn.is_available():
        return False
    supported = {torch.float16: "_is_mkldnn_fp16_supported", torch.bfloat16: "_is_mkldnn_bf16_supported"}[dtype]
    return getattr(torch.ops.mkldnn, supported)()


def arithmetic(dtype, device):
    """What computes on `device`, in words."""
    if computes_in(dtype, device):
        return f"computes in {NAMES[dtype]}"
    return f"{NAMES[dtype]} weights, computes in fp32: this {device.type.upper()} has no {NAMES[dtype]} arithmetic"


def with_half_weights(network, dtype):
    """`network` with weights in `dtype`, taking float32 images and giving float32 logits on every device.

    It computes in 16 bits where the device of its images does, else in fp32.
    """

    def runs_in(device):
        return dtype if computes_in(dtype, device) else torch.float32

    def enter(network, images):
        wanted = runs_in(images[0].device)
        if next(network.parameters()).dtype != wanted:
            network.to(wanted)  # moved to another kind of device since the last batch; 16 bits to 32 and back is exact
        return images[0].to(wanted)

    network.register_forward_pre_hook(enter)
    network.register_forward_hook(lambda module, images, logits: logits.float())
    return network.to(runs_in(torch.device("cpu")))
