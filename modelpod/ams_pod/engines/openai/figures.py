"""What an engine's page of Prometheus metrics tells. Pure."""

from collections.abc import Mapping

from ams_pod.engines.openai.pieces import EngineFigures


def figures_of(page: bytes, names: Mapping[str, str]) -> EngineFigures:
    """`names` maps series to the field of `EngineFigures` that they tell; of several labels they are added up."""
    wanted = {series.encode(): field for series, field in names.items()}
    found: dict[str, float] = {}
    for line in page.splitlines():
        if line.startswith(b"#"):
            continue
        labelled, _, value = line.rpartition(b" ")
        if (field := wanted.get(labelled.partition(b"{")[0])) is None:
            continue
        try:
            number = float(value)
        except ValueError:
            continue
        if 0 <= number < 1 << 60:  # neither NaN nor infinite
            found[field] = found.get(field, 0.0) + number
    return EngineFigures(**found)
