"""MODEL_CARD.md: what whoever gets a model should know of it, under the usual headings (Mitchell et al. 2019)."""

import re
import shlex

from jinja2 import Environment, FileSystemLoader

from utils.core.errors import UserError
from utils.core.text import plural, printable, si
from utils.report.page import TEMPLATES
from utils.report.words import percent

MARK = "<!-- Written by report.py --card, which replaces this file. Delete this line to keep your changes. -->"
CLASSES = 40  # rows of the table of classes: those with the lowest recall, where there are more


def check_card_place(path):
    """Raise UserError where a model card stands at `path` that somebody has taken over."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            ours = file.readline().strip() == MARK
    except FileNotFoundError:
        return
    if not ours:
        raise UserError(f"{path} does not begin with the line that report.py writes, so it is kept; move it away for a new one")


def model_card(view):
    """The Markdown of a View."""
    rows = [row for row in view.classes if row["support"]]
    unseen = [row["name"] for row in view.classes if not row["support"]]
    shown = sorted(rows, key=lambda row: row["recall"])[:CLASSES] if len(rows) > CLASSES else rows
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True, finalize=_plain, keep_trailing_newline=True
    )
    environment.globals |= {"percent": percent, "plural": plural, "si": si, "command": _command(view.run.path)}
    facts = {"mark": _AsIs(MARK), "run": view.run, "summary": view.summary}
    template = environment.get_template("model_card.md")
    return template.render(facts, rows=shown, left_out=len(rows) - len(shown), unseen=unseen)


class _AsIs(str):
    """Text that is Markdown already."""


def _command(path):
    """How to ask the model file about an image."""
    script, flag = ("predict_ckpoint.py", "-w") if path.endswith(".pth") else ("predict.py", "-m")
    return _AsIs(f"python {script} -i image.jpg {flag} {shlex.quote(printable(path))}")


def _plain(value):
    """Text as Markdown shows it as it is: no character of it is taken for markup."""
    if not isinstance(value, str) or isinstance(value, _AsIs):
        return value
    return re.sub(r"([\\`*_{}\[\]<>#|!~&$])", r"\\\1", printable(value))
