"""A study's configuration: one frozen value, read from YAML and refused before anything is spent."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import (
    Field,
    ValidationError,
    model_validator,
)

from study import names
from study.cohort_sections import CohortSection, TableCohort
from study.documents import Document, override, parse
from study.documents import Path as DocumentPath
from study.encoder_sections import EncoderSection, PhantomVitEncoder
from study.explain import InconsistentError, explain, nearest
from study.metric_names import DISEASE_METRICS, STUDY_METRICS
from study.objectives import DEFAULT_OBJECTIVES, Objective
from study.pruning import Pruning, pruning_problems
from study.resources import Resources
from study.search_sections import (
    Constraint,
    Sampler,
    WarmStart,
    constraint_problems,
    sampler_problems,
    warm_start_problems,
)
from study.searched import Between, Choices, Searched, search_problems
from study.sections import (
    BiasSection,
    Budget,
    Confirm,
    MethodSection,
    ScoringSection,
    Section,
    SplitSection,
)
from ude_core.baselines.base import learns_noise
from ude_core.errors import SettingError, UserError
from ude_core.types import NEEDS_SURROGATE, MethodName

__all__ = ["Between", "Choices", "Objective", "StudyConfig", "load_space", "space_names"]


class StudyConfig(Section):
    """Everything a study is. `study` is the display name; `name` the slug files go by."""

    study: str
    description: str = ""
    seed: Annotated[int, Field(ge=0)] = 0
    cohort: CohortSection
    encoder: EncoderSection
    surrogate: EncoderSection | None = None
    method: MethodSection = Field(default_factory=MethodSection)
    search: dict[str, Searched]
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1, strict=False)] = (
        DEFAULT_OBJECTIVES
    )
    constraints: Annotated[tuple[Constraint, ...], Field(strict=False)] = ()
    budget: Budget = Field(default_factory=Budget)
    resources: Resources = Field(default_factory=Resources)
    scoring: ScoringSection = Field(default_factory=ScoringSection)
    bias: BiasSection = Field(default_factory=BiasSection)
    split: SplitSection = Field(default_factory=SplitSection)
    sampler: Sampler = Field(default_factory=Sampler)
    warm_start: WarmStart = Field(default_factory=WarmStart)
    pruning: Pruning = Field(default_factory=Pruning)
    confirm: Confirm = Field(default_factory=Confirm)

    @property
    def name(self) -> str:
        """The slug of the study, as files and databases know it."""
        return names.slug(self.study)

    @property
    def methods(self) -> tuple[MethodName, ...]:
        """The methods of the study: those searched over, or the one set."""
        searched = self.search.get("name")
        if isinstance(searched, Choices):
            return cast(tuple[MethodName, ...], searched.choices)
        return (self.method.name,)

    @model_validator(mode="after")
    def _consistent(self) -> StudyConfig:
        names.slug(self.study)
        problems = [
            *self._size_problems(),
            *self._bias_problems(),
            *self._surrogate_problems(),
            *self._epochs_problems(),
            *self._baseline_problems(),
            *search_problems(self.search),
            *_objective_problems(self),
            *constraint_problems(self.constraints, self.cohort.diseases),
            *pruning_problems(
                self.pruning,
                self.cohort.diseases,
                self.scoring.repeats,
                batched=self.sampler.batch is not None,
                stored=self.resources.trial_store is not None,
            ),
        ]
        if not problems:
            problems = [
                *sampler_problems(
                    self.sampler,
                    self.search,
                    objectives=len(self.objectives),
                    trials=self.budget.trials,
                ),
                *warm_start_problems(self.warm_start, self.search),
            ]
        if problems:
            raise InconsistentError(problems)
        return self

    def _size_problems(self) -> Iterator[tuple[DocumentPath, str]]:
        if self.cohort.image_size != self.encoder.image_size:
            yield (
                ("cohort", "image_size"),
                f"cohort.image_size is {self.cohort.image_size} and the encoder takes "
                f"{self.encoder.image_size}; make them equal",
            )

    def _bias_problems(self) -> Iterator[tuple[DocumentPath, str]]:
        for disease in self.bias.per_disease:
            if disease not in self.cohort.diseases:
                yield (
                    ("bias", "per_disease", disease),
                    f"bias.per_disease names {disease!r} (expected one of "
                    f"{', '.join(self.cohort.diseases)}){nearest(disease, self.cohort.diseases)}",
                )

    def _surrogate_problems(self) -> Iterator[tuple[DocumentPath, str]]:
        searched, methods = self.search.get("name"), self.methods
        using, surrogate = [name for name in methods if name in NEEDS_SURROGATE], self.surrogate
        if using and surrogate is None:
            place = ("search", "name") if searched else ("method", "name")
            yield (
                place,
                f"method {using[0]} needs a surrogate: give an open encoder, another than the one "
                "attacked, under surrogate",
            )
        if surrogate is not None and not using:
            yield (
                ("surrogate",),
                f"surrogate is given and no method uses it ({', '.join(map(str, methods))}; "
                f"expected {', '.join(NEEDS_SURROGATE[:-1])} or {NEEDS_SURROGATE[-1]}); remove it",
            )
        if surrogate is not None and surrogate.image_size != self.cohort.image_size:
            yield (
                ("surrogate", "image_size"),
                f"cohort.image_size is {self.cohort.image_size} and the surrogate takes "
                f"{surrogate.image_size}; make them equal",
            )

    def _epochs_problems(self) -> Iterator[tuple[DocumentPath, str]]:
        if self.budget.queries_per_trial is not None and "epochs" in self.search:
            yield (
                ("search", "epochs"),
                "search.epochs cannot be searched: epochs follow from budget.queries_per_trial; "
                "remove one",
            )

    def _baseline_problems(self) -> Iterator[tuple[DocumentPath, str]]:
        baselines = [name for name in self.methods if not learns_noise(name)]
        norm = self.search.get("max_norm")
        given = self.method.max_norm is not None if norm is None else None not in _values(norm)
        if "random_noise" in baselines and not given:
            yield (
                ("search", "name") if "name" in self.search else ("method", "name"),
                "method random_noise needs the norm of its noise: set method.max_norm, or search "
                "it over numbers alone",
            )
        if not baselines:
            return
        for index, objective in enumerate(self.objectives):
            if objective.metric.endswith(_OF_LEARNT_NOISE):
                yield (
                    ("objectives", index, "metric"),
                    f"objectives.{index}.metric {objective.metric} is not measured of method "
                    f"{baselines[0]}, which learns no noise; choose another metric, or leave the "
                    "method out",
                )

    def science(self) -> dict[str, Any]:
        """Return what may not change on a resume, as JSON values.

        Paths are left out, since data may move: its fingerprint is compared instead.
        """
        return self.model_dump(
            mode="json",
            exclude={
                "study": True,
                "description": True,
                "resources": True,
                "confirm": True,
                "budget": {"trials", "queries"},
                "cohort": {"root"},
                "encoder": {"checkpoint"},
                "surrogate": {"checkpoint"},
            },
        )


_OF_LEARNT_NOISE = ("_vs_random", "controls_beaten", "psnr_db")


def _values(searched: Searched) -> tuple[object, ...]:
    return searched.choices if isinstance(searched, Choices) else (searched.low, searched.high)


def changed_settings(before: StudyConfig, after: StudyConfig) -> list[str]:
    """Return each setting that a resume may not change and yet differs, as `key = old, now new`."""
    old, new = _flat(before.science()), _flat(after.science())
    return [
        f"{key} = {old.get(key)!r}, now {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        found: dict[str, Any] = {}
        for key, item in value.items():
            found |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
        return found
    return {prefix: value}


def space_names() -> tuple[str, ...]:
    """Return the bare names of the spaces that ship with the package, sorted."""
    folder = resources.files("search_spaces")
    return tuple(
        sorted(
            entry.name.removesuffix(".yaml")
            for entry in folder.iterdir()
            if entry.name.endswith(".yaml")
        )
    )


def load_space(
    space: str | Path,
    overrides: Sequence[str] = (),
    *,
    study: str | None = None,
    trials: int | None = None,
    workers: int | None = None,
) -> StudyConfig:
    """Return the configuration of a space: a YAML file, or the bare name of one that ships.

    `overrides` are `a.b=c` assignments, later ones win; `study`, `trials` and `workers` win over
    them. A study is named after its space unless it says otherwise.
    Raises UserError naming every offender with `file:line:column`.
    """
    source, text, folder = _read(space)
    document = override(parse(text, source), tuple(overrides))
    if not isinstance(document.value, dict):
        raise UserError(f"{source}: expected a mapping of settings, got {document.value!r}")
    value = dict(document.value)
    value["study"] = study if study is not None else value.get("study", Path(source).stem)
    for section, key, given in (("budget", "trials", trials), ("resources", "workers", workers)):
        if given is not None:
            value[section] = {**(value.get(section) or {}), key: given}
    document = Document(source=document.source, value=value, places=document.places)
    _refuse_fixed_and_searched(document)
    try:
        config = StudyConfig.model_validate(value)
    except ValidationError as error:
        raise SettingError("; ".join(explain(error, document, StudyConfig))) from None
    return _located(config, document, folder)


def _read(space: str | Path) -> tuple[str, str, Path]:
    """Return the name errors go by, the text, and the folder relative paths start from."""
    path = Path(space)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        try:
            return str(space), path.read_text(encoding="utf-8"), path.resolve().parent
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise UserError(f"{space}: the space cannot be read: {reason}") from None
    known = space_names()
    if str(space) not in known:
        nearest = difflib.get_close_matches(str(space), known, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known)}"
        raise UserError(
            f"there is no search space named {str(space)!r}; {hint} (a file ends in .yaml)"
        )
    entry = resources.files("search_spaces") / f"{space}.yaml"
    with resources.as_file(entry) as packaged:
        return packaged.name, entry.read_text(encoding="utf-8"), packaged.resolve().parent


def _refuse_fixed_and_searched(document: Document) -> None:
    method, search = document.value.get("method"), document.value.get("search")
    if isinstance(method, dict) and isinstance(search, dict):
        for name in method:
            if name in search:
                raise SettingError(
                    f"{document.place(('method', name))}: {name} is both set under method and "
                    f"searched; remove one (--set search.{name}=null)"
                )


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def _located(config: StudyConfig, document: Document, folder: Path) -> StudyConfig:
    """Return `config` with absolute paths: workers run elsewhere, in folders of their own."""

    def base_of(path: DocumentPath) -> Path:
        return Path.cwd() if document.place(path).startswith("--set") else folder

    def absolute(text: str, path: DocumentPath, base: Path) -> Path:
        return (base / Path(_expanded(text, document.place(path))).expanduser()).resolve()

    root: Path | None = None
    if isinstance(config.cohort, TableCohort):
        place: DocumentPath = ("cohort", "root")
        root = absolute(config.cohort.root, place, base_of(place))
        cohort = config.cohort.model_copy(update={"root": str(root)})
        config = config.model_copy(update={"cohort": cohort})
    for name, chosen in (("encoder", config.encoder), ("surrogate", config.surrogate)):
        if chosen is None or isinstance(chosen, PhantomVitEncoder):
            continue
        place = (name, "checkpoint")
        checkpoint = absolute(chosen.checkpoint, place, root or base_of(place))
        encoder = chosen.model_copy(update={"checkpoint": str(checkpoint)})
        config = config.model_copy(update={name: encoder})
    return config


def _expanded(text: str, place: str) -> str:
    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1]) or match[2]
        if found is None:
            raise UserError(f"{place}: the environment variable {match[1]} is not set; set it")
        return found

    return _VARIABLE.sub(value, text)


def _objective_problems(config: StudyConfig) -> Iterator[tuple[DocumentPath, str]]:
    seen: set[str] = set()
    known = {
        *STUDY_METRICS,
        *(f"{d}/{metric}" for d in config.cohort.diseases for metric in DISEASE_METRICS),
    }
    for index, objective in enumerate(config.objectives):
        path = ("objectives", index, "metric")
        if objective.metric not in known:
            hint = nearest(objective.metric, known)
            yield path, f"objectives.{index}.metric {objective.metric!r} is not measured{hint}"
        if objective.metric in seen:
            yield path, f"objectives.{index}.metric {objective.metric!r} appears twice"
        seen.add(objective.metric)
