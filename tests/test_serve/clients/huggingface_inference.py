"""https://huggingface.co/docs/huggingface_hub/guides/inference: an endpoint of one's own."""

import os
import sys

from huggingface_hub import InferenceClient

base, model = sys.argv[1:]
key = os.environ["OPENAI_API_KEY"]
client = InferenceClient(base_url=f"{base}/v1", api_key=key)
messages = [{"role": "user", "content": "What is the capital of France?"}]
print(client.chat_completion(messages, model=model, max_tokens=100).choices[0].message.content)
output = client.chat.completions.create(model=model, messages=messages, stream=True, max_tokens=1024)
print("".join(chunk.choices[0].delta.content or "" for chunk in output if chunk.choices))
