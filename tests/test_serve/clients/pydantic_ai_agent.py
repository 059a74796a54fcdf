"""https://ai.pydantic.dev/models/openai/#openai-compatible-models"""

import os
import sys

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

base, model = sys.argv[1:]
key = os.environ["OPENAI_API_KEY"]
agent = Agent(
    OpenAIChatModel(model, provider=OpenAIProvider(base_url=f"{base}/v1", api_key=key)),
    instructions="Be concise, reply with one sentence.",
)
print(agent.run_sync('Where does "hello world" come from?').output)
