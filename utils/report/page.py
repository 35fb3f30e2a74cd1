"""The report as one HTML file: templates filled, styles, script and images inside, nothing from elsewhere."""

import base64
import hashlib
import pathlib

from jinja2 import FileSystemLoader
from markupsafe import Markup

from utils.core.errors import UserError
from utils.core.images import load_image
from utils.core.pages import data_address, page_environment
from utils.core.text import plural, printable, short_names, si
from utils.evaluation.evaluate import mistakes
from utils.evaluation.metrics import lines, wilson_interval
from utils.evaluation.reliability import reliability
from utils.report.comparison import probability
from utils.report.confusion import confusion_of
from utils.report.pictures import SIDE
from utils.report.words import percent, summary

TEMPLATES = pathlib.Path(__file__).parent / "templates"
POLICY = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'"  # the browser fetches and sends nothing
MISTAKES = 24  # shown
NAME = 16  # characters of a name beside the confusion matrix
FINDINGS, PATHS = 8, 4  # of each kind, and images of each finding
SECTIONS = {  # id -> heading
    "summary": "Summary",
    "curves": "Training",
    "confusion": "Confusion matrix",
    "classes": "Classes",
    "reliability": "Reliability",
    "mistakes": "Most confident mistakes",
    "samples": "Training images as the network saw them",
    "data": "The data set",
    "files": "Exported files",
    "network": "Cost and receptive field",
}


def render(views, comparison=None, note=None):
    """The page of one View or of two, as text. `comparison` is a Comparison of two; `note` says why there is none."""
    environment = page_environment(loader=FileSystemLoader(TEMPLATES))
    environment.globals |= {"percent": percent, "plural": plural, "si": si, "probability": probability, "side": SIDE}
    style, script = (Markup((TEMPLATES / name).read_text(encoding="utf-8")) for name in ("style.css", "script.js"))
    title = " and ".join(f"{view.run.name} on {view.run.dataset.name}" for view in views)
    page = environment.get_template("page.html")
    return page.render(
        title=title,
        views=views,
        comparison=comparison,
        note=note,
        sections=SECTIONS,
        style=style,
        script=script,
        policy=f"{POLICY}; style-src {_hash(style)}; script-src {_hash(script)}",
    )


def _hash(text):
    """What a content security policy calls an inline style or script, so that no other one is used."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class View:
    """A Run as the templates show it."""

    def __init__(self, run, number):
        self.run, self.id = run, f"r{number}"
        self.confusion = confusion_of(run)
        self.summary = summary(run, self.confusion)
        self.figures = lines(run.result)
        self.bins = reliability(run.evaluation.logits, run.evaluation.labels)
        self.counts = run.counts()

    @property
    def album(self):
        """What the page's script needs: the images, and of each cell that has any their indices."""
        cells = [cell for row in self.confusion.rows or [] for cell in row] or self.confusion.pairs
        return {
            "images": self.confusion.images,
            "cells": {f"{cell.row},{cell.column}": cell.shown for cell in cells if cell.count},
            "names": [printable(name) for name in self.run.classes],
        }

    @property
    def short_names(self):
        """The classes as they stand beside the confusion matrix."""
        return short_names([printable(name) for name in self.run.classes], NAME)

    @property
    def is_long(self):
        """Whether there are so many classes that a table of them scrolls inside of the page."""
        return self.confusion.rows is None

    @property
    def classes(self):
        """Rows of the table of classes, as dicts."""
        matrix, names = self.run.result["confusion matrix"], self.run.classes
        for number, (name, values) in enumerate(self.run.result["per class"].items()):
            row = list(matrix[number])
            right, row[number] = row[number], 0
            taken = names[row.index(max(row))] if max(row) else ""
            interval = wilson_interval(right, values["support"])
            yield {"name": name, "right": right, "interval": interval, "taken": taken, "times": max(row)} | values

    @property
    def mistakes(self):
        """The surest mistakes, as dicts with the image, its name, its class, the answer and its probability."""
        run = self.run
        for image, true, answer, sure, name in mistakes(run.evaluation, run.split, run.classes, MISTAKES):
            yield {"src": data_address(image, SIDE), "name": name, "true": true, "answer": answer, "probability": sure}

    @property
    def findings(self):
        """`(kind, how many, [(finding, [(path, data address or None)])])` of each kind of finding."""
        for kind, found in (self.run.findings or {}).items():
            yield kind, len(found), [(f, [(path, _thumbnail(path)) for path in f.paths[:PATHS]]) for f in found[:FINDINGS]]


def _thumbnail(path):
    try:
        return data_address(load_image(path), SIDE)
    except UserError:
        return None
