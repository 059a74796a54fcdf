"""https://huggingface.co/docs/smolagents/reference/models: its agents' model, with the stop strings that they set."""

import os
import sys

from smolagents import OpenAIModel

base, model = sys.argv[1:]
key = os.environ["OPENAI_API_KEY"]
answers = OpenAIModel(model_id=model, api_base=f"{base}/v1", api_key=key, temperature=0.7, max_tokens=1000)
messages = [{"role": "user", "content": [{"type": "text", "text": "Hello!"}]}]
print(answers(messages, stop_sequences=["<end>"]).content)
