import pytest

from utils.core import cli
from utils.core.errors import UserError


def parser():
    p = cli.Parser("What it does.\n\n  python3 it.py --count 3")
    p.add_argument("--count", type=int, default=2, check=cli.at_least(1), help="how many")
    group = p.add_argument_group("more")
    group.add_argument("--share", type=float, default=0.1, check=cli.between(0, 1, closed=False), help="part")
    group.add_argument("--flag", action="store_true", help="on")
    return p


def test_defaults_and_what_was_given():
    args = parser().parse(argv=["--share", "0.1"])
    assert (args.count, args.share, args.flag, args.given) == (2, 0.1, False, {"share"})


def test_all_faults_are_reported_together():
    with pytest.raises(UserError) as error:
        parser().parse(argv=["--count", "-1", "--share", "1", "--shar", "3"])
    message = str(error.value)
    assert "--count -1 must be 1 or more" in message and "--share 1.0 must be at least 0 and under 1" in message
    assert "unknown flag --shar, did you mean --share?" in message


def test_a_name_is_checked_before_anything_is_loaded():
    p = parser()
    cli.add_model(p, ["resnet18", "custom"])
    assert p.parse(argv=["-m", "custom"]).model == "custom" and p.parse(argv=[]).model is None
    with pytest.raises(UserError, match=r"--model resnet19 is no known model. Did you mean 'resnet18'\? Known: resnet18"):
        p.parse(argv=["-m", "resnet19"])


def test_cross_checks_run_once_the_ranges_are_right():
    check = lambda args: ["first"] * (args.count > 2) + ["second"] * args.flag  # noqa: E731
    with pytest.raises(UserError, match="first; second"):
        parser().parse(check, argv=["--count", "3", "--flag"])


@pytest.mark.parametrize("argv", [["--count", "three"], ["--count"], ["stray"]])
def test_what_argparse_refuses_is_a_sentence_too(argv):
    with pytest.raises(UserError):
        parser().parse(argv=argv)


def test_help_shows_defaults_and_examples():
    text = parser().format_help()
    assert "What it does." in text and "python3 it.py --count 3" in text and "(default: 2)" in text
