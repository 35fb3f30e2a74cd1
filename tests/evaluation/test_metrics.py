import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score, top_k_accuracy_score

from utils.evaluation.metrics import headline, summarise, topk_correct, wilson_interval


@pytest.fixture
def answers():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(6, (501,), generator=generator)
    logits = torch.randn(501, 6, generator=generator) + 1.5 * torch.nn.functional.one_hot(labels, 6)
    return logits, labels


def test_against_scikit_learn(answers):
    logits, labels = answers
    result = summarise(logits, labels, list("abcdef"))
    predicted = logits.argmax(1)
    assert result["Acc@1"] == (predicted == labels).sum().item() / 501
    assert result["Acc@5"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5), abs=1e-12)
    assert result["Acc@5"] > result["Acc@1"]
    assert result["confusion matrix"] == confusion_matrix(labels, predicted).tolist()
    assert result["macro"]["F1"] == pytest.approx(f1_score(labels, predicted, average="macro"), abs=1e-6)
    assert sum(v["support"] for v in result["per class"].values()) == result["samples"] == 501
    assert list(result)[:3] == ["loss", "Acc@1", "Acc@5"]


def test_under_five_classes_there_is_no_top_five():
    logits, labels = torch.randn(9, 4), torch.randint(4, (9,))
    assert "Acc@5" not in headline(logits, labels) and "Acc@5" not in summarise(logits, labels, list("abcd"))


def test_a_class_that_does_not_occur_leaves_the_macro_average_alone():
    logits = torch.eye(3)[[0, 1, 0, 1]] * 9
    result = summarise(logits, torch.tensor([0, 1, 0, 1]), ["a", "b", "c"])
    assert result["macro"] == {"precision": 1, "recall": 1, "F1": 1} and result["per class"]["c"]["support"] == 0


def test_calibration_error_by_hand():
    probability = torch.tensor([[0.9, 0.1]] * 10)  # ten answers at 0.9, six of them right
    labels = torch.tensor([0] * 6 + [1] * 4)
    assert summarise(probability.log(), labels, ["a", "b"])["expected calibration error"] == pytest.approx(0.3, abs=1e-5)


def test_averages_do_not_depend_on_the_batches(answers):
    logits, labels = answers
    hits = sum(topk_correct(a, b, 1) for a, b in zip(logits.split(64), labels.split(64), strict=True))
    assert hits == topk_correct(logits, labels, 1)


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"), [(9209, 10_000, 0.9155, 0.9260), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)]
)
def test_wilson(correct, count, low, high):
    assert np.allclose(wilson_interval(correct, count), (low, high), atol=2e-4)
