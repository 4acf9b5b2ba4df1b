"""Child processes that fork from one that has imported what SAELens imports: it takes 5 s of every new one.

SAELens and the package are imported in none beforehand: what holds of importing them in a new process holds here, too.
"""

import multiprocessing
import os
import signal
import socket
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from threading import Thread

import torch

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["torch._dynamo", "transformers", "datasets", "transformer_lens"])


@dataclass
class Fork:
    """A running process, with the reading ends of its output."""

    process: BaseProcess
    stdout: Connection
    stderr: Connection

    def wait(self, timeout: float = 900) -> CompletedProcess[str]:
        """Its exit code, and what it has written and nobody has read. Raises TimeoutError where it does not end."""
        pipes, read = (self.stdout, self.stderr), ["", ""]

        def drain(number: int) -> None:
            with open(pipes[number].fileno(), closefd=False, encoding="utf-8", errors="replace") as pipe:
                read[number] = pipe.read()

        threads = [Thread(target=drain, args=[number], daemon=True) for number in range(2)]
        for thread in threads:
            thread.start()
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"the process did not end in {timeout:g} s")
        for thread in threads:
            thread.join(timeout)
        return CompletedProcess([], self.process.exitcode, *read)


def start(
    code: str | Path, *arguments: object, environment: dict[str, str] | None = None, session: bool = False
) -> Fork:
    """Start Python with this code, or the script at a path, and arguments; without warnings, with more environment;
    in a session of its own if asked."""
    (stdout, out), (stderr, err) = Pipe(duplex=False), Pipe(duplex=False)
    process = SERVER.Process(
        target=_run, args=(code, [str(a) for a in arguments], {**os.environ, **(environment or {})}, session, out, err)
    )
    process.start()
    out.close()
    err.close()
    return Fork(process, stdout, stderr)


def run(code: str | Path, *arguments: object, environment: dict[str, str] | None = None) -> CompletedProcess[str]:
    """Start it, and wait for its end."""
    return start(code, *arguments, environment=environment).wait()


def together(code: str | Path, *arguments: Sequence[object]) -> list[CompletedProcess[str]]:
    """Run it in as many processes as there are lists of arguments, each with the environment that torchrun gives."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(len(arguments))}
    processes = [start(code, *of, environment={**address, "RANK": str(n)}) for n, of in enumerate(arguments)]
    return [process.wait() for process in processes]


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        return there.getsockname()[1]


def _run(
    code: str | Path, arguments: list[str], environment: dict[str, str], session: bool, out: Connection, err: Connection
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    if session:
        os.setsid()
    for pipe, descriptor in ((out, 1), (err, 2)):
        os.dup2(pipe.fileno(), descriptor)
        pipe.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background shells pass on that it is ignored
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sys.argv = ["-c", *arguments]
    source = code.read_text(encoding="utf-8") if isinstance(code, Path) else code
    exec(compile(source, str(code) if isinstance(code, Path) else "<code>", "exec"), {"__name__": "__main__"})
