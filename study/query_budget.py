"""What a whole study may spend in queries: no attempt is begun that could take it above."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from study.meter import Paid
from study.proposals import NothingToAskError, Proposal
from study.records import Assignment, Parameters, TrialRecord


class OverBudgetError(NothingToAskError):
    """The next trial, or the next attempt at one, does not fit into what is left of the budget."""


class QueryBudget:
    """Keeps account of one launch, in queries paid: those that a lost worker paid for nothing too.

    An attempt at a trial is charged the most it may take from its beginning: the trial's plan less
    what its checkpoint holds. From its end a trial is charged what all its attempts paid (`paid`);
    one that left no count (its worker died without a word) stays charged. Where attempts are not
    `counted` to the image, those that were lost stay charged the most they may have taken.
    """

    def __init__(
        self,
        limit: int,
        prepared: int,
        planned: Callable[[Parameters], int],
        trials: Iterable[TrialRecord],
        paid: Callable[[int], Paid],
        *,
        counted: bool = True,
    ) -> None:
        self._limit = limit
        self._planned = planned
        self._paid = paid
        self._counted = counted
        self._charged = prepared
        self._charges: dict[int, int] = {}
        self._refunds: dict[int, int] = {}
        for record in trials:
            if record.state != "waiting":
                self._charge(record.number, self._planned(record.params))
                if record.finished:
                    self.ended(record)
                elif counted:
                    self._charge(record.number, self._next_attempt(record.number, record.params))

    def admit(self, proposal: Proposal, below: int | None) -> None:
        """Raise OverBudgetError where the proposed trial does not fit.

        Of the trials from `below` on, only what they were charged counts.
        """
        for number in sorted(self._refunds):
            if below is None or number < below:
                self._charged -= self._refunds.pop(number)
        self._refuse(proposal.number, self._planned(proposal.params), self._charged)

    def began(self, assignment: Assignment) -> None:
        """Charge a trial its plan."""
        self._charge(assignment.number, self._planned(assignment.params))

    def admit_again(self, assignment: Assignment) -> None:
        """Charge another attempt at a trial, or raise OverBudgetError where it does not fit."""
        number = assignment.number
        charge = self._next_attempt(number, assignment.params)
        others = self._charged - self._charges.get(number, 0) - sum(self._refunds.values())
        self._refuse(number, charge, others)
        self._charge(number, charge)

    def ended(self, record: TrialRecord) -> None:
        """Charge a finished trial what its attempts paid."""
        charge = self._charges.pop(record.number, None)
        if charge is None or record.queries == 0:
            return
        if self._counted:
            spent = max(record.queries, self._paid(record.number).queries)
        else:
            spent = record.queries + charge - self._planned(record.params)
        self._refunds[record.number] = charge - spent

    def _next_attempt(self, number: int, params: Parameters) -> int:
        """Return what all attempts at a trial come to, if one more begins where it stands."""
        paid = self._paid(number)
        before = paid.queries if self._counted else self._charges[number]
        return before + self._planned(params) - paid.kept

    def _charge(self, number: int, charge: int) -> None:
        self._charged += charge - self._charges.get(number, 0)
        self._charges[number] = charge

    def _refuse(self, number: int, charge: int, others: int) -> None:
        if others + charge > self._limit:
            raise OverBudgetError(
                f"trial {number} may take {charge:,} queries, and of budget.queries "
                f"{self._limit:,} only {max(0, self._limit - others):,} are left; "
                "raise it and launch again to go on"
            )
