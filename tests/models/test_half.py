import pytest
import torch

from models import half
from models.build import build_model


@pytest.mark.parametrize("computes", [True, False])
def test_images_and_logits_are_float32_whatever_computes(computes, monkeypatch):
    monkeypatch.setattr(half, "computes_in", lambda dtype, device: computes)
    network = half.with_half_weights(build_model("custom", 3, 16).eval(), torch.bfloat16)
    with torch.inference_mode():
        assert network(torch.rand(2, 3, 16, 16)).dtype == torch.float32
    assert next(network.parameters()).dtype == (torch.bfloat16 if computes else torch.float32)
