"""https://github.com/anthropics/anthropic-sdk-python: messages, whole and streamed, thinking and counting."""

import sys

from anthropic import Anthropic

base, model = sys.argv[1:]
client = Anthropic(base_url=base, max_retries=0)
message = client.messages.create(max_tokens=1024, messages=[{"role": "user", "content": "Hello, Claude"}], model=model)
print(message.content[0].text)
with client.messages.stream(
    max_tokens=1024, messages=[{"role": "user", "content": "Say hello there!"}], model=model
) as stream:
    print("".join(stream.text_stream))
thoughtful = client.messages.create(
    model=model,
    max_tokens=3200,
    thinking={"type": "enabled", "budget_tokens": 1600},
    messages=[{"role": "user", "content": "Create a haiku about Anthropic."}],
)
print([block.type for block in thoughtful.content], thoughtful.content[0].thinking.strip())
count = client.messages.count_tokens(model=model, messages=[{"role": "user", "content": "Hello, world"}])
print(count.input_tokens > 0)
