import torch

from utils.evaluation.evaluate import Evaluation, evaluate, gather
from utils.evaluation.metrics import headline


def test_averages_are_over_samples_for_every_batch_size():
    logits, labels = torch.randn(101, 7), torch.randint(7, (101,))
    order = []
    for size in (1, 10, 101):
        batches = list(zip(logits.split(size), labels.split(size), strict=True))
        order.append(headline(*(lambda e: (e.logits, e.labels))(evaluate(lambda x: x, batches))))
    assert order[0] == order[1] == order[2]


def test_one_process_gathers_itself():
    evaluation = Evaluation(torch.zeros(2, 3), torch.zeros(2), 0.1)
    assert gather(evaluation) is evaluation
