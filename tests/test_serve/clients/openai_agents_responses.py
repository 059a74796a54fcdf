"""https://openai.github.io/openai-agents-python: the first examples, with the API that agents speak by default."""

import asyncio
import sys

from agents import Agent, Runner, set_tracing_disabled

set_tracing_disabled(disabled=True)


async def main() -> None:
    agent = Agent(name="Assistant", instructions="You are a helpful assistant", model=sys.argv[2])
    result = await Runner.run(agent, "Write a haiku about recursion in programming.")
    print(result.final_output)
    stream = Runner.run_streamed(agent, input="Please tell me 5 jokes.")
    async for _ in stream.stream_events():
        pass
    print(stream.final_output)


asyncio.run(main())
