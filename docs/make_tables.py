"""Write the tables of README.md and docs/*.md between their markers: flags from the scripts, figures from results/, code
from tests.

    python docs/make_tables.py            # or: make tables

A marker names what stands below it, `<!-- table: flags train.py -->` or `<!-- table: throughput -->`, up to `<!-- end -->`.
The flags are read from the parser that the script itself uses, so a table cannot differ from `--help`.
"""

import argparse
import ast
import pathlib
import re
import runpy
import sys
import textwrap
from unittest import mock

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from docs.cells import markdown
from docs.figures import FIGURES

MARKED = re.compile(r"(<!-- table: (.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def pages():
    """README.md and the pages of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(text):
    """`text` with every marked table written anew. Raises KeyError for a marker that names no table."""
    return MARKED.sub(lambda match: f"{match[1]}{table(match[2])}\n{match[4]}", text)


def table(name):
    """The Markdown of the table `name`: a word of TABLES, and what that one needs."""
    kind, *words = name.split()
    return TABLES[kind](*words)


# Flags


class _Parser(BaseException):
    """Carries a script's parser out of the script."""


def parser_of(script):
    """The parser with which `script` reads its command line. The script runs up to that point and no further."""

    def stop(self, *args, **kwargs):
        raise _Parser(self)

    path = str(ROOT / script)
    places = [str(ROOT), str(pathlib.Path(path).parent), *sys.path]
    with (
        mock.patch.object(argparse.ArgumentParser, "parse_known_args", stop),
        mock.patch.object(sys, "argv", [path]),
        mock.patch.object(sys, "path", places),
    ):
        try:
            runpy.run_path(path, run_name="__main__")
        except _Parser as found:
            return found.args[0]
    raise RuntimeError(f"{script} ended without reading its command line")


def flags(script):
    """Every flag of a script: names, default, meaning, in the order and the groups of its help."""
    rows = []
    for group in parser_of(script)._action_groups:
        actions = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
        if actions and group.title not in ("options", "positional arguments"):
            rows.append([f"**{group.title}**", "", ""])
        rows += [_flag(action) for action in actions]
    return markdown(["flag", "default", "meaning"], rows, "lll")


def _flag(action):
    value = "" if action.nargs == 0 or action.choices else f" {action.metavar or action.dest.upper()}"
    names = [f"`{name}{value}`" for name in action.option_strings] or [f"`{action.metavar or action.dest}`"]
    shown = not (action.default is None or action.default is False or action.default in ("", argparse.SUPPRESS, []))
    meaning = (action.help or "") % {"default": action.default, "dest": action.dest, "prog": ""}
    if action.choices:
        meaning += f" ({', '.join(f'`{choice}`' for choice in action.choices)})"
    if action.required and action.option_strings:
        meaning += " (required)"
    return [", ".join(names), f"`{action.default}`" if shown else "", meaning.replace("<", r"\<")]


# Code


def code(path, name):
    """What the test file `path` defines as `name`, with the imports that it needs; of a fixture what is before its `yield`."""
    source = (ROOT / path).read_text(encoding="utf-8")
    tree = ast.parse(source)
    found = next(node for node in ast.walk(tree) if getattr(node, "name", None) == name)
    body = next((found.body[:i] for i, node in enumerate(found.body) if _is_yield(node)), None)
    shown = [found] if body is None else body[isinstance(body[0], ast.Expr) :]  # without the docstring
    first = min([shown[0].lineno, *(decorator.lineno for decorator in getattr(shown[0], "decorator_list", []))])
    lines = source.splitlines()
    text = textwrap.dedent("\n".join(lines[first - 1 : shown[-1].end_lineno]))
    used = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    imports = [ast.unparse(line) for line in map(_only(used), tree.body) if line]
    return "```python\n" + "\n".join([*imports, *["", ""][: 2 * bool(imports)], text]) + "\n```"


def _is_yield(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Yield)


def _only(used):
    """A function from a statement to the import that it is, of the `used` names only; None where nothing is left."""

    def only(node):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            return None
        node.names = [alias for alias in node.names if (alias.asname or alias.name.partition(".")[0]) in used]
        return node if node.names else None

    return only


TABLES = FIGURES | {"code": code, "flags": flags}


def main():
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            page.write_text(new, encoding="utf-8")
            print(f"written: {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
