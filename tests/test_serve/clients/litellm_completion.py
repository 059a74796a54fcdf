"""https://docs.litellm.ai/docs/providers/openai_compatible, and the fallback that its error classes are for."""

import os
import sys

import litellm
from litellm import completion

litellm.suppress_debug_info = True
base, model = sys.argv[1:]
key = os.environ["OPENAI_API_KEY"]
hello = [{"role": "user", "content": "Hello, how are you?"}]
response = completion(model=f"openai/{model}", messages=hello, api_base=f"{base}/v1", api_key=key)
print(response.choices[0].message.content)
response = completion(model=f"hosted_vllm/{model}", messages=hello, api_base=f"{base}/v1", api_key=key, stream=True)
print("".join(part.choices[0].delta.content or "" for part in response))
try:
    completion(
        model=f"openai/{model}",
        messages=[{"role": "user", "content": "hello " * 9000}],
        api_base=f"{base}/v1",
        api_key=key,
        num_retries=0,
    )
except litellm.ContextWindowExceededError:
    print("too long")
