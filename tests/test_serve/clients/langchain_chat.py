"""https://python.langchain.com/docs/integrations/chat/openai, and the error that its fallbacks are for."""

import sys

from langchain_core.exceptions import ContextOverflowError
from langchain_openai import ChatOpenAI, OpenAI

base, model = sys.argv[1:]
llm = ChatOpenAI(model=model, base_url=f"{base}/v1", max_tokens=None, max_retries=2)
messages = [
    ("system", "You are a helpful assistant that translates English to French. Translate the user sentence."),
    ("human", "I love programming."),
]
print(llm.invoke(messages).content)
print("".join(str(chunk.content) for chunk in llm.stream("hi")))
print(OpenAI(model=model, base_url=f"{base}/v1", max_retries=0).invoke("<｜User｜>hi<｜Assistant｜>"))
try:
    llm.invoke("hello " * 9000)
except ContextOverflowError:
    print("too long")
