"""Quantization schemes: each writes a smaller file of a trained network and, for checkpoints, rebuilds it for loading.

An entry has `suffix`, `file_name(architecture)`, `calibrated` (whether it must see images), `apply(network, card, path,
images, equalize)`, which writes the file and returns its card, `engine` and `devices`, where the file can run, and
`arithmetic(device)`, which says in words what computes there.
A scheme whose file is a checkpoint also has `restructure(network)`: models/checkpoint.py calls it on a freshly built network
before it loads the weights strictly.
"""

import copy
import logging
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from models.half import HalfPrecision
from utils.core.errors import UserError
from utils.core.files import replacing
from utils.core.images import preprocess
from utils.core.machine import cpu_features
from utils.core.registry import Registry
from utils.export.equalize import equalize as equalize_network
from utils.export.equalize import fold_batchnorm

QUANTIZERS = Registry("quantization scheme")


QUANTIZERS.register("fp16")(HalfPrecision(torch.float16, "fp16", "quantized"))
QUANTIZERS.register("bf16")(HalfPrecision(torch.bfloat16, "bf16", "bf16"))


class OnnxScheme:
    """What the integer schemes share: from a network by way of its fp32 ONNX graph to a file with a card.

    Weights have 7 bits, -64 to 64, unless a scheme says 8: without VNNI, x86 adds the products of two uint8 activations and
    two int8 weights in 16 bits (vpmaddubsw), and 2 × 255 × 64 < 2¹⁵ is the most that fits.
    """

    suffix, calibrated, engine, devices, weight_bits = ".onnx", False, "ONNX Runtime", ("cpu",), 7
    name = words = None

    def file_name(self, architecture):
        return f"{architecture}_{self.name}.onnx"

    def restructure(self, network):
        raise UserError(f"the scheme {self.name} makes ONNX files; a checkpoint of it cannot be loaded")

    def apply(self, network, card, path, images=(), equalize=False):
        """`images` are Pillow RGB. Raises UserError where some are needed and there are none, or nothing is to equalise."""
        import onnx

        from utils.export.writers import EXPORTERS, embed_card  # not above: loading a checkpoint needs no exporter

        if self.calibrated and not images:
            raise UserError(f"--scheme {self.name} is calibrated on real images; name a data set with --dataset")
        if equalize:
            network = equalized(network)
        with quietly():
            graph = EXPORTERS["onnx"].convert(network, card)
            del graph.graph.value_info[:]  # shapes that the quantizer's own rewriting would contradict
            with tempfile.TemporaryDirectory() as folder:
                graph = onnx.load(str(self._quantize(graph, Path(folder, "quantized.onnx"), card, images)))
        quantization = {"weight_bits": self.weight_bits, "cpu_features": cpu_features()}
        card = card.replace(scheme=self.name, parity={}, quantization=quantization)
        embed_card(graph, card)
        onnx.checker.check_model(graph, full_check=True)
        with replacing(path) as temporary:
            onnx.save(graph, str(temporary))
        return card

    def arithmetic(self, device, engine="ONNX Runtime"):
        return self.words

    def _quantize(self, graph, target, card, images):
        """Write the quantized `graph` (a ModelProto) to `target` and return that."""
        raise NotImplementedError


class Int8Dynamic(OnnxScheme):
    """Linear layers with int8 weights; the range of their inputs is taken anew from every batch, so none is calibrated."""

    name, words = "int8-dynamic", "Linear layers compute in int8, the others in fp32"

    def _quantize(self, graph, target, card, images):
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            graph,
            target,
            op_types_to_quantize=["MatMul"],  # every Gemm becomes one first, under a new name
            per_channel=True,
            weight_type=QuantType.QInt8,
            reduce_range=self.weight_bits == 7,
            nodes_to_exclude=[f"{last_layer(graph)}_MatMul"],
        )
        return target


class Int8(OnnxScheme):
    """Static QDQ: weights in int8 a channel, activations in uint8 with ranges from the calibration images."""

    words, calibrated = "computes in int8, the last layer in fp32", True

    def __init__(self, name, weight_bits):
        self.name, self.weight_bits = name, weight_bits

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


QUANTIZERS.register("int8-dynamic")(Int8Dynamic())
QUANTIZERS.register("int8")(Int8("int8", weight_bits=7))
QUANTIZERS.register("int8-vnni")(Int8("int8-vnni", weight_bits=8))


class CalibrationImages:
    """ONNX Runtime's reader of calibration data: batches of Pillow images, by the one preprocessing."""

    def __init__(self, images, card, batch_size=32):
        chunks = (images[i : i + batch_size] for i in range(0, len(images), batch_size))
        self.batches = ({"input": np.concatenate([preprocess(image, card) for image in chunk])} for chunk in chunks)

    def get_next(self):
        return next(self.batches, None)


def last_layer(graph):
    """The name of the node that makes the logits, the last Gemm of a ModelProto."""
    return [node.name for node in graph.graph.node if node.op_type == "Gemm"][-1]


def equalized(network):
    """A copy of `network` with folded BatchNorms and equalised channels. Raises UserError where no pair of layers allows it."""
    network = copy.deepcopy(network)
    fold_batchnorm(network)
    if not equalize_network(network):
        raise UserError("--equalize: no two layers here have only a ReLU between them; leave the flag out")
    return network


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
