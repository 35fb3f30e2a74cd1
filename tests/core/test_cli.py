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


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--epochs", "--max_epoch"),
        ("--lr", "--base_lr"),
        ("--batch", "--batch_size"),
        ("-b", "--batch_size"),
        ("--batch-size", "--batch_size"),
        ("--imgsz", "--image_size"),
        ("--img_size", "--image_size"),
        ("--workers", "--num_workers"),
        ("--data", "--dataset"),
        ("-dataset", "--dataset"),
        ("--patience", "--early_stop"),
        ("--out", "--output"),
        ("--checkpoint", "--weights"),
        ("--datset", "--dataset"),
    ],
)
def test_a_mistyped_flag_is_understood_by_meaning_or_by_spelling(given, meant):
    p = cli.Parser("What it does.")
    cli.add_model(p, ["custom"], cli.known("model", ["custom"]), required_weights=True)
    cli.add_data(p, lambda name: None)
    for flag in ("--max_epoch", "--base_lr", "--image_size", "--early_stop", "--output"):
        p.add_argument(flag)
    with pytest.raises(UserError, match=f"^unknown flag {given}, did you mean {meant}\\?$"):
        p.parse(argv=[given, "3"])
    with pytest.raises(UserError, match=f"^unknown flag {given}, did you mean {meant}\\?$"):
        p.parse(argv=[f"{given}=3"])


def test_only_flags_that_the_script_has_are_suggested():
    every = {name for wanted in cli.MEANT for name in wanted.split()}
    with pytest.raises(UserError, match=r"^unknown flag --epochs \(see --help\)$"):
        parser().parse(argv=["--epochs", "3"])
    assert "max_epoch" in every and not {name for names in cli.MEANT.values() for name in names.split()} & every


def test_what_looks_like_a_flag_and_is_a_value():
    p = parser()
    p.add_argument("-m", "--model", choices=["custom"])
    p.add_argument("-w", "--weights")
    args = p.parse(argv=["-mcustom", "--share=0.5", "-wnew model.pth"])
    assert (args.model, args.share, args.weights) == ("custom", 0.5, "new model.pth")
    with pytest.raises(UserError, match="--count -1 must be 1 or more"):
        p.parse(argv=["--count", "-1"])


@pytest.mark.parametrize("argv", [["--share", "nan"], ["--share=inf"], ["--count", "9" * 30], ["--flag=--"], ["--count=--"]])
def test_odd_numbers_are_refused(argv):
    with pytest.raises(UserError, match=argv[0].split("=")[0]):
        parser().parse(argv=argv)


@pytest.mark.parametrize("argv", [["-w", ""], ["--weights="], ["-m", ""]])
def test_an_empty_value_is_refused(argv):
    p = parser()
    cli.add_model(p, ["custom"], cli.known("model", ["custom"]))
    with pytest.raises(UserError, match="is empty"):
        p.parse(argv=argv)


def test_a_name_is_checked_before_anything_is_loaded():
    p = parser()
    cli.add_model(p, ["resnet18", "custom"], cli.known("model", ["resnet18", "custom"]))
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


def test_what_is_missing_is_said_beside_the_other_faults():
    p = parser()
    p.add_argument("-w", "--weights", required=True, help="a checkpoint (.pth)")
    with pytest.raises(UserError, match=r"^a.pth belongs to no flag; --count 0 .*; -w/--weights is missing: a checkpoint .*$"):
        p.parse(argv=["a.pth", "--count", "0"])
    with pytest.raises(UserError, match=r"^unknown flag --wieghts, did you mean --weights.$"):
        p.parse(argv=["--wieghts", "a.pth"])


def test_the_nearest_choice_is_named():
    p = parser()
    p.add_argument("--engine", choices=("onnx", "pt2"))
    with pytest.raises(UserError, match=r"--engine: invalid choice: 'onx'. Did you mean 'onnx'\? Known: onnx, pt2 "):
        p.parse(argv=["--engine", "onx"])


def test_help_shows_defaults_and_examples():
    text = parser().format_help()
    assert "What it does." in text and "python3 it.py --count 3" in text and "(default: 2)" in text


def file_of(tmp_path, text, name="flags.txt"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return f"@{tmp_path / name}"


def test_flags_are_read_from_a_file_in_the_place_where_it_stands(tmp_path):
    file = file_of(tmp_path, "# a recipe\n\n--count 5   # five\n--share=0.5 --flag\n")
    args = parser().parse(argv=["--count", "3", file])
    assert (args.count, args.share, args.flag, args.given) == (5, 0.5, True, {"count", "share", "flag"})
    assert parser().parse(argv=[file, "--count", "3"]).count == 3


def test_words_of_a_file_are_split_as_a_shell_splits_them(tmp_path):
    p = parser()
    p.add_argument("-w", "--weights")
    for line, weights in (
        (r'-w "a # b.pth" # c', "a # b.pth"),
        ("-w a#b.pth", "a#b.pth"),
        (r"-w it\'s.pth # don't", "it's.pth"),
    ):
        assert p.parse(argv=[file_of(tmp_path, line)]).weights == weights


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--flag\n\n--cuont 3", "line 3: unknown flag --cuont, did you mean --count?"),
        ("--count x", "line 1: --count: invalid int value"),
        ("--count 0\n--share 2", "line 1: --count 0 must be 1 or more; .*line 2: --share 2.0 must be"),
        ("--count", "line 1: --count: expected one argument"),
        ("--flag 'x", "line 1: no closing quotation"),
        ("\n@other.txt", "line 2: @other.txt: a file of flags cannot name another one"),
        ("stray", "line 1: stray belongs to no flag"),
    ],
)
def test_a_fault_in_a_file_of_flags_names_file_and_line(text, message, tmp_path):
    with pytest.raises(UserError, match=f"flags.txt, {message}"):
        parser().parse(argv=[file_of(tmp_path, text)])


def test_a_line_of_a_file_may_be_wrong_where_the_flag_is_given_again(tmp_path):
    file = file_of(tmp_path, "--count 0")
    assert parser().parse(argv=[file, "--count=3"]).count == 3
    with pytest.raises(UserError, match="line 1: --count 0"):
        parser().parse(argv=["--count", "3", file, "--flag"])


def test_a_file_of_flags_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "image.png").write_bytes(b"\xff\xd8")
    for name, reason in (("nothing.txt", "No such file"), ("image.png", "not a text file"), ("a\0b", "not a text file")):
        with pytest.raises(UserError, match=f"{name} cannot be read .{reason}"):
            parser().parse(argv=[f"@{tmp_path / name}"])


def test_a_required_flag_may_stand_in_a_file_or_beside_it(tmp_path):
    p = parser()
    p.add_argument("-w", "--weights", required=True)
    assert p.parse(argv=[file_of(tmp_path, "--count 4"), "-w", "a.pth"]).count == 4
    with pytest.raises(UserError, match="-w/--weights is missing"):
        p.parse(argv=[file_of(tmp_path, "--count 4")])


def test_what_was_given_can_be_written_and_read_again(tmp_path):
    p = parser()
    p.add_argument("-w", "--weights")
    p.add_argument("--names", nargs="+")
    p.add_argument("--offset", type=float)
    argv = ["--flag", "--share", "1e-6", "-w", "a '#1' b.pth", "--names", "x y", "#z", "--offset=-2", "--count", "7"]
    args = p.parse(argv=argv)
    text = p.as_file(args, without=["count"])
    again = p.parse(argv=[file_of(tmp_path, text, "args.txt")])
    assert "\n# --count 7\n" in text and again.count == 2 and again.given == args.given - {"count"}
    assert all(getattr(again, name) == getattr(args, name) for name in again.given)
    assert p.parse(argv=[file_of(tmp_path, p.as_file(p.parse(argv=["-w=@a"])))]).weights == "@a"


def test_cuda_beside_another_device_is_refused():
    parser = cli.Parser("x")
    cli.add_device(parser)
    with pytest.raises(UserError, match="--cuda contradicts --device cpu"):
        parser.parse(argv=["--cuda", "--device", "cpu"])
    assert parser.parse(argv=["--cuda", "--device", "cuda"]).cuda and parser.parse(argv=["--cuda"]).cuda
