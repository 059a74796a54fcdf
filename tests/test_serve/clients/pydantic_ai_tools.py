"""https://ai.pydantic.dev/output and /tools: outputs by tool, by schema and by prompt; tools, whole and streamed."""

import asyncio
import os
import sys

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, PromptedOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits

base, model = sys.argv[1:]
chat = OpenAIChatModel(model, provider=OpenAIProvider(base_url=f"{base}/v1", api_key=os.environ["OPENAI_API_KEY"]))


class CityLocation(BaseModel):
    city: str
    country: str


for output in (CityLocation, NativeOutput(CityLocation), PromptedOutput(CityLocation)):
    result = Agent(chat, output_type=output).run_sync("Where were the olympics held in 2012?")
    print(result.output)

agent = Agent(chat, instructions="Do all steps.")
called = []


@agent.tool_plain
def step(number: int) -> str:
    """Do a step."""
    called.append(number)
    return f"step {number} is done"


limits = UsageLimits(request_limit=30)
print(agent.run_sync("Begin.", usage_limits=limits).output, called == [*range(1, 21)])
called.clear()


async def main() -> None:
    async with agent.run_stream("Begin.", usage_limits=limits) as streamed:
        print(await streamed.get_output(), called == [*range(1, 21)])


asyncio.run(main())
