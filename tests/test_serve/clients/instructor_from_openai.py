"""https://python.useinstructor.com: needs structured output."""

import sys

import instructor
import openai
from pydantic import BaseModel


class User(BaseModel):
    name: str
    age: int


client = instructor.from_openai(openai.OpenAI(max_retries=0))
user = client.chat.completions.create(
    model=sys.argv[2],
    response_model=User,
    messages=[{"role": "user", "content": "John is 25 years old"}],
    max_retries=0,
)
print(user.name)
