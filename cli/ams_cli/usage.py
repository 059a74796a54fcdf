"""`ams usage`: what keys have used, as a gateway's ledger knows it."""

from typing import Literal
from urllib.parse import urlencode

import msgspec
from ams_common.printable import printable
from ams_common.wire.usage import UsageReport, UsageTotals

from ams_cli.gateway_client import GatewayClient, get_json, get_text
from ams_cli.tables import columns

_LONGEST_NAME = 60
_HEADS = {"start": "FROM", "key": "KEY", "model": "MODEL", "outcome": "OUTCOME"}


async def report(
    gateway: GatewayClient, start: str, end: str, group: str, output: Literal["table", "json", "csv"]
) -> str:
    """The answer of the gateway in this format. GatewayError."""
    query = {name: value for name, value in (("from", start), ("to", end), ("group", group)) if value}
    if output == "csv":
        return (await get_text(gateway, _path(query | {"format": "csv"}))).rstrip("\r\n")
    found = await get_json(gateway, _path(query), UsageReport)
    if output == "json":
        return msgspec.json.format(msgspec.json.encode(found)).decode()
    return table(found)


def table(found: UsageReport) -> str:
    """The rows under each other, and their sum where there are several."""
    heads = [name for name in _HEADS if any(getattr(row, name) is not None for row in found.rows)]
    if not found.rows:
        return f"Nothing was used from {found.start} to {found.end}."
    names = [_HEADS[name] for name in heads]
    rows = [(*names, "REQUESTS", "PROMPT", "CACHED", "COMPLETION", "MEDIA", "COMPUTE")]
    for row in found.rows:
        cells = [printable(str(getattr(row, name) or "-"), _LONGEST_NAME) for name in heads]
        rows.append((*cells, *_numbers(row)))
    if len(found.rows) > 1 and heads:
        rows.append(("total", *("" for _ in heads[1:]), *_numbers(found.total)))
    return columns(rows)


def _numbers(sums: UsageTotals) -> tuple[str, ...]:
    counts = (sums.requests, sums.prompt_tokens, sums.cached_tokens, sums.completion_tokens, sums.media)
    return (*(f"{count:,}" for count in counts), f"{sums.compute_seconds:,.1f}s")


def _path(query: dict[str, str]) -> str:
    return "/admin/usage" + (f"?{urlencode(query)}" if query else "")
