"""Bodies of /tokenize and /detokenize, as vLLM has them."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ams_common.wire.fields import TokenId
from ams_common.wire.openai import Message
from ams_common.wire.tools import Tool

_MODEL = "Name or alias of a model; `_` and `-` are alike."


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A text, or a chat."""

    model: Annotated[str, Meta(description=_MODEL)]
    prompt: Annotated[str | None, Meta(description="A text, as for completions.")] = None
    messages: Annotated[
        Annotated[list[Message], Meta(min_length=1)] | None,
        Meta(description="A chat of texts, as for chat completions."),
    ] = None
    tools: Annotated[
        Annotated[list[Tool], Meta(max_length=128)] | None, Meta(description="Tools of the chat, up to 128.")
    ] = None
    continue_final_message: Annotated[
        bool | None, Meta(description="`true`: the answer would go on from the last message.")
    ] = None
    add_generation_prompt: Annotated[
        bool | None, Meta(description="`false` with continue_final_message, which implies it.")
    ] = None
    chat_template_kwargs: Annotated[
        dict[str, Any] | None, Meta(description="Arguments of the model's chat template.")
    ] = None
    return_token_strs: Annotated[bool | None, Meta(description="`true` for the tokens' texts beside their ids.")] = None


class TokenizeResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of a prompt."""

    count: Annotated[int, Meta(description="How many they are.")]
    max_model_len: Annotated[int, Meta(description="The model's context: tokens of prompt and answer together.")]
    tokens: Annotated[list[int], Meta(description="Their ids.")]
    token_strs: Annotated[
        list[str] | None, Meta(description="Their texts, if requested; half a character is the replacement character.")
    ] = None


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Token ids."""

    model: Annotated[str, Meta(description=_MODEL)]
    tokens: Annotated[Annotated[list[TokenId], Meta(max_length=2_000_000)], Meta(description="Ids of tokens.")]


class DetokenizeResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Their text."""

    prompt: Annotated[str, Meta(description="The text, special tokens included.")]
