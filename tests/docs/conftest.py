"""A copy of the project in which the commands of the docs run, and a shell that runs them."""

import fcntl
import json
import os
import pathlib
import shutil
import subprocess

import pytest
from markdown_blocks import ROOT, blocks, missing_line
from warm_python import WarmPython

WRITTEN = ("accuracy", "complexity", "predictions", "quantization", "receptive_field")
KEPT_OUT = (".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "logs", "tests")


def copy_of_the_project(target):
    """What a clone holds, without anything that was made in this one."""
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*KEPT_OUT))
    for folder in ("weights", "data", *(f"results/{kind}" for kind in WRITTEN)):
        shutil.rmtree(target / folder, ignore_errors=True)
    tracked = subprocess.run(["git", "ls-files", "weights", "data"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in tracked.stdout.split():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target / name)


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory):
    with WarmPython(tmp_path_factory.mktemp("python") / "bin") as python:
        yield python


@pytest.fixture(scope="session")
def shell(warm_python, tmp_path_factory):
    """Run blocks of commands: shell(folder, blocks) raises AssertionError for the first that does not do what its page says.

    `known` holds what commands printed in this folder already; they are not run again before another command has changed it.
    Returns what the commands of these blocks printed.
    """
    cache = tmp_path_factory.mktemp("caches")
    environment = warm_python.environment({"XDG_CACHE_HOME": str(cache), "TORCH_HOME": str(cache / "torch"), "COLUMNS": "200"})

    def run(folder, wanted, known=None):
        known, printed = known or {}, {}
        for block in wanted:
            if all(command.words in known for command in block.commands):
                results = [(command, 0, known[command.words]) for command in block.commands]
            else:
                results, known = _run(folder, block.commands, environment, warm_python.fds), {}
            for command, status, output in results:
                said = f"{block}: $ {command.text}\nstatus {status}\n{output}"
                assert status == 0 or _asks_for_status(block, command), said
                lacking = missing_line(command.output or [], output.splitlines())
                assert lacking is None, f"the page shows a line that is not printed there: {lacking}\n{said}"
                printed[command.words] = output
        return printed

    return run


def _asks_for_status(block, command):
    after = block.commands[block.commands.index(command) + 1 :]
    return bool(after) and after[0].text == "echo $?"


def _run(folder, commands, environment, fds):
    """[(command, exit status, output)], all in one shell, so that `$?` and variables go from one to the next."""
    mark = "\x01"
    parts = ['mark() { local status=$?; printf "\\n\\x01%d\\n" $status; return $status; }']
    for command in commands:
        parts += [command.text, "mark"]
    script = "\n".join(parts) + "\n"
    command = ["bash", "-c", script]
    done = subprocess.run(
        command, cwd=folder, env=environment, pass_fds=fds, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=900,
    )  # fmt: skip
    pieces = done.stdout.split(mark)
    outputs, statuses = [pieces[0]], []
    for piece in pieces[1:]:
        status, _, output = piece.partition("\n")
        statuses.append(int(status))
        outputs.append(output)
    assert len(statuses) == len(commands), f"the shell ended early:\n{done.stdout}"
    return [(c, s, o[:-1]) for c, s, o in zip(commands, statuses, outputs[:-1], strict=True)]  # without the mark's newline


@pytest.fixture(scope="session")
def after_readme(shell, tmp_path_factory):
    """A copy of the project in which the commands of the README have run. Made once, also for several pytest processes."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    project = shared / "project_of_the_docs"
    with open(shared / "project_of_the_docs.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (project / "printed.json").exists():
            shutil.rmtree(project, ignore_errors=True)
            copy_of_the_project(project)
            printed = shell(project, [block for block in blocks(ROOT / "README.md") if not block.note])
            (project / "printed.json").write_text(json.dumps(printed), encoding="utf-8")
    return project


@pytest.fixture
def printed(after_readme):
    """What the commands of the README have printed there, by command."""
    return json.loads((after_readme / "printed.json").read_text(encoding="utf-8"))


@pytest.fixture
def clone(tmp_path):
    """A copy of the project in which nothing has run, to write in."""
    copy_of_the_project(tmp_path / "clone")
    return tmp_path / "clone"


@pytest.fixture
def project(after_readme, tmp_path):
    """That copy, to write in."""
    return pathlib.Path(shutil.copytree(after_readme, tmp_path / "project"))
