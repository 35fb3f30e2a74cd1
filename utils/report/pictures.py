"""The images on a page: each stored once, small, and only so many."""

from utils.core.pages import data_address
from utils.core.text import printable

SIDE = 112  # px, the long side of an image on the page


class Album:
    """Images of a Split by index, as `data:` addresses, at most `most`; `entries` is what the page's script reads.

    An entry has `src` and `text`, which names the image and what the network answered.
    """

    def __init__(self, run, most):
        self.run, self.most, self.entries = run, most, {}
        self.probabilities, self.answers = run.evaluation.logits.softmax(1).max(1)

    def add(self, index):
        """Whether the image is in the album, into which it is put while there is room."""
        if index in self.entries:
            return True
        if len(self.entries) >= self.most:
            return False
        self.entries[index] = {"src": data_address(self.run.split.image(index), SIDE), "text": self.text(index)}
        return True

    def text(self, index):
        """`cat, 0.98: train/dog/3.jpg`"""
        answer = self.run.classes[self.answers[index]]
        return printable(f"{answer}, {self.probabilities[index]:.2f}: {self.run.split.place(index)}")
