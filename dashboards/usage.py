"""Usage and cost: who uses how much of what, what is left of budgets, and what it comes to at a price of yours."""

from dashboards.panels import MODEL, NAMESPACE, OF_GATEWAY, OF_OPERATOR, Board, Panel, Query, Row, Variable, rate

_KEY = Variable("key", "Key", "label_values(ams_gateway_key_tokens_total, key)")
_KINDS = "model, token_type"
# Operators that wait for the Lease tell the same as the one that leads.
_HOURS = (
    f"sum by (model) (avg_over_time(ams_operator_ready_replicas{{{OF_OPERATOR}}}[$__range]))"
    " / on () group_left () count(ams_operator_leads) * $__range_s / 3600"
)
_ITS = 'key=~"$key"'


def _in_range(name: str, selector: str, by: str) -> str:
    return f"sum by ({by}) (increase({name}{{{selector}}}[$__range]))"


BOARD = Board(
    uid="ams-usage",
    title="AI Model Server / Usage and cost",
    help="Who uses how much of what, what is left of budgets, and what it comes to at a price of yours.",
    variables=(NAMESPACE, MODEL, _KEY),
    texts={"hourly": ("Price of a pod's hour", "1.00")},
    rows=(
        Row(
            "Keys",
            (
                Panel(
                    "Keys in this range",
                    [
                        Query(_in_range("ams_gateway_key_requests_total", _ITS, "key"), "Requests"),
                        Query(
                            _in_range("ams_gateway_key_tokens_total", f'{_ITS},token_type="input"', "key"), "Tokens in"
                        ),
                        Query(
                            _in_range("ams_gateway_key_tokens_total", f'{_ITS},token_type="output"', "key"),
                            "Tokens out",
                        ),
                        Query(_in_range("ams_gateway_key_compute_seconds_total", _ITS, "key"), "Compute"),
                    ],
                    "By the keys' names, as far as gateways that run have counted; `ams usage` has the ledger.",
                    kind="table", width=16, height=8, labels=("key",), units={"Compute": "s"},
                ),
                Panel(
                    "Budgets",
                    [Query(f"max by (key) (ams_gateway_key_budget_used_ratio{{{_ITS}}})", "Used")],
                    "Part of the month's tokens that is used.", kind="table", unit="percentunit", width=8, height=8,
                    labels=("key",), empty="no key has a budget.", runbook="AMSKeyNearBudget",
                ),
                Panel(
                    "Tokens by key",
                    [Query(rate("ams_gateway_key_tokens_total", f'{_ITS},token_type!="cached"', "key"), "{{key}}")],
                    "Of prompts and answers.", unit="tok/s", kind="stacked",
                ),
                Panel(
                    "Requests by key", [Query(rate("ams_gateway_key_requests_total", _ITS, "key"), "{{key}}")],
                    "That ended.", unit="reqps", kind="stacked",
                ),
                Panel(
                    "Requests by outcome",
                    [Query(rate("ams_gateway_key_requests_total", _ITS, "outcome"), "{{outcome}}")],
                    "cached: answered with what was kept. cut: the client left, or the pod ended.", unit="reqps",
                    kind="stacked",
                ),
                Panel(
                    "Compute by key",
                    [Query(rate("ams_gateway_key_compute_seconds_total", _ITS, "key"), "{{key}}")],
                    "Pods that work for a key alone, as it were.", unit="short", kind="stacked",
                ),
                Panel(
                    "Share of the compute",
                    [
                        Query(
                            f"{rate('ams_gateway_key_compute_seconds_total', _ITS, 'key')}"
                            f" / on () group_left () ({rate('ams_gateway_key_compute_seconds_total')} > 0)",
                            "{{key}}",
                        )
                    ],
                    "Who uses the models.", unit="percentunit", kind="stacked", empty="nothing is computed.",
                ),
                Panel(
                    "Refused by limits", [Query(rate("ams_gateway_limit_refusals_total", "", "limit"), "{{limit}}")],
                    "Requests that didn't fit into a key's limits.", unit="ops", runbook="AMSKeyNearBudget",
                ),
            ),
        ),
        Row(
            "Models",
            (
                Panel(
                    "Tokens by model",
                    [Query(rate("ams_gateway_tokens_total", OF_GATEWAY, _KINDS), "{{model}} {{token_type}}")],
                    "Of answered requests.", unit="tok/s", kind="stacked",
                ),
                Panel(
                    "Compute by model",
                    [
                        Query(
                            rate("ams_pod_compute_seconds_total", 'namespace=~"$namespace",model=~"$model"', "model"),
                            "{{model}}",
                        )
                    ],
                    "Part of a pod's time that it computes, over all pods.", unit="short", kind="stacked",
                ),
                Panel(
                    "Media", [Query(rate("ams_gateway_media_items_total", OF_GATEWAY, "model"), "{{model}}")],
                    "Images, clips and videos.", unit="ops",
                ),
            ),
        ),
        Row(
            "Cost",
            (
                Panel(
                    "Pods paid for, in this range",
                    [
                        Query(_HOURS, "Hours"),
                        Query(f"$hourly * {_HOURS}", "Cost"),
                    ],
                    "Hours of pods that were ready, and what they cost at the price above.", kind="table", width=12,
                    labels=("model",), units={"Hours": "h", "Cost": "currencyUSD"},
                ),
                Panel(
                    "Cost of a million tokens",
                    [
                        Query(
                            "$hourly / 3600 * sum(max by (model) (ams_operator_ready_replicas"
                            f"{{{OF_OPERATOR}}})) / ({rate('ams_gateway_tokens_total', OF_GATEWAY)} > 0) * 1e6",
                            "at the load of now",
                        )
                    ],
                    "The hour's price over the tokens of prompts and answers: idle pods make them dear.",
                    unit="currencyUSD", width=12, empty="no tokens are used now.",
                ),
            ),
        ),
    ),
)  # fmt: skip
