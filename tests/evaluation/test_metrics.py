import math

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score, top_k_accuracy_score

from utils.core.errors import UserError
from utils.evaluation.metrics import METRICS, headline, image_metrics, lines, metric, summarise, topk_correct, wilson_interval


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
    assert set(result["macro"]) == {"precision", "recall", "F1"}
    assert set(result["per class"]["a"]) == {"precision", "recall", "F1", "support"}


def test_the_headline_is_the_metrics_that_are_averages_over_images(answers):
    logits, labels = answers
    assert headline(logits, labels).items() <= summarise(logits, labels, list("abcdef")).items()
    assert list(headline(logits, labels)) == list(image_metrics(6)) == [n for n, m in METRICS.items() if m.per == "image"]


def test_under_five_classes_there_is_no_top_five():
    logits, labels = torch.randn(9, 4), torch.randint(4, (9,))
    assert "Acc@5" not in headline(logits, labels) and "Acc@5" not in summarise(logits, labels, list("abcd"))


def test_a_class_that_does_not_occur_leaves_the_macro_average_alone():
    logits = torch.eye(3)[[0, 1, 0, 1]] * 9
    result = summarise(logits, torch.tensor([0, 1, 0, 1]), ["a", "b", "c"])
    assert result["macro"] == {"precision": 1, "recall": 1, "F1": 1} and result["per class"]["c"]["support"] == 0


def test_one_class_alone_is_not_measured():
    with pytest.raises(UserError, match="one class alone"):
        summarise(torch.randn(3, 1), torch.zeros(3, dtype=torch.int64), ["a"])


def test_the_loss_of_an_answer_without_doubt_is_zero_and_has_no_sign():
    loss = METRICS["loss"].function(torch.tensor([[99.0, 0.0]]), torch.tensor([0]))
    assert loss.item() == 0 and not loss.signbit().any()


def test_calibration_error_by_hand():
    probability = torch.tensor([[0.9, 0.1]] * 10)  # ten answers at 0.9, six of them right
    labels = torch.tensor([0] * 6 + [1] * 4)
    assert summarise(probability.log(), labels, ["a", "b"])["expected calibration error"] == pytest.approx(0.3, abs=1e-5)


def test_calibration_error_has_fifteen_bins():
    # Ten answers each at 0.81, 0.86 and 0.88. Bins of 1/15 part 0.88 from the others; of 1/5 and 1/10 they would part none,
    # and of 1/20 they would part 0.81 from 0.86.
    probability = torch.tensor([0.81] * 10 + [0.86] * 10 + [0.88] * 10)
    labels = torch.tensor([0] * 10 + [0] * 4 + [1] * 6 + [0] * 10)  # right: all, four, all
    answers = torch.stack([probability, 1 - probability], dim=1).log()
    wanted = (20 * (0.835 - 14 / 20) + 10 * (1 - 0.88)) / 30  # too sure in one bin, not sure enough in the other
    assert METRICS["expected calibration error"](answers, labels) == pytest.approx(wanted, abs=1e-5)


def test_averages_do_not_depend_on_the_batches(answers):
    logits, labels = answers
    hits = sum(topk_correct(a, b, 1) for a, b in zip(logits.split(64), labels.split(64), strict=True))
    assert hits == topk_correct(logits, labels, 1)


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    [(9209, 10_000, 0.9155, 0.9260), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (0, 0, 0.0, 1.0)],
)
def test_wilson(correct, count, low, high):
    assert np.allclose(wilson_interval(correct, count), (low, high), atol=2e-4)


def test_what_is_printed_follows_from_the_table(answers):
    result = summarise(*answers, list("abcdef"))
    printed = dict(line.split("  ", 1) for line in lines(result))
    assert list(printed) == ["loss", "Acc@1", "Acc@5", "Acc@1 95 % interval", "expected calibration error", "macro average"]
    assert (
        printed["Acc@1"].strip() == f"{result['Acc@1']:.4f}" and f"F1 {result['macro']['F1']:.4f}" in printed["macro average"]
    )
    assert len({line.index(text.strip()) for line, text in zip(lines(result), printed.values(), strict=True)}) == 1  # aligned


@pytest.fixture
def toys():
    """One more metric of each kind, as anybody adds one."""

    @metric("entropy", per="image")
    def entropy(logits, labels):
        probabilities = logits.softmax(1)
        return -(probabilities * probabilities.log()).sum(1)

    @metric("false alarms", per="class", macro=False, shown=None)
    def false_alarms(logits, labels):
        return torch.bincount(logits.argmax(1)[logits.argmax(1) != labels], minlength=logits.shape[1])

    @metric("classes answered", per="split", least_classes=3, shown=str)
    def answered(logits, labels):
        return len(logits.argmax(1).unique())

    yield
    for name in ("entropy", "false alarms", "classes answered"):
        del METRICS[name]


def test_a_new_metric_is_one_function(toys):
    logits, labels = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])
    result = summarise(logits, labels, ["a", "b", "c"])
    assert headline(logits, labels)["entropy"] == result["entropy"] == pytest.approx(math.log(3))
    assert result["classes answered"] == 1 and result["per class"]["a"]["false alarms"] == 2
    assert "false alarms" not in result["macro"]
    printed = [line.split() for line in lines(result)]
    assert ["classes", "answered", "1"] in printed and ["entropy", f"{math.log(3):.4f}"] in printed
    assert "classes answered" not in summarise(logits[:, :2], labels % 2, ["a", "b"])
