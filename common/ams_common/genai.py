"""Names of attributes of spans, by OpenTelemetry's semantic conventions for generative AI and for HTTP, and our own.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/ (development status: names may still change, so they
are here alone). Never prompts, answers or keys.
"""

from typing import Final

PROVIDER: Final = "ai-model-server"

PROVIDER_NAME: Final = "gen_ai.provider.name"
OPERATION_NAME: Final = "gen_ai.operation.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"

HTTP_METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"
ERROR_TYPE: Final = "error.type"

REQUEST_ID: Final = "ams.request.id"
KEY_ID: Final = "ams.key.id"
POD: Final = "ams.pod"
WAITED_FOR: Final = "ams.waited_for"
FACT: Final = "ams."  # and the name of a fact of a timeline

OPERATIONS: Final = {
    "/generate/{model}": "chat",
    "/generate": "chat",
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/audio/transcriptions": "generate_content",
}
