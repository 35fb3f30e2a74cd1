import torch

from utils.evaluation.metrics import METRICS
from utils.evaluation.reliability import reliability


def test_the_bins_add_up_to_the_calibration_error():
    random = torch.Generator().manual_seed(0)
    logits, labels = 3 * torch.randn(500, 4, generator=random), torch.randint(4, (500,), generator=random)
    found = reliability(logits, labels)
    error = sum(b["images"] * abs(b["confidence"] - b["accuracy"]) for b in found) / 500
    assert abs(error - METRICS["expected calibration error"](logits, labels)) < 1e-5 and error > 0.1
    sure, right = torch.tensor([[99.0, 0.0]] * 10 + [[3.3, 0.0]] * 10), torch.tensor([0] * 8 + [1] * 2 + [0] * 10)
    (together,) = reliability(sure, right)  # a probability of exactly 1 is in the last bin, as 0.964 is
    wanted = abs(together["confidence"] - together["accuracy"])
    assert together["images"] == 20 and abs(wanted - METRICS["expected calibration error"](sure, right)) < 1e-5
    assert sum(b["images"] for b in found) == 500
    assert all(b["from"] <= b["confidence"] <= b["to"] for b in found)
