"""MLflow's own table of a study's runs, as it should open: trials, their gaps, accuracy and queries.

MLflow keeps a view of that table as JSON in a tag of the experiment, and opens it by an address. The
format is undocumented; a test reads it back in MLflow's own pages. Where a later MLflow knew it no
more, its table would open as it comes.
"""

from __future__ import annotations

import json

from study.config import StudyConfig
from study.pareto import goals_of
from study.run_metrics import metric_name

VIEW = "ude-trials"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
QUERIES = "queries_spent"
_WIDTH = 100  # pixels
_SINCE = 0  # a saved view carries times; a fixed one keeps the tag the same


def runs_view(experiment: str) -> str:
    """Return the address, after MLflow's `#`, of an experiment's runs with our columns."""
    return f"/experiments/{experiment}/runs?viewStateShareKey={VIEW}"


def view_of(config: StudyConfig) -> str:
    """Return the saved view of a study: its trials alone, by the first objective, best first."""
    goals = goals_of((goal.metric, goal.direction) for goal in config.objectives)
    diseases = config.cohort.diseases
    means = [_metric(goal.metric) for goal in config.objectives]
    each = [_metric(f"{disease}/{goal.name}") for disease in diseases for goal in goals]
    columns = [
        *dict.fromkeys(means),  # first: the window is narrow, and colors tell the front already
        _metric(QUERIES),
        "tags.`confirmed`",
        *(f"tags.`front.{disease}`" for disease in diseases),
        *(f"tags.`label.{disease}`" for disease in diseases),
        *(name for name in each if name not in means),
        *(f"params.`{name}`" for name in config.search),
    ]
    first = config.objectives[0]
    state = {
        "searchFilter": "tags.`ude.trial` != 'study'",
        "orderByKey": _metric(first.metric),
        "orderByAsc": first.direction == "minimize",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": dict.fromkeys(columns, _WIDTH),
    }
    return json.dumps(
        {
            "name": "Trials and their front",
            "createdAt": _SINCE,
            "updatedAt": _SINCE,
            "state": json.dumps(state),
        }
    )


def _metric(name: str) -> str:
    return f"metrics.`{metric_name(name)}`"
