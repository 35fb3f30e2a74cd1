"""How often an answer of each probability is right."""

import torch

BINS = 15  # of equal width, as in the expected calibration error


def reliability(logits, labels, bins=BINS):
    """How often an answer of each probability is right."""
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
