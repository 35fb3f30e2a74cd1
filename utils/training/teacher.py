"""Distillation: a network learns the answers of a trained one, its teacher, besides the labels."""

import hashlib
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from models.checkpoint import load_model
from utils.core.errors import UserError
from utils.inference.formats import exported, format_of
from utils.inference.predictors import open_predictor


@dataclass(frozen=True)
class Teacher:
    """A trained network, in eval mode, and what turns a student's batch into one of its own.

    The loss of an image is (1 - share) of that of its label plus share · T² · KL(teacher ‖ student), both at the temperature T
    (Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network"). The teacher answers the very images that
    the student sees, augmented and mixed (Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and
    consistent").
    """

    network: nn.Module
    image_size: int  # px
    order: torch.Tensor  # (C,) its output for each class of the student
    scale: torch.Tensor  # (3, 1, 1): images * scale + shift are normalised as it wants them
    shift: torch.Tensor
    share: float
    temperature: float
    digest: str  # of what it answers by

    def to(self, device):
        """The same on another device."""
        network = self.network.to(device, memory_format=torch.channels_last)
        moved = {name: getattr(self, name).to(device) for name in ("order", "scale", "shift")}
        return replace(self, network=network, **moved)

    def losses(self, of_labels, images, logits):
        """(N,): the losses of a batch, from those of its labels, its images (N, 3, H, W) and the student's logits (N, C)."""
        wanted = self.answers(images)
        ours, theirs = (F.log_softmax(answers / self.temperature, dim=1) for answers in (logits, wanted))
        divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)
        return (1 - self.share) * of_labels + self.share * self.temperature**2 * divergence

    @torch.no_grad()
    def answers(self, images):
        """Images as the student sees them, (N, 3, H, W) -> logits (N, C) in the order of the student's classes."""
        return self.network(self.prepared(images)).float()[:, self.order]

    def prepared(self, images):
        """The student's images (N, 3, H, W), normalised and as large as the teacher was trained with."""
        images = images * self.scale + self.shift
        if images.shape[-1] == self.image_size:
            return images
        # Antialiasing is slow, and changes nothing where images grow.
        size, shrinks = (self.image_size, self.image_size), self.image_size < images.shape[-1]
        return F.interpolate(images.float(), size, mode="bilinear", antialias=shrinks)


class Exported(nn.Module):
    """A file that its own engine runs, such as an int8 ONNX file, as a network: it travels to other processes by its path."""

    def __init__(self, path):
        super().__init__()
        self.path = path
        try:
            self.predictor = open_predictor(path)
        except UserError as error:
            if error.option != "classes":
                raise
            raise UserError(f"{path} has no model card, which would say how a teacher is fed", option="teacher") from None
        if self.predictor.card.with_preprocessing:
            raise UserError(f"{path} prepares images itself; a teacher takes those of the student", option="teacher")

    def forward(self, images):
        """float32 (N, 3, S, S) -> logits (N, C), on the device of the images."""
        return self.predictor.predict(images.float()).to(images.device)

    def __reduce__(self):
        return Exported, (self.path,)


def check_teacher(path):
    """Raise UserError for a file that is no teacher, whatever the data are."""
    _read(path)


def _read(path):
    if format_of(path, otherwise="checkpoint") in exported():
        network = Exported(path)
        return network.eval(), network.predictor.card
    network, card = load_model(path)
    if card.scheme:
        raise UserError(
            f"{path} is quantized ({card.scheme}); give the float checkpoint that it was made from", option="teacher"
        )
    return network, card


def open_teacher(path, card, share, temperature):
    """The Teacher in a model file, on the CPU, for a student with this ModelCard. Raises UserError for other classes."""
    network, own = _read(path)
    if own.invented_classes or {*own.classes} != {*card.classes}:
        raise UserError(
            f"{path} must know the classes of the data, no more and no fewer: {_difference(own, card)}", option="teacher"
        )
    mean, std, own_mean, own_std = (torch.tensor(values).view(3, 1, 1) for values in (card.mean, card.std, own.mean, own.std))
    order = torch.tensor([own.classes.index(name) for name in card.classes])
    digest, network = _digest(path, network, own), network.requires_grad_(False)
    return Teacher(network, own.image_size, order, std / own_std, (mean - own_mean) / own_std, share, temperature, digest)


def _digest(path, network, card):
    """A checksum of what a teacher answers by. That of a checkpoint leaves out what its card says of the training, to which
    the final test is added when a run ends.
    """
    if isinstance(network, Exported):
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    digest = hashlib.sha256(repr((card.architecture, card.classes, card.image_size, card.mean, card.std)).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _difference(own, card):
    if own.invented_classes:
        return "it does not name its own"
    sides = {"it alone has": {*own.classes} - {*card.classes}, "the data alone have": {*card.classes} - {*own.classes}}
    return ", ".join(f"{who} {', '.join(sorted(names)[:3])}" for who, names in sides.items() if names)
