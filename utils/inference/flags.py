"""The flags that both predict scripts share, as utils.core.cli has those of all scripts."""

from utils.core.cli import add_tta, at_least, between, same_file
from utils.core.inputs import no_place, no_place_for_files, unless
from utils.core.walk import MAX_PIXELS


def add_flags(parser):
    """Which images, and where the answers go."""
    images = parser.add_argument_group("images")
    images.add_argument("-i", "--image", required=True, nargs="+", metavar="FILE|FOLDER|GLOB", help="what to classify")
    images.add_argument("--batch_size", type=int, default=32, check=at_least(1), help="images at a time")
    images.add_argument("--max_pixels", type=int, default=MAX_PIXELS, check=at_least(1), help="refuse larger images")
    answers = parser.add_argument_group("answers")
    answers.add_argument(
        "--topk",
        type=int,
        default=5,
        check=at_least(1),
        metavar="K",
        help="print the K likeliest classes; without it one is printed and five are written",
    )
    answers.add_argument(
        "--threshold", type=float, default=0.0, check=between(0, 1), metavar="P", help="answer unknown below P"
    )
    add_tta(answers)
    answers.add_argument("--labelled", action="store_true", help="folders are classes: print how many answers are right")
    place = {"check": unless("-", no_place), "metavar": "FILE|-"}
    answers.add_argument("--json", **place, help="write the answers as JSON; - is standard output")
    answers.add_argument("--csv", **place, help="write the answers as CSV; - is standard output")
    answers.add_argument(
        "--save_dir", check=no_place_for_files, metavar="DIR", help="write the images with the answer drawn on"
    )


def flags_agree(args):
    """Faults of output flags that do not go together."""
    faults = same_file(args, "json", "csv")
    if args.json == args.csv == "-":
        faults = ["--json - and --csv - both want standard output; give one of them a file"]
    return faults


def options_of(args):
    """The parsed flags as Options."""
    from utils.inference.answers import Options  # not above: numpy takes a moment, which a mistyped flag needs not

    names = ("topk", "batch_size", "threshold", "max_pixels", "json", "csv", "save_dir", "labelled")
    return Options(**{name: getattr(args, name) for name in names}, show_topk="topk" in args.given)
