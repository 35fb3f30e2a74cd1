"""Small model files of every format, and how to change them: for tests of files from strangers."""

import functools
import io
import pathlib
import tempfile
import zipfile

import torch

from models.build import build_model
from models.checkpoint import save_checkpoint
from utils.core.card import CARD_KEY, ModelCard
from utils.core.integrity import sealed
from utils.export.writers import quietly
from utils.inference.formats import FORMATS, written

SIDE = 8  # px; the smallest that FashionCNN takes


def card(**changes):
    return ModelCard("custom", ["cat", "dog", "eel"], SIDE, training={"dataset": "digits", "epochs": 3}).replace(**changes)


@functools.cache
def whole():
    """{format: bytes} of one network in every format, as the scripts write it."""
    torch.manual_seed(0)
    network, found = build_model("custom", 3, SIDE).eval(), {}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), quietly():
        for name in written():
            path, writer = pathlib.Path(folder, name), FORMATS[name].load_writer()
            writer.save(writer.convert(network, card()), card(), path)
            found[name] = path.read_bytes()
        save_checkpoint(path, {"model": network.state_dict(), "card": card().to_dict()})
        return found | {"checkpoint": path.read_bytes()}


def rezipped(content, change, seal=False):
    """An archive whose members, {name: bytes}, went through `change`; with right checksums, and a seal if wanted."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, value in change(members).items():
            archive.writestr(zipfile.ZipInfo(name), value)
    return sealed(target.getvalue()) if seal else target.getvalue()


def with_card(name, content, text):
    """A whole file of format `name`, not a checkpoint, with `text` (bytes) instead of its card, sealed anew."""
    if name == "onnx":
        import onnx

        graph = onnx.load_from_string(content)
        del graph.metadata_props[:]
        # protobuf refuses text that is no UTF-8, other programs write it: an entry of its own, field 14
        entry = field(1, CARD_KEY.encode()) + field(2, text)
        return sealed(graph.SerializeToString() + field(14, entry))

    def change(members):
        key = next(key for key in members if key.endswith(f"extra/{CARD_KEY}"))
        return members | {key: text}

    return rezipped(content, change, seal=True)


def field(number, value):
    """Bytes as a field of a protobuf message."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value):
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])
