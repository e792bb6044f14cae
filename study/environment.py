"""Settings that Ray and MLflow read from the environment when they are imported.

What the user has set himself is left as it is.
"""

from __future__ import annotations

import os
from pathlib import Path

from ude_core.errors import UserError

MLFLOW_PASSWORD_FILE = "MLFLOW_TRACKING_PASSWORD_FILE"
"""The environment variable with a file, a mounted secret, that holds MLflow's password."""

_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
}
_MLFLOW = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a repeated creation makes a second run: we look first
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for what was asked
}


def prepare_ray() -> None:
    """Have Ray send nothing out, write no logs of its own, and leave signals to us."""
    _set(_RAY)


def prepare_mlflow() -> None:
    """Have MLflow send nothing out, read no pickles, and give up on a silent server soon.

    Raises UserError where the file with its password cannot be read.
    """
    _set(_MLFLOW)
    place = os.environ.get(MLFLOW_PASSWORD_FILE)
    if place:
        try:
            password = Path(place).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise UserError(f"{MLFLOW_PASSWORD_FILE} is {place}: {reason}") from None
        _set({"MLFLOW_TRACKING_PASSWORD": password})


def _set(values: dict[str, str]) -> None:
    for name, value in values.items():
        os.environ.setdefault(name, value)
