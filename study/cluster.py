"""The way to Ray: a cluster that runs already, or one of this machine's own for a single study."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import psutil
import ray

from study.resources import Resources
from ude_core.errors import UserError

log = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 128 * 1024**2
_GIB = 1024**3
_REASON_LENGTH = 300


def trial_resources(resources: Resources) -> dict[str, float]:
    """Return what each worker of a trial takes of a node, under Ray's names; memory in bytes."""
    wanted: dict[str, float] = {
        "CPU": resources.cpus_per_trial,
        "GPU": resources.gpus_per_trial,
        "memory": round(resources.memory_gib_per_trial * _GIB),
        **resources.custom_per_trial,
    }
    return {name: amount for name, amount in wanted.items() if amount > 0}


def unplaceable(wanted: Mapping[str, float], nodes: list[Mapping[str, float]]) -> str | None:
    """Return why no node could take a trial, or None where one could.

    >>> unplaceable({"CPU": 1, "GPU": 0.5}, [{"CPU": 4}])
    'a trial takes CPU 1, GPU 0.5, and no node offers that (the most: CPU 4, GPU 0)'
    """
    if any(all(node.get(n, 0.0) >= amount for n, amount in wanted.items()) for node in nodes):
        return None
    most = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in wanted}
    return f"a trial takes {_listed(wanted)}, and no node offers that (the most: {_listed(most)})"


def _listed(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in amounts.items())


@contextlib.contextmanager
def connected(resources: Resources, address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start Ray in this machine with room for every worker."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    with _own_signal_handlers():
        _init(resources, address, quiet)
    try:
        yield
    finally:
        _shut_down()


def _init(resources: Resources, address: str | None, quiet: dict[str, Any]) -> None:
    if address is None:
        places = resources.workers * resources.workers_per_trial
        cpus = max(psutil.cpu_count() or 1, places * resources.cpus_per_trial)
        gpus = math.ceil(places * resources.gpus_per_trial)
        ray.init(
            address="local",
            num_cpus=cpus,
            num_gpus=None if gpus else 0,
            resources=_quotas(resources),
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            **quiet,
        )
    else:
        _attach(address, quiet)
        problem = unplaceable(trial_resources(resources), _nodes())
        if problem is not None:
            log.warning("%s; trials wait until such a node joins", problem)


def _attach(address: str, quiet: dict[str, Any]) -> None:
    """Join a running cluster. Raises UserError where none answers, or it refuses this driver."""
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:_REASON_LENGTH]
        raise UserError(
            f"--address {address}: no Ray cluster took this driver: {said}; name its head as "
            "host:port (auto: the cluster of this machine), and its token in RAY_AUTH_TOKEN_PATH"
        ) from None


def _nodes() -> list[Mapping[str, float]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def _quotas(resources: Resources) -> dict[str, float]:
    """Return enough of every resource that only a cluster's nodes know by name."""
    return {
        name: math.ceil(amount * resources.workers * resources.workers_per_trial)
        for name, amount in resources.custom_per_trial.items()
    }


@contextlib.contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep the driver's handlers: Ray puts one in their place that exits without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shut_down() -> None:
    """Leave Ray.

    A reference to one of its objects that another thread's garbage collection frees while Ray shuts
    down ends the whole process: they are collected here first, and none may be meanwhile.
    """
    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()
