import pytest
import torch

from utils.evaluation.metrics import headline
from utils.training.state import Totals, is_better


def scores(accuracy, loss):
    return {"loss": loss, "Acc@1": accuracy}


@pytest.mark.parametrize(
    ("new", "old", "better"),
    [
        (scores(0.9, 2.0), scores(0.8, 1.0), True),  # accuracy counts, whatever the loss
        (scores(0.8, 1.0), scores(0.9, 2.0), False),
        (scores(0.9, 1.0), scores(0.9, 2.0), True),  # as many are right: the lower loss
        (scores(0.9, 2.0), scores(0.9, 1.0), False),
        (scores(0.9, 1.0), scores(0.9, 1.0), False),  # the earlier of two alike
        (scores(0.1, 9.0), None, True),
        (None, scores(0.1, 9.0), False),
        (None, None, False),
    ],
)
def test_more_right_answers_are_better_and_then_a_lower_loss(new, old, better):
    assert is_better(new, old) is better


def totals_of(logits, labels, targets=None):
    totals = Totals(torch.device("cpu"))
    targets = labels if targets is None else targets
    for part, right, target in zip(logits.split(40), labels.split(40), targets.split(40), strict=True):
        totals.add(torch.nn.functional.cross_entropy(part, right, reduction="sum"), part, target)
    return totals


@pytest.mark.parametrize("classes", [3, 5, 10])
def test_averages_of_training_are_those_of_an_evaluation(classes):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (101,), generator=generator)
    logits = torch.randn(101, classes, generator=generator) + torch.nn.functional.one_hot(labels, classes)
    found = totals_of(logits, labels).averages(classes)
    assert found == pytest.approx(headline(logits, labels), rel=1e-6)
    if classes == 10:
        assert found["Acc@1"] < found["Acc@5"] < 1


def test_a_mixed_target_counts_for_its_heavier_label():
    labels = torch.randint(6, (80,), generator=torch.Generator().manual_seed(0))
    logits = torch.nn.functional.one_hot(labels, 6).float()
    mixed = 0.7 * torch.nn.functional.one_hot(labels, 6) + 0.3 * torch.nn.functional.one_hot((labels + 1) % 6, 6)
    assert totals_of(logits, labels, mixed).averages(6)["Acc@1"] == 1
