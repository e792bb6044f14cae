"""The report: tables against hand-made values, the figures' data, and that nobody is in it."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from finished import DISEASES, GOALS, about, finished_study, hand_front, measured, noise_of
from PIL import Image
from typer.testing import CliRunner

from study.api import Study
from study.cli import app
from study.config import StudyConfig
from study.confirm import confirm, confirmation_file, load_confirmation
from study.confirm_named import confirm_named, named_file
from study.ledger import Ledger
from study.pareto import MEAN, WORST, Front, compute_front, scoped
from study.records import TrialRecord
from study.report import write as report_files
from study.report.ablation import caption, means, place, sweep_of
from study.report.choices import best, best_by_method, method_title, minimax_trial
from study.report.collect import Ablation, collect
from study.report.pages import Part, Report, html_page, markdown_page
from study.report.paper_tables import METRICS, table1, table2_of
from study.report.pictures import Panel
from study.report.tables import Table, cell_of, ranks
from study.report.write import table_files, write_report
from toy import toy_cohort
from ude_core.cohorts.cells import cell_table
from ude_core.cohorts.mean_film import mean_film
from ude_core.cohorts.splits import Split
from ude_core.confirmation import confirm_noises
from ude_core.results import save_result
from ude_core.types import (
    BiasConfig,
    Interval,
    Measured,
    MethodConfig,
    QueryCount,
    ScoringConfig,
    SplitConfig,
    TrialResult,
    Undefined,
)

SECRET = "zq7714"


@pytest.fixture(autouse=True)
def _process_as_before() -> Iterator[None]:
    """A report sets its process up as `confirm` does; here it is that of other tests too."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


def values(negative: float, accuracy: float) -> dict[str, Measured]:
    """Return metrics of one disease: EO− and accuracy given, EO+ undefined, the others 40."""
    same: dict[str, Measured] = {name: about(40.0) for name in METRICS}
    return same | {
        "eo_negative_gap": Interval(negative, max(0.0, negative - 4), negative + 6),
        "eo_positive_gap": Undefined("no positive images in group 'male'"),
        "accuracy": about(accuracy),
    }


def hand_table() -> Table:
    rows: dict[str, Mapping[str, Measured] | None] = {
        "erm": values(30.04, 70.0),
        "gezo": values(12.0, 68.0),
        "whitebox": values(12.04, 71.0),
        "sketch": None,
    }
    table = table2_of("edema", rows, trials={"gezo": 7, "whitebox": 9})
    return replace(table, caption="as | measured")


def page_of(table: Table) -> Report:
    return Report("s", "<b>bold</b> & co", "", (("Cohort", "phantom"),), (Part("P", (table,)),))


def test_table_2_marks_best_and_second_and_says_what_is_undefined_or_not_run() -> None:
    lines = markdown_page(page_of(hand_table())).splitlines()
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("| ")}
    same = " | ".join(["**40.0** ±4.0"] * 3)
    erm = f"| ERM | <u>30.0</u> +6.0 −4.0 | undefined | {same} | <u>70.0</u> ±4.0 |"
    assert rows["ERM"] == erm
    assert rows["UDE-GeZO"].split(" | ")[1] == "**12.0** +6.0 −4.0"
    assert rows["UDE (white-box)"].split(" | ")[1] == "**12.0** +6.0 −4.0"  # a tie as printed
    assert rows["UDE (white-box)"].split(" | ")[6] == "**71.0** ±4.0 |"
    assert rows["Sketch"] == f"| Sketch | {' | '.join(['not run'] * 6)} |"
    page = html_page(page_of(hand_table()))
    assert "<strong>71.0</strong><small>±4.0</small>" in page
    assert "<u>70.0</u>" in page
    assert "no positive images in group &#39;male&#39;" in page  # the reason is the cell's tooltip


def test_table_2_as_data_keeps_the_numbers_whole() -> None:
    rows = list(csv.DictReader(io.StringIO(table_files([hand_table()])["table2.csv"])))
    assert len(rows) == 4 * len(METRICS)
    erm = rows[0]
    assert (erm["method"], erm["metric"], erm["mean"]) == ("erm", "eo_negative_gap", "30.04")
    assert (erm["low"], erm["high"], erm["rank"]) == ("26.04", "36.04", "second")
    undefined = rows[1]
    assert (undefined["mean"], undefined["rank"]) == ("", "")
    assert undefined["why_none"] == "undefined: no positive images in group 'male'"
    assert {row["why_none"] for row in rows if row["method"] == "sketch"} == {"not run"}
    assert {row["trial"] for row in rows if row["method"] == "gezo"} == {"7"}


def test_text_is_escaped_and_formulas_are_neutral() -> None:
    table = replace(hand_table(), data=(("=HYPERLINK(1)", -3.5, "@x"),))
    assert table_files([table, table])["table2.csv"].splitlines()[2] == "'=HYPERLINK(1),-3.5,'@x"
    page = html_page(page_of(hand_table()))
    assert "<b>bold</b>" not in page
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; co" in page
    text = markdown_page(page_of(hand_table()))
    assert "&lt;b&gt;bold" in text
    assert "as \\| measured" in text


@pytest.mark.parametrize(
    ("given", "direction", "expected"),
    [
        ([3.0, 1.0, 2.0], "minimize", ["", "best", "second"]),
        ([3.0, 1.0, 2.0], "maximize", ["best", "", "second"]),
        ([1.0, 1.0, 2.0], "minimize", ["best", "best", "second"]),
        ([1.0, 2.0, 2.0], "minimize", ["best", "second", "second"]),
        ([1.0], "minimize", ["best"]),
        ([], "minimize", []),
    ],
)
def test_ranks(given: list[float], direction: Any, expected: list[str]) -> None:
    assert ranks([about(value) for value in given], direction) == expected


def test_an_undefined_value_takes_nobodys_rank() -> None:
    assert ranks([Undefined("x"), about(5.0), None, about(6.0)], "minimize") == [
        "",
        "best",
        "",
        "second",
    ]
    assert cell_of(Undefined("x")).text == "undefined"


def test_table_1_counts_cells_and_hides_the_smallest() -> None:
    cohort = toy_cohort(200)
    label = cohort.labels["edema"]
    women_sick = np.flatnonzero((cohort.attribute == 0) & (label == 1))
    label[women_sick[3:]] = 0  # three are left: of one or two people
    rows = np.arange(200)
    split = Split(train=rows[:100], validation=rows[100:150], test=rows[150:])
    table = table1(cell_table(cohort, split), BiasConfig())
    lines = {(row[0].text, row[1].text, row[2].text): row for row in table.rows}
    small = lines["edema", "positive", "female"]
    assert [cell.text for cell in small[3:]].count("1–4") >= 1
    assert small[6].text == "–"  # the sum would give the hidden count away
    large = lines["pleural effusion", "negative", "male"]
    expected = [
        ((cohort.attribute == 1) & (cohort.labels["pleural_effusion"] == 0))[part].sum()
        for part in (split.train, split.validation, split.test, rows)
    ]
    assert [cell.text for cell in large[3:]] == [str(count) for count in expected]


def front_with_methods(trials: list[tuple[str, float, float]], disease: str = MEAN) -> Front:
    records = [
        TrialRecord(i, "complete", {}, i, measured(eo, 10, accuracy), method=name)
        for i, (name, eo, accuracy) in enumerate(trials)
    ]
    return compute_front(
        study="s",
        disease=disease,
        diseases=DISEASES,
        goals=GOALS,
        trials=records,
        reference=measured(50, 55, 60.0),
    )


def named_config() -> StudyConfig:
    value = {
        "study": "tiny",
        "cohort": {"kind": "phantom", "patients": 30, "image_size": 64},
        "encoder": {"kind": "phantom_vit"},
        "search": {
            "name": {"choices": ["gezo", "whitebox", "spsa"]},
            "regularization": {"low": 0.0, "high": 1.0},
        },
    }
    return StudyConfig.model_validate_json(json.dumps(value))


def test_each_methods_trial_is_its_fairest_that_keeps_the_accuracy() -> None:
    front = front_with_methods(
        [
            ("gezo", 5, 57.9),  # fairest, 2.1 points under ERM
            ("gezo", 20, 58.0),
            ("gezo", 20, 59.0),  # a tie, more accurate
            ("whitebox", 30, 50.0),
            ("whitebox", 10, 40.0),  # none is near ERM: the fairest of all
        ]
    )
    assert best_by_method({MEAN: front}) == {"whitebox": 4, "gezo": 2}
    assert best([], front.erm) is None
    assert method_title("spsa") == "spsa (not in the paper)"


def test_the_minimax_noise_has_the_smallest_worst_gap_and_beats_noise_everywhere() -> None:
    fair_on_average = measured(5, 10, 60) | {"edema/eo_gap": about(40)}
    even = measured(25, 10, 60)
    evener_but_noise = measured(20, 10, 60) | {"edema/eo_gap_vs_random": about(1.0)}
    scores = [fair_on_average, even, evener_but_noise]
    assert minimax_trial({WORST: hand_front(scores, WORST)}) == 1
    assert minimax_trial({WORST: hand_front(scores[2:], WORST)}) == 0
    undefined = measured(5, 10, 60) | {"edema/eo_gap": Undefined("no cell")}
    assert minimax_trial({WORST: hand_front([undefined], WORST)}) is None


def ablation(trials: list[Mapping[str, Any]]) -> Ablation:
    config = named_config()
    records = []
    for number, params in enumerate(trials):
        metrics = measured(10.0 + number, 10, 60)
        for disease in DISEASES:
            metrics[f"{disease}/eo_negative_gap"] = about(20.0 + number)
            metrics[f"{disease}/eo_positive_gap"] = about(30.0 + number)
        records.append(
            TrialRecord(number, "complete", params, number, metrics, method=params["name"])
        )
    fronts = {
        name: compute_front(
            study="s",
            disease=name,
            diseases=DISEASES,
            goals=GOALS,
            trials=records,
            reference=measured(50, 55, 60) | {"edema/eo_negative_gap": about(44.0)},
        )
        for name in (*DISEASES, MEAN)
    }
    return Ablation("s", config, fronts)


def test_fig_2_joins_the_means_where_only_its_setting_varies() -> None:
    trials = [{"name": "gezo", "regularization": value} for value in (0.0, 0.01, 0.01, 1.0)]
    sweep = sweep_of(ablation(trials), "regularization")
    assert sweep.alone
    dots = sweep.dots["gezo"]["edema"]["eo_negative_gap"]
    assert [(dot.trial, dot.value) for dot in dots] == [(0, 0.0), (1, 0.01), (2, 0.01), (3, 1.0)]
    assert means(dots) == ([0.0, 0.01, 1.0], [20.0, 21.5, 23.0])
    assert [place(dot.value, sweep.smallest) for dot in dots] == pytest.approx([0, 1, 1, 3])
    rows = list(csv.DictReader(io.StringIO(sweep.csv())))
    (erm,) = [r for r in rows if (r["method"], r["metric"]) == ("erm", "eo_negative_gap")]
    assert (erm["disease"], erm["mean"]) == ("edema", "44.0")
    assert len(rows) == 4 * 3 * 3 + 1 + 3  # accuracy of ERM is known for every disease
    assert "Lines join the means" in caption(sweep)


def test_fig_2_draws_no_line_where_other_settings_vary_and_nothing_where_its_own_does_not() -> None:
    trials = [
        {"name": "gezo", "regularization": 0.1, "step_size": 0.1},
        {"name": "gezo", "regularization": 0.2, "step_size": 0.2},
    ]
    sweep = sweep_of(ablation(trials), "regularization")
    assert (sweep.alone, sweep.others) == (False, ("step_size",))
    assert "step_size" in caption(sweep)
    fixed = sweep_of(ablation(trials), "local_iterations")
    assert (fixed.drawn, fixed.fixed) == (False, 10.0)
    nothing_uses_r = sweep_of(
        ablation([{"name": "whitebox"}, {"name": "whitebox"}]), "local_iterations"
    )
    assert (nothing_uses_r.drawn, nothing_uses_r.fixed) == (False, None)


def test_a_mean_film_is_of_five_patients_or_there_is_none() -> None:
    cohort = toy_cohort(40)  # two images a patient
    assert mean_film(cohort, np.arange(8)) is None
    film = mean_film(cohort, np.arange(10))
    assert film is not None
    first_of_each = cohort.images[[0, 2, 4, 6, 8]].astype(float).mean(axis=0)
    np.testing.assert_array_equal(film[0], np.rint(first_of_each))


def test_controls_may_differ_by_trial_and_change_nothing_else() -> None:
    from toy import ToyEncoder
    from ude_core.assets import prepare

    cohort, encoder = toy_cohort(), ToyEncoder()
    assets = prepare(
        cohort,
        encoder,
        split=SplitConfig(),
        bias=BiasConfig(train_per_group=10, validation_per_cell=4, test_per_cell=4, gap=0.5),
        scoring=ScoringConfig(repeats=2, bootstrap_draws=20),
        seed=1,
    )
    noises = {n: torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(n)) for n in (1, 2)}
    methods = {n: MethodConfig() for n in noises}
    common = {"repeats": 2, "seed": 5}
    both = confirm_noises(noises, methods, cohort, encoder, assets, controls={1: 0, 2: 2}, **common)
    alone = confirm_noises(
        {2: noises[2]}, {2: methods[2]}, cohort, encoder, assets, controls=2, **common
    )
    assert set(both.random) == {2}
    assert both.learnt[2] == alone.learnt[2]
    assert both.random[2] == alone.random[2]
    assert both.erm == alone.erm


def csv_study(root: Path) -> Study:
    """Return a finished study of X-rays whose files and patients are named after a secret."""
    data, rng = root / "data", np.random.default_rng(0)
    lines = ["Path,Sex,Frontal/Lateral,No Finding,Edema,Pneumonia,PatientID"]
    for i in range(96):
        folder = data / f"{SECRET}-{i}"
        folder.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(folder / "a.png")
        sick = (i // 2) % 2
        findings = f"{'' if sick else '1.0'},{sick}.0,{sick}.0"
        sex = "Male" if i % 2 else "Female"
        lines.append(f"{SECRET}-{i}/a.png,{sex},Frontal,{findings},{SECRET}{i:03d}")
    (data / "nih.csv").write_text("\n".join(lines) + "\n")
    value = {
        "study": "hospital",
        "description": "<script>alert(1)</script>",
        "cohort": {
            "kind": "csv",
            "root": str(data),
            "diseases": ["edema", "pneumonia"],
            "image_size": 64,
        },
        "encoder": {"kind": "phantom_vit"},
        "bias": {"train_per_group": 8, "validation_per_cell": 3, "test_per_cell": 3, "gap": 0.5},
        "scoring": {"repeats": 2, "bootstrap_draws": 20},
        "confirm": {"repeats": 2, "controls": 2},
        "search": {
            "name": {"choices": ["gezo", "whitebox"]},
            "regularization": {"low": 0.0, "high": 1.0},
        },
    }
    config = StudyConfig.model_validate_json(json.dumps(value))
    ledger = Ledger.create_or_open(config, root / "runs")
    from study.materials import load_materials
    from study.names import Layout

    ledger.check_fingerprints(load_materials(config, Layout.at(root / "runs").cache).fingerprints)
    ledger.set_reference(two_diseases(measured(50, 55, 60.5, tpr=60.0)), 100)
    for name, eo in (("gezo", 20), ("whitebox", 10), ("gezo", 30)):
        ledger.enqueue({"name": name, "regularization": eo / 100})
        number = ledger.ask().number
        scores = two_diseases(measured(eo, eo, 62))
        result = TrialResult(noise_of(number), scores, (), QueryCount(noise=10), "improved")
        save_result(result, ledger.places.trial(number))
        ledger.tell(number, result)
    return Study(name="hospital", root=root / "runs", config=config, ledger=ledger)


def two_diseases(metrics: dict[str, Measured]) -> dict[str, Measured]:
    for disease in ("edema", "pneumonia"):
        for name in METRICS:
            metrics.setdefault(f"{disease}/{name}", about(25.0))
    kept = {
        name: Interval(float(value.mean), float(value.low), float(value.high))
        for name, value in metrics.items()
        if isinstance(value, Interval) and not name.startswith("pleural")
    }
    return kept | {
        "attribute_auc_frozen": about(60),
        "attribute_auc_retrained": about(75),
        "attribute_auc_retrained_mlp": about(80),
        "attribute_cross_entropy": Interval(0.7, 0.7, 0.7),
    }


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stand in for the engine's confirmation; return the list of its calls."""
    calls: list[dict[str, Any]] = []

    def confirm_noises(noises: Any, methods: Any, *_: Any, **settings: Any) -> Any:
        calls.append({"noises": sorted(noises)} | settings)
        beaten = {f"{d}/controls_beaten": about(100.0, 0.0) for d in DISEASES}
        beaten |= {f"{d}/eo_gap_vs_erm": about(-30.0, 4.0) for d in DISEASES}
        beaten |= {f"{d}/tpr.female_vs_erm": about(9.0, 2.0) for d in DISEASES}
        return SimpleNamespace(
            erm=two_diseases(measured(48, 50, 60, tpr=60.0)),
            learnt={n: two_diseases(measured(8 + n, 12, 66)) | beaten for n in noises},
            random={n: two_diseases(measured(41, 42, 58, control=None)) for n in noises},
            queries=7,
        )

    monkeypatch.setattr("ude_core.confirmation.confirm_noises", confirm_noises)
    return calls


def test_a_report_holds_every_part_and_nobody(
    tmp_path: Path, engine: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Panel] = []
    real = report_files.pairs_png

    def pairs_png(panels: Any) -> bytes:
        seen.extend(panel for row in panels for panel in row)
        return real(panels)

    monkeypatch.setattr(report_files, "pairs_png", pairs_png)
    study = csv_study(tmp_path)
    out = tmp_path / "out"
    done = write_report(study, out)
    assert done.not_run == ("sketch", "group_dro", "batch_sampling", "bias_adv")
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    tables = "front leakage methods minimax table1 table2 transfer"
    assert {name for name in files if name.startswith("tables/")} == {
        f"tables/{name}.csv" for name in tables.split()
    }
    assert {name for name in files if name.startswith("figures/")} == {
        f"figures/{name}"
        for name in (
            *("fig2a.png", "fig2a.csv", "fig3.png", "fig3.csv", "fig4.png"),
            *("fig4_gezo.csv", "fig4_whitebox.csv"),
        )
    }
    for name in files:
        content = (out / name).read_bytes()
        assert SECRET.encode() not in content, name
        assert str(tmp_path).encode() not in content, name
        if name.endswith(".png"):
            assert Image.open(io.BytesIO(content)).size > (300, 100)
    text, page = (out / "report.md").read_text(), (out / "report.html").read_text()
    assert_self_contained(page)
    assert "alert(1)" not in page.replace("&lt;script&gt;alert(1)&lt;/script&gt;", "")
    for word in ("Table 1", "Table 2", "Fig. 2a", "Fig. 2b", "Fig. 3", "Fig. 4", "Transfer"):
        assert word in text
        assert word in page
    assert "| Random noise | " in text
    assert "| BiasAdv | not run" in text
    assert "fresh MLP probe" in text
    assert re.search(r"\| edema \| \d \| [^|]+ \| .* confirmed \|", text)
    cohort_images = {path.read_bytes() for path in (tmp_path / "data").rglob("*.png")}
    single = {Image.open(io.BytesIO(raw)).tobytes() for raw in cohort_images}
    originals = [panel.image for panel in seen if panel.image is not None and not panel.method]
    assert len(originals) == 4
    for image in originals:
        assert image.tobytes() not in single
        assert image.std() < 30  # one film of white noise has 74; a mean of twelve, 21
    calls = len(engine)
    assert collect(study, lambda _: None).queries == 0
    assert len(engine) == calls  # confirmed once
    study.ledger.close()


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def assert_self_contained(page: str) -> None:
    """No reference that a browser would follow leads out of the page; Plotly is in it once."""
    assert page.count("plotly.js v") == 1
    markup = re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.S)
    references = re.findall(r"""(?:src|href|action|poster|data)\s*=\s*["']([^"']*)""", markup)
    assert references
    assert all(reference.startswith("data:image/png;base64,") for reference in references)
    assert not re.findall(r"<script[^>]+src", page)
    assert "<link" not in markup
    assert "@import" not in markup
    assert "url(" not in markup


def test_patients_are_shown_only_when_asked_for_and_then_it_says_so(
    tmp_path: Path, engine: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Panel] = []
    drawn = "sweep_png", "regions_png"
    for name in drawn:
        monkeypatch.setattr(report_files, name, lambda _: b"png")
    monkeypatch.setattr(
        report_files,
        "pairs_png",
        lambda rows: seen.extend(p for row in rows for p in row) or b"png",
    )
    study = csv_study(tmp_path)
    write_report(study, tmp_path / "out", patient_images=True)
    text = (tmp_path / "out" / "report.md").read_text()
    assert "holds images of single patients" in text
    assert SECRET not in text
    originals = [panel.image for panel in seen if panel.image is not None and not panel.method]
    assert all(image.std() > 60 for image in originals)
    study.ledger.close()


@pytest.mark.slow
def test_a_report_without_stand_ins_fills_its_rows_by_confirmation(tmp_path: Path) -> None:
    study = csv_study(tmp_path)
    done = write_report(study, tmp_path / "out")
    text = (tmp_path / "out" / "tables" / "table2.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    ran = {row["method"] for row in rows if row["why_none"] != "not run"}
    assert ran == {"erm", "gezo", "whitebox", "random_noise"}
    found = load_confirmation(study)
    assert found is not None
    point = found.point(1)
    assert point is not None
    (row,) = (
        row
        for row in rows
        if (row["method"], row["disease"], row["metric"]) == ("whitebox", "edema", "accuracy")
    )
    measured_there = point.metrics["edema/accuracy"]
    assert isinstance(measured_there, Interval)
    assert (row["trial"], float(row["mean"])) == ("1", measured_there.mean)
    # The front is one trial, the rows of Table 2 are two: each embeds ERM, its noise, two controls.
    assert done.queries > 0
    first = dict(contents(tmp_path / "out"))
    assert write_report(study, tmp_path / "out").queries == 0
    assert dict(contents(tmp_path / "out")) == first
    study.ledger.close()


def test_named_trials_are_measured_once_and_the_fronts_own_are_taken_over(
    tmp_path: Path, engine: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    materials = SimpleNamespace(
        cohort=None,
        encoder=None,
        assets=None,
        fingerprints={"cohort": "c" * 64, "encoder": "e" * 64},
    )
    monkeypatch.setattr("study.materials.load_materials", lambda *_: materials)
    with finished_study(tmp_path) as study:
        front, _ = confirm(study)
        before = confirmation_file(study).read_bytes()
        assert engine[-1]["noises"] == [0, 1, 2]
        found, paid = confirm_named(study, {1: 2, 3: 0}, repeats=2, front=front)
        assert (engine[-1]["noises"], engine[-1]["controls"], paid) == ([3], {3: 0}, 7)
        assert [point.trial for point in found.points] == [1, 3]
        assert found.point(1) == front.point(1)
        assert confirm_named(study, {1: 2, 3: 0}, repeats=2, front=front) == (found, 0)
        found, paid = confirm_named(study, {1: 2, 3: 0, 4: 2}, repeats=2, front=front)
        assert engine[-1]["noises"] == [4]
        assert (paid, found.queries) == (7, 14)
        assert confirm_named(study, {3: 0}, repeats=3)[1] == 7  # other draws, other figures
        named_file(study).write_bytes(b"{")
        assert confirm_named(study, {3: 0}, repeats=2)[1] == 7
        assert confirmation_file(study).read_bytes() == before


def test_the_command_refuses_a_file_and_an_unknown_study(tmp_path: Path) -> None:
    runner = CliRunner()
    root = ["--root", str(tmp_path)]
    missing = runner.invoke(app, ["report", "nothing", "--out", str(tmp_path / "o"), *root])
    assert missing.exit_code == 2
    assert "there is no study 'nothing'" in missing.output
    with finished_study(tmp_path):
        (tmp_path / "file").write_text("x")
        refused = runner.invoke(app, ["report", "tiny", "--out", str(tmp_path / "file"), *root])
    assert refused.exit_code == 2
    assert "is a file (expected a folder)" in refused.output


def test_scoped_means_of_table_2_need_every_disease() -> None:
    metrics = measured(10, 10, 60) | {"edema/eo_gap": Undefined("x")}
    metrics.pop("eo_gap")
    assert isinstance(scoped(metrics, MEAN, DISEASES)["eo_gap"], Undefined)
