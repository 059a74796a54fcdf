"""https://docs.haystack.deepset.ai/docs/openaichatgenerator"""

import os
import sys

from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.utils import Secret

base, model = sys.argv[1:]
key = os.environ["OPENAI_API_KEY"]
client = OpenAIChatGenerator(api_key=Secret.from_token(key), api_base_url=f"{base}/v1", model=model)
response = client.run([ChatMessage.from_user("What's Natural Language Processing? Be brief.")])
print(response["replies"][0].text)
