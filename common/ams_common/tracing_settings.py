"""Types of the settings by which gateway and pod send traces: one wording, one range."""

from typing import Annotated

from msgspec import Meta

OtlpEndpoint = Annotated[
    str,
    Meta(
        description="URL of an OpenTelemetry collector that traces are sent to by OTLP over HTTP, as in "
        "http://collector:4318; empty: no traces"
    ),
]
TraceSampleRatio = Annotated[
    float,
    Meta(
        ge=0,
        le=1,
        description="part of the requests that are traced, of those that no client's traceparent decides about",
    ),
]
