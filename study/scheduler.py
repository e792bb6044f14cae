"""Ray Tune's scheduler over the trial folders: at each rung a trial goes on, or ends as pruned.

What Tune reports is only the signal to look into the trial's folder. Nothing is held in memory
alone: a later driver reads every trial's rungs again, and no pickle is involved.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, assert_never

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from study.lease import Lease
from study.ledger import Ledger
from study.pruning import ParetoRule, Pruning, Rule
from study.rung_records import Pruned, read_rungs, rungs_of, write_pruned
from ude_core.rungs import Rung


class AshaRule:
    """By one metric, through Ray's own asynchronous successive halving.

    A trial whose metric is undefined at a rung goes on.
    """

    def __init__(self, settings: Pruning) -> None:
        goal = settings.metrics[0]
        self._metric = goal.metric
        shares: dict[str, Any] = {"max_t": 1.0, "grace_period": settings.grace}
        self._said: dict[tuple[int, float], str | None] = {}
        # It is typed for whole epochs, and works on shares of a trial alike.
        self._asha: Any = ASHAScheduler(
            time_attr="share",
            metric="value",
            mode="max" if goal.direction == "maximize" else "min",
            **shares,
            reduction_factor=settings.reduction_factor,
        )

    def saw(self, number: int, rung: Rung) -> str | None:
        """Take note of a trial at a rung; return why it is stopped there, or None."""
        value = rung.metrics.get(self._metric)
        if value is None:
            return None
        key = (number, rung.share)
        if key not in self._said:  # Ray lets a trial go on where it saw it before
            self._said[key] = self._first_word(number, rung.share, value)
        return self._said[key]

    def _first_word(self, number: int, share: float, value: float) -> str | None:
        trial = SimpleNamespace(trial_id=str(number))
        self._asha.on_trial_add(None, trial)
        decision = self._asha.on_trial_result(None, trial, {"share": share, "value": value})
        if decision == TrialScheduler.STOP:
            return f"{self._metric} {value:.4g} is past ASHA's cut"
        return None


def make_rule(settings: Pruning, batch: int | None = None) -> Rule | None:
    """Return the rule that a study is pruned by, or None where it is not.

    `batch` is the sampler's: decisions then do not depend on who arrives first.
    """
    match settings.name:
        case "off":
            return None
        case "pareto_rank":
            return ParetoRule(settings, batch)
        case "asha":
            return AshaRule(settings)
        case _:
            assert_never(settings.name)


class PruningScheduler(FIFOScheduler):
    """Stops trials at rungs; the decision lies in the trial's folder before Tune hears of it."""

    def __init__(self, ledger: Ledger, lease: Lease, rule: Rule) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._places = ledger.places
        self._lease = lease
        self._rule = rule
        earlier = [
            (rung.share, record.number, rung)
            for record in ledger.trials()
            for rung in rungs_of(record.folder)
        ]
        for _, number, rung in sorted(earlier, key=lambda seen: seen[:2]):
            rule.saw(number, rung)

    def on_trial_result(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        """Decide on a trial that reached a rung."""
        if result.get("rung") is None:
            return str(TrialScheduler.CONTINUE)
        number = int(trial.config["number"])
        folder = self._places.trial(number)
        record = read_rungs(folder)
        if record is None:
            return str(TrialScheduler.CONTINUE)
        for rung in record.last:
            reason = self._rule.saw(number, rung)
            if reason is not None:
                self._lease.check()
                saved = record.planned - record.spent.total
                said = f"stopped at {100 * rung.share:.0f}% of its learning: {reason}"
                write_pruned(folder, Pruned(said, record.spent, saved))
                return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its settings to a file that nobody reads

    def __deepcopy__(self, memo: dict[int, Any]) -> PruningScheduler:
        return self
