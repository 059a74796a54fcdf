"""https://github.com/openai/openai-python: responses, whole, streamed and going on; OPENAI_BASE_URL says where."""

import sys

from openai import OpenAI

client = OpenAI(max_retries=0)
model = sys.argv[2]
response = client.responses.create(
    model=model,
    instructions="You are a coding assistant that talks like a pirate.",
    input="How do I check if a Python object is an instance of a class?",
)
print(response.output_text)
stream = client.responses.create(model=model, input="Write a one-sentence bedtime story about a unicorn.", stream=True)
print("".join(event.delta for event in stream if event.type == "response.output_text.delta"))
again = client.responses.create(model=model, input="Another one.", previous_response_id=response.id)
print(again.output_text)
with client.responses.stream(model=model, input="Hello") as events:
    print(events.get_final_response().output_text)
