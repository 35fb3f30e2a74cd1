"""Argument groups that the scripts share, range checks beside the flags, and one report of all that is wrong."""

import argparse
import difflib
import math
import os

from utils.core.errors import UserError
from utils.core.registry import instead


def at_least(low):
    """Check: the value is `low` or more."""
    return lambda value: None if value >= low else f"must be {low} or more"


def above(low):
    """Check: the value is finite and greater than `low`."""
    return lambda value: None if low < value < math.inf else f"must be greater than {low}"


def between(low, high, closed=True):
    """Check: low <= value <= high, or low <= value < high when not `closed`."""

    def check(value):
        if low <= value < high or (closed and value == high):
            return None
        return f"must be from {low} to {high}" if closed else f"must be at least {low} and under {high}"

    return check


def known(noun, names):
    """Check: the value is one of `names`; `noun` is what they name ("model")."""
    return lambda value: None if value in names else f"is no known {noun}. {instead(value, names)}"


class Parser(argparse.ArgumentParser):
    """argparse with defaults in the help, `check=` on a flag, spelling hints, and every fault reported at once.

    `parse(cross_checks)` takes functions from the parsed arguments to a list of faults (sentences), and raises one
    UserError for all the faults there are. `args.given` is the set of the flags that stood on the command line.
    """

    def __init__(self, doc):
        about, _, usage = doc.strip().partition("\n\n")
        super().__init__(
            description=about, epilog=usage, usage="%(prog)s [flags]", formatter_class=_Formatter, allow_abbrev=False
        )
        self.checks = {}

    def add_argument_group(self, *args, **kwargs):
        group = super().add_argument_group(*args, **kwargs)
        plain = group.add_argument
        group.add_argument = lambda *names, check=None, **options: self._remember(plain(*names, **options), check)
        return group

    def add_argument(self, *names, check=None, **options):
        return self._remember(super().add_argument(*names, **options), check)

    def _remember(self, action, check):
        if action.metavar is None and action.type in (int, float):
            action.metavar = "N" if action.type is int else "X"
        if check:
            self.__dict__.setdefault("checks", {})[action.dest] = (action, check)
        return action

    def parse(self, *cross_checks, argv=None):
        """The parsed arguments. Raises UserError with all faults; the cross-flag checks run once the ranges are right."""
        args, rest = self.parse_known_args(argv)
        faults = [self._unknown(flag) for flag in rest if flag.startswith("-")]
        if rest and not faults:
            faults.append(f"{' '.join(rest)} belongs to no flag")
        for dest, (action, check) in self.checks.items():
            values = getattr(args, dest)
            for value in values if isinstance(values, list) else [values]:
                fault = value is not None and check(value)
                if fault:
                    faults.append(f"{self._flag(action)} {value} {fault}")
        args.given = self._given(argv)
        for check in cross_checks if not faults else ():
            faults += check(args)
        if faults:
            raise UserError("; ".join(faults))
        return args

    def error(self, message):  # argparse calls this for a value of the wrong type, a missing flag, a wrong choice
        raise UserError(f"{message.removeprefix('argument ')} (see --help)")

    def _flag(self, action):
        return action.option_strings[-1] if action.option_strings else action.dest

    def _unknown(self, flag):
        flag = flag.split("=")[0]
        near = difflib.get_close_matches(flag, self._option_string_actions, n=1)
        return f"unknown flag {flag}" + (f", did you mean {near[0]}?" if near else " (see --help)")

    def _given(self, argv):
        defaults = {action.dest: action.default for action in self._actions}
        for action in self._actions:
            action.default = argparse.SUPPRESS
        try:
            return set(vars(self.parse_known_args(argv)[0]))
        finally:
            for action in self._actions:
                action.default = defaults[action.dest]


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help with the defaults shown, where there is one to show."""

    def __init__(self, prog):
        super().__init__(prog, max_help_position=32, width=min(110, int(os.environ.get("COLUMNS", 110))))

    def _get_help_string(self, action):
        shown = action.default not in (None, False, argparse.SUPPRESS) and action.default != []
        return f"{action.help or ''} (default: %(default)s)" if shown else action.help


def add_model(parser, models, *, required_weights=False):
    """-m/--model, -w/--weights: which network. `models` are the known names."""
    group = parser.add_argument_group("model")
    about = f"one of {', '.join(models)}; a file with a model card needs none"
    group.add_argument("-m", "--model", check=known("model", models), help=about)
    group.add_argument("-w", "--weights", required=required_weights, metavar="FILE", help="a checkpoint (.pth)")
    return group


def add_card_facts(group):
    """-c/--classes, --image_size: what a file without a model card cannot say itself."""
    group.add_argument("-c", "--classes", metavar="FILE", help="class names, one a line, for a file without a model card")
    group.add_argument("--image_size", type=int, check=at_least(8), help="pixels, for a file without a model card")


def add_data(parser, *, default="FashionMNIST"):
    """-d/--dataset, --data_dir, --batch_size, --num_workers: which images, and how many at a time.

    With `default` None the model card says which data set, and where it lies.
    """
    group = parser.add_argument_group("data")
    group.add_argument("-d", "--dataset", default=default, help="FashionMNIST, digits, or the path of an image folder")
    folder, hint = ("data/", "") if default else (None, "; default: as in the card, else data/")
    group.add_argument("--data_dir", default=folder, help=f"where registered data sets lie or are downloaded to{hint}")
    group.add_argument("--batch_size", type=int, default=128, check=at_least(1), help="images a batch")
    group.add_argument("--num_workers", type=int, default=8, check=at_least(0), help="loader processes at the most")
    return group


def add_device(parser):
    """--device, --cuda: where to compute."""
    group = parser.add_argument_group("device")
    group.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="auto takes CUDA where there is one")
    group.add_argument("--cuda", action="store_true", help="use CUDA if it is there; says so when it is not")
    return group


def add_size(parser):
    """--num_classes, --image_size: the shape of a network that no checkpoint describes."""
    group = parser.add_argument_group("size")
    group.add_argument("--num_classes", type=int, check=at_least(1), help="outputs: those of the checkpoint, or 10")
    group.add_argument("--image_size", type=int, check=at_least(8), help="side of the input in px: the checkpoint's, or 224")
    return group


def model_or_weights(args):
    """Cross-flag check: some network must be named."""
    return [] if args.model or args.weights else ["give -m/--model NAME or -w/--weights FILE: which network is it?"]
