"""What a report knows of one trained model: its answers to a split, and what was gathered around them."""

import functools
from dataclasses import dataclass, field

import numpy as np

from utils.core.card import ModelCard
from utils.data.datasets import is_own
from utils.data.splits import Dataset, Split, images_digest
from utils.evaluation.evaluate import Evaluation
from utils.report.curves import Curves


@dataclass
class Run:
    """One model. `result` is what `summarise` made of `evaluation`; what could not be had is None, and `notes` says why."""

    name: str  # short, for headings: unlike that of the other run
    path: str  # of the model file
    card: ModelCard
    split: Split
    dataset: Dataset
    data: str  # what it was given as: a name, or a path
    evaluation: Evaluation
    result: dict
    arithmetic: str  # what computes, in words
    device: str
    machine: dict  # as `describe_machine` gives it
    curves: Curves | None = None
    samples: object = None  # utils.report.samples.Samples
    files: list = field(default_factory=list)  # utils.report.files.ExportedFile
    network: object = None  # utils.report.network.Network
    findings: dict | None = None  # {kind: [utils.doctor.findings.Finding]}; None where no files were looked through
    notes: dict = field(default_factory=dict)  # section -> a sentence

    @property
    def classes(self):
        return self.card.classes

    @property
    def correct(self):
        """bool (n,): which images are answered right, in the order of the split."""
        return (self.evaluation.logits.argmax(1) == self.evaluation.labels).numpy()

    @functools.cached_property
    def has_own_data(self):
        """Whether the data reported on are those that it was trained on."""
        own = self.card.training.get("images")  # known again where they have moved
        return is_own(self.card, self.data) or (own is not None and own == images_digest(self.dataset))

    @property
    def split_chose_epoch(self):
        """Whether the images reported on are those that chose the epoch."""
        return self.split.name == "val" and self.has_own_data

    def counts(self):
        """{split: images of each class, int64 (C,)} of the whole data set."""
        splits = [part for part in (self.dataset.train, self.dataset.val, self.dataset.test) if part]
        return {part.name: np.bincount(part.labels, minlength=len(self.classes)) for part in splits}
