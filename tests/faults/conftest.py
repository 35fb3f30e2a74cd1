"""What the tests of crafted files share: many files opened in one process, and how each of them ended."""

import collections
import json
import pathlib
import subprocess
import sys

import pytest

ASK = pathlib.Path(__file__).with_name("ask.py")


@pytest.fixture
def ask(tmp_path):
    """ask(kind, paths) -> ({path: answer}, {path: sentence}); fails where a file ended in a traceback, or with its process."""

    def call(kind, paths, seconds=900):
        paths = [str(path) for path in paths]
        (tmp_path / "cwd").mkdir(exist_ok=True)
        log = tmp_path / "ask.log"
        with log.open("w") as errors:
            try:
                done = subprocess.run(
                    [sys.executable, str(ASK)], input=json.dumps([[kind, path] for path in paths]), cwd=tmp_path / "cwd",
                    stdout=subprocess.PIPE, stderr=errors, text=True, timeout=seconds,
                )  # fmt: skip
                out, status = done.stdout, done.returncode
            except subprocess.TimeoutExpired as late:
                out, status = (late.stdout or b"").decode(), "no end"
        ended = [json.loads(line) for line in out.splitlines()]
        if len(ended) < len(paths):
            pytest.fail(f"{paths[len(ended)]}: {status}\n{log.read_text()[-3000:]}")
        found = collections.defaultdict(dict)
        for one in ended:
            found[one["ended"]][one["path"]] = one["answer"]
        assert not found["traceback"], json.dumps(found["traceback"], indent=1)[:3000]
        assert all("\n" not in sentence for sentence in found["refused"].values())
        return found["answered"], found["refused"]

    return call


@pytest.fixture
def python(monkeypatch):
    """python(code, *arguments) -> what the code prints, in a process of its own that can import the project."""

    def call(code, *arguments):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.run(command, cwd=ASK.parent.parent.parent, capture_output=True, text=True, check=True).stdout

    return call
