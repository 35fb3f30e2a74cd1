"""TensorBoard itself on a folder of logs, asked over HTTP."""

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request


class TensorBoard:
    """A context manager around a server on a free port. It has read the logs when it is entered."""

    def __init__(self, folder, losses):
        """`losses`: how many runs in `folder` have a chart of the loss; it waits for that many."""
        self.folder, self.losses = folder, losses

    def __enter__(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}/"
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(self.folder), "--port", str(port)]
        nowhere = subprocess.DEVNULL
        self.process = subprocess.Popen([*command, "--load_fast", "false"], stdout=nowhere, stderr=nowhere)
        deadline = time.monotonic() + 120
        while not self._is_ready():
            if time.monotonic() > deadline:
                self.__exit__()
                raise TimeoutError(f"TensorBoard does not show {self.folder}")
            time.sleep(1)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def _is_ready(self):
        with contextlib.suppress(OSError):
            return sum("loss" in tags for tags in self.ask("scalars", "tags").values()) >= self.losses

    def read(self, *place, post=None, **query):
        """The bytes that a plugin answers with: read("images", "individualImage", blob_key=…)."""
        address = f"{self.address}data/plugin/{'/'.join(place)}?{urllib.parse.urlencode(query)}"
        request = urllib.request.Request(address, post and json.dumps(post).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def ask(self, *place, **wanted):
        """That answer, read as JSON: ask("scalars", "tags")."""
        return json.loads(self.read(*place, **wanted))
