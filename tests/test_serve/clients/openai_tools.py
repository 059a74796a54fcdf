"""https://platform.openai.com/docs/guides/function-calling and structured-outputs, with OPENAI_BASE_URL."""

import json
import sys

from openai import OpenAI
from pydantic import BaseModel

client, model = OpenAI(), sys.argv[2]
tools = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get current temperature for a given location.",
            "parameters": {
                "type": "object",
                "properties": {"location": {"type": "string", "description": "City and country e.g. Bogotá, Colombia"}},
                "required": ["location"],
                "additionalProperties": False,
            },
            "strict": True,
        },
    }
]
messages = [{"role": "user", "content": "What is the weather like in Paris today?"}]
for _ in range(2):
    completion = client.chat.completions.create(model=model, messages=messages, tools=tools)
    message = completion.choices[0].message
    messages.append(message)
    for call in message.tool_calls or ():
        print(call.function.name, json.loads(call.function.arguments)["location"])
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "14"})
print(message.content)


class CalendarEvent(BaseModel):
    name: str
    date: str
    participants: list[str]


parsed = client.chat.completions.parse(
    model=model,
    messages=[
        {"role": "system", "content": "Extract the event information."},
        {"role": "user", "content": "Alice and Bob are going to a science fair on Friday."},
    ],
    response_format=CalendarEvent,
)
print(parsed.choices[0].message.parsed)
several = client.chat.completions.create(
    model=model, messages=[{"role": "user", "content": "hi"}], n=2, logprobs=True, top_logprobs=2, temperature=0
)
print(len(several.choices), [each.token for each in several.choices[1].logprobs.content])
