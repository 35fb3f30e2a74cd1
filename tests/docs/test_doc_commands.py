"""Every command of README.md and docs/ runs as it is written, and prints what the page shows."""

import json
import pathlib
import re
import shlex
import shutil
from dataclasses import replace

import pytest
from markdown_blocks import ROOT, Command, blocks, missing_line, other_fences, pages

from docs import make_tables
from utils.core.flag_files import flag_lines
from utils.training.files import RunFiles

NOT_RUN = 14  # blocks, each with a reason: it may become less
SLOW = [page for page in pages() if any(block.note == "slow" for block in blocks(page))]


def name_of(page):
    return page.stem


@pytest.mark.parametrize("page", pages()[1:], ids=name_of)
def test_the_commands_of_a_page_run(page, project, shell, printed):
    shell(project, [block for block in blocks(page) if not block.note], printed)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW, ids=name_of)
def test_the_slow_commands_of_a_page_run(page, project, shell):
    shell(project, [block for block in blocks(page) if block.note == "slow"])


def test_the_readme_leads_to_a_verified_int8_file(after_readme):
    assert (after_readme / "weights/photos/custom/converted_models/custom_int8.onnx").stat().st_size > 100_000
    commands = [command.text for block in blocks(ROOT / "README.md") if not block.note for command in block.commands]
    assert len([text for text in commands if "photos" in text and "docs/" not in text]) == 6


@pytest.mark.slow
@pytest.mark.data
def test_the_six_commands_run_on_real_photographs(shell, real_data, clone):
    """As the README has them, on 2,500 photographs of ten classes in place of those that it makes."""
    shutil.copytree(real_data / "cifar10_sample", clone / "photos")
    (six,) = [block for block in blocks(ROOT / "README.md") if len(block.commands) == 6]
    ask = Command("echo $?")  # some of these photographs are copies: the check says so and ends with status 1
    commands = [step for command in six.commands for step in ([command, ask] if "check_dataset" in command.text else [command])]
    printed = shell(clone, [replace(six, commands=commands)])
    answers = printed[six.commands[-1].words]
    assert "2,500 images answered" in answers and answers.count("photos/val/cat/") == 50
    result = json.loads((clone / "results" / "accuracy" / "photos" / "custom.json").read_text())
    assert result["Acc@1"] > 0.35 and sum(map(sum, result["confusion matrix"])) == 500


def test_the_table_of_a_runs_files_is_complete(tmp_path):
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    files = [path.name for path in vars(RunFiles(tmp_path)).values() if isinstance(path, pathlib.Path) and path.suffix]
    assert len(files) > 6 and all(f"`{name}`" in page.partition("It writes to")[2].partition("## ")[0] for name in files)


def test_few_blocks_are_not_run_and_each_says_why():
    left_out = [block for page in pages() for block in blocks(page) if block.note == "not run"]
    assert all(len(block.reason) > 10 for block in left_out), [str(block) for block in left_out]
    assert len(left_out) <= NOT_RUN, "\n".join(f"{block}: {block.reason}" for block in left_out)


def test_commands_that_are_not_run_have_flags_that_exist(monkeypatch):
    monkeypatch.chdir(ROOT)  # they name files with flags
    known = {}
    for block in (block for page in pages() for block in blocks(page) if block.note == "not run"):
        for command in block.commands:
            found = re.search(r"(?:python|torchrun).*?((?:benchmarks/)?\w+\.py) ?(.*)", command.text.partition(" #")[0])
            if found:
                script, flags = found.groups()
                parser = known.setdefault(script, make_tables.parser_of(script))
                words = shlex.split(flags.partition(" && ")[0])
                recipes = [word for path in words if path.startswith("@") for _, line in flag_lines(path[1:]) for word in line]
                parser.parse_args([*recipes, *(word for word in words if word[0] != "@")])  # raises for what is unknown


def test_no_command_hides_in_a_block_that_is_not_read():
    for page in pages():
        for body in other_fences(page):
            assert not re.search(r"^(\$ |python |make |torchrun |docker )", body, re.MULTILINE), f"{page.name}: {body}"
        assert not re.search(r"^    (\$ |python )", page.read_text(encoding="utf-8"), re.MULTILINE), page.name


def test_one_spelling_of_the_interpreter():
    for page in pages():
        text = page.read_text(encoding="utf-8").replace("python3 -m venv .venv", "").replace("PYTHON=python3.12", "")
        assert not re.search(r"python3|\.venv/bin/python", text), page.name


def test_make_knows_what_the_readme_names():
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in pages():
        for target in re.findall(r"\bmake ([a-z-]+)(?=`|    )", page.read_text(encoding="utf-8")):
            assert re.search(rf"^{target}:", rules, re.MULTILINE), f"{page.name} names make {target}"


def test_shown_output_is_compared_without_its_numbers():
    printed = ["size  4.32 MB", "rows", "Acc@1  0.8750", "end"]
    assert missing_line(["size 1 MB", "…", "end"], printed) is None
    assert missing_line(["…", "Acc@1 0.1"], printed) is None
    assert missing_line(["Acc@… 0.1"], printed) == "Acc@… 0.1"
    assert missing_line(["size 1 MB", "end"], printed) == "end"
    assert missing_line(["size 1 kB"], printed) == "size 1 kB"
    assert missing_line(["written:", "  a"], ["written:", "  a", "  b"]) == "written: b"
    assert missing_line(["written:", "  a", "…"], ["written:", "  a", "  b"]) is None


def test_a_command_that_fails_is_found(project, shell):
    block = blocks(ROOT / "docs" / "quickstart.md")[0]
    for wrong in (Command("python eval.py -w nothere.pth"), Command("echo a", ["b"])):
        with pytest.raises(AssertionError, match=r"quickstart\.md"):
            shell(project, [type(block)(block.page, 1, "", "", [wrong])])
