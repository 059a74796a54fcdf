"""What is found out of one condition."""

from dataclasses import dataclass
from typing import Self

from ams_common.resource.conditions import ConditionStatus

from ams_operator.decide.status.problem import Problem


@dataclass(frozen=True, slots=True)
class Outcome:
    """A condition without its type and times."""

    status: ConditionStatus
    reason: str
    message: str

    @classmethod
    def of(cls, problem: Problem) -> Self:
        """The condition that a problem makes False."""
        return cls("False", problem.reason, problem.message)
