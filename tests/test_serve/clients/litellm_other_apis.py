"""https://docs.litellm.ai: responses, and Anthropic's messages, of a server of one's own."""

import asyncio
import os
import sys

import litellm

litellm.suppress_debug_info = True
base, model = sys.argv[1:]
key = os.environ["OPENAI_API_KEY"]
response = litellm.responses(
    model=f"openai/{model}", input="Tell me a story.", api_base=f"{base}/v1", api_key=key, max_output_tokens=100
)
print(response.output_text)
hello = [{"role": "user", "content": "Hello"}]
answer = litellm.completion(
    model=f"anthropic/{model}", messages=hello, api_base=base, api_key=key, max_tokens=100, num_retries=0
)
print(answer.choices[0].message.content)
stream = litellm.completion(
    model=f"anthropic/{model}", messages=hello, api_base=base, api_key=key, max_tokens=100, stream=True
)
print("".join(part.choices[0].delta.content or "" for part in stream))
message = asyncio.run(
    litellm.anthropic.messages.acreate(
        model=f"anthropic/{model}", messages=hello, max_tokens=100, api_base=base, api_key=key
    )
)
print(message["content"][0]["text"])
