"""What a study may use of a machine or a cluster, and through which places its nodes meet."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from study.sections import Count, NotNegative, Positive, Section

_RESERVED = frozenset({"cpu", "gpu", "memory", "object_store_memory"})
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")


class Resources(Section):
    """What the study may use. With `budget.trials` and `budget.queries`, all that
    a resume may change.

    `workers` trials run at the same time. Each spreads its candidates over `workers_per_trial`
    processes, each of which takes what is said `per_trial`; its noise does not change.
    `custom_per_trial` are resources that nodes of a cluster offer under a name of their own, such as
    a quota. `trial_store` is a pyarrow filesystem URL through which workers and driver exchange
    files where they share no disk; `node_cache` is a folder on each node's own disk that keeps the
    study's data there, fetched once a node.
    """

    workers: Count = 1
    workers_per_trial: Count = 1
    cpus_per_trial: Count = 1
    gpus_per_trial: NotNegative = 0.0
    memory_gib_per_trial: NotNegative = 0.0
    custom_per_trial: dict[str, Positive] = Field(default_factory=dict)
    trial_store: str | None = None
    node_cache: str | None = None

    @field_validator("gpus_per_trial")
    @classmethod
    def _whole_above_one(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("expected a fraction of one GPU, or a whole number of them")
        return value

    @field_validator("custom_per_trial")
    @classmethod
    def _named_apart(cls, value: dict[str, float]) -> dict[str, float]:
        for name, amount in value.items():
            if name.lower() in _RESERVED or not _NAME.fullmatch(name):
                raise ValueError(
                    f"expected a resource's own name, got {name!r}; CPUs, GPUs and memory have "
                    "settings of their own"
                )
            if amount > 1 and amount != int(amount):
                raise ValueError(f"expected {name} to be a fraction of one, or a whole number")
        return value

    @field_validator("trial_store")
    @classmethod
    def _url_without_secrets(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if not parts.scheme or not (parts.netloc or parts.path.strip("/")):
            raise ValueError("expected a filesystem URL such as s3://bucket/folder")
        secret = re.search(r"(secret|password|token|key)[^=&]*=", parts.query, re.IGNORECASE)
        if parts.username or parts.password or secret:
            raise ValueError(
                "expected a URL without credentials: settings are recorded; give credentials to "
                "the nodes themselves"
            )
        return value

    @field_validator("node_cache")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        if value is not None and not Path(value).is_absolute():
            raise ValueError("expected an absolute path, the same on every node")
        return value
