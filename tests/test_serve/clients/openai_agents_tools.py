"""https://openai.github.io/openai-agents-python/tools: function tools, run whole and streamed."""

import asyncio
import os
import sys

from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI

base, model = sys.argv[1:]
set_tracing_disabled(disabled=True)
called = []


@function_tool
def step(number: int) -> str:
    """Do a step.

    Args:
        number: Which one.
    """
    called.append(number)
    return f"step {number} is done"


agent = Agent(
    name="Assistant",
    instructions="Do all steps.",
    tools=[step],
    model=OpenAIChatCompletionsModel(
        model=model,
        openai_client=AsyncOpenAI(base_url=f"{base}/v1", api_key=os.environ["OPENAI_API_KEY"], max_retries=0),
    ),
)


async def main() -> None:
    print((await Runner.run(agent, "Begin.", max_turns=30)).final_output, called == [*range(1, 21)])
    called.clear()
    streamed = Runner.run_streamed(agent, "Begin.", max_turns=30)
    async for _ in streamed.stream_events():
        pass
    print(streamed.final_output, called == [*range(1, 21)])


asyncio.run(main())
