"""Cards that somebody wrote by hand: over 300 in every format are refused in a sentence, or do no harm."""

import json
import random

import pytest
import torch
from crafted import card, whole, with_card

from models.checkpoint import save_checkpoint
from utils.core.card import CHECKS, ModelCard
from utils.core.errors import UserError
from utils.core.integrity import verify
from utils.inference.formats import FORMATS, exported


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


VALUES = {  # of any field
    "nothing": None,
    "true": True,
    "zero": 0,
    "less than zero": -1,
    "huge": 2**70,
    "infinite": float("inf"),
    "not a number": float("nan"),
    "fraction": 0.5,
    "no text": "",
    "text": "text",
    "long text": "x" * 100_000,
    "path": "../../elsewhere",
    "absolute path": "/tmp/elsewhere",
    "hidden": ".hidden",
    "null byte": "a\0b",
    "escape sequence": "\x1b[2J",
    "right to left": "\u202egnp",
    "line breaks": "a\nb\r\u2028c",
    "lone surrogate": "\udcff",
    "empty list": [],
    "one": ["one"],
    "many": ["many"] * 2000,
    "numbers": [1, 2, 3],
    "zeros": [0, 0, 0],
    "no numbers": ["a", "b", "c"],
    "escapes": ["a", "\x1b[2J", "c"],
    "empty dict": {},
    "dict": {"a": 1},
    "deep": nested(100),
    "formula": "=cmd|'/c calc'!A0",
}
NEEDS = [{"devices": 3}, {"devices": ["gpu"]}, {"devices": [[]]}, {"dtype": "int4"}, {"dtype": []}, {"weight_bits": "many"},
         {"weight_bits": [8]}, {"arithmetic": 1}, {"arithmetic": {"cpu": 7}}, {"arithmetic": {"cpu": "\x1b"}},
         {"cpu_features": [1]}, {"dtype": "float16"}, {"devices": ["cuda"]}]  # fmt: skip
TRAINING = [{"dataset": 3}, {"dataset": []}, {"dataset": "a\0b"}, {"dataset": "../.."}, {"data_dir": 3}, {"data_dir": None},
            {"val_fraction": "x"}, {"val_fraction": -1}, {"val_fraction": [0.1]}]  # fmt: skip
TEXTS = {
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "number": b"3",
    "text": b'"card"',
    "no end": b'{"architecture": "custom"',
    "deep": b"[" * 200_000,
    "deep dicts": b'{"a":' * 200_000,
    "long number": b'{"architecture": ' + b"9" * 10_000 + b"}",
    "not UTF-8": b'{"architecture": "\xff\xfe"}',
    "UTF-16": '{"architecture": "custom"}'.encode("utf-16"),
    "twice": b'{"architecture": "custom", "architecture": 3, "classes": ["a"]}',
    "infinity": b'{"architecture": "custom", "classes": ["a"], "image_size": Infinity}',
    "lone surrogate": b'{"architecture": "custom", "classes": ["\\udcff"]}',
}


def dicts():
    """{name: card as a dict}"""
    plain = card().to_dict()
    found = {f"{field}: {name}": plain | {field: value} for field in CHECKS for name, value in VALUES.items()}
    found |= {f"without {field}": {key: value for key, value in plain.items() if key != field} for field in plain}
    found |= {f"quantization {number}": plain | {"quantization": value} for number, value in enumerate(NEEDS)}
    found |= {f"training {number}": plain | {"training": value} for number, value in enumerate(TRAINING)}
    found |= {f"another {name}": plain | changes for name, changes in ANOTHER.items()}
    return found


ANOTHER = {
    "architecture": {"architecture": "resnet18"},
    "unknown architecture": {"architecture": "resnet_18"},
    "large image": {"image_size": 1024, "resize_size": 1024},
    "other size": {"image_size": 32, "resize_size": 32},
    "crop above the resize": {"image_size": 16, "resize_size": 8},
    "normalisation": {"norm_type": "GN"},
    "count of classes": {"classes": ["a", "b"]},
    "name twice": {"classes": ["a", "a", "b"]},
    "scheme": {"scheme": "fp16"},
    "unknown scheme": {"scheme": "int3"},
    "preprocessing": {"with_preprocessing": True},
    "key": {"of a later version": {"x": [1]}},
}


def texts():
    """{name: card as bytes}: the dicts as JSON, the TEXTS, and the JSON of a whole card with a byte changed."""
    found = {name: json.dumps(value).encode() for name, value in dicts().items()} | TEXTS
    plain, chance = card().to_json().encode(), random.Random(0)
    for number in range(60):
        changed = bytearray(plain)
        changed[chance.randrange(len(plain))] = chance.randrange(256)
        found[f"byte {number}"] = bytes(changed)
    return found


def test_there_are_over_300():
    assert len(dicts()) > 300 and len(texts()) > len(dicts())


def test_the_reader_refuses_in_a_sentence_or_gives_a_card():
    """All of them through the one reader of cards, without files."""
    accepted = []
    for read, cards in ((ModelCard.from_json, texts()), (ModelCard.from_dict, dicts())):
        for name, value in cards.items():
            try:
                found = read(value, "a.pth")
            except UserError as error:
                assert str(error).startswith("the model card in a.pth is not readable: "), name
                assert str(error).isprintable() and len(str(error)) < 400, name
            else:
                accepted.append(name)
                assert ModelCard.from_json(found.to_json()) == found, name
                assert "/" not in found.file_name + found.result_name
    assert not {name for name in accepted if "path" in name and not name.startswith("training")}


def write(kind, text, path):
    path.write_bytes(with_card(kind, whole()[kind], text))
    return path


def write_checkpoint(value, path):
    state = torch.load(folder_of(path), weights_only=True)["model"]
    save_checkpoint(path, {"model": state, "card": value})
    return path


def folder_of(path):
    source = path.with_name("whole.pth")
    if not source.exists():
        source.write_bytes(whole()["checkpoint"])
    return source


@pytest.mark.faults
@pytest.mark.parametrize("kind", exported())
def test_through_the_readers_of_exported_files(kind, ask, tmp_path):
    cards = texts()
    if kind == "pt2":  # takes half a second each
        cards = dict(random.Random(1).sample(sorted(cards.items()), 80))
    paths = [write(kind, text, tmp_path / f"{number}{FORMATS[kind].suffix}") for number, (_, text) in enumerate(cards.items())]
    assert verify(paths[0])
    answered, refused = ask("model", paths)
    assert len(answered) > 5 and len(refused) > len(answered)


@pytest.mark.faults
def test_through_the_reader_of_checkpoints(ask, tmp_path):
    values = [*dicts().values(), torch.zeros(3), [torch.zeros(3)], {1: 2}, {"architecture": torch.zeros(2)}, (), 3]
    paths = [write_checkpoint(value, tmp_path / f"{number}.pth") for number, value in enumerate(values)]
    answered, refused = ask("model", paths)
    assert len(answered) > 5 and len(refused) > len(answered)
