"""https://docs.llamaindex.ai/en/stable/api_reference/llms/openai_like"""

import os
import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

base, model = sys.argv[1:]
key = os.environ["OPENAI_API_KEY"]
llm = OpenAILike(
    model=model,
    api_base=f"{base}/v1",
    api_key=key,
    context_window=512,
    is_chat_model=True,
    is_function_calling_model=False,
)
print(str(llm.complete("Hello World!")))
print(str(llm.chat([ChatMessage(role="user", content="hi")]).message.content))
