"""https://python.langchain.com/docs/integrations/chat/openai: bind_tools, with_structured_output, batches."""

import sys

from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field

base, model = sys.argv[1:]
llm = ChatOpenAI(model=model, base_url=f"{base}/v1", temperature=0)


class GetWeather(BaseModel):
    """Get the current weather in a given location."""

    location: str = Field(..., description="The city and state, e.g. San Francisco, CA")


print(llm.bind_tools([GetWeather]).invoke("what is the weather like in San Francisco").tool_calls[0]["args"])


class Joke(BaseModel):
    """Joke to tell user."""

    setup: str = Field(description="question to set up a joke")
    punchline: str = Field(description="answer to resolve the joke")


for method in ("json_schema", "function_calling", "json_mode"):
    print(llm.with_structured_output(Joke, method=method).invoke("Tell me a joke about cats, as JSON"))
print(len(OpenAI(model=model, base_url=f"{base}/v1", max_tokens=3).batch(["a", "b", "c"])))
