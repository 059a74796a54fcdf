"""For each alert a story in minutes: what is measured while all is well, while it isn't, and afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Series = Mapping[str, str]


def gauge(*parts: tuple[int, float | None]) -> str:
    """promtool's notation of (minutes, value); None: no sample."""
    return " ".join(f"_x{minutes}" if value is None else f"{value}+0x{minutes - 1}" for minutes, value in parts)


def counter(*parts: tuple[int, float]) -> str:
    """Of (minutes, increase a minute)."""
    words, total = [], 0.0
    for minutes, rate in parts:
        words.append(f"{total:g}+{rate:g}x{minutes - 1}")
        total += rate * minutes
    return " ".join(words)


@dataclass(frozen=True)
class Story:
    """The alert is silent until minute `quiet`, fires at `fires`, and is over at `over`. `others` may fire with it."""

    alert: str
    series: Series
    quiet: int
    fires: int
    over: int
    severity: str = "warning"
    others: frozenset[str] = field(default_factory=frozenset)


POD = 'namespace="models",model="tiny",pod="ams-tiny-0"'
GATEWAY = 'namespace="ams",pod="gateway-0",instance="g:5000"'
OPERATOR = 'namespace="ams",pod="operator-0"'
DONE = f'ams_operator_download_done_bytes{{{OPERATOR},model="models/tiny"}}'
ETA = f'ams_operator_download_eta_seconds{{{OPERATOR},model="models/tiny"}}'
REQUESTS = f'ams_gateway_requests_total{{{GATEWAY},model="tiny",route="/v1/chat/completions",code="200"}}'
KUBELET_SIZE, KUBELET_FREE = "kubelet_volume_stats_capacity_bytes", "kubelet_volume_stats_available_bytes"
CLAIM, OTHER_CLAIM = '{namespace="models",persistentvolumeclaim="ams-tiny"}', '{persistentvolumeclaim="other"}'
LEADS = {f"ams_operator_leads{{{OPERATOR}}}": gauge((4000, 1))}


def condition(kind: str, reason: str) -> str:
    return f'ams_operator_condition{{{OPERATOR},model="models/tiny",condition="{kind}",reason="{reason}"}}'


def requests(failing: tuple[tuple[int, float], ...], total: tuple[tuple[int, float], ...]) -> Series:
    return {
        f'ams_gateway_failures_total{{{GATEWAY},model="tiny"}}': counter(*failing),
        REQUESTS: counter(*total),
    }


STORIES = [
    Story(
        "AMSModelNotReady",
        {
            condition("Ready", "Starting"): gauge((20, 0), (60, None)),
            condition("Ready", "CrashLoop"): gauge((20, None), (40, 0), (40, None)),  # another reason, the same alert
            condition("Ready", "Ready"): gauge((60, None), (40, 1)),
        },
        quiet=29, fires=31, over=67,
    ),
    Story(
        "AMSModelStalled",
        {
            condition("Ready", "Ready"): gauge((100, 1)),
            condition("Stalled", "GoldenPromptFailed"): gauge((10, None), (40, 1), (50, None)),
        },
        quiet=24, fires=26, over=57,
    ),
    Story(
        "AMSAdapterFailed",
        {
            condition("Ready", "Ready"): gauge((100, 1)),
            condition("AdaptersReady", "AdaptersLoaded"): gauge((10, 1), (60, None), (30, 1)),
            condition("AdaptersReady", "AdaptersLoading"): gauge((10, None), (20, -1), (70, None)),
            condition("AdaptersReady", "AdapterFailed"): gauge((30, None), (40, 0), (30, None)),
        },
        quiet=44, fires=46, over=77,
    ),
    Story(
        "AMSDownloadStuck",
        {
            condition("Ready", "Downloading"): gauge((100, 0)),
            DONE: counter((10, 1e8), (60, 0), (30, 1e8)),
            ETA: gauge((10, 60), (60, 1e6), (30, 60)),
        },
        quiet=23, fires=30, over=77,
    ),
    Story(
        "AMSDownloadSlow",
        {
            condition("Ready", "Downloading"): gauge((100, 0)),
            DONE: counter((100, 1e5)),
            ETA: gauge((10, 60), (40, 9000), (50, 600)),
        },
        quiet=24, fires=26, over=52,
    ),
    Story(
        "AMSVolumeNearlyFull",
        {
            f"ams_pod_volume_size_bytes{{{POD}}}": gauge((100, 1e9)),
            f"ams_pod_volume_free_bytes{{{POD}}}": gauge((10, 2e8), (40, 5e7), (50, 3e8)),
        },
        quiet=19, fires=21, over=52,
    ),
    Story(
        "AMSVolumeNearlyFull",  # while the weights are fetched
        {
            f"ams_download_volume_size_bytes{{{POD}}}": gauge((100, 1e9)),
            f"ams_download_volume_free_bytes{{{POD}}}": gauge((10, 2e8), (40, 5e7), (50, 3e8)),
        },
        quiet=19, fires=21, over=52,
    ),
    Story(
        "AMSVolumeNearlyFull",  # by the kubelet
        {
            KUBELET_SIZE + CLAIM: gauge((100, 1e9)),
            KUBELET_FREE + CLAIM: gauge((10, 2e8), (40, 5e7), (50, 3e8)),
            KUBELET_SIZE + OTHER_CLAIM: gauge((100, 1e9)),
            KUBELET_FREE + OTHER_CLAIM: gauge((100, 0)),
        },
        quiet=19, fires=21, over=52,
    ),
    Story(
        "AMSOutOfMemory",  # a series that begins with its first event
        {f'ams_pod_out_of_memory_total{{{POD},stage="decode",rung="cpu"}}': gauge((30, None), (60, 1))},
        quiet=29, fires=31, over=60,
    ),
    Story(
        "AMSOutOfMemory",
        {f'ams_pod_out_of_memory_total{{{POD},stage="decode",rung="cpu"}}': gauge((40, 3), (60, 5))},
        quiet=39, fires=41, over=60,
    ),
    Story(
        "AMSWatchdogFired",
        {f"ams_pod_stalled_seconds{{{POD}}}": gauge((10, 0), (2, 310), (60, 0))},
        quiet=9, fires=11, over=25, severity="critical",
    ),
    Story(
        "AMSRequestsFail",
        requests(((120, 0), (30, 30), (600, 0)), ((750, 60),)),
        quiet=120, fires=150, over=700, severity="critical",
    ),
    Story(
        "AMSRequestsFail",  # a little, for long
        requests(((2000, 2), (1800, 0)), ((3800, 60),)),
        quiet=0, fires=1500, over=3000,
    ),
    Story(
        "AMSFirstTokenSlow",
        {
            f'ams_pod_time_to_first_token_seconds_bucket{{{POD},le="5.0"}}': counter((60, 10), (60, 0), (600, 10)),
            f'ams_pod_time_to_first_token_seconds_bucket{{{POD},le="10.0"}}': counter((720, 10)),
            f"ams_pod_time_to_first_token_seconds_count{{{POD}}}": counter((720, 10)),
        },
        quiet=70, fires=115, over=280,
    ),
    Story(
        "AMSQueueFull",
        {
            f"ams_pod_queued_requests{{{POD}}}": gauge((10, 3), (20, 64), (30, 3)),
            f"ams_pod_queued_requests_limit{{{POD}}}": gauge((60, 64)),
        },
        quiet=10, fires=16, over=34,
    ),
    Story(
        "AMSQueueFull",  # in front of a model that isn't ready
        {
            f'ams_gateway_requests_held{{{GATEWAY},model="tiny"}}': gauge((10, 3), (20, 100), (30, 3)),
            f"ams_gateway_hold_limit{{{GATEWAY}}}": gauge((60, 100)),
        },
        quiet=10, fires=16, over=34,
    ),
    Story(
        "AMSRequestsWaitLong",
        {
            f'ams_gateway_hold_seconds_bucket{{{GATEWAY},model="tiny",le="300.0"}}': counter((20, 5), (60, 0), (60, 5)),
            f'ams_gateway_hold_seconds_bucket{{{GATEWAY},model="tiny",le="600.0"}}': counter((140, 5)),
            f'ams_gateway_hold_seconds_bucket{{{GATEWAY},model="tiny",le="+Inf"}}': counter((140, 5)),
        },
        quiet=30, fires=60, over=110,
    ),
    Story(
        "AMSGatewaySaturated",
        {f'ams_gateway_saturation_ratio{{{GATEWAY},resource="clients"}}': gauge((10, 0.5), (30, 0.95), (30, 0.5))},
        quiet=14, fires=16, over=42, severity="critical",
    ),
    Story(
        "AMSGatewaySaturated",
        {f"ams_gateway_loop_lag_seconds{{{GATEWAY}}}": gauge((10, 0.01), (30, 0.9), (30, 0.01))},
        quiet=14, fires=16, over=42, severity="critical",
    ),
    Story(
        "AMSCertificateEnds",
        {f"ams_gateway_certificate_expiry_timestamp_seconds{{{GATEWAY}}}": gauge((200, 7 * 86400 + 1800), (100, 4e6))},
        quiet=85, fires=95, over=202,
    ),
    Story(
        "AMSKeyNearBudget",
        {f'ams_gateway_key_budget_used_ratio{{{GATEWAY},key="team-a"}}': gauge((10, 0.8), (30, 0.95), (30, 0.01))},
        quiet=14, fires=16, over=42,
    ),
    Story(
        "AMSRedisAway",
        {f"ams_gateway_redis_up{{{GATEWAY}}}": gauge((10, 1), (30, 0), (30, 1))},
        quiet=14, fires=16, over=42,
    ),
    Story(
        "AMSUsageNotKept",
        {f"ams_gateway_usage_rows_waiting{{{GATEWAY}}}": gauge((20, 0), (40, 7), (30, 0))},
        quiet=30, fires=40, over=62,
    ),
    Story(
        "AMSNoLeader",
        {f"ams_operator_leads{{{OPERATOR}}}": gauge((10, 1), (30, 0), (30, 1))},
        quiet=14, fires=16, over=42, severity="critical",
    ),
    Story(
        "AMSOperatorBehind",
        {f"ams_operator_queue_age_seconds{{{OPERATOR}}}": gauge((10, 1), (30, 400), (30, 1))},
        quiet=14, fires=16, over=42,
    ),
    Story(
        "AMSReconcilesFail",
        {
            f'ams_operator_reconciles_total{{{OPERATOR},outcome="failed"}}': counter((20, 0), (60, 5), (60, 0)),
            f'ams_operator_reconciles_total{{{OPERATOR},outcome="done"}}': counter((140, 5)),
        },
        quiet=30, fires=50, over=100,
    ),
]  # fmt: skip
