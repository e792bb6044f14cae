"""`serve` answers this machine alone, and no page of another site that points its name at it."""

import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import psutil
import pytest
from mlflow import MlflowClient
from mlflow_server import free_port

from study.names import Layout
from study.serve import ENVIRONMENT, server_command
from study.web.server import ROOT_VARIABLE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    root, port = tmp_path_factory.mktemp("served"), free_port()
    layout = Layout.at(root)
    MlflowClient(layout.mlflow_uri).search_experiments()  # makes the database
    with (root / "log").open("wb") as log:
        quiet = {**os.environ, **ENVIRONMENT, ROOT_VARIABLE: str(layout.root)}
        command = server_command(layout, port)
        server = subprocess.Popen(command, stdout=log, stderr=log, env=quiet)
        try:
            deadline = time.monotonic() + 180
            while answer(port, "/health") != 200:
                assert time.monotonic() < deadline, (root / "log").read_text()
                assert server.poll() is None, (root / "log").read_text()
                time.sleep(0.3)
            yield port
        finally:
            children = psutil.Process(server.pid).children(recursive=True)
            server.terminate()
            server.wait(timeout=60)
            for child in psutil.wait_procs(children, timeout=20)[1]:
                child.kill()


def answer(port: int, path: str, **headers: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_it_listens_on_loopback_only(port: int) -> None:
    places = {
        one.laddr.ip
        for one in psutil.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port
    }
    assert places == {"127.0.0.1"}


@pytest.mark.parametrize("path", ["/", "/ajax-api/2.0/mlflow/experiments/search?max_results=1"])
def test_a_foreign_host_is_refused(port: int, path: str) -> None:
    assert answer(port, path) == 200
    assert answer(port, path, Host=f"localhost:{port}") == 200
    assert answer(port, path, Host="evil.example") == 403
    assert answer(port, path, Host=f"evil.example:{port}") == 403


def test_a_foreign_origin_may_not_write(port: int) -> None:
    url = f"http://127.0.0.1:{port}/ajax-api/2.0/mlflow/experiments/create"
    request = urllib.request.Request(
        url,
        data=b'{"name": "from elsewhere"}',
        headers={"Content-Type": "application/json", "Origin": "https://evil.example"},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    refused.value.close()
    assert refused.value.code == 403
