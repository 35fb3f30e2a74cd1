"""How often an answer of each probability is right."""

import torch

BINS = 15  # of equal width, as in the expected calibration error


def reliability(logits, labels, bins=BINS):
    """The bins of a reliability diagram that hold an image, as dicts (Guo et al. 2017).

    logits: float (n, C); labels: int64 (n,). `from` and `to` are the ends of the bin, `images` are counted; `confidence` is
    their mean probability of the answer and `accuracy` the share of right answers. The mean distance of the two, weighted by
    images, is the expected calibration error.
    """
    probability, answer = logits.softmax(1).max(1)
    place = torch.bucketize(probability, torch.linspace(0, 1, bins + 1)[1:-1])
    found = []
    for number in place.unique().tolist():
        here = place == number
        found.append(
            {
                "from": number / bins,
                "to": (number + 1) / bins,
                "images": int(here.sum()),
                "confidence": probability[here].mean().item(),
                "accuracy": (answer[here] == labels[here]).float().mean().item(),
            }
        )
    return found
