"""The gateways: what comes in, how long it takes, what is refused, and how full they are."""

from dashboards.panels import Board, Panel, Query, Row, Variable, quantiles, rate

_NAMESPACE = Variable("namespace", "Namespace", "label_values(ams_gateway_hold_limit, namespace)")
_POD = Variable("pod", "Gateway", 'label_values(ams_gateway_hold_limit{namespace=~"$namespace"}, pod)')
_MODEL = Variable("model", "Model", "label_values(ams_gateway_requests_in_flight, model)")
_OF = 'namespace=~"$namespace",pod=~"$pod"'
_ITS = f'{_OF},model=~"$model"'
_EXPIRES = "ams_gateway_certificate_expiry_timestamp_seconds"
# Exported by every program; the gateway's are those beside its own metrics.
_PROCESS = f"* on (namespace, pod) group_left () (ams_gateway_hold_limit{{{_OF}}} * 0 + 1)"

BOARD = Board(
    uid="ams-gateway",
    title="AI Model Server / Gateway",
    help="The gateways: what comes in, how long it takes, what is refused, and how full they are.",
    variables=(_NAMESPACE, _POD, _MODEL),
    rows=(
        Row(
            "Requests",
            (
                Panel(
                    "Requests by route", [Query(rate("ams_gateway_requests_total", _ITS, "route"), "{{route}}")],
                    "Requests that ended.", unit="reqps", kind="stacked",
                ),
                Panel(
                    "Requests by status", [Query(rate("ams_gateway_requests_total", _ITS, "code"), "{{code}}")],
                    "499: the client left.", unit="reqps", kind="stacked", runbook="AMSRequestsFail",
                ),
                Panel(
                    "Requests by gateway", [Query(rate("ams_gateway_requests_total", _ITS, "pod"), "{{pod}}")],
                    "Whether they share the work.", unit="reqps", kind="stacked",
                ),
                Panel(
                    "Whole requests", quantiles("ams_gateway_request_duration_seconds", _ITS),
                    "From the request's head to the answer's end.", unit="s",
                ),
                Panel(
                    "First byte", quantiles("ams_gateway_time_to_first_byte_seconds", _ITS),
                    "From the request's head to the first byte of a pod's answer.", unit="s",
                ),
                Panel(
                    "Failures",
                    [Query(rate("ams_gateway_failures_total", _ITS, "model"), "{{model}}")],
                    "Requests that failed by no fault of who sent them.", unit="reqps", runbook="AMSRequestsFail",
                ),
                Panel(
                    "In flight",
                    [Query(f"sum by (model) (ams_gateway_requests_in_flight{{{_ITS}}})", "{{model}}")],
                    "Requests at a pod now.", kind="stacked",
                ),
                Panel(
                    "Held",
                    [
                        Query(f"sum by (model) (ams_gateway_requests_held{{{_ITS}}})", "{{model}}"),
                        Query(f"max(ams_gateway_hold_limit{{{_OF}}})", "limit of a model"),
                    ],
                    "Requests that wait for a model to get ready.", runbook="AMSQueueFull",
                ),
                Panel(
                    "Pods that requests go to",
                    [Query(f"max by (model) (ams_gateway_ready_pods{{{_ITS}}})", "{{model}}")],
                    "As the gateways know them.",
                ),
            ),
        ),
        Row(
            "Errors and refusals",
            (
                Panel(
                    "Errors", [Query(rate("ams_gateway_errors_total", _OF, "error"), "{{error}}")],
                    "Errors that were sent to clients, also inside streams; docs/http.md has their codes.",
                    unit="ops", empty="there were none.", runbook="AMSRequestsFail",
                ),
                Panel(
                    "Keys refused",
                    [
                        Query(
                            rate(
                                "ams_gateway_errors_total",
                                f'{_OF},error=~"missing_key|invalid_key|admin_required|scope_required|model_not_allowed"',
                                "error",
                            ),
                            "{{error}}",
                        )
                    ],
                    "Requests without a key that may do this.", unit="ops", empty="every key was good.",
                ),
                Panel(
                    "Limits of keys", [Query(rate("ams_gateway_limit_refusals_total", _OF, "limit"), "{{limit}}")],
                    "Requests that didn't fit into a key's limits.", unit="ops", runbook="AMSKeyNearBudget",
                ),
                Panel(
                    "Sent again", [Query(rate("ams_gateway_retries_total", _ITS, "reason"), "{{reason}}")],
                    "Requests that another pod, or the same one, was sent once more.", unit="ops",
                    empty="no pod failed.",
                ),
                Panel(
                    "Pods left out", [Query(rate("ams_gateway_ejections_total", _ITS, "model"), "{{model}}")],
                    "Times that a failing pod was left out for a while.", unit="ops",
                ),
                Panel(
                    "Kept answers", [Query(rate("ams_gateway_answer_cache_total", _ITS, "result"), "{{result}}")],
                    "Requests whose answers may be kept.", unit="ops", empty="no model keeps answers.",
                ),
            ),
        ),
        Row(
            "How full they are",
            (
                Panel(
                    "Limits in use",
                    [Query(f"max by (resource) (ams_gateway_saturation_ratio{{{_OF}}})", "{{resource}}")],
                    "Of the fullest gateway: connections, memory and files for unfinished bodies.", unit="percentunit",
                    runbook="AMSGatewaySaturated",
                ),
                Panel(
                    "Event loop", [Query(f"max by (pod) (ams_gateway_loop_lag_seconds{{{_OF}}})", "{{pod}}")],
                    "By how much it was late at worst in half a minute.", unit="s", runbook="AMSGatewaySaturated",
                ),
                Panel(
                    "CPU",
                    [Query(f"rate(process_cpu_seconds_total{{{_OF}}}[$__rate_interval]) {_PROCESS}", "{{pod}}")],
                    "Processors in use; one process uses one.", unit="short",
                ),
                Panel(
                    "Memory", [Query(f"process_resident_memory_bytes{{{_OF}}} {_PROCESS}", "{{pod}}")],
                    "Physical memory.", unit="bytes",
                ),
                Panel(
                    "Open files", [Query(f"process_open_fds{{{_OF}}} {_PROCESS}", "{{pod}}")],
                    "Connections and files.",
                ),
                Panel(
                    "Certificate",
                    [Query(f"min by (pod) ({_EXPIRES}{{{_OF}}}) - time()", "{{pod}}")],
                    "Time until it ends.", unit="s", empty="gateways speak HTTP, without TLS of their own.",
                    runbook="AMSCertificateEnds",
                ),
            ),
        ),
        Row(
            "What they share",
            (
                Panel(
                    "Redis", [Query(f"min by (pod) (ams_gateway_redis_up{{{_OF}}})", "{{pod}}")],
                    "1: it can be asked.", empty="there is no Redis.", runbook="AMSRedisAway",
                ),
                Panel(
                    "Calls to Redis",
                    [
                        Query(
                            f"{rate('ams_gateway_redis_seconds_total', _OF, 'pod')}"
                            f" / ({rate('ams_gateway_redis_calls_total', _OF, 'pod')} > 0)",
                            "{{pod}}",
                        )
                    ],
                    "Mean time of a call.", unit="s", empty="there is no Redis.", runbook="AMSRedisAway",
                ),
                Panel(
                    "Rows of the ledger that wait",
                    [Query(f"max by (pod) (ams_gateway_usage_rows_waiting{{{_OF}}})", "{{pod}}")],
                    "What could be neither written nor sent yet.", runbook="AMSUsageNotKept",
                ),
            ),
        ),
    ),
)  # fmt: skip
