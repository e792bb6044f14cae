"""Which parameters matter for one objective: PED-ANOVA over the complete trials."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from study.live.judged import judge
from study.live.source import Snapshot
from study.spaces import distributions
from ude_core.errors import UserError

FEWEST = 10
"""Trials below which an importance would be a guess."""

_MOST = 1000
_QUANTILE = 0.2


def importances_view(now: Snapshot, disease: str, goal: str) -> dict[str, Any]:
    """Return each parameter's share of what separates the best fifth of trials from the rest.

    PED-ANOVA takes lower for better, so what is maximised is negated. Of more than a thousand
    trials, an even sample is taken: the shares change by less than they do from study to study.
    Raises UserError where `goal` is no objective.
    """
    judged = judge(now, disease)
    names = [one.name for one in now.goals]
    if goal not in names:
        raise UserError(f"{goal!r} is not an objective (one of {', '.join(names)})")
    at = names.index(goal)
    sign = -1.0 if now.goals[at].direction == "maximize" else 1.0
    searched = distributions(now.config)
    usable = [
        (now.trials.params[row], sign * value)
        for row, value in zip(judged.rows, judged.coordinates[:, at], strict=True)
        if math.isfinite(value) and now.trials.params[row].keys() == searched.keys()
    ]
    answer: dict[str, Any] = {"goal": goal, "disease": disease, "version": now.version}
    if len(usable) < FEWEST:
        return answer | {"importances": [], "why": f"they take {FEWEST} complete trials"}
    if len(usable) > _MOST:
        chosen = np.linspace(0, len(usable) - 1, _MOST).round().astype(int)
        usable = [usable[i] for i in chosen]
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage())
    study.add_trials(
        [
            optuna.trial.create_trial(params=dict(params), distributions=searched, value=value)
            for params, value in usable
        ]
    )
    evaluator = PedAnovaImportanceEvaluator(target_quantile=_QUANTILE)
    found = get_param_importances(study, evaluator=evaluator)
    ordered = sorted(found.items(), key=lambda item: -item[1])
    return answer | {
        "trials": len(usable),
        "importances": [{"name": n, "share": round(v, 4)} for n, v in ordered],
    }
