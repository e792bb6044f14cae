"""A crew of processes on this machine, one device each, with nothing but the standard library."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType

from ude_core.replica import Replica
from ude_core.runtime import prepare_process
from ude_core.spread import WorkerLostError

TIMEOUT_SECONDS = 600.0
"""How long a worker may take to load its encoder and answer; after that it is ended."""

MakeReplica = Callable[[int], Replica]
"""From a worker's number to its replica: it chooses the device. Importable, or a partial of such."""


class ProcessCrew:
    """Spawned processes, each with a `Replica` of its own; see `spread.Crew`. A context manager.

    Worker i holds `make(i)`, for a GPU each with its encoder on cuda:i+1, the learner's own being
    on cuda:0. Processes end with this one, or when the crew is closed. As in
    `with ProcessCrew(3, make) as crew: run_trial(method, cohort, encoder, assets, seed=0, crew=crew)`.
    """

    def __init__(
        self,
        workers: int,
        make: MakeReplica,
        *,
        threads: int | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        self._timeout_seconds = timeout_seconds
        context = multiprocessing.get_context("spawn")
        self._connections: list[Connection] = []
        self._processes = []
        for worker in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(theirs, make, worker, threads), daemon=True
            )
            process.start()
            theirs.close()  # so that the end of the process is the end of its pipe
            self._connections.append(ours)
            self._processes.append(process)

    def __len__(self) -> int:
        return len(self._processes)

    def __enter__(self) -> ProcessCrew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, worker: int, message: bytes, images: int) -> None:
        """Hand a worker an order; nobody here notes its `images`. Raises WorkerLostError.

        That is where its process has ended.
        """
        try:
            self._connections[worker].send_bytes(message)
        except OSError as error:
            raise WorkerLostError(f"its process has ended ({error})") from error

    def receive(self, worker: int) -> bytes:
        """Wait for a reply. Raises WorkerLostError where the process ends, or takes too long."""
        connection = self._connections[worker]
        try:
            if connection.poll(self._timeout_seconds):
                return connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise WorkerLostError("its process has ended") from error
        self._end(worker)
        raise WorkerLostError(f"no answer in {self._timeout_seconds:g} s; its process was ended")

    def close(self) -> None:
        """End every process."""
        for worker in range(len(self)):
            self._end(worker)

    def _end(self, worker: int) -> None:
        self._connections[worker].close()
        process = self._processes[worker]
        process.terminate()
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()


def _work(connection: Connection, make: MakeReplica, worker: int, threads: int | None) -> None:
    """Answer orders until the other end is closed."""
    prepare_process(threads)
    replica = make(worker)
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            connection.send_bytes(replica.answer(connection.recv_bytes()))
