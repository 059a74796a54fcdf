"""Any other server that speaks OpenAI's protocol, by its image or program. It gets the user's arguments alone."""

from ams_common.engines import refusing
from ams_common.engines.row import EngineRow
from ams_common.engines.wishes import EngineWishes


def command(wishes: EngineWishes) -> list[str]:
    """None: its image says what is started."""
    return []


def variables(wishes: EngineWishes) -> dict[str, str]:
    """Where its model is, and where it has to listen, for one that reads them."""
    return {"MODEL": wishes.model, "MODEL_NAME": wishes.name, "HOST": wishes.host, "PORT": wishes.port}


ROW = EngineRow(
    name="custom",
    title="An engine of one's own",
    program="",
    port=8000,
    command=command,
    variables=variables,
    rules=(
        refusing.families,
        refusing.nodes,
        refusing.quantization,
        refusing.precision,
        refusing.fallbacks,
        refusing.custom_max_memory,
        refusing.custom_limits,
        refusing.custom_adapters,
    ),
    fields=(
        ("metadata.name", "variable `MODEL_NAME`"),
        ("engine.nodes", "refused: it computes on one node"),
        ("engine.port", "variable `PORT`, and `{port}` in `engine.args`"),
        ("(the weights' folder or file)", "variable `MODEL`, and `{model}` in `engine.args`"),
        ("limits.contextTokens", "bounds requests before they come to it; it may have a shorter one"),
        ("limits.concurrentRequests", "bounds requests before they come to it"),
        ("limits.prefixCacheTokens, limits.imagePixels", "refused"),
        ("precision, quantization, maxMemory", "refused: it has arguments of its own"),
        ("adapters", "refused"),
        ("(family embedding)", "it is asked for vectors or scores, as it takes them"),
    ),
    reads_gguf=True,
)
