"""The operator: does it lead, does it keep up, what does it decide, how do starts go."""

from dashboards.panels import NAMESPACE, OF_OPERATOR, Board, Panel, Query, Row, Variable, quantiles, rate

_MODEL = Variable("model", "Model", "label_values(ams_operator_ready_replicas, model)", r"/\/(.+)$/")
_POD = Variable("pod", "Operator", "label_values(ams_operator_leads, pod)")
_OF = 'pod=~"$pod"'
_PROCESS = f"* on (namespace, pod) group_left () (ams_operator_leads{{{_OF}}} * 0 + 1)"

BOARD = Board(
    uid="ams-operator",
    title="AI Model Server / Operator",
    help="The operator: does it lead, does it keep up, what does it decide, how do starts go.",
    variables=(NAMESPACE, _MODEL, _POD),
    rows=(
        Row(
            "Work",
            (
                Panel(
                    "Leaders", [Query("sum(ams_operator_leads)")], "Operators that hold the Lease: one.", kind="stat",
                    width=4, height=7, runbook="AMSNoLeader",
                ),
                Panel(
                    "Who leads", [Query(f"max by (pod) (ams_operator_leads{{{_OF}}})", "{{pod}}")],
                    "1 while it holds the Lease.", width=6, runbook="AMSNoLeader",
                ),
                Panel(
                    "Reconciles", [Query(rate("ams_operator_reconciles_total", _OF, "outcome"), "{{outcome}}")],
                    "Times that a resource was looked at.", unit="ops", width=7, runbook="AMSReconcilesFail",
                ),
                Panel(
                    "Time of a reconcile", quantiles("ams_operator_reconcile_duration_seconds", _OF),
                    "With what it writes.", unit="s", width=7, empty="nothing changed lately.",
                ),
                Panel(
                    "Queue", [Query(f"max by (pod) (ams_operator_queue_depth{{{_OF}}})", "{{pod}}")],
                    "Resources that wait to be looked at.", runbook="AMSOperatorBehind",
                ),
                Panel(
                    "Age of the queue", [Query(f"max by (pod) (ams_operator_queue_age_seconds{{{_OF}}})", "{{pod}}")],
                    "How long the first of them waits.", unit="s", runbook="AMSOperatorBehind",
                ),
                Panel(
                    "Requests to the API server",
                    [Query(rate("ams_operator_api_requests_total", _OF, "pod"), "{{pod}}")],
                    "Those of watches aside.", unit="reqps",
                ),
                Panel(
                    "Writes", [Query(rate("ams_operator_writes_total", _OF, "kind"), "{{kind}}")],
                    "Objects written, by kind.", unit="ops",
                ),
                Panel(
                    "Asked of hubs", [Query(rate("ams_operator_preflights_total", _OF, "outcome"), "{{outcome}}")],
                    "Preflights, by what the hub said.", unit="ops",
                ),
                Panel(
                    "CPU",
                    [Query(f"rate(process_cpu_seconds_total{{{_OF}}}[$__rate_interval]) {_PROCESS}", "{{pod}}")],
                    "Processors in use.",
                ),
            ),
        ),
        Row(
            "Models",
            (
                Panel(
                    "Resources by condition",
                    [
                        Query(
                            'max by (condition) (ams_operator_resources{status="True"})', "{{condition}}"
                        )
                    ],
                    "ModelDeployments whose condition is True.",
                ),
                Panel(
                    "Not ready",
                    [
                        Query(
                            "max by (model, reason) (ams_operator_condition"
                            f'{{condition="Ready",{OF_OPERATOR}}} == 0) + 1',
                            "{{model}} {{reason}}",
                        )
                    ],
                    "A line for each model that isn't.", empty="every model is ready.", runbook="AMSModelNotReady",
                ),
                Panel(
                    "Pods",
                    [
                        Query(f"max by (model) (ams_operator_ready_replicas{{{OF_OPERATOR}}})", "{{model}} answer"),
                        Query(f"max by (model) (ams_operator_desired_replicas{{{OF_OPERATOR}}})", "{{model}} wanted"),
                    ],
                    "That answer, and that there should be.",
                ),
                Panel(
                    "Restarts",
                    [Query(f"max by (model) (ams_operator_container_restarts{{{OF_OPERATOR}}})", "{{model}}")],
                    "Of containers, of the pods that there are.",
                ),
            ),
        ),
        Row(
            "Scaling",
            (
                Panel(
                    "Demand",
                    [
                        Query(
                            f"max by (model) (ams_operator_demand_requests_in_flight{{{OF_OPERATOR}}})",
                            "{{model}} in flight",
                        ),
                        Query(f"max by (model) (ams_operator_demand_requests_held{{{OF_OPERATOR}}})", "{{model}} held"),
                    ],
                    "What gateways report and models are scaled by.",
                ),
                Panel(
                    "Every gateway reports", [Query("max(ams_operator_demand_complete)", "complete")],
                    "0: nothing is scaled down.",
                ),
                Panel(
                    "Decisions",
                    [Query(rate("ams_operator_scaling_decisions_total", _OF, "direction"), "{{direction}}")],
                    "Changes of replicas by load.", unit="ops",
                ),
            ),
        ),
        Row(
            "Starts",
            (
                Panel(
                    "Starts by step, mean",
                    [
                        Query(
                            "sum by (phase) (increase(ams_operator_startup_seconds_sum[$__range]))"
                            " / (sum by (phase) (increase(ams_operator_startup_seconds_count[$__range])) > 0)",
                            "{{phase}}",
                        )
                    ],
                    "Of the pods that got ready in this range. schedule, pull (image and volume), download, load.",
                    unit="s", empty="no pod got ready in this range.", runbook="AMSRequestsWaitLong",
                ),
                Panel(
                    "Whole starts",
                    [
                        Query(
                            f"histogram_quantile({level}, sum by (le) "
                            '(increase(ams_operator_startup_seconds_bucket{phase="total"}[$__range])))',
                            f"p{level * 100:g}",
                        )
                        for level in (0.5, 0.9)
                    ],
                    "From the pod's creation until it answers, of the pods that got ready in this range.", unit="s",
                    empty="no pod got ready in this range.", runbook="AMSRequestsWaitLong",
                ),
                Panel(
                    "Downloads", [Query(rate("ams_operator_download_bytes_total", OF_OPERATOR, "model"), "{{model}}")],
                    "As pods tell the operator.", unit="Bps", runbook="AMSDownloadSlow",
                ),
            ),
        ),
    ),
)  # fmt: skip
