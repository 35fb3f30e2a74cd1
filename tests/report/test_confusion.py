from types import SimpleNamespace

import numpy as np
import pytest
import torch

from utils.data.splits import Split
from utils.report.confusion import MOST, confusion_of


@pytest.fixture
def found():
    """Four images of class a, two of them taken for b, and twelve of class b, all right."""
    of_a = torch.tensor([0.6, 0.9, 0.3, 0.05, *[0.2] * 12])
    labels = torch.tensor([0] * 4 + [1] * 12)
    split = Split("test", labels.numpy(), np.zeros((16, 8, 8, 1), np.uint8))
    evaluation = SimpleNamespace(logits=torch.stack([of_a, 1 - of_a], 1).log(), labels=labels)
    result = {"confusion matrix": [[2, 2], [0, 12]]}
    return confusion_of(SimpleNamespace(result=result, classes=["a", "b"], evaluation=evaluation, split=split))


def test_the_surest_mistakes_and_the_least_sure_right_answers_come_first(found):
    assert found.rows[0][0].shown == (0, 1) and found.rows[0][1].shown == (3, 2)
    assert [(pair.row, pair.column, pair.count) for pair in found.pairs] == [(0, 1, 2)]
    assert found.images[3]["text"].startswith("b, 0.95")


@pytest.mark.parametrize("classes", [10, 40])
def test_every_cell_that_has_images_shows_one(classes):
    """However weak the network is: the mistakes leave room for what is right."""
    truth, answer = torch.cartesian_prod(torch.arange(classes), torch.arange(classes)).repeat(8, 1).T
    split = Split("test", truth.numpy(), np.zeros((len(truth), 8, 8, 1), np.uint8))
    evaluation = SimpleNamespace(logits=torch.nn.functional.one_hot(answer, classes).float(), labels=truth)
    result = {"confusion matrix": [[8] * classes] * classes}
    run = SimpleNamespace(result=result, classes=[*map(str, range(classes))], evaluation=evaluation, split=split)
    found = confusion_of(run)
    assert all(cell.shown for row in found.rows for cell in row)
    assert len(found.images) == max(MOST, classes**2)


def test_shades_are_of_the_share_of_the_true_class(found):
    assert [[cell.level for cell in row] for row in found.rows] == [[7, 7], [0, 10]]  # ten times the root of a half
