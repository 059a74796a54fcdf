"""Whether adapters are loaded and unloaded while the engine runs, so that another list needs no new pods. Pure."""

from ams_common.engines.row import EngineRow
from ams_common.resource.spec import ModelDeployment

# With these vLLM has several processes that answer, which know nothing of what one of them has loaded.
_SEVERAL_SERVERS = ("--api-server-count", "--data-parallel-size", "-asc", "-dp")


def has_dynamic_adapters(resource: ModelDeployment, row: EngineRow | None) -> bool:
    """`row` is that of the engine, None for the builtin one. Without any adapter an engine is started otherwise."""
    engine = resource.spec.engine
    if row is None or not row.changes_adapters or not resource.spec.adapters or engine.nodes > 1:
        return False
    return not any(word.partition("=")[0] in _SEVERAL_SERVERS for word in engine.args)
