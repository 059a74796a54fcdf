"""The condition types of a ModelDeployment; `ams_common.reasons` has what each may carry."""

from typing import Literal

ConditionType = Literal[
    "Accepted", "PreflightPassed", "WeightsReady", "Available", "AdaptersReady", "Progressing", "Ready"
]
Abnormal = Literal["Reconciling", "Stalled"]  # conditions of kstatus, which are there only while they are True
ConditionStatus = Literal["True", "False", "Unknown"]
