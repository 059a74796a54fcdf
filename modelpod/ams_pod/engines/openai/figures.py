"""What an engine's page of Prometheus metrics tells. Pure."""

import re
from collections.abc import Mapping

from ams_pod.engines.openai.pieces import EngineFigures

# vLLM tells its cache as labels of a gauge, `vllm:cache_config_info{block_size="16",num_gpu_blocks="100",…} 1.0`.
_BLOCKS = re.compile(rb'\bnum_gpu_blocks="(\d{1,12})"')
_BLOCK_SIZE = re.compile(rb'\bblock_size="(\d{1,9})"')


def figures_of(page: bytes, names: Mapping[str, str]) -> EngineFigures:
    """`names` maps series to the field of `EngineFigures` that they tell; of several labels they are added up."""
    wanted = {series.encode(): field for series, field in names.items()}
    found: dict[str, float] = {}
    for line in page.splitlines():
        if line.startswith(b"#"):
            continue
        labelled, _, value = line.rpartition(b" ")
        if b"num_gpu_blocks=" in labelled:  # pages have thousands of lines, and streams wait meanwhile
            if (blocks := _BLOCKS.search(labelled)) is not None and (size := _BLOCK_SIZE.search(labelled)) is not None:
                found["cache_capacity"] = found.get("cache_capacity", 0.0) + float(blocks[1]) * float(size[1])
            continue
        if (field := wanted.get(labelled.partition(b"{")[0])) is None:
            continue
        try:
            number = float(value)
        except ValueError:
            continue
        if 0 <= number < 1 << 60:  # neither NaN nor infinite
            found[field] = found.get(field, 0.0) + number
    return EngineFigures(**found)
