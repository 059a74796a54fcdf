"""https://github.com/anthropics/anthropic-sdk-python/blob/main/tools.md: its runner of tools, whole and streamed."""

import sys

from anthropic import Anthropic, beta_tool

base, model = sys.argv[1:]
client = Anthropic(base_url=base, max_retries=0)
seen: list[int] = []


@beta_tool
def step(number: int) -> str:
    """Takes one step.

    Args:
        number: Which.
    """
    seen.append(number)
    return f"did {number}"


for streamed in (False, True):
    seen.clear()
    runner = client.beta.messages.tool_runner(
        max_tokens=1024,
        model=model,
        tools=[step],
        messages=[{"role": "user", "content": "Go."}],
        stream=streamed,
        extra_body={"temperature": 0},
    )
    for message in runner:
        last = message.get_final_message() if streamed else message
    print(last.content[-1].text, seen == [*range(1, 21)])
