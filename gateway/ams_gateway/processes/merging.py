"""What several processes tell, as one."""

from collections.abc import Iterator, Mapping, Sequence

from ams_common.demand import DemandReport, ModelDemand
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families


def merged_metrics(pages: Mapping[int, str], accept: str) -> tuple[bytes, str]:
    """(body, content type) of the series of all processes, told apart by a label `process`, as replicas are by pod."""
    encoder, content_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Pages(pages))
    return encoder(registry), content_type


class _Pages:
    def __init__(self, pages: Mapping[int, str]) -> None:
        self._pages = pages

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        found: dict[str, Metric] = {}
        for number, page in self._pages.items():
            for family in text_string_to_metric_families(page):
                merged = found.get(family.name)
                if merged is None:
                    merged = found[family.name] = Metric(family.name, family.documentation, family.type)
                for sample in family.samples:
                    labels = {**sample.labels, "process": str(number)}
                    merged.add_sample(sample.name, labels, sample.value, sample.timestamp)
        yield from found.values()


def merged_demand(reports: Sequence[DemandReport]) -> DemandReport:
    """Requests of all processes together, each model idle since the last one at any of them."""
    models: dict[str, ModelDemand] = {}
    for report in reports:
        for key, demand in report.models.items():
            other = models.get(key, ModelDemand())
            idle = [each for each in (demand.idle_seconds, other.idle_seconds) if each is not None]
            models[key] = ModelDemand(
                demand.in_flight + other.in_flight, demand.held + other.held, min(idle) if idle else None
            )
    return DemandReport(sum(report.version for report in reports), models)
