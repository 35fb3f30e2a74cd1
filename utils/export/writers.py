"""Writes a network in each exported format; utils.inference.formats names these classes."""

import io
import logging
import warnings
from contextlib import contextmanager

import torch

from models.containers import to_safetensors
from utils.core.card import CARD_KEY
from utils.core.errors import UserError
from utils.core.integrity import ONNX_KEY, sealed

LARGEST = 2**31 - 1  # bytes of a protobuf, which an ONNX file is
OPSET = 18  # the first with antialiased Resize, and the one that torch's exporter writes by itself


@contextmanager
def quietly():
    """The exporters warn of their own internals and of deprecated names; what matters here is compared afterwards."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _example(card):
    """Two images, because torch.export takes a batch of 1 for a constant."""
    return torch.zeros(2, 3, card.image_size, card.image_size)


def embed_card(onnx_model, card):
    """Put the card into the metadata of an ONNX model, beside what stands there already but for an earlier seal."""
    import onnx

    known = {prop.key: prop.value for prop in onnx_model.metadata_props if prop.key != ONNX_KEY.decode()}
    onnx.helper.set_model_props(onnx_model, known | {CARD_KEY: card.to_json()})


def write_sealed(path, content):
    """Write the bytes of a model with their seal. From memory: torch's own writers abort the process where the disk is full."""
    with open(path, "wb") as file:
        file.write(sealed(content))


class Writer:
    """What a writer gives: `convert(model, card, fp16)` -> a program, and `save(program, card, path)`."""

    about = None  # what to say of the file beside its engine

    @staticmethod
    def convert(model, card, fp16=False):
        """The network in eval mode as what `save` writes; `card` and `fp16` say with which of the format's options."""
        raise NotImplementedError

    @staticmethod
    def save(program, card, path):
        """Write `program` to `path`, with `card` in it."""
        raise NotImplementedError


class Onnx(Writer):
    """`torch.onnx.export`: one file, dynamic batch, opset 18 unless told, inputs `input`, outputs `logits`."""

    about = f"ONNX opset {OPSET}"

    @staticmethod
    def convert(model, card, fp16=False, opset=OPSET):
        import onnx

        if card.with_preprocessing and opset < OPSET:
            raise UserError(
                f"preprocessing needs opset {OPSET} or more: older ones cannot resize as Pillow does", option="opset"
            )
        size = sum(tensor.nbytes for tensor in model.state_dict().values())
        if size > LARGEST:
            raise UserError(f"an ONNX file holds 2 GiB, and these weights are {size / 2**30:.1f} GiB; take another format")
        buffer = io.BytesIO()
        torch.onnx.export(
            model,
            (_example(card),),
            buffer,
            dynamo=True,
            opset_version=opset,
            input_names=["input"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
        graph = _without_traces(onnx.load_from_string(buffer.getvalue()))
        _check_opset(graph, opset)
        if fp16:
            graph = _half(graph)
        if card.with_preprocessing:
            from utils.export.preprocessing_graph import prepend_preprocessing

            graph = prepend_preprocessing(graph, card)
        onnx.checker.check_model(graph, full_check=True)
        return graph

    @staticmethod
    def save(graph, card, path):
        import onnx

        embed_card(graph, card)
        write_sealed(path, graph.SerializeToString())
        onnx.checker.check_model(str(path))


def _without_traces(graph):
    """`graph` without the source lines that the exporter keeps of each node: they name the folders of this machine."""
    for node in (*graph.graph.node, *(node for function in graph.functions for node in function.node)):
        kept = [(entry.key, entry.value) for entry in node.metadata_props if not entry.key.endswith("stack_trace")]
        del node.metadata_props[:]
        for key, value in kept:
            node.metadata_props.add(key=key, value=value)
    return graph


def _check_opset(graph, opset):
    """The exporter goes on with another version where it cannot convert to the one that is asked for."""
    written = next(entry.version for entry in graph.opset_import if not entry.domain)
    if written != opset:
        raise UserError(f"this network cannot be written with opset {opset}, but with {written}", option="opset")


def _half(graph):
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    half = OnnxModel(convert_float_to_float16(graph, keep_io_types=True))
    half.topological_sort()  # the conversion appends the casts of the input at the end, which the checker refuses
    return half.model


class TorchScript(Writer):
    """`torch.jit.trace`, so that the file holds the operations only; the card is in its extra files."""

    @staticmethod
    def convert(model, card, fp16=False):
        return torch.jit.trace(model, _example(card), check_trace=False)  # the comparison checks more

    @staticmethod
    def save(script, card, path):
        buffer = io.BytesIO()
        torch.jit.save(script, buffer, _extra_files={CARD_KEY: card.to_json()})
        write_sealed(path, buffer.getvalue())


class Safetensors(Writer):
    """The weights alone, without a pickle; the card is in the metadata of the header."""

    @staticmethod
    def convert(model, card, fp16=False):
        return model

    @staticmethod
    def save(network, card, path):
        write_sealed(path, to_safetensors(network.state_dict(), card))


class Pt2(Writer):
    """`torch.export` with a dynamic batch; the card is in its extra files."""

    @staticmethod
    def convert(model, card, fp16=False):
        program = torch.export.export(model, (_example(card),), dynamic_shapes=({0: torch.export.Dim("batch")},))
        if any(isinstance(node.target, torch._ops.HigherOrderOperator) for node in program.graph.nodes):
            program = program.run_decompositions({})  # so that an autocast inside of the network holds no graph of its own
        program._example_inputs = None  # they would be stored
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # the source lines name the folders of this machine
        return program

    @staticmethod
    def save(program, card, path):
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files={CARD_KEY: card.to_json()})
        write_sealed(path, buffer.getvalue())
