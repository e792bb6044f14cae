"""The command line: every command's output, exit status, and its one line on what was wrong."""

import csv
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from finished import confirmed, finished_study, measured, noise_of
from PIL import Image
from typer.testing import CliRunner

from study import cli, doctor, serve
from study.api import Study
from study.names import Layout
from study.records import TrialRecord
from study.sweep import Outcome
from study.trials_view import neutral, trials_csv
from ude_core.types import QueryCount, TrialResult, Undefined


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    with finished_study(tmp_path) as finished:
        yield finished


def run(*arguments: object, root: Path | None = None, status: int = 0) -> Result:
    environment = {"UDE_STUDY_ROOT": str(root)} if root is not None else {}
    done = CliRunner().invoke(cli.app, [str(one) for one in arguments], env=environment)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == status, done.output
    return done


def refused(*arguments: object, root: Path | None = None) -> str:
    """Return the one line that says what the user can mend."""
    done = run(*arguments, root=root, status=2)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.output
    return done.stderr


def test_help_starts_without_heavy_imports() -> None:
    code = (
        "import sys; sys.argv = ['ude-study', '--help']\n"
        "from study.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'pandas', 'numpy', 'plotly', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


def test_only_commands_that_work_are_there() -> None:
    text = run("--help").stdout
    for name in ("launch", "status", "list", "trials", "pareto", "confirm", "export", "verify",
                 "apply", "doctor", "sync", "serve", "encoder"):  # fmt: skip
        assert f" {name} " in text


def test_status_is_the_contract(study: Study, tmp_path: Path) -> None:
    said = json.loads(run("status", "tiny", "--json", root=tmp_path).stdout)
    assert said == {
        "study": "tiny",
        "target": 20,
        "counts": {"complete": 5, "failed": 0, "running": 0, "waiting": 0, "pruned": 0},
        "queries": 150,
        "queries_saved": 0,
    }
    assert "5 complete (target 20)" in run("status", "tiny", "--root", tmp_path).stdout


def test_a_study_that_is_not_there(study: Study, tmp_path: Path) -> None:
    for command in ("status", "trials", "pareto", "confirm"):
        assert "no study 'typo'" in refused(command, "typo", root=tmp_path)


def test_list(study: Study, tmp_path: Path) -> None:
    (row,) = json.loads(run("list", "--json", root=tmp_path).stdout)
    assert (row["study"], row["state"], row["owner"]) == ("tiny", "waiting", None)
    assert "5/20" in run("list", root=tmp_path).stdout
    assert "no studies under" in run("list", root=tmp_path / "nowhere").stdout


def test_trials_as_table_json_and_csv(study: Study, tmp_path: Path) -> None:
    assert "10.0 [6.0, 14.0]" in run("trials", "tiny", root=tmp_path).stdout
    said = json.loads(run("trials", "tiny", "--json", root=tmp_path).stdout)
    assert [trial["trial"] for trial in said["trials"]] == [0, 1, 2, 3, 4]
    assert said["trials"][0]["metrics"]["edema/eo_gap"] == {"mean": 10, "low": 6, "high": 14}
    path = tmp_path / "out" / "trials.csv"
    run("trials", "tiny", "--csv", path, root=tmp_path)
    text = path.read_text()
    assert len(set(text.splitlines()[0].split(","))) == text.splitlines()[0].count(",") + 1
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 5
    assert rows[1]["edema/eo_gap"] == "20.0"
    assert rows[1]["edema/eo_gap.low"] == "16.0"
    assert float(rows[1]["params.step_size"]) > 0


@pytest.mark.parametrize(
    "text", ["=HYPERLINK(1)", "+1", "-1", "@SUM", "\t=1", "\r=1", " =1", "=cmd|' /C calc'!A0"]
)
def test_a_formula_is_neutralised_in_the_csv(text: str) -> None:
    record = TrialRecord(0, "failed", {"basis": text}, -3, {"m": Undefined("x")}, reason=text)
    (row,) = csv.DictReader(io.StringIO(trials_csv([record])))
    assert row["reason"] == row["params.basis"] == f"'{text}"
    assert row["seed"] == "-3"
    assert row["m"] == ""
    assert neutral(-1.5) == -1.5


def test_pareto(study: Study, tmp_path: Path) -> None:
    said = json.loads(run("pareto", "tiny", "--disease", "edema", "--json", root=tmp_path).stdout)
    assert [p["trial"] for p in said["points"] if p["front"]] == [0, 1, 2, 4]
    table = run("pareto", "tiny", "--disease", "worst", root=tmp_path).stdout
    assert "ERM" in table
    assert "no better than noise" in table
    everything = run("pareto", "tiny", root=tmp_path).stdout
    assert all(name in everything for name in ("pleural_effusion", "pneumonia", "edema"))
    page = tmp_path / "front.html"
    run("pareto", "tiny", "--disease", "edema", "--html", page, root=tmp_path)
    assert "plotly" in page.read_text().lower()
    assert "expected one of" in refused("pareto", "tiny", "--disease", "gout", root=tmp_path)
    assert "--disease" in refused("pareto", "tiny", "--json", root=tmp_path)


def test_export_verify_and_apply(study: Study, tmp_path: Path) -> None:
    out, images, edited = tmp_path / "bundles", tmp_path / "images", tmp_path / "edited"
    first = run("export", "tiny", "--all-diseases", "--out", out, root=tmp_path).stdout
    assert first.count("(written)") == 3
    again = run("export", "tiny", "--all-diseases", "--out", out, root=tmp_path).stdout
    assert again.count("(unchanged)") == 3
    bundle = out / "edema"
    assert "ok: study tiny, trial 1" in run("verify", bundle).stdout
    assert json.loads(run("verify", bundle, "--json").stdout)["trial"] == 1
    images.mkdir()
    Image.fromarray(np.full((64, 64), 99, np.uint8)).save(images / "a.png")
    assert "1 written, 0 unchanged" in run("apply", bundle, images, edited).stdout
    assert "1 unchanged" in run("apply", bundle, images, edited, "--encoder", "phantom_vit").stdout
    assert "learnt through encoder phantom_vit" in refused(
        "apply", bundle, images, edited, "--encoder", "medical_mae")  # fmt: skip
    assert "is an input" in refused("apply", bundle, images, images)
    (bundle / "extra").write_text("")
    assert "no part of a bundle" in refused("verify", bundle)
    assert "no part of a bundle" in refused("apply", bundle, images, edited)


def test_an_export_that_is_no_better_than_noise_warns(study: Study, tmp_path: Path) -> None:
    done = run("export", "tiny", "--disease", "edema", "--out", tmp_path / "b",
               "--policy", "trial=4", "--json", root=tmp_path)  # fmt: skip
    assert "do not use it" in done.stderr
    assert json.loads(done.stdout)[0]["trial"] == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--out", "b"], "name one --disease, or --all-diseases"),
        (["--out", "b", "--disease", "edema", "--all-diseases"], "name one --disease"),
        (["--out", "b", "--disease", "edema", "--policy", "minimax"], "name no --disease"),
        (["--out", "b", "--disease", "edema", "--policy", "best"], "policy 'best' is unknown"),
        (["--out", "b", "--disease", "edema", "--policy", "trial=9"], "is not complete"),
    ],
)
def test_exports_that_cannot_be(
    study: Study, tmp_path: Path, arguments: list[str], says: str
) -> None:
    assert says in refused("export", "tiny", *arguments, root=tmp_path)


def test_confirm_prints_and_says_when_nothing_changed(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("study.confirm.confirm", lambda *_, **__: (confirmed((1, -2.0)), False))
    text = run("confirm", "tiny", root=tmp_path).stdout
    assert "random" in text
    assert "unchanged: confirmed before" in text


@pytest.mark.parametrize(
    ("counts", "signal", "status"),
    [
        ({"complete": 5}, None, 0),
        ({"complete": 4, "failed": 1}, None, 3),
        ({"complete": 2}, 2, 130),
        ({"complete": 2}, 15, 143),
    ],
)
def test_launch_ends_with_the_contracts_status(
    study: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    counts: dict[str, int],
    signal: int | None,
    status: int,
) -> None:
    all_counts = dict.fromkeys(("complete", "failed", "running", "waiting", "pruned"), 0) | counts
    outcome = Outcome("tiny", 5, all_counts, 150, interrupted=signal)
    monkeypatch.setattr("study.sweep.launch", lambda *_, **__: outcome)
    space = tmp_path / "tiny.yaml"
    space.write_text(
        "cohort: {kind: phantom}\nencoder: {kind: phantom_vit}\n"
        "search: {step_size: {low: 0.01, high: 0.1}}\n"
    )
    text = run("launch", space, root=tmp_path, status=status).stdout
    assert "tiny · edema" in text  # the front, beside ERM
    assert "ERM" in text
    said = json.loads(run("launch", space, "--json", root=tmp_path, status=status).stdout)
    assert said["study"] == "tiny"
    assert said["exit_status"] == status


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["demoo"], "did you mean 'demo'"),
        (["demo", "--trials", "0"], "trials"),
        (["demo", "--set", "method.momentum=2"], "momentum"),
        (["demo", "--set", "nonsense"], "expected KEY.KEY=VALUE"),
        (["demo", "--study", "../up\0"], "control character"),
        (["missing.yaml"], "cannot be read"),
    ],
)
def test_launches_that_are_refused_before_anything(
    tmp_path: Path, arguments: list[str], says: str
) -> None:
    assert says in refused("launch", *arguments, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_the_cost_and_writes_nothing(tmp_path: Path) -> None:
    few = ["--set", "cohort.patients=300", "--set", "bias.train_per_group=10",
           "--set", "bias.validation_per_cell=2", "--set", "bias.test_per_cell=2",
           "--set", "method.batch_size=8"]  # fmt: skip
    assert "nothing was run" in run("launch", "demo", "--dry-run", *few, root=tmp_path).stdout
    said = json.loads(run("launch", "demo", "--dry-run", "--json", *few, root=tmp_path).stdout)
    assert said["queries"]["low"] > 0
    assert list(tmp_path.iterdir()) == []


def test_the_world_is_not_the_users_fault(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from study.database import LedgerUnavailableError

    def away(*_: object, **__: object) -> Study:
        raise LedgerUnavailableError("the study database did not answer")

    monkeypatch.setattr(Study, "open", away)
    assert "error: the study database" in run("status", "tiny", root=tmp_path, status=1).stderr


def test_ctrl_c_anywhere_is_130(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> Study:
        raise KeyboardInterrupt

    monkeypatch.setattr(Study, "open", interrupted)
    run("status", "tiny", status=130)


def test_a_bug_keeps_its_traceback(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object, **__: object) -> Study:
        raise ZeroDivisionError

    monkeypatch.setattr(Study, "open", bug)
    with pytest.raises(ZeroDivisionError):
        run("status", "tiny")


def test_a_place_that_cannot_be_written_is_named(study: Study, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = refused("trials", "tiny", "--csv", tmp_path / "file" / "x.csv", root=tmp_path)
    assert str(tmp_path / "file") in said


def test_encoder_list() -> None:
    kinds = json.loads(run("encoder", "list", "--json").stdout)
    assert [kind["kind"] for kind in kinds] == ["phantom_vit", "timm", "medical_mae"]
    assert "checkpoint" in run("encoder", "list").stdout


def test_doctor(study: Study, tmp_path: Path) -> None:
    said = json.loads(run("doctor", "--json", root=tmp_path).stdout)
    names = {check["name"] for check in said}
    assert {"python", "packages", "root", "disk", "ledger", "mlflow", "denormals"} <= names
    assert {check["verdict"] for check in said} <= {"ok", "warn"}
    assert "images/s" in run("doctor", root=tmp_path).stdout


def test_doctor_survives_what_is_broken(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "study.db").write_text("not a database")
    (tmp_path / "mlflow.db").write_text("not a database either")
    monkeypatch.setattr(doctor, "_LITTLE_DISK", 1 << 62)
    monkeypatch.setattr("ude_core.encoders.phantom_vit.load_phantom_vit", lambda: 1 / 0)
    checks = {check.name: check.verdict for check in doctor.examine(tmp_path)}
    assert checks["ledger"] == checks["mlflow"] == checks["encoder"] == "fail"
    assert checks["disk"] == "warn"
    assert checks["python"] == "ok"


def test_doctor_names_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hunter2@127.0.0.1:9/")
    monkeypatch.setenv("UDE_STUDY_STORAGE", "postgresql://user:hunter2@127.0.0.1:9/db")
    text = run("doctor", root=tmp_path).output
    assert "hunter2" not in text
    assert "http://127.0.0.1:9 does not answer" in text


def test_serve_names_the_port_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused("serve", "--port", port, root=tmp_path)
    assert f"port {port} on 127.0.0.1 cannot be used" in said
    assert "launch a study" in refused("serve", root=tmp_path / "empty")


def test_serve_stays_on_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = serve.server_command(Layout.at(tmp_path), 5055)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    (tmp_path / "mlflow.db").write_text("")
    became: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execve", lambda *call: became.append(call[2]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.serve_mlflow(tmp_path, port)
    assert became[0]["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


def test_a_trial_that_failed_is_told_with_its_reason(study: Study, tmp_path: Path) -> None:
    number = study.ledger.ask().number
    scores = measured(1, 1, 1) | {"eo_gap": Undefined("an empty cell")}
    result = TrialResult(noise_of(9), scores, (), QueryCount(noise=3), "improved")
    study.ledger.tell(number, result)
    assert "an empty cell" in run("trials", "tiny", root=tmp_path).stdout
    said = json.loads(run("pareto", "tiny", "--disease", "edema", "--json", root=tmp_path).stdout)
    assert number not in [point["trial"] for point in said["points"]]


@pytest.mark.slow
def test_sync_writes_what_mlflow_lacks_once(study: Study, tmp_path: Path) -> None:
    assert json.loads(run("sync", "tiny", "--json", root=tmp_path).stdout)["written"] == 5
    assert "tiny: 0 trials written to MLflow" in run("sync", "tiny", root=tmp_path).stdout
    assert json.loads(run("sync", "tiny", "--all", "--json", root=tmp_path).stdout)["written"] == 5
