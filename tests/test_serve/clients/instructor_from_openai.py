"""https://python.useinstructor.com: by tools and by JSON."""

import sys

import instructor
import openai
from pydantic import BaseModel


class User(BaseModel):
    name: str
    age: int


for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON, instructor.Mode.JSON_SCHEMA):
    client = instructor.from_openai(openai.OpenAI(max_retries=0), mode=mode)
    user = client.chat.completions.create(
        model=sys.argv[2],
        response_model=User,
        messages=[{"role": "user", "content": "John is 25 years old"}],
        max_retries=0,
    )
    print(user.name, user.age)
