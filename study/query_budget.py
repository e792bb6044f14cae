"""What a whole study may spend in queries: no trial is begun that could take it above."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from study.proposals import NothingToAskError, Proposal
from study.records import Assignment, Parameters, TrialRecord


class OverBudgetError(NothingToAskError):
    """The next trial does not fit into what is left of the budget."""


class QueryBudget:
    """Keeps account of one launch.

    A trial is charged its plan, an upper bound, from its beginning, and what it really spent from
    its end. One that left no count (its worker died) stays charged its plan.
    """

    def __init__(
        self,
        limit: int,
        prepared: int,
        planned: Callable[[Parameters], int],
        trials: Iterable[TrialRecord],
    ) -> None:
        self._limit = limit
        self._planned = planned
        self._charged = prepared
        self._plans: dict[int, int] = {}
        self._refunds: dict[int, int] = {}
        for record in trials:
            if record.state != "waiting":
                self._begin(record.number, record.params)
                if record.finished:
                    self.ended(record)

    def admit(self, proposal: Proposal, below: int | None) -> None:
        """Raise OverBudgetError where the proposed trial does not fit.

        Of the trials from `below` on, only the plans count.
        """
        for number in sorted(self._refunds):
            if below is None or number < below:
                self._charged -= self._refunds.pop(number)
        plan = self._planned(proposal.params)
        if self._charged + plan > self._limit:
            raise OverBudgetError(
                f"trial {proposal.number} may take {plan:,} queries, and of budget.queries "
                f"{self._limit:,} only {max(0, self._limit - self._charged):,} are left; "
                "raise it and launch again to go on"
            )

    def began(self, assignment: Assignment) -> None:
        """Charge a trial its plan."""
        self._begin(assignment.number, assignment.params)

    def ended(self, record: TrialRecord) -> None:
        """Charge a finished trial what it spent."""
        plan = self._plans.pop(record.number, None)
        if plan is not None and record.queries > 0:
            self._refunds[record.number] = plan - record.queries

    def _begin(self, number: int, params: Parameters) -> None:
        if number not in self._plans:
            self._plans[number] = self._planned(params)
            self._charged += self._plans[number]
