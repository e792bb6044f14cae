"""Policies pick what they say; bundles are written once, and say what was measured."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from finished import (
    DISEASES,
    GOALS,
    about,
    confirmed,
    finished_study,
    hand_front,
    measured,
    noise_of,
)
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from study.api import Study
from study.candidates import candidates
from study.export import export, export_all
from study.pareto import Front, Point, front_of
from study.policies import Policy, choose, knee_distances, parse_policy
from study.publish import export_point
from ude_core.bundle import load_bundle, verify_bundle
from ude_core.errors import BundleError, UserError


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    with finished_study(tmp_path) as finished:
        yield finished


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("knee", Policy("knee")),
        ("min-gap", Policy("min-gap")),
        ("max-accuracy", Policy("max-accuracy")),
        ("accuracy-drop=2", Policy("accuracy-drop", 2.0)),
        ("accuracy-drop=0", Policy("accuracy-drop", 0.0)),
        ("trial=12", Policy("trial", 12)),
        ("minimax", Policy("minimax")),
    ],
)
def test_policies_are_read_and_written_back(text: str, policy: Policy) -> None:
    assert parse_policy(text) == policy
    assert str(policy) == text


@pytest.mark.parametrize(
    "text",
    ["", "best", "knee=1", "trial", "trial=", "trial=-1", "trial=1.5", "accuracy-drop",
     "accuracy-drop=nan", "accuracy-drop=-1", "accuracy-drop=101", "accuracy-drop=x"],
)  # fmt: skip
def test_other_policies_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"expected knee|percentage points"):
        parse_policy(text)


@pytest.mark.parametrize(
    ("policy", "trial"),
    [
        ("knee", 1),
        ("min-gap", 0),
        ("max-accuracy", 2),
        ("accuracy-drop=0", 0),
        ("trial=3", 3),
        ("trial=4", 4),
    ],
)
def test_each_policy_picks_its_point(study: Study, policy: str, trial: int) -> None:
    point, warning = choose(front_of(study, "edema"), parse_policy(policy))
    assert point.trial == trial
    assert ("no better than random noise" in warning) == (trial == 4)


def test_a_policy_that_nothing_fits_says_what_is_nearest() -> None:
    scores = [measured(10, 10, 40), measured(20, 20, 45)]
    front = hand_front(scores)
    with pytest.raises(UserError, match=r"ERM's 60\.5; the nearest is trial 1, 15\.5 points under"):
        choose(front, parse_policy("accuracy-drop=3"))
    assert choose(front, parse_policy("accuracy-drop=21"))[0].trial == 0
    with pytest.raises(UserError, match="trial 9 of study s is not complete"):
        choose(front, parse_policy("trial=9"))
    with pytest.raises(UserError, match="no front for edema yet"):
        choose(hand_front([]), parse_policy("knee"))


def test_a_front_that_never_beats_noise_is_exported_only_with_a_warning() -> None:
    front = hand_front([measured(10, 10, 60, control=0.0)])
    point, warning = choose(front, parse_policy("knee"))
    assert point.trial == 0
    assert "no better than random noise of its own norm on validation; do not use it" in warning


def test_what_learnt_no_noise_is_not_exported() -> None:
    scores = [measured(5, 5, 70, control=None), measured(20, 12, 72), measured(30, 30, 73)]
    front = hand_front(scores, methods=("group_dro", "gezo", "random_noise"))
    assert [point.method for point in front.best] == ["group_dro", "gezo", "random_noise"]
    assert choose(front, parse_policy("min-gap"))[0].trial == 1
    with pytest.raises(UserError, match="trial 0 is group_dro: it has no noise to export"):
        choose(front, parse_policy("trial=0"))
    _, warning = choose(front, parse_policy("trial=2"))
    assert "trial 2 is random noise, not learnt" in warning
    alone = hand_front([measured(5, 5, 70, control=None)], methods=("erm",))
    with pytest.raises(UserError, match="no learnt noise is on the front of edema, only erm"):
        choose(alone, parse_policy("knee"))


def test_confirmed_points_that_beat_noise_are_preferred(study: Study) -> None:
    front = front_of(study, "edema")
    assert [p.trial for p in candidates(front, None)] == [0, 1, 2]
    assert [p.trial for p in candidates(front, confirmed((0, -1.0), (2, -1.0)))] == [0, 2]
    assert [p.trial for p in candidates(front, confirmed((0, 3.0), (2, -1.0)))] == [2]
    assert [p.trial for p in candidates(front, confirmed((0, 3.0), (2, 1.0)))] == [0, 1, 2]
    _, warning = choose(front, parse_policy("trial=0"), confirmed((0, 3.0)))
    assert "on the test split" in warning
    found = confirmed((0, -1.0))
    lucky = replace(found.points[0], standing={"edema": "no improvement on ERM"})
    _, warning = choose(front, parse_policy("trial=0"), replace(found, points=(lucky,)))
    assert "trial 0's smaller gap is not confirmed on the test split" in warning


@given(
    st.lists(st.tuples(*[st.floats(0, 100)] * 3), min_size=1, max_size=8),
    st.floats(0.1, 10),
    st.floats(-50, 50),
)
@settings(max_examples=100, deadline=None)
def test_the_knee_does_not_depend_on_units(
    rows: list[tuple[float, float, float]], scale: float, shift: float
) -> None:
    moved = [[value * scale + shift for value in row] for row in rows]
    for column in zip(*rows, strict=True):
        if 0 < max(column) - min(column) < 1e-6:
            return
    expected = knee_distances(rows, GOALS)
    assert knee_distances(moved, GOALS) == pytest.approx(expected, abs=1e-6)


def test_an_export_is_a_bundle_of_what_was_measured(study: Study, tmp_path: Path) -> None:
    out = tmp_path / "out" / "edema"
    done = export(study, "edema", parse_policy("knee"), out)
    assert (done.written, done.trial, done.warning, done.folder) == (True, 1, "", out)
    bundle = load_bundle(out)
    facts = bundle.facts
    assert torch.equal(bundle.noise, noise_of(1))
    assert (facts.study, facts.trial, facts.disease, facts.policy) == ("tiny", 1, "edema", "knee")
    assert (facts.stage, facts.label) == ("search", "beats noise")
    assert facts.encoder_fingerprint == "e" * 64
    assert facts.metrics["edema/eo_gap"] == about(20)
    assert facts.reference["edema/eo_gap"] == about(50)
    assert 0.01 <= facts.parameters["step_size"] <= 0.1
    assert facts.packages["torch"].startswith(torch.__version__.split("+")[0])
    card = (out / "MODEL_CARD.md").read_text()
    assert "searched over" in card
    assert "20.0 [16.0, 24.0]" in card
    assert "lifted" in card
    assert str(tmp_path) not in card + (out / "manifest.json").read_text()


def test_exporting_again_changes_nothing(study: Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(study, "edema", parse_policy("knee"), out)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    assert not export(study, "edema", parse_policy("knee"), out).written
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    assert after == before
    (out / "manifest.json").write_bytes(b"{}")
    assert export(study, "edema", parse_policy("knee"), out).written
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        name: raw for name, (raw, _) in before.items()
    }
    assert export(study, "edema", parse_policy("min-gap"), out).written
    assert verify_bundle(out).trial == 0


@pytest.mark.parametrize("onnx", [False, True])
def test_two_exports_of_one_trial_are_equal_byte_for_byte(
    study: Study, tmp_path: Path, onnx: bool
) -> None:
    first, second = (
        export(study, "edema", parse_policy("trial=2"), tmp_path / name, onnx=onnx).folder
        for name in ("one", "two")
    )
    contents = {path.name: path.read_bytes() for path in first.iterdir()}
    assert contents == {path.name: path.read_bytes() for path in second.iterdir()}
    assert len(contents) == 4 + onnx


def test_with_or_without_a_graph_is_another_bundle(study: Study, tmp_path: Path) -> None:
    knee, out = parse_policy("knee"), tmp_path / "out"
    wrote = [export(study, "edema", knee, out, onnx=onnx).written for onnx in (False, True, True)]
    assert wrote == [True, True, False]
    assert export(study, "edema", knee, out).written
    assert not (out / "edit.onnx").exists()


def test_minimax_is_one_bundle_for_every_disease(study: Study, tmp_path: Path) -> None:
    minimax = parse_policy("minimax")
    done = export(study, "worst", minimax, tmp_path / "out")
    facts = verify_bundle(tmp_path / "out")
    assert (done.trial, facts.disease, facts.policy) == (0, "worst", "minimax")
    assert "Chosen for every disease" in (tmp_path / "out" / "MODEL_CARD.md").read_text()
    with pytest.raises(UserError, match="minimax picks one noise for every disease"):
        export(study, "edema", minimax, tmp_path / "other")


def test_where_one_disease_has_no_bundle_none_is_written(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails_for_edema(front: Front, *rest: object) -> tuple[Point, str]:
        if front.disease == "edema":
            raise UserError("no point fits")
        return choose(front, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("study.export.choose", fails_for_edema)
    with pytest.raises(UserError, match="no point fits"):
        export_all(study, study.config.cohort.diseases, parse_policy("knee"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@given(st.one_of(st.text(max_size=300), st.sampled_from(["../edema", "-edema", "edema\0", "/etc"])))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_name_that_is_no_disease_writes_nothing_anywhere(
    study: Study, tmp_path: Path, name: str
) -> None:
    assume(name not in (*study.config.cohort.diseases, "mean", "worst"))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match="is not in study tiny"):
        export_point(study, name, 1, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


_EXPORTS = """
import sys
from pathlib import Path
from study.api import Study
study = Study.open("tiny", sys.argv[1])
for turn in range(6):
    study.export("edema", Path(sys.argv[2]), policy=f"trial={(turn + int(sys.argv[3])) % 3}")
"""


@pytest.mark.slow
def test_two_processes_that_export_at_once_leave_a_whole_bundle(
    study: Study, tmp_path: Path
) -> None:
    out = tmp_path / "bundles" / "edema"
    both = [
        subprocess.Popen([sys.executable, "-c", _EXPORTS, str(study.root), str(out), str(first)])
        for first in range(2)
    ]
    assert [process.wait(timeout=200) for process in both] == [0, 0]
    assert verify_bundle(out).trial in (0, 1, 2)
    assert [path.name for path in out.parent.iterdir()] == ["edema"]


def test_a_confirmed_export_reports_the_test_split(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("study.export.load_confirmation", lambda _: confirmed((1, -2.0)))
    export(study, "edema", parse_policy("knee"), tmp_path / "out")
    facts = verify_bundle(tmp_path / "out")
    assert (facts.stage, facts.trial) == ("confirmed", 1)
    assert facts.metrics["edema/eo_gap"] == about(30)
    assert facts.validation["edema/eo_gap"] == about(20)
    assert facts.reference["edema/eo_gap"] == about(48)
    assert facts.metrics["noise_l2"].mean == 4.0
    assert "searched over" not in (tmp_path / "out" / "MODEL_CARD.md").read_text()


def test_a_noise_that_was_altered_is_not_exported(study: Study, tmp_path: Path) -> None:
    path = study.ledger.places.trial(1) / "noise.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(UserError, match="its result was altered"):
        export(study, "edema", parse_policy("knee"), tmp_path / "out")
    path.unlink()
    with pytest.raises(UserError, match="has no noise any more"):
        export(study, "edema", parse_policy("knee"), tmp_path / "out")


def test_a_folder_in_use_is_not_replaced(study: Study) -> None:
    with pytest.raises(BundleError, match="holds other files"):
        export(study, "edema", parse_policy("knee"), study.root)


@pytest.mark.slow
def test_an_export_killed_at_any_moment_leaves_whole_bundles(tmp_path: Path) -> None:
    """The command itself, killed when its first folder appears and at moments after."""
    root, out = tmp_path / "runs", tmp_path / "out"
    with finished_study(root):
        pass
    words = [str(Path(sys.executable).parent / "ude-study"), "export", "tiny", "--all-diseases"]
    words += ["--root", str(root), "--out", str(out), "--no-register"]
    killed = 0
    for wait in (0.0, 0.003, 0.01, 0.03):
        shutil.rmtree(out, ignore_errors=True)
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (out.exists() and any(out.iterdir())):
            time.sleep(0.0005)
        time.sleep(wait)
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        bundles = [path for path in out.glob("*") if not path.name.startswith(".")]
        assert all(verify_bundle(bundle).study == "tiny" for bundle in bundles)
    assert killed >= 2
    assert subprocess.run(words, capture_output=True, check=False).returncode == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(DISEASES)
    assert {verify_bundle(path).disease for path in out.iterdir()} == set(DISEASES)
