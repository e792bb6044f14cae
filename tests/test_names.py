"""Study names become slugs that are safe as folders, and never meet by accident."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.names import Layout, slug, trial_name, trial_number
from ude_core.errors import UserError

SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


@given(st.text(max_size=400))
def test_every_name_is_a_safe_slug_or_refused(display: str) -> None:
    try:
        name = slug(display)
    except UserError:
        return
    assert SLUG.fullmatch(name)
    assert slug(name) == name


@given(st.text(min_size=1, max_size=60), st.text(min_size=1, max_size=60))
def test_two_displays_never_share_a_study(one: str, other: str) -> None:
    try:
        names = slug(one), slug(other)
    except UserError:
        return
    assert (names[0] == names[1]) == (one == other) or names[0] in (one, other)


@pytest.mark.parametrize(
    "display", ["", "..", "../x\0", "a" * 301, "-rf", "cache", "mlartifacts", "///", "a\nb"]
)
def test_names_that_are_refused(display: str) -> None:
    with pytest.raises(UserError):
        slug(display)


def test_a_study_never_leaves_the_root(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    assert layout.study("../../etc/passwd").folder.parent == tmp_path.resolve()


def test_trial_folders_carry_their_number() -> None:
    assert trial_number(Path("x") / trial_name(123456)) == 123456
    with pytest.raises(UserError, match="not a trial folder"):
        trial_number(Path("12a"))
