"""Uses the client that openapi-python-client generated; run by the generator's own Python, prints what it got as JSON.

python generated_client.py http://127.0.0.1:5000
"""

import io
import json
import sys
from typing import Any

from ai_model_server_client import Client
from ai_model_server_client.api.admin import get_memory_status, get_model_status, run_temp_cleanup
from ai_model_server_client.api.public import create_chat_completion, create_transcription, list_models
from ai_model_server_client.models import (
    ChatChunk,
    ChatRequest,
    ChatResponse,
    CleanedTemp,
    MemoryStatus,
    Message,
    ModelList,
    ModelStatuses,
    OpenAIError,
    TranscriptionRequest,
    TranscriptionResponse,
)
from ai_model_server_client.types import File


def main(url: str) -> dict[str, Any]:
    client = Client(base_url=url)
    messages = [Message.from_dict({"role": "user", "content": "Hello"})]

    chat = create_chat_completion.sync(client=client, body=ChatRequest(model="m", messages=messages))
    assert isinstance(chat, ChatResponse)

    body = ChatRequest(model="m", messages=messages, stream=True)
    with client.get_httpx_client().stream("POST", "/v1/chat/completions", json=body.to_dict()) as response:
        chunks = [
            ChatChunk.from_dict(json.loads(line[6:])) for line in response.iter_lines() if line.startswith("data: {")
        ]

    refusal = create_chat_completion.sync(client=client, body=ChatRequest(model="nope", messages=messages))
    assert isinstance(refusal, OpenAIError)

    audio = File(payload=io.BytesIO(b"RIFF sound"), file_name="a.wav", mime_type="audio/wav")
    transcription = create_transcription.sync(
        client=client, body=TranscriptionRequest(file=audio, model="m", language="en", temperature=0.5)
    )
    assert isinstance(transcription, TranscriptionResponse)

    models = list_models.sync(client=client)
    assert isinstance(models, ModelList)
    memory = get_memory_status.sync(client=client)
    assert isinstance(memory, MemoryStatus)
    statuses = get_model_status.sync(client=client)
    assert isinstance(statuses, ModelStatuses)
    cleaned = run_temp_cleanup.sync(client=client)
    assert isinstance(cleaned, CleanedTemp)
    return {
        "chat": chat.choices[0].message.content,
        "chat_tokens": chat.usage.total_tokens,
        "stream": [chunk.choices[0].delta.content for chunk in chunks],
        "refusal": refusal.error.code,
        "transcription": transcription.text,
        "models": [model.id for model in models.data],
        "memory": memory.pods[0].process_gb,
        "state": statuses.model_configs["m"].state,
        "cleaned": cleaned.cleaned_files,
    }


print(json.dumps(main(sys.argv[1])))
