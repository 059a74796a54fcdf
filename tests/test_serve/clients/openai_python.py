"""https://github.com/openai/openai-python: chat completions, whole and streamed; OPENAI_BASE_URL says where."""

import sys

from openai import OpenAI

client = OpenAI()
completion = client.chat.completions.create(
    model=sys.argv[2],
    messages=[
        {"role": "developer", "content": "Talk like a pirate."},
        {"role": "user", "content": "How do I check if a Python object is an instance of a class?"},
    ],
)
print(completion.choices[0].message.content)
stream = client.chat.completions.create(
    model=sys.argv[2], messages=[{"role": "user", "content": "Say this is a test"}], stream=True
)
print("".join(chunk.choices[0].delta.content or "" for chunk in stream))
print([model.id for model in client.models.list()])
