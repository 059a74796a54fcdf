"""https://huggingface.co/docs/smolagents/reference/models: its agents' model, with the stop strings that they set."""

import sys

from smolagents import OpenAIModel

base, model = sys.argv[1:]
answers = OpenAIModel(model_id=model, api_base=f"{base}/v1", api_key="x", temperature=0.7, max_tokens=1000)
messages = [{"role": "user", "content": [{"type": "text", "text": "Hello!"}]}]
print(answers(messages, stop_sequences=["<end>"]).content)
