"""A table from names to things; everything that can be chosen on a command line stands in one."""

import ast
import pathlib

from utils.core.errors import UserError


class Registry(dict):
    """Names to entries, in the order of registration.

    `noun` is what an entry is called in messages ("model", "data set").
    """

    def __init__(self, noun):
        super().__init__()
        self.noun = noun

    def register(self, name):
        """Decorator: store what stands below under `name`. Raises ValueError for a name that is taken."""

        def store(entry):
            if name in self:
                raise ValueError(f"{self.noun} {name!r} is registered twice")
            self[name] = entry
            return entry

        return store

    def __missing__(self, name):
        raise UserError(f"unknown {self.noun} {name!r}. {instead(name, self)}")


def instead(name, known):
    """What could be meant by a name that is not among the `known` ones."""
    return f"{did_you_mean(name, known)}Known: {', '.join(known)}."


def did_you_mean(name, known):
    """A question with the nearest of the `known` names, and a space; nothing where none is near."""
    longer = [other for other in known if name and other.startswith(str(name))]
    near = longer or most_alike(str(name), known)
    return f"Did you mean {near[0]!r}? " if near else ""


def most_alike(name, known, cutoff=0.6):
    """The one of the `known` names that is most like `name`, as a list; an empty one where none is at least so like it.

    Capitals count only where nothing else tells two of them apart, and then the alphabet does.
    """
    import difflib  # not above: only a mistake needs it

    folded = {other: other.casefold() for other in known}
    near = {*difflib.get_close_matches(name.casefold(), folded.values(), n=len(folded) or 1, cutoff=cutoff)}

    def unlike(other):
        pairs = (folded[other], name.casefold()), (other, name)
        return *(-difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs), other

    return sorted((other for other in known if folded[other] in near), key=unlike)[:1]


def names_in(files, table):
    """The names in the lines `@<table>.register("name")` of Python files, in order.

    The files are read, not imported, because an import of torch takes seconds; so the name must be a literal.
    """
    return [name for file in files for name in _registered_in(pathlib.Path(file).read_text(encoding="utf-8"), table)]


def _registered_in(source, table):
    for statement in ast.parse(source).body:
        for decorator in reversed(getattr(statement, "decorator_list", [])):  # the lowest one registers first
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == f"{table}.register":
                yield ast.literal_eval(decorator.args[0])
