"""The flags that say what to read where in a data set, shared by the scripts that train and evaluate."""

from utils.data.reading import Reading


def add_reading(group):
    """--image_column, --label_column, --split_column, --group_column, --group_regex."""
    for role, about in (
        ("image", "paths"),
        ("label", "classes"),
        ("split", "train, val, test"),
        ("group", "see --group_regex"),
    ):
        group.add_argument(f"--{role}_column", metavar="NAME", help=f"column of a table: {about}; default: guessed by its name")
    group.add_argument("--group_regex", metavar="PATTERN",
                       help="the group in an image's name, as '(p[0-9]+)_': a group never stands in two splits")  # fmt: skip


def no_data(name):
    """Check of a flag: what is wrong with the name of a data set, or None."""
    from utils.data.datasets import no_data  # not above: --help needs no numpy

    return no_data(name)


def reading_of(args):
    """The parsed flags as a Reading."""
    return Reading(**{name: getattr(args, name) for name in Reading.__dataclass_fields__})
