"""All models at a glance: which are ready, what they answer, what they are short of, what fires."""

from dashboards.panels import NAMESPACE, OF_OPERATOR, Board, Panel, Query, Row, Variable, quantiles, rate

_MODEL = Variable("model", "Model", "label_values(ams_operator_ready_replicas, model)", r"/\/(.+)$/")
_READY = f'max by (model) (ams_operator_condition{{condition="Ready",{OF_OPERATOR}}})'
_OF_PODS = 'namespace=~"$namespace",model=~"$model"'
_OF_GATEWAY = 'model=~"(.+[.])?($model)"'


def _of_operator(name: str) -> str:
    return f"max by (model) ({name}{{{OF_OPERATOR}}})"


def _named(query: str) -> str:
    """With the namespace and the name of a model apart, which are one label of the operator's."""
    with_namespace = f'label_replace({query}, "namespace", "$1", "model", "(.+)/.+")'
    return f'label_replace({with_namespace}, "model", "$1", "model", ".+/(.+)")'


BOARD = Board(
    uid="ams-fleet",
    title="AI Model Server / Fleet",
    help="All models: which are ready, what they answer, what fires.",
    variables=(NAMESPACE, _MODEL),
    rows=(
        Row(
            "Now",
            (
                Panel("Models", [Query(f"count({_READY})")], "ModelDeployments.", kind="stat", width=3, height=4),
                Panel(
                    "Not ready", [Query(f"count({_READY} == 0) or vector(0)")],
                    "Models whose condition Ready is False: also those that are suspended.", kind="stat", width=3,
                    height=4, steps=(1, 3), runbook="AMSModelNotReady",
                ),
                Panel(
                    "Pods that answer", [Query(f"sum(max by (model) (ams_operator_ready_replicas{{{OF_OPERATOR}}}))")],
                    "Ready pods of all models.", kind="stat", width=3, height=4,
                ),
                Panel(
                    "Requests", [Query(rate("ams_gateway_requests_total", _OF_GATEWAY))], "Requests that ended.",
                    kind="stat", unit="reqps", width=3, height=4,
                ),
                Panel(
                    "Failures",
                    [
                        Query(
                            f"{rate('ams_gateway_failures_total', _OF_GATEWAY)}"
                            f" / {rate('ams_gateway_requests_total', _OF_GATEWAY)}"
                        )
                    ],
                    "Part of the requests that fail by no fault of who sends them.", kind="stat", unit="percentunit",
                    width=3, height=4, steps=(0.01, 0.05), runbook="AMSRequestsFail",
                ),
                Panel(
                    "First token, p95", quantiles("ams_pod_time_to_first_token_seconds", _OF_PODS, [0.95]),
                    "Time from a pod's acceptance to the first token.", kind="stat", unit="s", width=3, height=4,
                    steps=(2, 5), runbook="AMSFirstTokenSlow",
                ),
                Panel(
                    "Tokens", [Query(rate("ams_pod_generated_tokens_total", _OF_PODS))], "Tokens of answers.",
                    kind="stat", unit="tok/s", width=3, height=4,
                ),
                Panel(
                    "Alerts", [Query('count(ALERTS{alertname=~"AMS.+",alertstate="firing"}) or vector(0)')],
                    "Alerts of this product that fire.", kind="stat", width=3, height=4, steps=(1, 3),
                ),
            ),
        ),
        Row(
            "Models",
            (
                Panel(
                    "Models",
                    [
                        Query(_named(_READY), "Ready"),
                        Query(_named(_of_operator("ams_operator_ready_replicas")), "Pods"),
                        Query(_named(_of_operator("ams_operator_desired_replicas")), "Wanted"),
                        Query(_named(_of_operator("ams_operator_demand_requests_in_flight")), "In flight"),
                        Query(_named(_of_operator("ams_operator_demand_requests_held")), "Held"),
                        Query(_named(_of_operator("ams_operator_container_restarts")), "Restarts"),
                    ],
                    "Each ModelDeployment. A click on its name opens its own dashboard.", kind="table", width=16,
                    height=9, labels=("model", "namespace"),
                    link="/d/ams-model?${__url_time_range}&var-namespace=${__data.fields.namespace}"
                    "&var-model=${__data.fields.model}",
                ),
                Panel(
                    "Alerts that fire", [Query('ALERTS{alertname=~"AMS.+",alertstate="firing"}', "Firing")],
                    "With the labels that say what they are about.", kind="table", width=8, height=9,
                    labels=("alertname", "severity", "model"), empty="nothing fires.",
                ),
                Panel(
                    "Conditions that are False",
                    [
                        Query(
                            "max by (model, condition, reason) (ams_operator_condition{"
                            f'condition=~"Ready|Accepted|PreflightPassed|WeightsReady",{OF_OPERATOR}}} == 0)',
                            "False",
                        )
                    ],
                    "Why models aren't ready.", kind="table", width=12, labels=("model", "condition", "reason"),
                    empty="every model is ready.", runbook="AMSModelNotReady",
                ),
                Panel(
                    "Downloads",
                    [
                        Query(
                            f"max by (model) (ams_operator_download_done_bytes{{{OF_OPERATOR}}})"
                            f" / max by (model) (ams_operator_download_size_bytes{{{OF_OPERATOR}}})",
                            "{{model}}",
                        )
                    ],
                    "How far downloads are.", unit="percentunit", width=12, empty="nothing is being downloaded.",
                    runbook="AMSDownloadStuck",
                ),
            ),
        ),
        Row(
            "Traffic",
            (
                Panel(
                    "Requests by model", [Query(rate("ams_gateway_requests_total", _OF_GATEWAY, "model"), "{{model}}")],
                    "Requests that ended.", unit="reqps", kind="stacked",
                ),
                Panel(
                    "Failures by model",
                    [
                        Query(
                            f"{rate('ams_gateway_failures_total', _OF_GATEWAY, 'model')}"
                            f" / ({rate('ams_gateway_requests_total', _OF_GATEWAY, 'model')} > 0)",
                            "{{model}}",
                        )
                    ],
                    "Part of the requests that fail by no fault of who sends them.", unit="percentunit",
                    runbook="AMSRequestsFail",
                ),
                Panel(
                    "Tokens by model",
                    [Query(rate("ams_pod_generated_tokens_total", _OF_PODS, "model"), "{{model}}")],
                    "Tokens of answers.", unit="tok/s", kind="stacked",
                ),
                Panel(
                    "First token by model, p95",
                    [
                        Query(
                            "histogram_quantile(0.95, "
                            f"{rate('ams_pod_time_to_first_token_seconds_bucket', _OF_PODS, 'model, le')})",
                            "{{model}}",
                        )
                    ],
                    "Time from a pod's acceptance to the first token.", unit="s", runbook="AMSFirstTokenSlow",
                ),
                Panel(
                    "Waiting by model",
                    [
                        Query(f"sum by (model) (ams_pod_queued_requests{{{_OF_PODS}}})", "{{model}} at pods"),
                        Query(f"sum by (model) (ams_gateway_requests_held{{{_OF_GATEWAY}}})", "{{model}} held"),
                    ],
                    "Requests in the queues of pods, and held for models that aren't ready.", runbook="AMSQueueFull",
                ),
                Panel(
                    "Batch in use",
                    [
                        Query(
                            f"sum by (model) (ams_pod_running_requests{{{_OF_PODS}}})"
                            f" / sum by (model) (ams_pod_concurrent_requests_limit{{{_OF_PODS}}})",
                            "{{model}}",
                        )
                    ],
                    "Part of the places in the batch that are taken.", unit="percentunit",
                ),
            ),
        ),
        Row(
            "Room",
            (
                Panel(
                    "Memory of pods", [Query(f"sum by (model) (ams_pod_resident_bytes{{{_OF_PODS}}})", "{{model}}")],
                    "Physical memory of the models' processes.", unit="bytes", kind="stacked",
                ),
                Panel(
                    "Volumes in use",
                    [
                        Query(
                            f"1 - min by (namespace, model) (ams_pod_volume_free_bytes{{{_OF_PODS}}}"
                            f" / ams_pod_volume_size_bytes{{{_OF_PODS}}})",
                            "{{model}}",
                        )
                    ],
                    "Of the volumes with weights.", unit="percentunit", runbook="AMSVolumeNearlyFull",
                ),
                Panel(
                    "Out of memory",
                    [Query(rate("ams_pod_out_of_memory_total", _OF_PODS, "model, rung"), "{{model}} {{rung}}")],
                    "Requests that memory ran out for, by what was done.", unit="ops",
                    empty="memory never ran out.", runbook="AMSOutOfMemory",
                ),
            ),
        ),
    ),
)  # fmt: skip
