"""docs/paper_map.md names files, definitions and tests that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    line
    for line in (ROOT / "docs" / "paper_map.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and "`" in line
]
ROOMS = ("", "ude_core", "ude_core/baselines", "ude_core/metrics", "study/report", "search_spaces")


def test_there_is_something_to_hold() -> None:
    assert len(ROWS) >= 30


@pytest.mark.parametrize("row", ROWS)
def test_what_a_row_names_exists(row: str) -> None:
    named = re.findall(r"`([^`]+)`", row)
    for test in (name for name in named if name.startswith("test_")):
        file, _, function = test.partition("::")
        text = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f"def {function}" in text, f"{file} has no {function}"
    for name in named:
        if re.fullmatch(r"[\w/]+\.(py|yaml)", name) and not name.startswith("test_"):
            assert any((ROOT / room / name).is_file() for room in ROOMS), f"no file {name}"
    for file, definition in re.findall(r"`((?:ude_core|study)/[\w/]+\.py)` `(\w+)`", row):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"(def|class) {definition}\b", text), f"{file} has no {definition}"
