"""Processes that a script starts to share its work."""

import multiprocessing
import os
import signal
import threading
import time

CHECK_EVERY = 1.0  # seconds


def begin_worker():
    """Call this first in a process of a pool: the process that started it answers interrupts, and takes it along when it dies.

    Otherwise the processes of a pool wait for work forever once that was killed, and hold what it had open.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=[multiprocessing.parent_process().pid], daemon=True).start()


def _end_with(parent):
    while os.getppid() == parent:
        time.sleep(CHECK_EVERY)
    os._exit(1)
