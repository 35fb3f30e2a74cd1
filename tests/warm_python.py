"""A `python` for the commands of the docs that has imported PyTorch already: each command is a fork of it.

A page runs a dozen scripts, and each would import the same libraries for seconds. `WarmPython` starts one process that imports
them and nothing of the project. The command `python` on its PATH hands arguments, environment and open files to that
process, which forks and runs the script as `__main__`.
"""

import atexit
import io
import json
import os
import pathlib
import runpy
import signal
import socket
import subprocess
import sys
import traceback

LIBRARIES = (  # without onnxruntime: it starts a thread, which a fork does not have and waits for at its end
    "torch",
    "torch._dynamo",
    "torch.export",
    "torch.onnx",
    "torch.utils.data",
    "torchvision",
    "torchmetrics",
    "onnx",
    "onnxscript",
    "sklearn.datasets",
    "matplotlib.pyplot",
    "tqdm",
)
CLIENT = """#!{python} -IS
import json, os, socket, sys
server = socket.socket(fileno=int(os.environ["WARM_PYTHON"]))
reading, writing = os.pipe()
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [request], [0, 1, 2, writing])
os.close(writing)
status = os.read(reading, 8)
sys.exit(int(status) if status else 1)
"""


class WarmPython:
    """Context manager: the process, and the environment in which `python` is a fork of it."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def __enter__(self):
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        os.set_inheritable(self.ours.fileno(), True)
        self.folder.mkdir(parents=True)
        client = self.folder / "python"
        client.write_text(CLIENT.format(python=sys.executable), encoding="utf-8")
        client.chmod(0o755)
        (self.folder / "torchrun").symlink_to(pathlib.Path(sys.executable).with_name("torchrun"))
        environment = self.environment({})
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.ours.close()

    @property
    def fds(self):
        """The file descriptors that a shell must inherit."""
        return [self.ours.fileno()]

    def environment(self, more):
        """os.environ with `python` first on the PATH, one thread and no GPU."""
        path = f"{self.folder}{os.pathsep}{os.environ.get('PATH', '')}"
        fixed = {"PATH": path, "WARM_PYTHON": str(self.ours.fileno()), "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""}
        return os.environ | fixed | {"OMP_NUM_THREADS": "1"} | more


def serve(connection):
    """Wait for requests, and return `(arguments, folder, environment)` in a new process for each of them."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # finished commands need no wait
    while True:
        request, fds, *_ = socket.recv_fds(connection, 1 << 20, 4)
        if os.fork() == 0:
            break
        for fd in fds:
            os.close(fd)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    connection.close()
    *streams, reply = fds
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(reply, str(status if status >= 0 else 128 - status).encode())
        os._exit(0)
    os.close(reply)
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    return json.loads(request)


def run(arguments, folder, environment):
    """What `python ARGUMENTS` does: a script, `-m module` or `-c code`."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # Line by line, as both streams go to one file and must stay in order
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(fd, "w"), "utf-8", line_buffering=True) for fd in (1, 2))
    kind, *rest = arguments
    if kind in ("-m", "-c"):
        sys.path[0] = folder
        sys.argv = [kind, *rest[1:]]
        if kind == "-c":
            exec(rest[0], {"__name__": "__main__"})
        else:
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(pathlib.Path(kind).resolve().parent)
        sys.argv = list(arguments)
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    for library in LIBRARIES:
        __import__(library)
    asked, status = serve(socket.socket(fileno=int(sys.argv[1]))), 0
    try:
        run(*asked)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        print(end.code if isinstance(end.code, str) else "", end="", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # taking PyTorch apart in order would take seconds
