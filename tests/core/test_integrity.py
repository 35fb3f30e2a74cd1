"""Flipped bits, missing ends and zip bombs are refused by name; whole files pass and are read as before."""

import io
import time
import tracemalloc
import zipfile

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from utils.core.errors import UserError
from utils.core.integrity import UNPACKED, sealed, verify

PLACES = 50


def checkpoint():
    buffer = io.BytesIO()
    torch.save({"model": {"weight": torch.arange(4096.0)}}, buffer)
    return buffer.getvalue()


def torchscript():
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(64, 64), torch.zeros(1, 64)), buffer)
    return buffer.getvalue()


def program():
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(64, 64), (torch.zeros(1, 64),)), buffer)
    return buffer.getvalue()


def onnx_model():
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("input", "logits")]
    graph = helper.make_graph([helper.make_node("Identity", ["input"], ["logits"])], "none", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {"model_card": "{}"})
    return model.SerializeToString()


KINDS = {"checkpoint.pth": checkpoint, "script.pt": torchscript, "program.pt2": program, "model.onnx": onnx_model}


def flipped(content, place):
    changed = bytearray(content)
    changed[place] ^= 1 << (place % 8)
    return bytes(changed)


@pytest.mark.parametrize("name", KINDS)
def test_a_flipped_bit_anywhere_before_the_seal_is_found(name, tmp_path):
    path, content = tmp_path / name, sealed(KINDS[name]())
    path.write_bytes(content)
    assert verify(path)
    for place in np.random.default_rng(0).integers(0, len(content) - 80, PLACES):
        path.write_bytes(flipped(content, int(place)))
        with pytest.raises(UserError, match=f"{name} is damaged"):
            verify(path)


@pytest.mark.parametrize("name", ["checkpoint.pth", "script.pt", "program.pt2"])
def test_a_flipped_bit_of_a_seal_is_found_or_changes_nothing(name, tmp_path):
    """The members of an archive whose seal is no longer known as one are checked by their CRC-32."""
    path, content = tmp_path / name, sealed(KINDS[name]())
    for place in range(len(content) - 80, len(content)):
        path.write_bytes(flipped(content, place))
        try:
            verify(path)
        except UserError as error:
            assert f"{name} is damaged" in str(error)
        else:
            with zipfile.ZipFile(path) as damaged, zipfile.ZipFile(io.BytesIO(content)) as whole:
                assert all(damaged.read(member) == whole.read(member) for member in whole.namelist())


@pytest.mark.parametrize("name", ["checkpoint.pth", "script.pt", "program.pt2"])
def test_a_changed_byte_of_an_archive_from_elsewhere_is_found(name, tmp_path):
    path, content = tmp_path / name, KINDS[name]()
    path.write_bytes(content)
    assert not verify(path)
    with zipfile.ZipFile(path) as archive:
        stored = [
            member for member in archive.infolist() if member.compress_type == zipfile.ZIP_STORED and member.file_size > 99
        ]
    random = np.random.default_rng(0)
    for _ in range(PLACES):
        member = stored[random.integers(len(stored))]
        header = content[member.header_offset : member.header_offset + 30]
        start = member.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        path.write_bytes(flipped(content, start + int(random.integers(member.file_size))))
        with pytest.raises(UserError, match=f"{name} is damaged"):
            verify(path)


@pytest.mark.parametrize("name", ["checkpoint.pth", "script.pt", "program.pt2"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])  # the last is within the seal
def test_a_truncated_archive_is_not_taken_for_whole(name, share, tmp_path):
    path, content = tmp_path / name, sealed(KINDS[name]())
    path.write_bytes(content[: int(share * len(content))])
    try:
        verify(path)
    except UserError as error:
        assert f"{name} is damaged" in str(error)
    else:
        assert not zipfile.is_zipfile(path)  # so that what reads it next refuses it


def test_sealed_files_are_read_as_before(tmp_path):
    for name, make in KINDS.items():
        (tmp_path / name).write_bytes(sealed(make()))
    weights = torch.load(tmp_path / "checkpoint.pth", weights_only=True)["model"]["weight"]
    assert torch.equal(weights, torch.arange(4096.0))
    image = torch.ones(1, 64)
    assert torch.jit.load(tmp_path / "script.pt")(image).shape == (1, 64)
    assert torch.export.load(tmp_path / "program.pt2").module()(image).shape == (1, 64)
    onnx.checker.check_model(str(tmp_path / "model.onnx"))
    metadata = onnxruntime.InferenceSession(tmp_path / "model.onnx").get_modelmeta().custom_metadata_map
    assert metadata["model_card"] == "{}" and len(metadata["sha256"]) == 64


def bomb_of_zeros(file):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("archive/data.pkl", "w") as member:
        for _ in range(256):
            member.write(bytes(1 << 20))


def bomb_that_overlaps(file):
    """Stored members that all point at the same bytes."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 20))
        first = archive.infolist()[0]
        for number in range(100):
            copy = zipfile.ZipInfo(f"archive/data/{number}")
            copy.header_offset, copy.CRC, copy.file_size, copy.compress_size = 0, first.CRC, first.file_size, first.file_size
            archive.filelist.append(copy)


@pytest.mark.parametrize("bomb", [bomb_of_zeros, bomb_that_overlaps])
def test_zip_bombs_are_refused_at_once(bomb, tmp_path):
    path = tmp_path / "bomb.pth"
    bomb(path)
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(UserError, match="it is not opened"):
        verify(path)
    seconds, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 1 and peak < UNPACKED


def test_a_file_with_nothing_to_check_it_by_passes(tmp_path):
    old = io.BytesIO()
    torch.save({"model": {}}, old, _use_new_zipfile_serialization=False)
    for content in (b"", b"short", onnx_model(), old.getvalue()):
        (tmp_path / "file").write_bytes(content)
        assert not verify(tmp_path / "file")


def test_a_model_that_was_edited_and_saved_again_says_so(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(sealed(onnx_model()))
    graph = onnx.load(path)
    graph.producer_name = "somebody else"
    onnx.save(graph, path)
    with pytest.raises(UserError, match="was changed after it was written"):
        verify(path)
