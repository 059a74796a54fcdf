"""What a folder says of embeddings (sentence-transformers' layout), and how their texts become token ids. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NoReturn

import msgspec
from ams_common.gguf_embedding import DESCRIPTION
from ams_common.outside import InvalidJson, read_json

from ams_pod.engines.port import PLAIN_CHAT, ChatOptions, EngineRefusal, LoadFailed, Prepared, context_exceeded
from ams_pod.engines.prompts.text import StreamDetokenizer
from ams_pod.engines.prompts.token_bytes import TokenBytes

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MODULES = "modules.json"
_MOST_CONFIG_BYTES = 1 << 20
_FOLDER = r"\A(|\d{1,2}_[A-Za-z]{1,40})\Z"
_CROSS_ENCODER = "ForSequenceClassification"
_LONGEST = 8192  # tokens of a text, where neither the authors nor the manifest say less
_BYTES_A_TOKEN = 4  # about
_IDENTITY = "torch.nn.modules.linear.Identity"

PoolName = Literal["cls", "max", "mean", "mean-sqrt", "weighted-mean", "last"]
_POOLS: dict[str, PoolName] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean-sqrt",
    "pooling_mode_weightedmean_tokens": "weighted-mean",
    "pooling_mode_lasttoken": "last",
}
_MODES: dict[str, PoolName] = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean-sqrt",
    "weightedmean": "weighted-mean",
    "lasttoken": "last",
}
"""The same as newer versions write them, alone or as a list."""


class _Module(msgspec.Struct):
    type: str
    path: Annotated[str, msgspec.Meta(pattern=_FOLDER)] = ""


class _Pooling(msgspec.Struct):
    pooling_mode: str | list[str] | None = None
    pooling_mode_cls_token: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False
    include_prompt: bool = True


class _Prompts(msgspec.Struct):
    prompts: dict[str, str] = {}
    default_prompt_name: str | None = None


class _Transformer(msgspec.Struct):
    max_seq_length: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)] | None = None
    do_lower_case: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """What a pooled vector passes: its norm becomes 1, or it is multiplied by the weights in `path`."""

    kind: Literal["normalize", "dense"]
    path: str = ""


@dataclass(frozen=True, slots=True)
class EmbeddingRecipe:
    """How states become a vector: what is pooled, side by side, and what comes behind it, in its order.

    `said`: the folder says so; else it is what is done where it is silent. `longest` is how many tokens of a text the
    authors read.
    """

    pools: Sequence[PoolName] = ("mean",)
    layers: Sequence[Layer] = (Layer("normalize"),)
    said: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    longest: int | None = None
    lower_case: bool = False


def is_sentence_transformer(folder: Path) -> bool:
    """Whether a folder's files say that its model makes embeddings."""
    return (folder / MODULES).is_file()


def makes_embeddings(folder: Path) -> bool:
    """Whether its files say that a model makes vectors or scores, also those that were made of a GGUF file."""
    return is_sentence_transformer(folder) or (folder / DESCRIPTION).is_file()


def read_recipe(folder: Path) -> EmbeddingRecipe:
    """Of a model's folder; the mean, normalized, where its files are silent. LoadFailed for what isn't known here."""
    named = read_file(folder / "config_sentence_transformers.json", _Prompts) or _Prompts()
    own = read_file(folder / "sentence_bert_config.json", _Transformer) or _Transformer()
    modules = read_file(folder / MODULES, list[_Module])
    pools: Sequence[PoolName] = ("mean",)
    layers: list[Layer] = [] if modules is not None else [Layer("normalize")]
    for module in modules or []:
        kind = module.type.rpartition(".")[2]
        match kind:
            case "Transformer":
                continue
            case "Pooling":
                pools = _pools_of(read_file(folder / module.path / "config.json", _Pooling))
            case "Dense":
                layers.append(Layer("dense", module.path))
            case "Normalize":
                layers.append(Layer("normalize"))
            case _:
                raise LoadFailed(f"{MODULES}: embeddings pass a {kind[:60]!r} there, which is not known here")
    return EmbeddingRecipe(
        pools, layers, modules is not None, named.prompts, named.default_prompt_name, own.max_seq_length,
        own.do_lower_case,
    )  # fmt: skip


def _pools_of(config: _Pooling | None) -> Sequence[PoolName]:
    if config is None:
        return ("mean",)
    if not config.include_prompt:
        raise LoadFailed("the model leaves its prompts out of what it pools (include_prompt), which is not done here")
    if config.pooling_mode is not None:
        modes = config.pooling_mode.split("+") if isinstance(config.pooling_mode, str) else config.pooling_mode
        if not modes or any(mode not in _MODES for mode in modes):
            raise LoadFailed(f"the model pools by {str(config.pooling_mode)[:60]!r}, which is not known here")
        return tuple(pool for mode, pool in _MODES.items() if mode in modes)
    return tuple(pool for name, pool in _POOLS.items() if getattr(config, name)) or ("mean",)


def read_file(path: Path, kind: Any) -> Any:
    """A JSON file as `kind`; None where there is no such file. LoadFailed for one that makes no sense."""
    try:
        return read_json(path.read_bytes(), kind, max_bytes=_MOST_CONFIG_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LoadFailed(f"{path.name} can't be read ({error.strerror})") from None
    except InvalidJson as error:
        raise LoadFailed(f"{path.parent.name}/{path.name} can't be used: it {error}") from None


def scores_pairs(config: Mapping[str, Any]) -> bool:
    """Whether a model is a cross-encoder: it scores pairs of texts, and makes no vectors."""
    return any(str(each).endswith(_CROSS_ENCODER) for each in config.get("architectures") or ())


def check_one_score(labels: int) -> None:
    """LoadFailed for a cross-encoder that tells classes apart."""
    if labels != 1:
        raise LoadFailed(f"the model tells {labels} classes apart; one that reranks has one score")


def scores_are_logits(config: Mapping[str, Any]) -> bool:
    """Whether a cross-encoder's scores are its logits; else they pass a sigmoid."""
    named = config.get("sentence_transformers")
    activation = named.get("activation_fn") if isinstance(named, Mapping) else None
    return _IDENTITY in (activation, config.get("sbert_ce_default_activation_function"))


def longest_text(config: Mapping[str, Any], read: int | None, setting: int) -> int:
    """Tokens of a text: as many as the model has positions for, the authors `read`, and the manifest allows.

    `config` is that of the language model; `setting` 0 asks for nothing. LoadFailed for more than there are positions.
    """
    own = int(config.get("max_position_embeddings") or _LONGEST)
    if config.get("model_type") in ("roberta", "xlm-roberta", "mpnet"):
        own -= (config.get("pad_token_id") or 0) + 1  # their positions begin behind that of padding
    if setting > own:
        raise LoadFailed(f"limits.contextTokens is {setting}, but the model was made for {own}")
    return setting or min(own, read or _LONGEST)


class EmbeddingPrompts:
    """Turns texts and pairs of them into token ids, as the model's authors do. Safe to use from several threads."""

    reads: ClassVar[bool] = True  # it has a tokenizer

    def __init__(
        self, tokenizer: "Tokenizer", context_tokens: int, vocabulary: int, *, pairs: bool, lower_case: bool = False
    ) -> None:
        """`vocabulary` is how many tokens there are. `pairs`: it compares texts. `lower_case`: texts are made so."""
        self._tokenizer, self._context, self._vocabulary = tokenizer, context_tokens, vocabulary
        self._pairs, self._lower_case = pairs, lower_case
        self._bytes = TokenBytes(tokenizer)

    def chat(self, messages: Sequence[dict[str, Any]], options: ChatOptions = PLAIN_CHAT) -> Prepared:
        self.refuse()

    def taken_apart(
        self, messages: Sequence[Mapping[str, Any]], options: ChatOptions = PLAIN_CHAT
    ) -> tuple[list[dict[str, Any]], ChatOptions]:
        self.refuse()

    def text(self, text: str) -> Prepared:
        """Of a text, with the tokenizer's own special tokens."""
        return Prepared(self._checked(self._tokenizer.encode(self.cased(text)).ids))

    def ids(self, ids: Sequence[int]) -> Prepared:
        for index, token in enumerate(ids):
            if not 0 <= token < self._vocabulary:
                raise EngineRefusal(
                    "invalid-prompt",
                    f"input[{index}]: token id {token} is out of range (0 to {max(0, self._vocabulary - 1)}).",
                    part="prompt",
                )
        return Prepared(self._checked(list(ids)))

    def pair(self, query: str, text: str) -> tuple[Sequence[int], Sequence[int]]:
        """Ids of both texts as one prompt, and to which of the two each belongs: 0 or 1."""
        if not self._pairs:
            raise EngineRefusal("unsupported", "This model doesn't compare texts.")
        encoding = self._tokenizer.encode(self.cased(query), self.cased(text))
        return self._checked(encoding.ids), encoding.type_ids

    def cased(self, text: str) -> str:
        return text.lower() if self._lower_case else text

    def detokenizer(self, after: Sequence[int] = (), *, special: bool = False) -> StreamDetokenizer:
        return StreamDetokenizer(self._tokenizer, after, special=special)

    def token_bytes(self, token: int) -> bytes:
        return self._bytes.of(token)

    def text_of(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(self.ids(ids).ids), skip_special_tokens=False)
        return text

    def plain_text_of(self, ids: Sequence[int]) -> str:
        """Without tokens that no text is written with, as those around one."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def refuse(self) -> NoReturn:
        raise EngineRefusal("unsupported", "This model makes embeddings, and no text; use /v1/embeddings.")

    def _checked(self, ids: list[int]) -> list[int]:
        if len(ids) > self._context:
            raise context_exceeded(self._context, len(ids))
        return ids


class UnreadPrompts(EmbeddingPrompts):
    """Texts for an engine that alone has their tokenizer: it counts their tokens, and knows which are too long.

    Until it has, a text's ids are a range that is about as long as they are, and never longer than the context.
    """

    reads: ClassVar[bool] = False

    def __init__(self, context_tokens: int, vocabulary: int | None, *, pairs: bool, lower_case: bool = False) -> None:
        """`vocabulary` None: nobody knows how many tokens there are, and none may be given as ids."""
        self._context, self._vocabulary = context_tokens, vocabulary or 0
        self._pairs, self._lower_case = pairs, lower_case

    def text(self, text: str) -> Prepared:
        return Prepared(self._guessed(text))

    def ids(self, ids: Sequence[int]) -> Prepared:
        if not self._vocabulary:
            raise self._unread()
        return super().ids(ids)

    def pair(self, query: str, text: str) -> tuple[Sequence[int], Sequence[int]]:
        if not self._pairs:
            raise EngineRefusal("unsupported", "This model doesn't compare texts.")
        return self._guessed(query + text), ()

    def detokenizer(self, after: Sequence[int] = (), *, special: bool = False) -> StreamDetokenizer:
        raise self._unread()

    def token_bytes(self, token: int) -> bytes:
        raise self._unread()

    def text_of(self, ids: Sequence[int]) -> str:
        raise self._unread()

    def plain_text_of(self, ids: Sequence[int]) -> str:
        raise self._unread()

    def _guessed(self, text: str) -> range:
        return range(min(self._context, 1 + len(text.encode()) // _BYTES_A_TOKEN))

    def _unread(self) -> EngineRefusal:
        return EngineRefusal(
            "unsupported", "The engine alone has this model's tokenizer: texts can be sent, and no token ids."
        )
