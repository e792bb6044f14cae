"""The README promises nothing that a command does not do: each of its lines is held to the program."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from study import load_space
from study.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def shell_lines() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def command_of(words: list[str]) -> tuple[object, list[str]]:
    group = typer.main.get_command(app)
    while words and hasattr(group, "commands"):
        assert words[0] in group.commands, f"no command {words[0]!r}"
        group, words = group.commands[words[0]], words[1:]
    return group, words


def test_there_is_something_to_hold() -> None:
    assert sum(line.startswith("ude-study") for line in shell_lines()) >= 10


@pytest.mark.parametrize("line", [x for x in shell_lines() if x.startswith("ude-study")])
def test_every_command_and_option_exists(line: str) -> None:
    command, words = command_of(shlex.split(line)[1:])
    options = {name for parameter in command.params for name in parameter.opts}  # type: ignore[attr-defined]
    for word in words:
        if word.startswith("-"):
            assert word.split("=")[0] in options, f"{line}: no option {word}"
    if command.name == "launch":  # type: ignore[attr-defined]
        sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
        assert load_space(words[0], sets).search


@pytest.mark.parametrize("line", [x for x in shell_lines() if x.startswith("make")])
def test_every_make_target_exists(line: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{line.split()[1]}:", makefile, flags=re.MULTILINE)


def test_the_files_it_points_to_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"`((?:search_spaces|study|ude_core)/[\w/.]+)`", README):
        assert (ROOT / path).exists(), path


def test_the_numbers_it_names_are_the_demos() -> None:
    assert f"{load_space('demo').budget.trials}\ntrials" in README
