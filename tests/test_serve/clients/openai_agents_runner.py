"""https://openai.github.io/openai-agents-python/models: a provider that speaks chat completions."""

import os
import sys

from agents import Agent, OpenAIChatCompletionsModel, Runner, set_tracing_disabled
from openai import AsyncOpenAI

base, model = sys.argv[1:]
key = os.environ["OPENAI_API_KEY"]
set_tracing_disabled(disabled=True)
agent = Agent(
    name="Assistant",
    instructions="You only respond in haikus.",
    model=OpenAIChatCompletionsModel(
        model=model,
        openai_client=AsyncOpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0),
    ),
)
print(Runner.run_sync(agent, "Write a haiku about recursion in programming.").final_output)
