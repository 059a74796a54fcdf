"""Prompts for models that fill in the middle, by the tokens that their families were trained with."""

from collections.abc import Collection
from dataclasses import dataclass

from ams_common.errors import ApiError


@dataclass(frozen=True, slots=True)
class _Form:
    """The texts around what stands before and behind the gap; `suffix_first` as Codestral wants it."""

    before: str
    between: str
    end: str
    suffix_first: bool = False

    def prompt(self, prefix: str, suffix: str) -> str:
        first, second = (suffix, prefix) if self.suffix_first else (prefix, suffix)
        return f"{self.before}{first}{self.between}{second}{self.end}"

    @property
    def tokens(self) -> tuple[str, ...]:
        return tuple(filter(None, (text.strip() for text in (self.before, self.between, self.end))))


_FORMS = (
    _Form("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen2.5-Coder, CodeGemma
    _Form("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    _Form("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    _Form("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
    _Form("▁<PRE>", " ▁<SUF>", " ▁<MID>"),  # CodeLlama
    _Form("[SUFFIX]", "[PREFIX]", "", suffix_first=True),  # Codestral
)


def infilled(prompt: str | list[int], suffix: str, tokens: Collection[str]) -> str:
    """The text that asks for what stands between prompt and suffix. ApiError for a model without `tokens` for it."""
    form = next((form for form in _FORMS if all(token in tokens for token in form.tokens)), None)
    if form is None:
        raise ApiError("invalid_parameter", "suffix: this model was not made to fill in the middle.", param="suffix")
    if not isinstance(prompt, str):
        raise ApiError("invalid_parameter", "suffix: the prompt must be a text.", param="suffix")
    return form.prompt(prompt, suffix)
