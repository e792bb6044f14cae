"""MLflow for a root, on loopback, with the studies' own pages inside it."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import NoReturn

from study.names import PAGES, Layout, runs_page
from study.web.server import PLAIN, ROOT_VARIABLE
from ude_core.errors import UserError

HOST = "127.0.0.1"
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
"""What the server is started with: nothing leaves this machine, no pickle is read."""


def serve_mlflow(root: Path, port: int) -> NoReturn:
    """Become the MLflow server of `root`. Raises UserError where the port is taken."""
    layout = Layout.at(root)
    if not layout.mlflow_database.is_file():
        raise UserError(f"{layout.mlflow_database} is not there yet; launch a study under {root}")
    refuse_taken_port(port)
    command = server_command(layout, port)
    address = f"http://{HOST}:{port}"
    lines = [f"{address}{PAGES}/  the studies (Ctrl-C stops it)", f"{address}  MLflow"]
    lines += [f"{runs_page(address, name)}  MLflow's table of {name}" for name in layout.studies()]
    for line in lines:
        print(line, file=sys.stderr, flush=True)  # noqa: T201
    os.execve(command[0], command, os.environ | ENVIRONMENT | {ROOT_VARIABLE: str(layout.root)})


def server_command(layout: Layout, port: int) -> list[str]:
    """Return the server's command line. It holds paths and no secret."""
    return [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--app-name",
        PLAIN,
        "--backend-store-uri",
        layout.mlflow_uri,
        "--artifacts-destination",
        str(layout.mlflow_artifacts),
        "--host",
        HOST,
        "--port",
        str(port),
        "--workers",
        "1",
    ]


def refuse_taken_port(port: int, *, option: str = "--port") -> None:
    """Raise UserError naming the port where something listens on it already."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"port {port} on {HOST} cannot be used ({error.strerror}); choose another with "
                f"{option}"
            ) from error
