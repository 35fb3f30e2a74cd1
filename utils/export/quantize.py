"""Quantization schemes: each writes a smaller file of a trained network, and into its card what the file needs to run.

A new scheme is one class under `@scheme`, see Scheme. Its file is opened by what the card says (`needs` of the model card), so
that nothing that reads files knows the schemes. To list them takes neither torch nor ONNX.
"""

import logging
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from utils.core.errors import UserError
from utils.core.files import replacing
from utils.core.images import preprocess
from utils.core.machine import cpu_features
from utils.core.registry import Registry
from utils.inference.formats import FORMATS, converted_folder, converted_name, format_of

QUANTIZERS = Registry("quantization scheme")


def scheme(cls):
    """Decorator: put an object of the class into the table under its name."""
    QUANTIZERS.register(cls.name)(cls())
    return cls


class Scheme:
    """A quantization scheme: `apply` writes the file, the rest says what it is."""

    name = None  # as the flag takes it
    format = None  # of its file: a name in utils.inference.formats
    devices = ()  # those that the file is made for; all, where there is none
    dtype = None  # of the weights of a checkpoint: "float16" or "bfloat16"
    calibrated = False  # whether `apply` must see images

    @property
    def suffix(self):
        return FORMATS[self.format].suffix

    @property
    def shown(self):
        """What runs the file, as tables and reports call it."""
        return FORMATS[self.format].shown

    def file_name(self, architecture):
        return f"{architecture}_{self.name}{self.suffix}"

    def apply(self, network, card, path, images=(), equalize=False):
        """Write `network`, in eval mode and fp32, to `path` and return the card of the file.

        `images` are Pillow RGB. Raises UserError where some are needed and there are none, and where `equalize` does
        nothing or harm.
        """
        raise NotImplementedError


def hold_quantized(weights, card):
    """The card, with its scheme where a file without a card shows it. Raises UserError for weights that are not quantized."""
    if card.scheme:
        return card
    from models.checkpoint import read_checkpoint

    has_weights = FORMATS[format_of(weights, otherwise="checkpoint")].weights
    kinds = {str(tensor.dtype) for tensor in read_checkpoint(weights)["model"].values()} if has_weights else ()
    for name, scheme in QUANTIZERS.items():
        if f"torch.{scheme.dtype}" in kinds:
            return card.replace(scheme=name)
    made = converted_folder(weights) / QUANTIZERS["fp16"].file_name(converted_name(weights, card))
    such = f" ({made})" if has_weights else ""  # it is made of a checkpoint
    raise UserError(f"the weights in {weights} are not quantized; give the file of quantize.py{such}", option="quantized")


def finite_weights(network, path):
    """Raises UserError for weights of a network from `path` that are NaN or infinite: no file is made of them.

    Buffers may be infinite, since some networks keep a limit that does not bind so.
    """
    buffers = {name for name, _ in network.named_buffers()}
    for key, value in network.state_dict().items():
        if value.is_floating_point() and (value.isnan() if key in buffers else ~value.isfinite()).any():
            raise UserError(f"{path} is damaged: {key} has numbers that are not finite", option="weights")


class HalfPrecision(Scheme):
    """Weights in 16 bits, in a checkpoint with the same keys. Computes in 16 bits where the device does, else in fp32."""

    format = "checkpoint"

    def apply(self, network, card, path, images=(), equalize=False):
        """Raises UserError for a weight beyond the range of 16 bits (65504 in fp16), which would become infinite."""
        if equalize:
            raise UserError(f"this evens out integer grids; {self.name} has none: leave it out or take int8", option="equalize")
        from models.checkpoint import save_checkpoint

        state = self.halved(network.state_dict())
        card = card.replace(scheme=self.name, parity={}, quantization={"dtype": self.dtype})
        save_checkpoint(path, {"model": state, "card": card.to_dict()})
        return card

    def halved(self, state):
        """A state_dict with its floats in 16 bits. Raises UserError for a value beyond their range."""
        return {key: self._half(key, value) for key, value in state.items()}

    def _half(self, key, value):
        import torch

        if not value.is_floating_point():
            return value
        half = value.to(getattr(torch, self.dtype))
        if not torch.equal(half.isfinite(), value.isfinite()):
            raise UserError(f"{key} has values beyond the range of {self.name}; take bf16", option="scheme")
        return half


@scheme
class Fp16(HalfPrecision):
    name, dtype = "fp16", "float16"

    def file_name(self, architecture):
        return f"{architecture}_quantized{self.suffix}"


@scheme
class Bf16(HalfPrecision):
    name, dtype = "bf16", "bfloat16"


class OnnxScheme(Scheme):
    """What the integer schemes share: from a network by way of its fp32 ONNX graph to a file with a card.

    Weights have 7 bits, -64 to 64, unless a scheme says 8: without VNNI, x86 adds the products of two uint8 activations and
    two int8 weights in 16 bits (vpmaddubsw), and 2 × 255 × 64 < 2¹⁵ is the most that fits. The integer kernels are those of
    CPUs: ONNX Runtime's CUDA provider would compute such files in floating point.
    """

    format, devices, weight_bits = "onnx", ("cpu",), 7
    words = None  # what computes, in words

    def apply(self, network, card, path, images=(), equalize=False):
        import onnx

        from utils.export.equalize import equalized
        from utils.export.writers import Onnx

        if self.calibrated and not images:
            raise UserError(f"{self.name} is calibrated on real images; name a data set", option="dataset")
        if equalize:
            network = equalized(network, card.image_size)
        with quietly():
            graph = Onnx.convert(network, card)
            del graph.graph.value_info[:]  # shapes that the quantizer's own rewriting would contradict
            with tempfile.TemporaryDirectory() as folder:
                graph = onnx.load(str(self._quantize(graph, Path(folder, "quantized.onnx"), card, images)))
        needs = {"devices": list(self.devices), "arithmetic": {"cpu": self.words}}
        needs |= {"weight_bits": self.weight_bits, "cpu_features": cpu_features()}
        card = card.replace(scheme=self.name, parity={}, quantization=needs)
        with replacing(path) as temporary:
            Onnx.save(graph, card, temporary)
        return card

    def _quantize(self, graph, target, card, images):
        """Write the quantized `graph` (a ModelProto) to `target` and return that."""
        raise NotImplementedError


@scheme
class Int8Dynamic(OnnxScheme):
    """Linear layers with int8 weights; the range of their inputs is taken anew from every batch, so none is calibrated."""

    name, words = "int8-dynamic", "Linear layers compute in int8, the others in fp32"

    def _quantize(self, graph, target, card, images):
        from onnxruntime.quantization import QuantType, quantize_dynamic

        last = last_layer(graph)
        weights = {tensor.name for tensor in graph.graph.initializer}
        linear = [node.name for node in graph.graph.node if node.op_type in ("Gemm", "MatMul") and weights & {*node.input}]
        if not {*linear} - {last}:
            raise UserError(f"{card.architecture} has no Linear layers before its last one; int8 suits it", option="scheme")
        quantize_dynamic(
            graph,
            target,
            op_types_to_quantize=["MatMul"],  # every Gemm becomes one first, under a new name
            per_channel=True,
            weight_type=QuantType.QInt8,
            reduce_range=self.weight_bits == 7,
            nodes_to_exclude=[last, f"{last}_MatMul"],
        )
        return target


@scheme
class Int8(OnnxScheme):
    """Static QDQ: weights in int8 a channel, activations in uint8 with ranges from the calibration images."""

    name, words, calibrated = "int8", "computes in int8, the last layer in fp32", True

    def _quantize(self, graph, target, card, images):
        from onnxruntime.quantization import QuantType, quantize_static

        quantize_static(
            graph,
            target,
            CalibrationImages(images, card),
            per_channel=True,
            activation_type=QuantType.QUInt8,  # with QInt8 there are no fast kernels on x86: about five times slower
            weight_type=QuantType.QInt8,
            reduce_range=self.weight_bits == 7,
            nodes_to_exclude=[last_layer(graph)],  # its logits would be clipped at the largest of the calibration
        )
        return target


@scheme
class Int8Vnni(Int8):
    """The same with a bit more, for CPUs that multiply bytes without saturating (VNNI)."""

    name, weight_bits = "int8-vnni", 8


class CalibrationImages:
    """ONNX Runtime's reader of calibration data: batches of Pillow images, by the one preprocessing."""

    def __init__(self, images, card, batch_size=32):
        chunks = (images[i : i + batch_size] for i in range(0, len(images), batch_size))
        self.batches = ({"input": np.concatenate([preprocess(image, card) for image in chunk])} for chunk in chunks)

    def get_next(self):
        return next(self.batches, None)


def last_layer(graph):
    """The name of the node that makes the logits: the last linear layer of a ModelProto, or the last convolution."""
    return [node.name for node in graph.graph.node if node.op_type in ("Gemm", "MatMul", "Conv")][-1]


@contextmanager
def quietly():
    """The quantizer advises on the root logger to run a preparation that the exporter has already done."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
