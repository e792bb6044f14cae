"""A confirmation to look at: each noise beside ERM and beside random noise of its own norm."""

from __future__ import annotations

from rich.table import Table

from study.confirm import Confirmation
from study.pareto import Goal
from study.pareto_views import measured_text, title
from ude_core.types import Interval


def confirmation_table(found: Confirmation, disease: str, goals: tuple[Goal, ...]) -> Table:
    """Return one disease's table: ERM, then every confirmed noise and the mean of its controls."""
    table = Table(
        title=f"{found.study} · {disease} · test split, {found.repeats} fresh draws",
        caption=(
            f"noise: mean with 95 % interval · random: mean and range of {found.controls} random "
            "noises of the same norm · dominates ERM: probability of being better on every "
            f"objective at once · search − test: {title(goals[0].name)} on validation minus here · "
            "confirmed: a smaller equal-opportunity gap than ERM's, corrected for the number of "
            "points, and than 95 % of its random noises"
        ),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("trial")
    for goal in goals:
        arrow = "↓" if goal.direction == "minimize" else "↑"
        table.add_column(f"{title(goal.name)} {arrow}", justify="right")
    for name in ("dominates ERM", "controls beaten", "search − test"):
        table.add_column(name, justify="right")
    table.add_column("against ERM")
    table.add_column("test split says")
    names = [f"{disease}/{goal.name}" for goal in goals]
    table.add_row("ERM", *(measured_text(found.erm.get(name)) for name in names))
    for point in found.points:
        if disease not in point.fronts:
            continue
        chance = point.dominance.get(disease)
        optimism = point.optimism.get(names[0])
        beaten = point.metrics.get(f"{disease}/controls_beaten")
        confirmed = point.standing.get(disease) == "confirmed"
        table.add_row(
            str(point.trial),
            *(measured_text(point.metrics.get(name)) for name in names),
            "–" if chance is None else f"{100 * chance:.0f} %",
            f"{beaten.mean:.0f} %" if isinstance(beaten, Interval) else "–",
            "–" if optimism is None else f"{optimism:+.1f}",
            point.levelling.get(disease, "–"),
            point.standing.get(disease, "–"),
            style="bold" if confirmed else None,
        )
        if point.random:
            row = (measured_text(point.random.get(name)) for name in names)
            table.add_row("  random", *row, style="dim")
    return table
