"""https://openai.github.io/openai-agents-python/tools: as many calls as the model wants, whole and streamed."""

import asyncio
import sys

from agents import Agent, ModelSettings, Runner, function_tool, set_tracing_disabled

set_tracing_disabled(disabled=True)
seen: list[int] = []


@function_tool
def step(number: int) -> str:
    """Takes one step."""
    seen.append(number)
    return f"did {number}"


async def main() -> None:
    agent = Agent(
        name="Walker",
        instructions="Take all steps.",
        model=sys.argv[2],
        tools=[step],
        model_settings=ModelSettings(temperature=0),
    )
    result = await Runner.run(agent, "Go.", max_turns=30)
    print(result.final_output, seen == [*range(1, 21)])
    seen.clear()
    stream = Runner.run_streamed(agent, "Go.", max_turns=30)
    async for _ in stream.stream_events():
        pass
    print(stream.final_output, seen == [*range(1, 21)])


asyncio.run(main())
