"""Every test that docs/faults.md names is there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_fault_names_a_test_that_exists() -> None:
    table = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = [line for line in table.splitlines() if re.match(r"\| \d", line)]
    known = set()
    for path in (ROOT / "tests").glob("test_*.py"):
        known |= set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    named = [re.findall(r"`(test_\w+)`", row) for row in rows]
    assert len(rows) >= 17
    assert all(named)
    assert {name for names in named for name in names} <= known
