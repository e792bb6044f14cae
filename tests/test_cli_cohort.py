"""`ude-study cohort check`, and the spaces of published cohorts from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from mae_checkpoint import encoder_tensors, published
from published_cohorts import make_chexpert, make_mimic, make_nih, write_rows
from typer.testing import CliRunner

from study import cli
from study.config import load_space
from study.plan import plan_study

HEADER = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema,Pneumonia,PatientID"


def run(*arguments: object, status: int = 0) -> Result:
    done = CliRunner().invoke(cli.app, [str(one) for one in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == status, done.output
    return done


def refused(*arguments: object) -> str:
    """Return the one line that says what the user can mend."""
    done = run(*arguments, status=2)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def table(root: Path, **changes: str) -> Path:
    """Write 16 rows whose images are missing; `changes` are cells by column, of the first row."""
    names = HEADER.split(",")
    rows = []
    for i in range(16):
        sick = i // 2 % 2 == 0
        edema, nothing = ("1.0", "") if sick else ("0.0", "1.0")
        sex = "Male" if i % 2 else "Female"
        rows.append([f"img/{i}.png", sex, "50", "Frontal", "PA", nothing, edema, "", f"secret{i}"])
        (root / "img").mkdir(exist_ok=True)
        (root / f"img/{i}.png").write_text(f"no image {i}")
    for name, cell in changes.items():
        rows[0][names.index(name)] = cell
    write_rows(root / "c.csv", [HEADER, *rows])
    return root / "c.csv"


def test_a_sound_table_is_counted(tmp_path: Path) -> None:
    said = json.loads(run("cohort", "check", table(tmp_path), "--no-images", "--json").stdout)
    assert said["problems"] == []
    assert said["notes"] == ["no study could use pneumonia: a cell of it is empty"]
    assert (said["images"], said["patients"], said["groups"]) == (16, 16, ["female", "male"])
    cells = {(c["disease"], c["label"], c["group"]): c["n"] for c in said["cells"]}
    assert cells["edema", "positive", "female"] == 4
    assert cells["pneumonia", "positive", "male"] == 0
    shown = run("cohort", "check", table(tmp_path), "--no-images").stdout
    assert "c.csv: no problems" in shown
    assert "images per cell, by sex" in shown


def test_every_problem_is_printed_and_no_id(tmp_path: Path) -> None:
    file = table(tmp_path, Sex="Mael", Age="old", Edema="perhaps")
    done = run("cohort", "check", file, "--disease", "edema", status=2)
    found = [line for line in done.stdout.splitlines() if line.startswith("problem: ")]
    assert (
        found[0] == "problem: c.csv:2: Age is 'old' (expected 0 to 120 years); mend or drop the row"
    )
    assert "c.csv:2: Sex is 'Mael'" in found[1]
    assert "c.csv:2: Edema is 'perhaps'" in found[2]
    assert len(found) == 3 + 15  # and every other row's image is none
    assert done.stderr == "error: c.csv: 18 problems\n"
    assert "secret" not in done.output
    said = run("cohort", "check", file, "--disease", "edema", "--json", status=2).stdout
    assert len(json.loads(said)["problems"]) == 18
    assert "secret" not in said


def test_a_disease_that_is_named_must_fill_its_cells(tmp_path: Path) -> None:
    """What only happens to be in the table is noted; what a study asks for is refused."""
    done = run("cohort", "check", table(tmp_path), "--no-images", "--disease", "edema,pneumonia",
               status=2)  # fmt: skip
    assert "pneumonia has no positive image in group female: eo_positive_gap" in done.stdout
    file = table(tmp_path)
    lines = [line for line in file.read_text().splitlines() if "Female" not in line]
    file.write_text("\n".join(lines))
    assert "one sex group (male)" in run("cohort", "check", file, "--no-images", status=2).stdout
    file = table(tmp_path)
    lines = [line for line in file.read_text().splitlines() if ",1.0,0.0," not in line]
    file.write_text("\n".join(lines))
    assert (
        "edema has no negative image"
        in run("cohort", "check", file, "--no-images", status=2).stdout
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.csv"], "none.csv: cannot be read"),
        (["{root}"], "holds no table that is known"),
        (["{root}/c.csv", "--kind", "dicom"], "--kind is 'dicom'"),
        (["{root}/c.csv", "--kind", "nih"], "Data_Entry_2017.csv: cannot be read"),
        (["{root}/c.csv", "--root", "/nowhere"], "expected a folder that holds c.csv"),
        (["{root}/c.csv", "--negatives", "none"], "negatives: "),
        (["{root}/c.csv", "--column", "pth=Path"], "did you mean 'path'?"),
        (["{root}/c.csv", "--column", "path"], "--column is 'path' (expected NAME=VALUE)"),
        (["{root}/c.csv", "--value", "sex=F"], "expected ROLE.CELL=MEANING"),
        (["{root}/c.csv", "--age-bands", "old"], "--age-bands is 'old'"),
        (["demo"], "cohort.kind is 'phantom'"),
        (["demo", "--kind", "csv"], "demo is a space"),
    ],
)
def test_what_cannot_be_checked(tmp_path: Path, arguments: list[str], says: str) -> None:
    table(tmp_path)
    filled = [argument.format(root=tmp_path) for argument in arguments]
    assert says in refused("cohort", "check", *filled)


def test_a_table_with_columns_of_its_own(tmp_path: Path) -> None:
    text = table(tmp_path).read_text().replace("Sex", "gender").replace("Female", "W")
    file = tmp_path / "own.csv"
    file.write_text(text.replace("Edema", "water"))
    arguments = ("cohort", "check", file, "--no-images", "--json", "--column", "sex=gender",
                 "--value", "sex.W=Female", "--column", "edema=water", "--disease", "edema",
                 "--column", "view=")  # fmt: skip
    assert json.loads(run(*arguments).stdout)["problems"] == []


@pytest.mark.parametrize("kind", ["chexpert", "nih", "mimic"])
def test_published_folders_are_recognised(tmp_path: Path, kind: str) -> None:
    make = {"chexpert": make_chexpert, "nih": make_nih, "mimic": make_mimic}[kind]
    diseases = "pleural_effusion" if kind == "nih" else "pleural_effusion,edema"
    folder = make(tmp_path)
    arguments = ("--disease", diseases, "--json", "--confounder", "AP/PA")
    said = json.loads(run("cohort", "check", folder, *arguments).stdout)
    assert said["problems"] == []
    assert said["confounder"] == "ap_pa"
    assert {cell["stratum"] for cell in said["cells"]} == {"ap", "pa"}


SMALL = (
    "cohort.image_size=64", "encoder.image_size=64", "encoder.heads=2", "encoder.checkpoint=vit.pth",
    "cohort.root={root}", "bias.train_per_group=4", "bias.validation_per_cell=2",
    "bias.test_per_cell=2", "bias.per_disease=null", "bias.gap=0.5", "method.batch_size=8",
)  # fmt: skip


@pytest.mark.parametrize("space", ["chexpert_gezo", "chexpert_whitebox", "nih_chestxray14"])
def test_spaces_of_published_cohorts_plan_on_their_format(tmp_path: Path, space: str) -> None:
    if space == "nih_chestxray14":
        make_nih(tmp_path, patients=96, test=32)
    else:
        make_chexpert(tmp_path, patients=80)
    published(tmp_path / "vit.pth", encoder_tensors())
    overrides = [setting.format(root=tmp_path) for setting in SMALL if "null" not in setting]
    config = load_space(space, [*overrides, "bias.per_disease={}"])
    planned = plan_study(config)
    assert planned["encoder"] == "medical_mae"
    assert planned["diseases"] == list(config.cohort.diseases)
    for cell in planned["cells"]:
        assert (cell["confirm_test"], cell["draw_validation"]) == (1, 1)
    shipped = load_space(space)
    assert shipped.bias.to_engine().of("pneumonia").test_per_cell == (
        100 if space.startswith("chexpert") else 200
    )
    assert shipped.bias.to_engine().of("edema").test_per_cell == 200


def test_a_launch_refuses_a_bad_table_before_any_trial(tmp_path: Path) -> None:
    """Too few rows for the batch, and a test split too small for its cells, cost no query."""
    make_nih(tmp_path, patients=96, test=32)
    published(tmp_path / "vit.pth", encoder_tensors())
    overrides = [setting.format(root=tmp_path) for setting in SMALL if "null" not in setting]
    settings = [part for one in [*overrides, "bias.per_disease={}"] for part in ("--set", one)]
    runs = tmp_path / "runs"
    launch = ("launch", "nih_chestxray14", *settings, "--root", runs)
    assert "batch_size is 500" in refused(*launch, "--dry-run", "--set", "method.batch_size=500")
    message = refused(*launch, "--set", "bias.test_per_cell=90")
    assert "too few test images" in message
    assert "lower bias.test_per_cell (90)" in message
    text = (tmp_path / "Data_Entry_2017.csv").read_text().replace(",F,", ",X,", 1)
    (tmp_path / "Data_Entry_2017.csv").write_text(text)
    assert "Data_Entry_2017.csv:2: Patient Gender is 'X'" in refused(*launch)
    said = json.loads(run("status", "nih_chestxray14", "--root", runs, "--json").stdout)
    assert said["queries"] == 0
    assert sum(said["counts"].values()) == 0
