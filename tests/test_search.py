"""Who proposes: every sampler by the same rules, constraints, known points, batches, budgets."""

import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from ray.tune.search import Searcher
from small_study import RESULT
from test_searcher import Held

from study.config import StudyConfig, load_space
from study.constraints import constraints_note, violations
from study.ledger import Ledger
from study.meter import QUERIES, Paid, paid_queries, paid_so_far
from study.pareto import front_of_ledger
from study.plan import plan_study
from study.proposals import Proposer, SpaceExhaustedError
from study.query_budget import QueryBudget
from study.records import Parameters
from study.search_sections import Constraint
from study.searcher import LedgerSearcher
from study.warm_start import warm_start
from ude_core.errors import SettingError
from ude_core.results import save_result
from ude_core.storage import save_checked
from ude_core.trial import CHECKPOINT
from ude_core.types import Interval, Measured, QueryCount, TrialResult, Undefined

SAMPLERS = ("tpe", "nsgaii", "nsgaiii", "gp", "qmc", "random", "grid")
SEARCH = {
    "step_size": {"low": 0.001, "high": 0.1, "log": True},
    "momentum": {"low": 0.0, "high": 0.9},
    "samples": {"low": 1, "high": 16},
    "batch": {"choices": ["per_iteration", "per_perturbation"]},
}
SMALL = {
    "samples": {"low": 1, "high": 3},
    "batch": {"choices": ["per_iteration", "per_perturbation"]},
}
Opener = Callable[..., Ledger]


def config_of(**changes: Any) -> StudyConfig:
    value = {
        "study": "tiny",
        "seed": 3,
        "cohort": {"kind": "phantom", "patients": 300},
        "encoder": {"kind": "phantom_vit"},
        "search": SEARCH,
    }
    return StudyConfig.model_validate_json(json.dumps(value | changes))


def exactly(value: float) -> Interval:
    return Interval(value, value, value)


def outcome_of(params: Parameters) -> TrialResult:
    """A trial's result as a function of its parameters: three objectives at odds."""
    step = math.log10(float(params.get("step_size", 0.01)))
    samples = float(params.get("samples", 1))
    metrics: dict[str, Measured] = {
        "eo_gap": exactly(20 + 10 * (step + 1.5) ** 2 + samples),
        "selection_rate_symmetric_gap": exactly(30 - 5 * step - samples / 2),
        "accuracy": exactly(60 + 3 * step + samples),
        "queries": exactly(10 * samples),
    }
    return replace(RESULT, metrics=metrics, queries=QueryCount(noise=int(10 * samples)))


@pytest.fixture
def open_ledger(tmp_path: Path) -> Iterator[Opener]:
    opened: list[Ledger] = []

    def opener(config: StudyConfig, root: str = "runs") -> Ledger:
        opened.append(Ledger.create_or_open(config, tmp_path / root))
        return opened[-1]

    yield opener
    for ledger in opened:
        ledger.close()


def run_workers(
    ledger: Ledger,
    *,
    workers: int,
    trials: int,
    seed: int = 0,
    budget: QueryBudget | None = None,
    die_after: int | None = None,
    lost: float = 0.0,
) -> None:
    """Drive the searcher as Tune does; trials end in a random order; a driver may die.

    The share `lost` of attempts is paid for and comes to nothing; half of those keep half of it.
    """
    rng = random.Random(seed)
    resumed = ledger.running()
    searcher = LedgerSearcher(
        ledger,
        Held(),  # type: ignore[arg-type]
        resumed=resumed,
        remaining=trials - len(resumed) - ledger.counts()["complete"],
        concurrency=workers,
        budget=budget,
    )
    live: dict[str, dict[str, Any]] = {}
    ended = 0
    for tick in range(100_000):
        suggestion = searcher.suggest(f"t{tick}")
        if isinstance(suggestion, dict):
            live[f"t{tick}"] = suggestion
            continue
        if not live:
            assert suggestion == Searcher.FINISHED
            return
        chosen = rng.choice(sorted(live))
        given = live.pop(chosen)
        folder = ledger.places.trial(given["number"])
        folder.mkdir(parents=True, exist_ok=True)
        result = outcome_of(given["params"])
        kept = paid_so_far(folder).kept
        pays = result.queries.total - kept
        if rng.random() < lost:
            pays = rng.randint(0, pays)
            pay(folder, pays)
            if rng.random() < 0.5:
                save_checked(folder / CHECKPOINT, {}, {"spent": kept + pays // 2})
            searcher.on_trial_complete(chosen, error=True)
            continue
        pay(folder, pays)
        save_result(result, folder)
        searcher.on_trial_complete(chosen, {"done": True})
        ended += 1
        if ended == die_after:
            return
    raise AssertionError("the searcher never finished")


def pay(folder: Path, images: int) -> None:
    with (folder / QUERIES).open("a") as log:
        log.write(f"attempt {images}\n")


def proposed(config: StudyConfig, trials: int) -> list[Parameters]:
    """What a study of one worker proposes, with nothing of it in a database."""
    proposer = Proposer(config, [], {}, lambda key, value: None)
    found = []
    for number in range(trials):
        proposal = proposer.propose()
        assert proposal.number == number
        proposer.begun(proposal)
        metrics = outcome_of(proposal.params).metrics
        values = [metrics[goal.metric].mean for goal in config.objectives]  # type: ignore[union-attr]
        trial = optuna.trial.create_trial(values=values)
        trial.number = number
        proposer.ended(trial)
        found.append(proposal.params)
    return found


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name == "gp" else ()) for name in SAMPLERS],
)
def test_every_sampler_stays_in_range_and_follows_from_the_seed(name: str) -> None:
    sampler = {"name": name, "startup_trials": 5, "population": 5}
    config = config_of(sampler=sampler)
    params = proposed(config, 12)
    for point in params:
        assert set(point) == set(SEARCH)
        assert 0.001 <= float(point["step_size"]) <= 0.1
        assert 0.0 <= float(point["momentum"]) <= 0.9
        assert point["samples"] in range(1, 17)
        assert isinstance(point["samples"], int)
        assert point["batch"] in ("per_iteration", "per_perturbation")
    assert len({json.dumps(point, sort_keys=True) for point in params}) == 12
    assert proposed(config, 12) == params
    assert proposed(config_of(sampler=sampler, seed=4), 12) != params


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "gp"])
def test_no_point_is_tried_twice_and_a_finite_space_ends(name: str) -> None:
    config = config_of(search=SMALL, sampler={"name": name, "startup_trials": 3, "population": 3})
    points = {json.dumps(point, sort_keys=True) for point in proposed(config, 6)}
    assert len(points) == 6
    with pytest.raises(SpaceExhaustedError, match=r"tried"):
        proposed(config, 7)


def test_a_point_that_failed_may_be_tried_again(open_ledger: Opener) -> None:
    search = {"batch": {"choices": ["per_iteration"]}}
    ledger = open_ledger(config_of(search=search, sampler={"name": "random"}))
    ledger.fail(ledger.ask().number, "the disk")
    ledger.tell(ledger.ask().number, RESULT)
    with pytest.raises(SpaceExhaustedError):
        ledger.ask()


def test_a_grid_crosses_ends_and_choices_and_tries_failed_points_once(
    open_ledger: Opener,
) -> None:
    search = {"step_size": SEARCH["step_size"], "batch": SEARCH["batch"]}
    config = config_of(search=search, sampler={"name": "grid", "grid_points": 3})
    ledger = open_ledger(config)
    points = set()
    for _ in range(6):
        assignment = open_ledger(config).ask()
        points.add((round(float(assignment.params["step_size"]), 9), assignment.params["batch"]))
        open_ledger(config).fail(assignment.number, "the disk")
    kinds = ("per_iteration", "per_perturbation")
    assert points == {(step, kind) for step in (0.001, 0.01, 0.1) for kind in kinds}
    with pytest.raises(SpaceExhaustedError, match="grid"):
        open_ledger(config).ask()
    run_workers(ledger, workers=2, trials=20)
    assert "every point of the grid" in ledger.ending


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": {"name": "anneal"}}, "tpe"),
        ({"sampler": {"group": True}}, "group needs multivariate"),
        (
            {
                "sampler": {"name": "nsgaiii"},
                "objectives": [{"metric": "eo_gap", "direction": "minimize"}],
            },
            "several objectives",
        ),
        ({"sampler": {"name": "gp"}, "budget": {"trials": 1000}}, "at most 300 trials"),
        ({"sampler": {"name": "grid", "grid_points": 2000}}, "points"),
        ({"constraints": [{"metric": "acuracy", "at_least": 1}]}, "did you mean 'accuracy'"),
        ({"constraints": [{"metric": "accuracy"}]}, "one bound"),
        ({"constraints": [{"metric": "psnr_db", "at_least": 1, "relative_to": "erm"}]}, "ERM"),
        ({"constraints": [{"metric": "psnr_db", "at_least": 30}] * 2}, "appears twice"),
        ({"warm_start": {"paper_defaults": True}, "search": SMALL}, "the paper's samples is 10"),
        ({"warm_start": {"points": [{"stepsize": 0.1}]}}, "did you mean 'step_size'"),
        ({"warm_start": {"points": [{"samples": 2.5}]}}, "outside search.samples"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(**changes)


def test_a_constraint_is_named_with_its_line(tmp_path: Path) -> None:
    space = tmp_path / "s.yaml"
    space.write_text(
        "cohort: {kind: phantom}\nencoder: {kind: phantom_vit}\n"
        "search: {samples: {low: 1, high: 3}}\nconstraints:\n  - {metric: oops, at_most: 1}\n"
    )
    with pytest.raises(SettingError, match=r"s\.yaml:5:\d+: constraints\.0\.metric 'oops'"):
        load_space(space)


def test_violations_are_signed_and_undefined_is_one() -> None:
    def by(**settings: Any) -> float:
        (value,) = violations([Constraint(**settings)], metrics, erm, ("a", "b")).values()
        return value

    metrics = {
        "accuracy": exactly(61.0),
        "a/accuracy": exactly(64.0),
        "b/accuracy": exactly(58.0),
        "a/eo_gap": exactly(10.0),
        "b/eo_gap": exactly(30.0),
        "psnr_db": exactly(32.0),
        "noise_l2": Undefined("diverged"),
    }
    erm = {
        "accuracy": exactly(62.0),
        "a/accuracy": exactly(63.0),
        "b/accuracy": exactly(61.0),
        "a/eo_gap": exactly(40.0),
        "b/eo_gap": exactly(40.0),
    }
    assert by(metric="accuracy_drop", at_most=2) == -1.0
    assert by(metric="a/accuracy_drop", at_most=2) == -3.0
    assert by(metric="worst/accuracy_drop", at_most=2) == 1.0
    assert by(metric="worst/accuracy", at_least=60) == 2.0
    assert by(metric="worst/eo_gap", at_most=30) == 0.0
    assert by(metric="worst/eo_gap", at_most=-15, relative_to="erm") == 5.0
    assert by(metric="psnr_db", at_least=30) == -2.0
    assert by(metric="noise_l2", at_most=9) == 100.0
    assert by(metric="attribute_auc_frozen", at_most=55) == 100.0


def test_samplers_hear_of_constraints_and_the_front_keeps_them(
    open_ledger: Opener, tmp_path: Path
) -> None:
    config = config_of(
        constraints=[{"metric": "accuracy", "at_least": 65}],
        sampler={"startup_trials": 8},
        objectives=[{"metric": "eo_gap", "direction": "minimize"}],
    )
    ledger = open_ledger(config)
    run_workers(ledger, workers=1, trials=24)
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{ledger.places.database}")
    for trial, record in zip(study.trials, ledger.trials(), strict=True):
        accuracy = record.metrics["accuracy"]
        assert isinstance(accuracy, Interval)
        assert trial.constraints == {"accuracy >= 65": 65 - accuracy.mean}
    kept = [all(value <= 0 for value in trial.constraints.values()) for trial in study.trials]
    assert sum(kept[8:]) / 16 > sum(kept[:8]) / 8, "TPE turns to where the constraint holds"
    front = front_of_ledger(ledger, "mean")
    assert [point.feasible for point in front.points] == kept
    best = min(
        record.metrics["eo_gap"].mean  # type: ignore[union-attr]
        for record, keeps in zip(ledger.trials(), kept, strict=True)
        if keeps
    )
    assert [point.mean("eo_gap") for point in front.best] == [best]
    assert constraints_note(config) is None
    blind = config_of(constraints=[{"metric": "accuracy", "at_least": 65}], sampler={"name": "qmc"})
    assert "only keep trials off the front" in str(constraints_note(blind))


def test_known_points_go_out_first_and_once(open_ledger: Opener, tmp_path: Path) -> None:
    points = [{"samples": 3}, {"samples": 4, "step_size": 0.05}]
    config = config_of(warm_start={"paper_defaults": True, "points": points})
    for _ in range(2):
        warm_start(open_ledger(config), tmp_path / "runs")
    ledger = open_ledger(config)
    assert ledger.counts()["waiting"] == 3
    first, second, third, fourth = (ledger.ask() for _ in range(4))
    assert first.params == {
        "step_size": 0.01,
        "momentum": 0.9,
        "samples": 10,
        "batch": "per_perturbation",
    }
    assert second.params["samples"] == 3
    assert set(second.params) == set(SEARCH)
    assert (third.params["samples"], third.params["step_size"]) == (4, 0.05)
    assert fourth.number == 3
    assert [assignment.number for assignment in open_ledger(config).running()] == [0, 1, 2, 3]


def test_an_earlier_front_starts_a_study(open_ledger: Opener, tmp_path: Path) -> None:
    early = config_of(study="early")
    before = open_ledger(early)
    run_workers(before, workers=2, trials=8)
    search = {"samples": {"low": 1, "high": 8}, "step_size": SEARCH["step_size"]}
    config = config_of(search=search, warm_start={"from_study": "early"})
    ledger = open_ledger(config)
    warm_start(ledger, tmp_path / "runs")
    best = front_of_ledger(before, "mean").best
    assert best
    waiting = [record.params for record in ledger.trials()]
    for point in best:
        fitting = {name: point.params[name] for name in search}
        if int(fitting["samples"]) > 8:
            del fitting["samples"]
        assert fitting in waiting
    with pytest.raises(SettingError, match="no study 'never'"):
        warm_start(
            open_ledger(config_of(study="x", warm_start={"from_study": "never"})),
            tmp_path / "runs",
        )


def history(ledger: Ledger) -> list[Any]:
    return [(record.number, record.params, record.seed) for record in ledger.trials()]


@pytest.mark.parametrize("name", ["tpe", pytest.param("nsgaii", marks=pytest.mark.slow)])
def test_in_batches_the_number_of_workers_changes_nothing(name: str, open_ledger: Opener) -> None:
    sampler = {"name": name, "batch": 4, "startup_trials": 4, "population": 4}
    config = config_of(sampler=sampler)
    one = open_ledger(config, "one")
    run_workers(one, workers=1, trials=12)
    four = open_ledger(config, "four")
    run_workers(four, workers=4, trials=12, seed=5)
    killed = "killed"
    for die_after in (3, 4, 6, 40):  # drivers die within a batch and at its end
        run_workers(
            open_ledger(config, killed), workers=4, trials=12, seed=die_after, die_after=die_after
        )
    assert one.counts()["complete"] == 12
    assert history(four) == history(one)
    assert history(open_ledger(config, killed)) == history(one)
    fronts = [front_of_ledger(ledger, "mean") for ledger in (one, four)]
    assert fronts[0] == fronts[1]
    assert fronts[0].best


def test_a_batch_sees_nothing_of_itself(open_ledger: Opener) -> None:
    config = config_of(sampler={"batch": 3, "startup_trials": 1})
    quick, slow = open_ledger(config, "quick"), open_ledger(config, "slow")
    first = [slow.ask() for _ in range(3)]
    for assignment in first:
        again = quick.ask()
        assert again == assignment
        quick.tell(again.number, outcome_of(again.params))
    assert slow.blocked()
    assert not quick.blocked()


def test_a_proposal_that_was_refused_is_made_again(open_ledger: Opener) -> None:
    def refuse(proposal: Any, below: int | None) -> None:
        raise RuntimeError("not now")

    config = config_of(sampler={"name": "nsgaii", "population": 2, "batch": 2})
    steady, broken = open_ledger(config, "steady"), open_ledger(config, "broken")
    for ledger in (steady, broken):
        run_workers(ledger, workers=1, trials=2)
    with pytest.raises(RuntimeError, match="not now"):
        open_ledger(config, "broken").ask(refuse)
    taken_over = open_ledger(config, "broken")
    assert [taken_over.ask(), taken_over.ask()] == [steady.ask(), steady.ask()]


def budget_of(ledger: Ledger, limit: int) -> QueryBudget:
    return QueryBudget(
        limit,
        100,
        lambda params: 16 * int(params["samples"]),
        ledger.trials(),
        lambda number: paid_so_far(ledger.places.trial(number)),
    )


def paid_in_all(ledger: Ledger) -> int:
    return 100 + sum(paid_queries(record.folder) for record in ledger.trials())


@pytest.mark.parametrize("sampler", [{"name": "random"}, {"name": "random", "batch": 4}])
@pytest.mark.parametrize("workers", [1, 4])
def test_the_query_budget_is_never_passed_and_can_be_raised(
    workers: int, sampler: dict[str, Any], open_ledger: Opener
) -> None:
    config = config_of(sampler=sampler)
    ledger = open_ledger(config)
    run_workers(ledger, workers=workers, trials=50, budget=budget_of(ledger, 900))
    spent = 100 + ledger.queries()
    done = ledger.counts()["complete"]
    assert 900 - 4 * 16 * 16 < spent <= 900
    assert 0 < done < 50
    assert "raise it" in ledger.ending
    before = history(ledger)
    again = open_ledger(config)
    run_workers(again, workers=workers, trials=50, budget=budget_of(again, 900))
    assert history(again) == before
    run_workers(again, workers=workers, trials=50, budget=budget_of(again, 2000))
    assert history(again)[:done] == before
    assert spent < 100 + again.queries() <= 2000


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("workers", [1, 4])
def test_what_lost_workers_paid_for_counts_against_the_budget(
    workers: int, seed: int, open_ledger: Opener
) -> None:
    ledger = open_ledger(config_of(sampler={"name": "random"}))
    run_workers(
        ledger, workers=workers, trials=50, budget=budget_of(ledger, 900), seed=seed, lost=0.5
    )
    assert "raise it" in ledger.ending
    assert 900 - 5 * 16 * 16 < paid_in_all(ledger) <= 900
    wasted = paid_in_all(ledger) - 100 - ledger.queries()
    assert wasted > 0
    # What had no room is still open, and goes on once there is some, from where it was.
    again = open_ledger(ledger.config)
    run_workers(
        again, workers=workers, trials=50, budget=budget_of(again, 1800), seed=seed, lost=0.3
    )
    assert 900 < paid_in_all(again) <= 1800
    assert {t.number for t in ledger.trials()} <= {t.number for t in again.trials()}


def test_attempts_that_nobody_counts_stay_charged_in_full(open_ledger: Opener) -> None:
    ledger = open_ledger(config_of(sampler={"name": "random"}))
    trial = ledger.ask()
    plan = 16 * int(trial.params["samples"])

    def budget(limit: int) -> QueryBudget:
        unseen = QueryBudget(
            limit, 100, lambda _: plan, ledger.trials(), lambda _: Paid(), counted=False
        )
        unseen.admit_again(trial)
        return unseen

    with pytest.raises(RuntimeError, match="raise it"):
        budget(100 + 2 * plan - 1)
    account = budget(100 + 2 * plan)
    account.ended(ledger.tell(trial.number, outcome_of(trial.params)))
    left = 100 + 2 * plan - (100 + plan + ledger.queries())
    proposal = SimpleNamespace(number=1, params={"samples": 1})
    with pytest.raises(RuntimeError, match=f"only {left} are left"):
        account.admit(proposal, None)  # type: ignore[arg-type]


def test_a_trial_that_left_no_count_stays_charged(open_ledger: Opener) -> None:
    ledger = open_ledger(config_of(sampler={"name": "random"}))
    lost = ledger.ask()
    plan = 16 * int(lost.params["samples"])
    ledger.fail(lost.number, "the worker died without a word")
    budget = budget_of(ledger, 100 + plan)
    proposal = SimpleNamespace(number=1, params={"samples": 1})
    with pytest.raises(RuntimeError, match="only 0 are left"):
        budget.admit(proposal, None)  # type: ignore[arg-type]


def test_queries_can_be_an_objective(open_ledger: Opener) -> None:
    objectives = [
        {"metric": "accuracy", "direction": "maximize"},
        {"metric": "queries", "direction": "minimize"},
    ]
    ledger = open_ledger(config_of(objectives=objectives, sampler={"startup_trials": 3}))
    run_workers(ledger, workers=2, trials=8)
    front = front_of_ledger(ledger, "mean")
    assert len(front.points) == 8
    assert min(point.mean("queries") for point in front.points) in [
        point.mean("queries") for point in front.best
    ]


@pytest.mark.slow
def test_real_workers_and_a_raised_budget_give_the_same_study(tmp_path: Path) -> None:
    from test_sweep import Drivers

    batch = ("sampler.name=nsgaii", "sampler.population=2", "sampler.batch=2", "budget.trials=4")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = Drivers(tmp_path / "one"), Drivers(tmp_path / "two")
    planned = plan_study(load_space(one.space, batch))
    limit = planned["queries"]["high"] - 2 * planned["queries_per_trial"]["high"]
    one.run(*batch, "resources.workers=1")
    stopped = two.run(*batch, f"budget.queries={limit}")
    assert stopped["finished"] == 2
    ledger = Ledger.open("quick", two.root)
    assert ledger.queries() <= limit
    assert "raise it and launch again" in ledger.ending
    ledger.close()
    finished = two.run(*batch, f"budget.queries={planned['queries']['high']}")
    assert finished["finished"] == 4

    def told(drivers: Drivers) -> list[Any]:
        return [(r.number, r.state, r.params, r.metrics) for r in drivers.trials()]

    assert told(two) == told(one)
