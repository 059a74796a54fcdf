"""Models as rows of a table, for `ams up`, `ams top` and `ams status`. Pure."""

from collections.abc import Callable, Sequence
from typing import Literal

from ams_common.plain import plain_text
from ams_common.quantity import format_bytes, format_duration
from ams_common.wire import ErrorOverview, ModelOverview

Order = Literal["name", "tokens", "requests", "memory"]

HEADER = ("MODEL", "STATE", "READY", "REQUESTS", "TOKENS/S", "CACHE", "MEMORY", "NOTE")
_BAR_CELLS = 12
_ORDERS: dict[Order, Callable[[ModelOverview], object]] = {
    "name": lambda model: model.name,
    "tokens": lambda model: (-model.tokens_per_second, model.name),
    "requests": lambda model: (-model.in_flight - model.held - model.queued, model.name),
    "memory": lambda model: (-(model.memory_bytes or 0), model.name),
}


def ordered(models: Sequence[ModelOverview], order: Order) -> list[ModelOverview]:
    return sorted(models, key=_ORDERS[order])  # type: ignore[arg-type]


def cells(model: ModelOverview) -> tuple[str, ...]:
    """One for each of HEADER; empty where nothing is known or nothing happens."""
    return (
        model.name,
        state(model),
        f"{model.ready_replicas}/{max(model.replicas, model.ready_replicas)}",
        requests(model),
        f"{model.tokens_per_second:.1f}" if model.tokens_per_second else "",
        _cache(model),
        "" if model.memory_bytes is None else format_bytes(model.memory_bytes),
        plain_text(model.message),
    )


def state(model: ModelOverview, *, bar: bool = True) -> str:
    """`downloading ━━━━━─────── 43 % 3m10s left`"""
    words = [model.state.value]
    if model.percent is not None:
        if bar:
            words.append(progress_bar(model.percent))
        words.append(f"{model.percent:.0f} %")
    if model.eta_seconds is not None:
        words.append(f"{format_duration(model.eta_seconds)} left")
    return " ".join(words)


def progress_bar(percent: float) -> str:
    done = round(_BAR_CELLS * min(max(percent, 0.0), 100.0) / 100)
    return "━" * done + "─" * (_BAR_CELLS - done)


def requests(model: ModelOverview) -> str:
    """`3 (+2 held, +1 queued)`; queued ones wait in pods, held ones for the model."""
    waiting = [f"+{count} {what}" for count, what in ((model.held, "held"), (model.queued, "queued")) if count]
    if not model.in_flight and not waiting:
        return ""
    return f"{model.in_flight}" + (f" ({', '.join(waiting)})" if waiting else "")


def _cache(model: ModelOverview) -> str:
    """How full the caches of the pods are."""
    room = sum(pod.cache_capacity_tokens or 0 for pod in model.pods)
    used = sum(pod.cache_tokens or 0 for pod in model.pods)
    return f"{100 * used / room:.0f} %" if room else ""


def summary(models: Sequence[ModelOverview], where: str) -> str:
    """`3 models, 2 ready, 5 requests, 41.0 tokens a second at http://…`"""
    ready = sum(1 for model in models if model.ready_replicas)
    asked = sum(model.in_flight + model.held for model in models)
    tokens = sum(model.tokens_per_second for model in models)
    return (
        f"{len(models)} model{'s' * (len(models) != 1)}, {ready} ready, {asked} request{'s' * (asked != 1)}, "
        f"{tokens:.1f} tokens/s at {where}"
    )


def newest_errors(models: Sequence[ModelOverview], most: int) -> list[tuple[str, ErrorOverview]]:
    """(model, error), the newest first."""
    errors = [(model.name, error) for model in models for error in model.errors]
    return sorted(errors, key=lambda each: -each[1].time)[:most]


def error_line(model: str, error: ErrorOverview, now: float) -> str:
    """`smollm2: queue_full 12 times, 5s ago: 64 requests wait. Try again later.`"""
    times = f" {error.count} times" if error.count > 1 else ""
    told = " ".join(part for part in (error.message, error.help) if part)
    ago = format_duration(max(now - error.time, 0))
    return plain_text(f"{model}: {error.code}{times}, {ago} ago" + (f": {told}" if told else ""))
