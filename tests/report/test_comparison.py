from types import SimpleNamespace

import numpy as np
import pytest
import torch

from utils.core.errors import UserError
from utils.data.splits import Split
from utils.report.comparison import compare, mcnemar


def run_of(name, right, dataset="digits", classes=("a", "b")):
    """What `compare` needs of a Run: which images are right."""
    labels = torch.arange(len(right)) % 2
    split = Split("test", labels.numpy(), np.zeros((len(right), 1, 1, 1)))
    answers = SimpleNamespace(labels=labels)
    return SimpleNamespace(
        name=name, correct=np.array(right, bool), split=split, data=dataset, evaluation=answers, classes=classes
    )


@pytest.mark.parametrize(
    ("first", "second", "p"), [(0, 0, 1.0), (5, 5, 1.0), (1, 0, 1.0), (5, 15, 0.04139), (10, 2, 0.03857), (0, 20, 2 / 2**20)]
)
def test_the_exact_test_has_known_values(first, second, p):
    assert mcnemar(first, second) == pytest.approx(p, rel=1e-3)


def test_counts_and_words_of_a_difference():
    found = compare(run_of("one", [1] * 15 + [0] * 5 + [1]), run_of("two", [0] * 15 + [1] * 5 + [1]))
    assert (found.first, found.second, found.both, found.neither) == (15, 5, 1, 0)
    assert "So one is better" in found.words and "15 images only one answers right, 5 images only two" in found.words


def test_words_of_no_difference():
    assert "do not show" in compare(run_of("one", [1, 1, 0]), run_of("two", [0, 1, 1])).words
    assert "nothing to tell them apart" in compare(run_of("one", [1, 0]), run_of("two", [1, 0])).words


def test_other_images_are_refused():
    one = run_of("one", [1, 0])
    elsewhere, named = run_of("two", [1, 0], dataset="b/digits"), run_of("two", [1, 0], classes=("b", "a"))
    for other in (elsewhere, run_of("two", [1, 0, 1]), named):
        with pytest.raises(UserError, match="cannot be compared"):
            compare(one, other)
