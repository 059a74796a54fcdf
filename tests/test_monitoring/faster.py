"""The alert rules sixty times faster: an hour is a minute, for tests that watch alerts come."""

import re
from collections.abc import Mapping
from typing import Any

from dashboards import rules

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
FASTER = 60


def _scaled(text: str) -> str:
    return f"{max(1, round(int(text[:-1]) * _SECONDS[text[-1]] / FASTER))}s"


def rules_file(least: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Windows, offsets and `for`; what an alert compares with stays.

    `least` is the shortest `for`, in seconds, of alerts about what the product itself needs some time for.
    """
    found = rules.load()
    for rule in found:
        rule["expr"] = re.sub(r"\[(\d+[smhd])\]", lambda each: f"[{_scaled(each[1])}]", rule["expr"])
        rule["expr"] = re.sub(r"offset (\d+[smhd])", lambda each: f"offset {_scaled(each[1])}", rule["expr"])
        if "for" in rule:
            rule["for"] = _scaled(rule["for"])
        if (seconds := (least or {}).get(rule.get("alert", ""))) is not None:
            rule["for"] = f"{max(seconds, int(rule['for'][:-1]))}s"
    return rules.rules_file(found)
