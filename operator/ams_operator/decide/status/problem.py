"""What stands in the way of a model."""

from dataclasses import dataclass

from ams_common.reasons import ROWS, Reason
from ams_common.resource.conditions import ConditionType


@dataclass(frozen=True, slots=True)
class Problem:
    """A reason, and a sentence for people."""

    reason: Reason
    message: str

    @property
    def condition(self) -> ConditionType:
        """The one that it makes False."""
        return ROWS[self.reason].condition
