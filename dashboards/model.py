"""One model: is it there, how fast does it answer, what do requests wait for, what does it need."""

from dashboards.panels import (
    MODEL,
    NAMESPACE,
    OF_GATEWAY,
    OF_OPERATOR,
    OF_PODS,
    POD,
    Board,
    Panel,
    Query,
    Row,
    quantiles,
    rate,
)

BOARD = Board(
    uid="ams-model",
    title="AI Model Server / Model",
    help="One model: is it there, how fast does it answer, what do requests wait for, what does it need.",
    variables=(NAMESPACE, MODEL, POD),
    rows=(
        Row(
            "Now",
            (
                Panel(
                    "Ready", [Query(f'max(ams_operator_condition{{condition="Ready",{OF_OPERATOR}}})')],
                    "The condition Ready: 1 is True, 0 is False.", kind="stat", width=3, height=4,
                    runbook="AMSModelNotReady",
                ),
                Panel(
                    "Pods",
                    [
                        Query(f"sum(max by (model) (ams_operator_ready_replicas{{{OF_OPERATOR}}}))", "answer"),
                        Query(f"sum(max by (model) (ams_operator_desired_replicas{{{OF_OPERATOR}}}))", "wanted"),
                    ],
                    "Pods that answer, and that there should be.", kind="stat", width=5, height=4,
                ),
                Panel(
                    "Running", [Query(f"sum(ams_pod_running_requests{{{OF_PODS}}})")], "Requests in the batch.",
                    kind="stat", width=4, height=4,
                ),
                Panel(
                    "Waiting", [Query(f"sum(ams_pod_queued_requests{{{OF_PODS}}})")], "Requests in the queues of pods.",
                    kind="stat", width=4, height=4, runbook="AMSQueueFull",
                ),
                Panel(
                    "Held", [Query(f"sum(ams_gateway_requests_held{{{OF_GATEWAY}}})")],
                    "Requests that wait for the model to get ready.", kind="stat", width=4, height=4,
                    runbook="AMSRequestsWaitLong",
                ),
                Panel(
                    "Restarts", [Query(f"sum(max by (model) (ams_operator_container_restarts{{{OF_OPERATOR}}}))")],
                    "Times that containers of its pods were started again.", kind="stat", width=4, height=4,
                    steps=(1, 5),
                ),
            ),
        ),
        Row(
            "Requests",
            (
                Panel(
                    "Requests by status",
                    [Query(rate("ams_gateway_requests_total", OF_GATEWAY, "code"), "{{code}}")],
                    "Requests that ended, at all gateways; 499: the client left.", unit="reqps", kind="stacked",
                ),
                Panel(
                    "Requests by route",
                    [Query(rate("ams_gateway_requests_total", OF_GATEWAY, "route"), "{{route}}")],
                    "Requests that ended, at all gateways.", unit="reqps", kind="stacked",
                ),
                Panel(
                    "Requests by outcome", [Query(rate("ams_pod_requests_total", OF_PODS, "outcome"), "{{outcome}}")],
                    "What became of requests at the pods.", unit="reqps", kind="stacked",
                ),
                Panel(
                    "Whole requests", quantiles("ams_gateway_request_duration_seconds", OF_GATEWAY),
                    "From the request's head to the answer's end, at the gateways.", unit="s",
                ),
                Panel(
                    "First token", quantiles("ams_pod_time_to_first_token_seconds", OF_PODS),
                    "From a pod's acceptance to the first token.", unit="s", runbook="AMSFirstTokenSlow",
                ),
                Panel(
                    "Between tokens", quantiles("ams_pod_inter_token_seconds", OF_PODS),
                    "Time between tokens of one request.", unit="s",
                ),
                Panel(
                    "What first tokens wait for",
                    [Query(rate("ams_pod_wait_seconds_total", OF_PODS, "cause"), "{{cause}}")],
                    "Seconds of waiting in each second, over all requests, by cause; docs/metrics.md names them.",
                    unit="short", kind="stacked", runbook="AMSFirstTokenSlow",
                ),
                Panel(
                    "How answers end",
                    [Query(rate("vllm:request_success_total", OF_PODS, "finished_reason"), "{{finished_reason}}")],
                    "stop: complete. length: out of tokens. abort: the client left. error: the model failed.",
                    unit="ops", kind="stacked",
                ),
                Panel(
                    "Errors", [Query(rate("ams_gateway_errors_total", OF_GATEWAY, "error"), "{{error}}")],
                    "Errors that gateways sent, also inside streams.", unit="ops", empty="there were none.",
                    runbook="AMSRequestsFail",
                ),
            ),
        ),
        Row(
            "Engine",
            (
                Panel(
                    "Tokens",
                    [
                        Query(rate("ams_pod_generated_tokens_total", OF_PODS), "generated"),
                        Query(rate("ams_pod_prefill_tokens_total", OF_PODS), "read of prompts"),
                    ],
                    "Of answers and of prompts.", unit="tok/s",
                ),
                Panel(
                    "Batch and queue",
                    [
                        Query(f"sum(ams_pod_running_requests{{{OF_PODS}}})", "running"),
                        Query(f"sum(ams_pod_concurrent_requests_limit{{{OF_PODS}}})", "places"),
                        Query(f"sum(ams_pod_queued_requests{{{OF_PODS}}})", "waiting"),
                    ],
                    "Requests in the batch against its places, and those that wait.", runbook="AMSQueueFull",
                ),
                Panel(
                    "Tokens a step",
                    [
                        Query(
                            f"{rate('ams_pod_decode_tokens_total', OF_PODS)} / ({rate('ams_pod_steps_total', OF_PODS)}"
                            " > 0)",
                            "tokens",
                        )
                    ],
                    "How many a step makes: one of each request, and guessed ones.",
                    empty="nothing was computed lately.",
                ),
                Panel(
                    "Busy",
                    [Query(rate("ams_pod_busy_seconds_total", OF_PODS, "pod"), "{{pod}}")],
                    "Part of the time that the engine computes.", unit="percentunit",
                ),
                Panel(
                    "Cache in use",
                    [
                        Query(
                            f"sum by (pod) (ams_pod_cache_tokens{{{OF_PODS}}})"
                            f" / sum by (pod) (ams_pod_cache_capacity_tokens{{{OF_PODS}}})",
                            "{{pod}}",
                        )
                    ],
                    "Of the cache of keys and values.", unit="percentunit",
                ),
                Panel(
                    "Prompts from the cache",
                    [
                        Query(
                            f"sum(rate(ams_pod_prefix_cache_hits_total{{{OF_PODS}}}[$__rate_interval]))"
                            f" / sum(rate(ams_pod_prefix_cache_queries_total{{{OF_PODS}}}[$__rate_interval]))",
                            "hits",
                        )
                    ],
                    "Part of the prompts' tokens that earlier requests had computed.", unit="percentunit",
                    empty="no prompt was read lately.",
                ),
                Panel(
                    "Guessed tokens",
                    [
                        Query(rate("ams_pod_accepted_tokens_total", OF_PODS), "right"),
                        Query(rate("ams_pod_drafted_tokens_total", OF_PODS), "verified"),
                    ],
                    "Tokens of answers that were guessed from what came before, and those of them that were right.",
                    unit="tok/s",
                ),
                Panel(
                    "Memory",
                    [Query(f"sum by (device, kind) (ams_pod_memory_bytes{{{OF_PODS}}})", "{{device}} {{kind}}")],
                    "By device, over all pods.", unit="bytes",
                ),
                Panel(
                    "Media", [Query(rate("ams_pod_media_decode_seconds_count", OF_PODS, "kind"), "{{kind}}")],
                    "Items that were decoded, by kind.", unit="ops", empty="no request had any.",
                ),
                Panel(
                    "Out of memory",
                    [Query(rate("ams_pod_out_of_memory_total", OF_PODS, "stage, rung"), "{{stage}} {{rung}}")],
                    "Requests that memory ran out for, by stage and by what was done.", unit="ops",
                    empty="memory never ran out.", runbook="AMSOutOfMemory",
                ),
                Panel(
                    "Hangs", [Query(f"max by (pod) (ams_pod_stalled_seconds{{{OF_PODS}}})", "{{pod}}")],
                    "For how long the engine has computed nothing under requests; 0 while it computes.", unit="s",
                    runbook="AMSWatchdogFired",
                ),
            ),
        ),
        Row(
            "Starts",
            (
                Panel(
                    "Starts of these pods",
                    [
                        Query(
                            f"avg by (phase) (ams_pod_startup_seconds_sum{{{OF_PODS}}}"
                            f" / ams_pod_startup_seconds_count{{{OF_PODS}}})",
                            "{{phase}}",
                        )
                    ],
                    "Mean over the pods that run: until the weights were in place, from then until ready, until the"
                    " first answer.", unit="s",
                ),
                Panel(
                    "Phases of loading",
                    [Query(f"avg by (phase) (ams_pod_load_phase_seconds{{{OF_PODS}}})", "{{phase}}")],
                    "Mean over the pods that run.", unit="s",
                ),
                Panel(
                    "Last start",
                    [
                        Query(
                            f"max by (model, phase) (ams_operator_last_startup_seconds{{{OF_OPERATOR}}})",
                            "{{model}} {{phase}}",
                        )
                    ],
                    "Of the last pod that got ready, as the kubelet tells it.", unit="s",
                    empty="no pod got ready since the operator that leads began.", runbook="AMSRequestsWaitLong",
                ),
                Panel(
                    "Download",
                    [
                        Query(f"max by (model) (ams_operator_download_done_bytes{{{OF_OPERATOR}}})", "{{model}} there"),
                        Query(f"max by (model) (ams_operator_download_size_bytes{{{OF_OPERATOR}}})", "{{model}} all"),
                    ],
                    "Bytes of the weights.", unit="bytes", empty="nothing is being downloaded.",
                    runbook="AMSDownloadStuck",
                ),
                Panel(
                    "Volume",
                    [
                        Query(f"min by (namespace, model) (ams_pod_volume_free_bytes{{{OF_PODS}}})", "{{model}} free"),
                        Query(f"max by (namespace, model) (ams_pod_volume_size_bytes{{{OF_PODS}}})", "{{model}} size"),
                    ],
                    "With the weights.", unit="bytes", runbook="AMSVolumeNearlyFull",
                ),
                Panel(
                    "Held requests waited", quantiles("ams_gateway_hold_seconds", OF_GATEWAY, [0.5, 0.9]),
                    "Of requests that came while the model wasn't ready.", unit="s",
                    empty="no request had to wait for the model.", runbook="AMSRequestsWaitLong",
                ),
            ),
        ),
    ),
)  # fmt: skip
