"""The commands and the links of the README and of docs/, read from their Markdown."""

import pathlib
import re
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).parent.parent
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NOTE = re.compile(r"<!-- (not run|slow)(?:: (.+?))? -->\n\Z")
LIST = "written:"  # begins the list of the files that a script wrote
ANY = "…"  # in shown output: whatever stands here, on this line or, alone, on several lines
# What differs from machine to machine and from run to run. A `*` ends the line of a best epoch; rules grow with the columns.
VARIES = re.compile(r"[-+−]?\d[\d.,]*(?:[eE][-+]?\d+)?|──+| \*$")


def pages():
    """README.md first, then the pages of docs/ by name."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass
class Command:
    """One command, and the output that the page shows for it: lines, or None where it shows none."""

    text: str
    output: list | None = None

    @property
    def words(self):
        """The command without its comment, one blank between words."""
        return " ".join(self.text.partition(" #")[0].split())


@dataclass
class Block:
    """A fenced block of commands. `note` is "", "slow" or "not run"; `reason` says why."""

    page: str
    line: int
    note: str
    reason: str
    commands: list

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks(page):
    """The blocks of commands on a page: ```bash holds commands only, ```console holds `$ command` and what it prints."""
    text, found = page.read_text(encoding="utf-8"), []
    for fence in FENCE.finditer(text):
        language, body = fence.groups()
        if language not in ("bash", "console"):
            continue
        note = NOTE.search(text[: fence.start()])
        label, reason = (note[1], note[2] or "") if note else ("", "")
        line = text.count("\n", 0, fence.start()) + 1
        commands = _console(body) if language == "console" else [Command(command) for command in _joined(body)]
        found.append(Block(page.relative_to(ROOT).as_posix(), line, label, reason, commands))
    return found


def other_fences(page):
    """The text of the fenced blocks that hold no commands."""
    return [body for language, body in FENCE.findall(page.read_text(encoding="utf-8")) if language not in ("bash", "console")]


def _joined(body):
    """Lines of a shell script, those that end in a backslash joined with the next, without empty ones."""
    return [line for line in body.replace("\\\n", " ").splitlines() if line.strip()]


def _console(body):
    commands = []
    for line in body.splitlines():
        if line.startswith("$ "):
            commands.append(Command(line[2:], []))
        else:
            commands[-1].output.append(line)
    return commands


def missing_line(shown, printed):
    """The first line of `shown` that `printed` lacks, or None: numbers may differ, and `…` stands for anything.

    A list of written files, which ends the output, must be shown whole.
    """
    text = "".join(f"{_masked(line)}\n" for line in printed)
    pattern = ""
    for line in shown:
        words = ".*".join(re.escape(part) for part in _masked(line).split(ANY))
        pattern += r"(?:.*\n)*?" if line.strip() == ANY else rf"{words}\n"
        if not re.match(pattern, text):
            return line
    if LIST in shown and ANY not in shown[shown.index(LIST) :] and not re.fullmatch(pattern, text):
        return f"{LIST} {text.splitlines()[-1]}"
    return None


def _masked(line):
    return " ".join(VARIES.sub("#", line).split())


def anchors(text):
    """The anchors that GitHub makes of the headings of a page."""
    found = []
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.append(words if words not in found else f"{words}-{found.count(words)}")
    return found


def links(text):
    """The targets of Markdown links and images, those inside of fenced blocks and code left out."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", FENCE.sub("", text)))
