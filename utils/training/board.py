"""TensorBoard of one run: what it was told, its curves, and what its best model answers."""

import contextlib
import os
import pathlib
import time

from utils.core.files import WriteError
from utils.core.text import printable
from utils.evaluation import plots
from utils.evaluation.evaluate import mistakes
from utils.evaluation.metrics import METRICS

MOST_CLASSES = 40  # that have curves of their own; of more, those with the lowest F1


class Board:
    """Writes into a folder named by the time at which it was opened: "train" and "val" are runs in it, in one chart each."""

    def __init__(self, folder, flags=()):
        from torch.utils.tensorboard import SummaryWriter  # not above: it takes a second to import

        folder = pathlib.Path(os.fsencode(folder).decode("utf-8", "replace"))  # TensorBoard wants UTF-8
        self.folder, self.flags, self.seen = str(folder / time.strftime("%Y-%m-%d_%H-%M-%S")), dict(flags), None
        with self._named():
            self.writer = SummaryWriter(self.folder)
            self.parts = {split: SummaryWriter(os.path.join(self.folder, split)) for split in ("train", "val")}
            self.writer.add_text("flags", markdown(("flag", "value"), self.flags.items()))

    @contextlib.contextmanager
    def _named(self):
        """Raise WriteError, naming the folder, where it cannot be written to."""
        try:
            yield
        except OSError as error:
            raise WriteError(self.folder, error.strerror or error) from None

    def show_first(self, batches, card):
        """Pass on `batches` of (images, targets), and write the images of the first."""
        for number, (images, targets) in enumerate(batches):
            if number == 0:
                with self._named():
                    self.writer.add_image("training images", plots.image_grid(images[:64].cpu(), card.mean, card.std))
            yield images, targets

    def step(self, state):
        """Write the losses of the steps that were looked at since the last call, by the step."""
        if state.recent_losses is self.seen:
            return
        self.seen, first = state.recent_losses, state.step - len(state.recent_losses) + 1
        with self._named():
            for number, loss in enumerate(self.seen):
                self.parts["train"].add_scalar("loss of the step", loss, first + number)

    def epoch(self, record):
        """Write the scores, learning rate and speed of an epoch."""
        with self._named():
            for split, writer in self.parts.items():
                for name, value in record.get(split, {}).items():
                    writer.add_scalar(name, value, record["epoch"])
                writer.flush()
            self.writer.add_scalar("learning rate", record["lr"], record["epoch"])
            self.writer.add_scalar("images per second", record["images/s"], record["epoch"])
            self.writer.flush()

    def final(self, evaluation, split, classes, epoch):
        """Write what the model of `epoch` answers on a Split: scores beside the flags, figures, and curves of the classes."""
        scores, seen = METRICS["F1"](evaluation.logits, evaluation.labels).tolist(), {*evaluation.labels.tolist()}
        with self._named():
            self._add_flags({f"{split.name}/{name}": m(evaluation.logits, evaluation.labels) for name, m in SCORES.items()})
            matrix = METRICS["confusion matrix"](evaluation.logits, evaluation.labels)
            self.writer.add_figure(f"confusion matrix/{split.name}", plots.draw_confusion(matrix, classes, split.name), epoch)
            wrong = mistakes(evaluation, split, classes)
            self.writer.add_figure(f"mistakes/{split.name}", plots.draw_mistakes(wrong, "Most confident mistakes"), epoch)
            rows = [
                (name, f"{score:.4f}" if label in seen else "no image")
                for label, (name, score) in enumerate(zip(classes, scores, strict=True))
            ]
            self.writer.add_text(f"F1 of each class/{split.name}", markdown(("class", "F1"), rows), epoch)
            self._add_classes(evaluation, classes, scores, sorted(seen), epoch)
            for writer in (self.writer, *self.parts.values()):
                writer.close()

    def _add_flags(self, scores):
        """The flags and the final scores as a row in the table of all runs."""
        from torch.utils.tensorboard.summary import hparams

        values = {name: v if isinstance(v, bool | int | float) else printable(v) for name, v in self.flags.items()}
        for summary in hparams(values, scores):
            self.writer.file_writer.add_summary(summary)
        for name, score in scores.items():
            self.writer.add_scalar(name, score)

    def _add_classes(self, evaluation, classes, scores, labels, epoch):
        probabilities = evaluation.logits.softmax(1)
        for label in sorted(labels, key=lambda label: scores[label])[:MOST_CLASSES]:
            name, of_class = f"{label} {printable(classes[label])}", evaluation.labels == label
            self.writer.add_scalar(f"F1 of a class/{name}", scores[label], epoch)
            self.writer.add_pr_curve(f"precision and recall of a class/{name}", of_class, probabilities[:, label], epoch)


SCORES = {name: METRICS[name] for name in ("loss", "Acc@1")}


def markdown(header, rows):
    """A table in Markdown; the cells are shown as they are, whatever they hold."""
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value):
    text = printable(value).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{character}" if character in "|`*_[]#" else character for character in text)
