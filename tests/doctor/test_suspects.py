import torch

from models.build import build_model
from models.checkpoint import save_checkpoint
from utils.core.card import ModelCard
from utils.doctor.scan import scan_folder
from utils.doctor.suspects import suspected


def test_a_checkpoint_may_have_the_classes_in_another_order(photos, tmp_path):
    """Two checkpoints of one network, whose outputs are named in another order, suspect the same images."""
    classes, splits, _, _ = scan_folder(photos)
    torch.manual_seed(0)
    network = build_model("custom", len(classes), 16)
    network.classifier[3].weight.data *= 100  # it is sure of its answers
    found = []
    for order in ([0, 1, 2], [2, 0, 1]):
        weights = network.state_dict() | {
            key: network.state_dict()[key][order] for key in ("classifier.3.weight", "classifier.3.bias")
        }
        card = ModelCard("custom", [classes[i] for i in order], 16)
        path = tmp_path / f"{order[0]}.pth"
        save_checkpoint(path, {"model": weights, "card": card.to_dict()})
        found.append(suspected(splits, classes, weights=path)[0])
    assert len(found[0]) > 3 and [s[:3] for s in found[0]] == [s[:3] for s in found[1]]
