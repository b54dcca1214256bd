"""Tasks that the tests run, in a module that workers can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from diffusion.cluster.tasks import result
from diffusion.kernels.threads import cores


def write(path, text="written"):
    with result(path) as file:
        file.write_text(text)
    return str(path)


def write_folder(path, *names):
    with result(path) as folder:
        folder.mkdir()
        for name in names:
            (folder / name).write_text(name)
    return str(path)


def write_array(path, length):
    with result(path) as folder:
        folder.mkdir()
        np.save(folder / "array.npy", np.arange(length))
    return str(path)


def die_once(path, flag):
    """Die in the middle of the result, unless there is a file `flag`, which is made before."""
    with result(path) as file:
        file.write_text("half of it")
        if flag is not None and not os.path.exists(flag):
            Path(flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        file.write_text("written")
    return str(path)


def die(path):
    os.kill(os.getpid(), signal.SIGKILL)


def write_number(path):
    return write(path, f"{os.getpid()} {cores()}")


def write_number_and_wait(path):
    write(path, str(os.getpid()))
    time.sleep(600)
    return path


def fail(path, message):
    if message:
        raise LookupError(message)
    return write(path)


def write_elsewhere(path):
    write(f"{path}.elsewhere")
    return path


def ignores_interrupts(path):
    """Write whether Ctrl-C is kept from this process."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return write(path, f"{os.getpid()} {int(signal.SIGINT in blocked)}")
