"""The condition types of a ModelDeployment; `ams_common.reasons` has what each may carry."""

from typing import Literal

ConditionType = Literal["Accepted", "PreflightPassed", "WeightsReady", "Available", "Progressing", "Ready"]
ConditionStatus = Literal["True", "False", "Unknown"]
