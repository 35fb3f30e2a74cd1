"""Argument groups that the scripts share, range checks beside the flags, and one report of all that is wrong."""

import argparse
import math
import os
import re
import sys

from utils.core import errors
from utils.core.card import architecture
from utils.core.errors import UserError
from utils.core.files import protect
from utils.core.flag_files import RECORD, flag_line, flag_lines
from utils.core.inputs import no_file
from utils.core.registry import instead, most_alike
from utils.core.text import file_part

MOST_PIXELS = 4096  # along a side; the memory of one step grows with its square
MOST_IMAGES = 1 << 20  # in a batch
MOST_PROCESSES = 1 << 12
MOST_CLASSES = 1 << 20

# What other toolkits call a flag -> what it is called here; of several the first that the script has.
MEANT = {
    "max_epoch": "epochs epoch max_epochs num_epochs n_epochs",
    "base_lr": "lr learning_rate lr0",
    "min_lr": "lr_min final_lr lrf",
    "wp_epoch": "warmup warmup_epochs",
    "optimizer": "optim opt solver",
    "weight_decay": "wd",
    "accumulation": "accumulate grad_accum gradient_accumulation gradient_accumulation_steps accum_iter",
    "clip_grad": "grad_clip clip max_grad_norm",
    "label_smoothing": "smoothing",
    "early_stop": "patience early_stopping",
    "batch_size": "batch bs b",
    "image_size": "imgsz img_size input_size resolution size",
    "num_workers": "workers nw jobs j",
    "num_classes": "nc n_classes nb_classes",
    "dataset": "data data_path dataset_name",
    "data_dir": "data_root root",
    "val_fraction": "val_split val_ratio validation_split",
    "augment": "aug augmentation transforms",
    "weights model": "checkpoint ckpt weight model_path",
    "model weights": "arch architecture net network backbone",
    "image": "input source img file",
    "precision fp16": "amp half mixed_precision dtype",
    "device cuda": "gpu gpus no_cuda cpu",
    "engine scheme": "format target",
    "topk": "k top_k",
    "threshold": "conf confidence",
    "resume": "continue",
    "name": "run run_name experiment exp exp_name",
    "output json save_dir path_to_save": "out o output_dir out_dir outdir save save_path destination",
}


def at_least(low):
    """Check: the value is `low` or more, and finite."""
    return lambda value: None if low <= value < math.inf else f"must be {low} or more"


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


def file_name(value):
    """Check: the value can be part of the name of a folder."""
    fits = file_part(value) == value and len(value) <= 80
    return None if fits else "must be at most 80 letters, digits, _, . and -, the last two not at its ends"


def known(noun, names):
    """Check: the value is one of `names`; `noun` is what they name ("model")."""
    return lambda value: None if value in names else f"is no known {noun}. {instead(value, names)}"


class Parser(argparse.ArgumentParser):
    """argparse with defaults in the help, `check=` on a flag, hints for unknown flags, and every fault reported at once.

    `@FILE` stands for the flags in a file (utils.core.flag_files). `parse(cross_checks)` takes functions from the parsed
    arguments to a list of faults (sentences), and raises one UserError for all the faults there are. `args.given` is the set
    of the flags that stood on the command line or in a file.
    """

    def __init__(self, doc):
        about, _, usage = doc.strip().partition("\n\n")
        super().__init__(
            description=about,
            epilog=usage,
            usage="%(prog)s [flags] [@FILE of flags]",
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        self.checks, self.unknown = {}, []

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
            self.__dict__.setdefault("checks", {})[action.dest] = check
        return action

    def parse(self, *cross_checks, argv=None):
        """The parsed arguments. Raises UserError with all faults; the cross-flag checks run once the ranges are right."""
        argv = sys.argv[1:] if argv is None else [str(word) for word in argv]
        errors.flags = {action.dest: self._flag(action) for action in self._actions}
        argv = self._with_files(argv)
        args, faults = self._parse_words(argv)
        if not faults:
            args.given = self._given(argv)
            faults = [fault for check in (_devices_agree, *cross_checks) for fault in check(args)]
        if faults:
            raise UserError("; ".join(faults))
        return args

    def as_file(self, args, without=()):
        """Lines for a file that `@FILE` reads: what was given, and as comments the defaults and the flags of `without`."""
        lines = [f"# python {self.prog} @{RECORD} repeats this run; what is commented out is a default, or not repeated"]
        for action in self._actions:
            value = getattr(args, action.dest, None)
            if value is not None and value is not False:
                comment = "" if action.dest in args.given - set(without) else "# "
                lines.append(comment + flag_line(self._flag(action), value))
        return "\n".join(lines) + "\n"

    def _with_files(self, argv):
        """The words of a command line, with the flags of a file in the place of `@FILE`."""
        words, lines = [], []
        for word in argv:
            if not word.startswith("@"):
                words.append(word)
                continue
            path = word[1:]
            for number, line in flag_lines(path):
                words += line
                lines.append((f"{path}, line {number}", line, len(words)))
            if os.path.basename(path) != RECORD:  # which the repeated run writes again
                protect(path)
        faults = [
            f"{where}: {fault}"
            for where, line, end in lines
            if not self._given_again(line[0], words[end:])
            for fault in self._faults_alone(line)
        ]
        if faults:
            raise UserError("; ".join(faults))
        return words

    def _given_again(self, flag, later):
        """Whether the words `later` on the command line have another value for `flag`, which then holds."""
        action, *others = (self._option_string_actions.get(word.split("=")[0]) for word in (flag, *later))
        return action is not None and action in others

    def _faults_alone(self, words):
        """The faults of some words of a command line, whatever else may be missing on it."""
        try:
            return self._parse_words(words, alone=True)[1]
        except UserError as error:
            return [str(error)]

    def _parse_words(self, words, alone=False):
        """`(arguments, faults)`; words `alone` may lack required flags. Raises UserError for what leaves no arguments."""
        self.unknown = [self._hint(word.split("=")[0]) for word in words if self._is_unknown(word)]
        required = [action for action in self._actions if action.required]
        for action in required:
            action.required = False  # what is missing is said beside the other faults
        try:
            args, rest = self.parse_known_args(words)
        finally:
            for action in required:
                action.required = True
        faults = list(self.unknown)
        if rest and not faults:
            faults.append(f"{' '.join(rest)} belongs to no flag")
        for action in self._actions:
            values = getattr(args, action.dest, None)
            for value in values if isinstance(values, list) else [values]:
                fault = value is not None and self._fault(action, value)
                if fault:
                    faults.append(" ".join(filter(None, (self._flag(action), str(value), fault))))
        passed_over = alone or self.unknown  # one of the unknown flags may be meant as the one that is missing
        missing = [action for action in required if not passed_over and getattr(args, action.dest) is None]
        faults += [f"{'/'.join(action.option_strings) or action.dest} is missing: {action.help}" for action in missing]
        return args, faults

    def error(self, message):  # argparse calls this for a value of the wrong type, a missing flag, a wrong choice
        raise UserError("; ".join(self.unknown) or f"{message.removeprefix('argument ')} (see --help)")

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            known = list(map(str, action.choices))
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}. {instead(value, known)}".rstrip("."))

    def _get_values(self, action, arg_strings):
        if action.option_strings and arg_strings == ["--"]:  # --flag=--, which Python 3.11 fails on
            raise argparse.ArgumentError(action, "expected a value, not --")
        return super()._get_values(action, arg_strings)

    def _flag(self, action):
        return action.option_strings[-1] if action.option_strings else action.dest

    def _fault(self, action, value):
        """What is wrong with one value of a flag, or None."""
        if value == "":
            return "is empty; give a value, or leave it out"
        if isinstance(value, str) and "\0" in value:
            return "holds a null character, which no name has"
        if isinstance(value, float) and not math.isfinite(value):
            return "is no finite number"
        if isinstance(value, int) and abs(value) >= 1 << 63:
            return "is too large"
        check = self.checks.get(action.dest)
        return check(value) if check else None

    def _is_unknown(self, word):
        known, name = self._option_string_actions, word.split("=")[0]
        if not re.match(r"--?[A-Za-z]", name) or " " in name or name in known:
            return False
        # -mcustom is -m with a value; -model is not: it is --model with a dash too few
        return name.startswith("--") or name[:2] not in known or f"-{name}" in known

    def _hint(self, flag):
        name = flag.strip("-").replace("-", "_").lower()
        meant = (wanted.split() for wanted, others in MEANT.items() if name in others.split())
        names = [name, *next(meant, [])]
        near = [f"--{name}" for name in names if f"--{name}" in self._option_string_actions]
        near = near or self._spelled_like(flag)
        return f"unknown flag {flag}" + (f", did you mean {near[0]}?" if near else " (see --help)")

    def _spelled_like(self, flag):
        """The flag here that is spelled like `flag`, or that is meant by another toolkit's flag spelled like it, as a list."""
        known = {name: name for name in self._option_string_actions}
        for wanted, others in MEANT.items():
            here = [f"--{name}" for name in wanted.split() if f"--{name}" in known]
            known |= {f"--{other}": here[0] for other in others.split() if here and f"--{other}" not in known}
        return [known[name] for name in most_alike(flag, known)]

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


def _devices_agree(args):
    """The fault of --cuda beside another device."""
    other = getattr(args, "cuda", False) and args.device not in ("auto", "cuda")
    return [f"--cuda contradicts --device {args.device}; give one of them"] if other else []


def same_file(args, *names):
    """The faults of output flags, by their `names`, that name one file: what is written last would replace the others."""
    flags = {}
    for name in names:
        if path := getattr(args, name):
            flags.setdefault(os.path.realpath(path), []).append(name)
    return [f"{' and '.join(f'--{name}' for name in same)} name one file" for same in flags.values() if len(same) > 1]


def side(low=8):
    """Check: a length in pixels along one side of an image, from `low` to what memory holds."""
    return between(low, MOST_PIXELS)


def models_in_words(models):
    """The help of a flag for a network; `models` are the names of ours."""
    return f"one of {', '.join(models)}, a classification network of torchvision, or timm/NAME"


def add_model(parser, models, check, *, required_weights=False, files="a checkpoint (.pth)"):
    """-m/--model, -w/--weights: which network. `models` are the names of ours; `check` says what is wrong with a name; `files`
    are those that the script takes."""
    group = parser.add_argument_group("model")
    about = f"{models_in_words(models)}; a file with a model card needs none"
    group.add_argument("-m", "--model", type=architecture, check=check, help=about)
    group.add_argument("-w", "--weights", required=required_weights, check=no_file, metavar="FILE", help=files)
    return group


def add_card_facts(group):
    """-c/--classes, --image_size: what a file without a model card cannot say itself."""
    about = "class names, one a line, for a file without a model card"
    group.add_argument("-c", "--classes", check=no_file, metavar="FILE", help=about)
    group.add_argument("--image_size", type=int, check=side(), help="pixels, for a file without a model card")


def add_tta(group):
    """--tta: what else a network is asked about; the names are those of utils.inference.mirrored.AUGMENTED."""
    about = "flip answers with the average for the image and its mirror image, in twice the time"
    group.add_argument("--tta", default="none", choices=("none", "flip"), help=about)


def add_data(parser, check, *, default="FashionMNIST"):
    """-d/--dataset, --data_dir, --batch_size, --num_workers: which images, and how many at a time.

    `check` says what is wrong with the name of a data set. With `default` None the model card says which, and where it lies.
    """
    group = parser.add_argument_group("data")
    group.add_argument(
        "-d", "--dataset", default=default, check=check, help="FashionMNIST, digits, a folder, table, list, shards or hf:NAME"
    )
    folder, hint = ("data/", "") if default else (None, "; default: as in the card, else data/")
    group.add_argument("--data_dir", default=folder, help=f"where registered data sets lie or are downloaded to{hint}")
    group.add_argument("--batch_size", type=int, default=128, check=between(1, MOST_IMAGES), help="images a batch")
    group.add_argument("--num_workers", type=int, default=8, check=between(0, MOST_PROCESSES), help="most loader processes")
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
    group.add_argument(
        "--num_classes", type=int, check=between(1, MOST_CLASSES), help="outputs: those of the checkpoint, or 10"
    )
    group.add_argument("--image_size", type=int, check=side(), help="side of the input in px: the checkpoint's, or 224")
    return group


def counting_parser(doc, models, check):
    """The flags of the scripts that run one counter: which network, how deep a table, and where."""
    parser = Parser(doc)
    add_model(parser, models, check)
    add_size(parser)
    parser.add_argument("--max_depth", type=int, check=at_least(0), help="print the tool's table to this module depth only")
    add_device(parser)
    return parser


def model_or_weights(args):
    """Cross-flag check: some network must be named."""
    return [] if args.model or args.weights else ["give -m/--model NAME or -w/--weights FILE: which network is it?"]
