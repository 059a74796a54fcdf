"""https://docs.llamaindex.ai/en/stable/api_reference/llms/openai_like, with tools."""

import os
import sys

from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

base, model = sys.argv[1:]
llm = OpenAILike(
    model=model,
    api_base=f"{base}/v1",
    api_key=os.environ["OPENAI_API_KEY"],
    context_window=8192,
    is_chat_model=True,
    is_function_calling_model=True,
)


def multiply(a: int, b: int) -> int:
    """Multiply two integers and return the result."""
    return a * b


print(llm.predict_and_call([FunctionTool.from_defaults(fn=multiply)], "What is 6 times 7?").response)
