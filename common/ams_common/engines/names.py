"""What engines are called: in the resource, in settings and in status."""

from typing import Literal, get_args

EngineName = Literal["builtin", "vllm", "sglang", "llamacpp", "custom"]
"""`builtin` is this product's own. The others are servers of their own that speak OpenAI's protocol; `custom` is any
that does, by its image or program."""

EngineSetting = Literal["auto", "builtin", "vllm", "sglang", "llamacpp", "custom"]

ENGINES: tuple[EngineName, ...] = get_args(EngineName)
