"""A table from names to things; everything that can be chosen on a command line stands in one."""

import difflib

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
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return f"{hint}Known: {', '.join(known)}."
