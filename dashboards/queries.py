"""Fills a dashboard's variables into its queries, as Grafana does, for who asks Prometheus without Grafana."""

import re
from collections.abc import Mapping

EVERYTHING = {"namespace": ".*", "model": ".*", "pod": ".*", "key": ".*", "hourly": "1"}


def filled(expression: str, variables: Mapping[str, str], *, rate_seconds: int, range_seconds: int) -> str:
    """KeyError for a variable that has no value; `$1` of label_replace stays."""
    values = {
        **variables,
        "__rate_interval": f"{rate_seconds}s",
        "__range": f"{range_seconds}s",
        "__range_s": str(range_seconds),
    }
    return re.sub(r"\$([A-Za-z_]\w*)", lambda found: values[found[1]], expression)
