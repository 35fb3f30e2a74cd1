"""A file's format follows from its first bytes, whatever else they could mean."""

import json

import torch
from safetensors.torch import load_file, save

from utils.inference.formats import PICKLE, recognise


def test_safetensors_whose_length_reads_like_the_start_of_a_pickle(tmp_path):
    content = save({"weight": torch.ones(3)})
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip().ljust(int.from_bytes(PICKLE, "little"))
    (tmp_path / "a.pth").write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    assert (tmp_path / "a.pth").read_bytes().startswith(PICKLE) and json.loads(header)
    assert load_file(tmp_path / "a.pth")["weight"].tolist() == [1, 1, 1]
    assert recognise(tmp_path / "a.pth") == "safetensors"


def test_checkpoints_from_before_torch_1_6_are_still_known(tmp_path):
    torch.save({"weight": torch.ones(3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert recognise(tmp_path / "old.pth") == "checkpoint"
