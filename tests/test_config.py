"""A space is read as plain data, refused with its place, and kept as one frozen value."""

from dataclasses import fields
from pathlib import Path

import pytest

from study.config import StudyConfig, changed_settings, load_space, space_names
from study.encoder_sections import TimmEncoder
from study.ranges import PARAMETERS
from study.sections import MethodSection
from study.spaces import check_batches, cost, distributions, method_of
from ude_core.baselines.base import BASELINES
from ude_core.cohorts.phantom import PhantomConfig
from ude_core.errors import SettingError, UserError
from ude_core.types import HeadConfig, MethodConfig

SPACE = """\
description: a small one
seed: 3
cohort: {kind: phantom, patients: 300}
encoder: {kind: phantom_vit}
method:
  samples: 2
  batch_size: 16
search:
  step_size: {low: 1e-3, high: 0.1, log: true}
  local_iterations: {low: 1, high: 4}
  batch: {choices: [per_iteration, per_perturbation]}
budget: {trials: 4, queries_per_trial: 640}
"""


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE, encoding="utf-8")
    return path


def refusal(path: Path, text: str = SPACE, *overrides: str) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as raised:
        load_space(path, overrides)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_space_is_named_after_its_file_unless_it_says_otherwise(space: Path) -> None:
    assert load_space(space).name == "tiny"
    assert load_space(space, ["study=other"]).name == "other"
    assert load_space(space, ["study=other"], study="third").name == "third"


def test_overrides_win_and_command_line_counts_win_over_them(space: Path) -> None:
    config = load_space(
        space, ["method.samples=5", "budget.trials=7", "search.batch=null"], trials=9, workers=3
    )
    assert config.method.samples == 5
    assert config.budget.trials == 9
    assert config.resources.workers == 3
    assert set(config.search) == {"step_size", "local_iterations"}


def test_a_configuration_survives_json(space: Path) -> None:
    config = load_space(space)
    assert StudyConfig.model_validate_json(config.model_dump_json(by_alias=True)) == config
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 4  # type: ignore[misc]


def test_sections_cover_the_engine_settings() -> None:
    method = {field.name for field in fields(MethodConfig)} - {"queries"}
    assert set(MethodSection.model_fields) == method
    assert MethodSection().to_engine() == MethodConfig()
    config = load_space("demo")
    scoring = config.scoring.to_engine()
    assert isinstance(scoring.disease_head, HeadConfig)
    assert config.cohort.kind == "phantom"
    assert isinstance(config.cohort.to_engine(), PhantomConfig)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step_size", "0"),
        ("step_size", "-0.1"),
        ("step_size", ".nan"),
        ("step_size", ".inf"),
        ("step_size", "fast"),
        ("regularization", "-1"),
        ("local_iterations", "0"),
        ("local_iterations", "2.5"),
        ("samples", "0"),
        ("step_decay", "0"),
        ("step_decay", "1.1"),
        ("momentum", "1.0"),
        ("momentum", "-0.1"),
        ("batch_size", "0"),
        ("batch_size", "true"),
        ("epochs", "0"),
        ("max_norm", "0"),
        ("learning_rate", "0"),
        ("prior_weight", "1.5"),
        ("surrogate_images", "0"),
        ("skip_gradient", "1.1"),
        ("skip_gradient", "0"),
        ("target_auc_band", "0"),
        ("target_auc_band", "51"),
    ],
)
def test_a_parameter_outside_its_range_is_refused_with_the_range(
    space: Path, name: str, value: str
) -> None:
    overrides = [f"method.{name}={value}", f"search.{name}=null"]
    message = refusal(space, SPACE, *overrides)
    assert f"method.{name}" in message
    assert str(PARAMETERS[name]) in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("search.step_size.low=0", "log scale needs low > 0"),
        ("search.step_size={low: 0, high: 1}", "search.step_size.low is 0"),
        ("search.step_size={low: 1, high: 0.5}", "low must be lower"),
        ("search.momentum={low: 0.5, high: 1}", "expected μ in [0, 1)"),
        ("search.samples={choices: [1, 2.5]}", "both set under method and searched"),
        ("search.basis_size={choices: [4, 2.5]}", "search.basis_size.1 is 2.5"),
        ("search.basis_size={choices: [4, 4]}", "choices repeat a value"),
        ("search.stepsize={low: 1, high: 2}", "did you mean 'step_size'?"),
        ("search.batch={low: 1, high: 2}", "list its choices"),
        ("search.local_iterations.low=1.5", "search.local_iterations.low is 1.5"),
        ("search.epochs={low: 1, high: 5}", "epochs follow from budget.queries_per_trial"),
        ("search={}", "search is empty"),
        ("objectives=[{metric: eogap, direction: minimize}]", "did you mean 'eo_gap'?"),
        ("objectives=[{metric: eo_gap, direction: down}]", "expected 'minimize' or 'maximize'"),
        ("method.name=guided", "method guided needs a surrogate"),
        ("method.name=random_noise", "method.name: method random_noise needs the norm"),
        ("search.name={choices: [gezo, random_noise]}", "needs the norm of its noise"),
        ("method.held_out=0.6", "expected in (0, 0.5]"),
        ("search.balance={choices: [attribute, sex]}", "search.balance.1 is 'sex'"),
        ("method.name=adam", "'group_dro', 'bias_adv' or 'sketch'"),
        ("search.name={choices: [gezo, adam]}", "search.name.1 is 'adam'"),
        ("cohort.kind=dicom", "'phantom', 'csv'"),
        ("cohort.patient=3", "did you mean 'patients'?"),
        ("cohort.image_size=32", "make them equal"),
        ("split={validation: 0.5, test: 0.5}", "expected under 1"),
        ("bias.gap=1.5", "less than or equal to 1"),
        ("resources.workers=0", "greater than or equal to 1"),
        ("methd.samples=3", "did you mean 'method'?"),
        ("seed.x=3", "holds no keys"),
        ("nothing", "expected KEY.KEY=VALUE"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(
    space: Path, override: str, expected: str
) -> None:
    message = refusal(space, SPACE, override)
    assert expected in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SPACE.replace("seed: 3", "seed: 3\nseed: 4"), ":3:1: the key 'seed' appears twice"),
        (SPACE.replace("seed: 3", "sed: 3"), ":2:1: unknown key 'sed'; did you mean 'seed'?"),
        (SPACE.replace("  samples: 2", "  sample: 2"), ":6:3: unknown key 'method.sample'"),
        (SPACE.replace("seed: 3", "seed: !!python/object/apply:os.getcwd []"), ":2:7: the tag"),
        (SPACE.replace("seed: 3", "seed: !!python/name:os.getcwd ''"), ":2:7: "),
        ("a: &a [1, 1]\nb: [*a, *a]\n", "aliases are not accepted"),
        ("[" * 5000, "nested too deeply"),
        ("a: [1\n", "tiny.yaml:2:1"),
        ("", "expected a mapping"),
        ("? [a]\n: 1\n", "a key must be text"),
        ("seed: " + "9" * 5000, "is not accepted"),
        ("x: " + "a" * 300_000, "larger than 256 KiB"),
        ("a: \x00", "tiny.yaml"),
    ],
)
def test_hostile_or_broken_yaml_is_refused(space: Path, text: str, expected: str) -> None:
    assert expected in refusal(space, text)


def test_numbers_follow_yaml_1_2(space: Path) -> None:
    config = load_space(space, ["method.regularization=1e-4", "description='no'"])
    assert config.method.regularization == 1e-4
    assert config.description == "no"


def test_all_problems_are_told_at_once(space: Path) -> None:
    message = refusal(space, SPACE, "method.momentum=2", "resources.workers=0")
    assert "momentum" in message
    assert "workers" in message


def test_spaces_that_ship_can_be_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UDE_SHARED_DATA", str(tmp_path))
    assert "demo" in space_names()
    for name in space_names():
        assert load_space(name).name == name
    with pytest.raises(UserError, match="did you mean 'demo'"):
        load_space("dem0")
    with pytest.raises(UserError, match="cannot be read"):
        load_space("no/such.yaml")


def test_paths_are_absolute_and_variables_are_taken(
    space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UDE_TEST_DATA", raising=False)
    overrides = [
        "cohort={kind: csv, root: data, diseases: [edema], image_size: 96}",
        "encoder={kind: timm, model: resnet18, checkpoint: w.safetensors, image_size: 96}",
    ]
    text = SPACE.replace("cohort: {kind: phantom, patients: 300}", "cohort: {kind: phantom}")
    space.write_text(
        text.replace(
            "cohort: {kind: phantom}",
            "cohort: {kind: csv, root: '${UDE_TEST_DATA:-data}', diseases: [edema], "
            "image_size: 96}",
        ),
        encoding="utf-8",
    )
    config = load_space(space, overrides[1:])
    assert config.cohort.root == str(space.parent / "data")
    assert config.encoder.checkpoint == str(space.parent / "data" / "w.safetensors")
    monkeypatch.setenv("UDE_TEST_DATA", "/elsewhere")
    assert load_space(space, overrides[1:]).cohort.root == "/elsewhere"
    monkeypatch.chdir(space.parent.parent)
    config = load_space(space, overrides)
    assert config.cohort.root == str(space.parent.parent / "data")


def test_a_resume_may_change_the_target_but_not_the_science(space: Path) -> None:
    config = load_space(space)
    assert changed_settings(config, load_space(space, trials=99, workers=4)) == []
    assert changed_settings(config, load_space(space, ["confirm.repeats=3"])) == []
    assert changed_settings(config, load_space(space, ["seed=4"])) == ["seed = 3, now 4"]


def test_parameters_become_a_method(space: Path) -> None:
    config = load_space(space)
    found = distributions(config)
    assert [type(found[name]).__name__ for name in config.search] == [
        "FloatDistribution",
        "IntDistribution",
        "CategoricalDistribution",
    ]
    method = method_of(config, {"step_size": 0.05, "local_iterations": 2})
    assert (method.step_size, method.local_iterations) == (0.05, 2)
    assert (method.samples, method.batch_size, method.queries) == (2, 16, 640)


def test_the_cost_is_known_before_anything_runs(space: Path) -> None:
    config = load_space(space, ["scoring.controls=1"])
    planned = cost(config, scored_size=300, train_size=200)
    assert (planned.low, planned.high) == (640 + 600, 640 + 600)
    with pytest.raises(SettingError, match="batch_size is 16"):
        check_batches(config, 10)


def test_every_method_can_be_searched_and_costs_the_same(space: Path) -> None:
    every = "search.name={choices: [gezo, spsa, zo_sgd, antithetic_adam, cma_es]}"
    config = load_space(space, [every, "budget.queries_per_trial=null", "method.epochs=2"])
    method = method_of(config, {"name": "cma_es", "local_iterations": 2})
    assert method.name == "cma_es"
    planned = cost(config, scored_size=300, train_size=200)
    controls = 300 * (1 + config.scoring.controls)
    assert (planned.low, planned.high) == (2 * 1 * 64 + controls, 2 * 4 * 64 + controls)


@pytest.mark.parametrize("metric", ["eo_gap_vs_random", "controls_beaten", "psnr_db"])
def test_an_objective_that_a_baseline_has_not_is_refused(space: Path, metric: str) -> None:
    objective = f"objectives=[{{metric: {metric}, direction: minimize}}]"
    load_space(space, [objective])
    with pytest.raises(SettingError, match=f"{metric} is not measured of method erm"):
        load_space(space, [objective, "search.name={choices: [gezo, erm]}"])


@pytest.mark.parametrize("name", ["paper_table2", "phantom_table2"])
def test_one_study_holds_every_row_of_table_2(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UDE_SHARED_DATA", str(tmp_path))
    config = load_space(name)
    rows = {*BASELINES, "gezo", "whitebox"}
    assert set(config.methods) == rows
    assert {point["name"] for point in config.warm_start.points} == rows
    assert config.budget.trials == len(rows)


def test_a_baseline_costs_what_it_embeds_and_attacks(space: Path) -> None:
    names = "erm, sketch, group_dro, batch_sampling, bias_adv"
    overrides = [f"search={{name: {{choices: [{names}]}}}}", "method.attack_steps=4"]
    config = load_space(space, [*overrides, "method.samples=2"])
    planned = cost(config, scored_size=300, train_size=200)
    # Attacks after epochs 10, 20, 30 and 40 of 50, at most on every image for every disease.
    attacked = 300 * len(config.cohort.diseases) * 4 * (4 + 1)
    assert (planned.low, planned.high) == (0, attacked)


def test_looking_whether_to_stop_is_part_of_the_plan(space: Path) -> None:
    overrides = [
        "search={target_auc_band: {choices: [null, 5]}}",
        "method.local_iterations=3",
        "method.epochs=4",
        "budget.queries_per_trial=null",
        "scoring.controls=0",
    ]
    planned = cost(load_space(space, overrides), scored_size=300, train_size=200)
    learning = 4 * 3 * 2 * 2 * 16
    assert (planned.low, planned.high) == (learning + 300, learning + 3 * 50 + 300)


TIMM = SPACE.replace(
    "{kind: phantom, patients: 300}", "{kind: phantom, patients: 300, image_size: 224}"
).replace("{kind: phantom_vit}", "{kind: timm, model: test_vit, checkpoint: w.safetensors}")


def test_how_an_encoder_runs_is_a_setting_with_the_paper_s_default(tmp_path: Path) -> None:
    path = tmp_path / "timm.yaml"
    path.write_text(TIMM, encoding="utf-8")
    plain = load_space(path).encoder
    assert isinstance(plain, TimmEncoder)
    assert (plain.precision, plain.compile, plain.batch_size) == ("float32", False, None)
    overrides = [
        "encoder.precision=bfloat16",
        "encoder.compile=true",
        "encoder.batch_size=measured",
    ]
    quick = load_space(path, overrides).encoder
    assert isinstance(quick, TimmEncoder)
    assert (quick.precision, quick.compile, quick.batch_size) == ("bfloat16", True, "measured")
    for wrong in ("precision=float16", "batch_size=0", "batch_size=largest", "compile=1"):
        assert f"encoder.{wrong.split('=')[0]}" in refusal(path, TIMM, f"encoder.{wrong}")
