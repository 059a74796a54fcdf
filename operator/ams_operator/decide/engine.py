"""Which engine serves a model in this cluster: chosen by what the hub says, and kept while that is away. Pure."""

from dataclasses import dataclass

from ams_common.engines.choose import EngineChoice, EngineFacts, choose_engine, refusals
from ams_common.engines.dynamic import has_dynamic_adapters
from ams_common.engines.fitting import fits_gpus
from ams_common.engines.names import ENGINES, EngineName
from ams_common.engines.row import EngineRow
from ams_common.engines.table import row_of
from ams_common.engines.wishes import UNKNOWN, ModelFacts, engine_resources, sleeps, wants_gpu
from ams_common.families import UnsupportedArchitecture, family_of
from ams_common.memory_offers import MemoryOffers
from ams_common.reasons import Reason
from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import ModelStatus
from ams_common.source import HubSource, Source, short_name

from ams_operator.decide.preflight.report import HubReport
from ams_operator.decide.status.problem import Problem
from ams_operator.settings import OperatorSettings


@dataclass(frozen=True, slots=True)
class Engine:
    """`choice` is which and why; `row` and `image` are empty for the builtin one, `facts` what its arguments need.

    `problem`: the resource asks for an engine that isn't at hand, or for what it can't do.
    """

    choice: EngineChoice
    row: EngineRow | None = None
    image: str = ""
    facts: ModelFacts = UNKNOWN
    problem: Problem | None = None

    @property
    def name(self) -> EngineName:
        return self.choice.name

    @property
    def sleeps(self) -> bool:
        """Whether it can be put to sleep while nobody asks."""
        return self.row is not None and self.row.sleeps


BUILTIN = Engine(EngineChoice("builtin", "spec.engine.name asks for it"))


def engine_of(
    resource: ModelDeployment,
    source: Source,
    report: HubReport | None,
    offers: MemoryOffers,
    settings: OperatorSettings,
) -> Engine:
    """`report` is the hub's, None where it isn't asked or hasn't answered."""
    images = _images(resource, settings)
    known = report if report is not None and report.reached and report.failure is None else None
    before = _before(resource, source)
    facts = EngineFacts(
        architectures=(known.architectures if known is not None else _architectures(before)) or None,
        gpu=wants_gpu(engine_resources(resource.spec)),
        at_hand=frozenset(images),
        quantized_by=known.size.quantized_by if known is not None and known.size is not None else None,
        fits_gpu=_fits(resource, known, offers),
        model=_facts(known, before),
    )
    choice = choose_engine(resource, facts)
    if known is None and isinstance(source, HubSource) and (kept := _kept(resource, before, facts)) is not None:
        choice = kept
    row = row_of(choice.name)
    if row is None:
        problem = _on_one_node(resource) or _unsupported(resource, choice, "The builtin engine", facts.model)
        return Engine(choice, facts=facts.model, problem=problem)
    problem = _unsupported(resource, choice, row.title, facts.model) or _unavailable(row, images)
    return Engine(choice, row, images.get(choice.name, ""), facts.model, problem)


def stays_for_sleep(resource: ModelDeployment, engine: Engine) -> bool:
    """Whether the last pod stays when nobody asks, as its engine then sleeps."""
    return sleeps(resource.spec) and engine.sleeps


def changes_adapters(resource: ModelDeployment, engine: Engine) -> bool:
    """Whether its pods take another list of adapters while they run, so that it is no part of what pods are like."""
    return has_dynamic_adapters(resource, engine.row)


def _images(resource: ModelDeployment, settings: OperatorSettings) -> dict[EngineName, str]:
    own = resource.spec.engine
    images: dict[EngineName, str] = {
        "vllm": settings.vllm_image,
        "sglang": settings.sglang_image,
        "llamacpp": settings.llamacpp_image,
    }
    if own.image is not None and own.name != "auto":
        images[own.name] = own.image
    return {name: image for name, image in images.items() if image}


def _unsupported(resource: ModelDeployment, choice: EngineChoice, title: str, facts: ModelFacts) -> Problem | None:
    if refused := refusals(resource, choice, facts):
        text = f"{title} can't serve this as it is asked for. {'. '.join(refused)}."
        return Problem(Reason.UNSUPPORTED_BY_ENGINE, text)
    return None


def _unavailable(row: EngineRow, images: dict[EngineName, str]) -> Problem | None:
    if row.name not in images:
        chart = "" if row.name == "custom" else f", or engines.{row.name}.image of the chart"
        text = f"spec.engine.name: {row.name} has no image; set spec.engine.image{chart}."
        return Problem(Reason.ENGINE_UNAVAILABLE, text)
    return None


def _on_one_node(resource: ModelDeployment) -> Problem | None:
    if resource.spec.engine.nodes <= 1:
        return None
    text = "spec.engine.nodes: the builtin engine computes on one node; name vllm or sglang in spec.engine.name."
    return Problem(Reason.UNSUPPORTED_BY_ENGINE, text)


def _kept(resource: ModelDeployment, before: ModelStatus | None, facts: EngineFacts) -> EngineChoice | None:
    """What was chosen when the hub could be asked, where that can still serve the resource."""
    status = resource.status.engine if resource.status is not None else None
    if before is None or resource.spec.engine.name != "auto" or status is None:
        return None
    name = next((each for each in ENGINES if each == status.name), None)
    if name is None or (row := row_of(name)) is None:
        return None
    possible = name in facts.at_hand and not row.refusals(resource, facts.model)
    wished = facts.gpu or row.reads_gguf
    return EngineChoice(name, status.reason or "it was chosen before") if possible and wished else None


def _before(resource: ModelDeployment, source: Source) -> ModelStatus | None:
    """What status says of the model, if it is about this source."""
    model = resource.status.model if resource.status is not None else None
    return model if model is not None and model.name == short_name(source) else None


def _architectures(before: ModelStatus | None) -> tuple[str, ...]:
    return (before.architecture,) if before is not None and before.architecture else ()


def _facts(known: HubReport | None, before: ModelStatus | None) -> ModelFacts:
    if known is None:
        return ModelFacts(family=before.family, weights_bytes=before.weights_bytes) if before is not None else UNKNOWN
    try:
        family = family_of(known.architectures).name if known.architectures else None
    except UnsupportedArchitecture:
        family = None
    return ModelFacts(family=family, weights_bytes=known.weights_bytes)


def _fits(resource: ModelDeployment, known: HubReport | None, offers: MemoryOffers) -> bool | None:
    if known is None or known.size is None or not offers.options:
        return None
    return fits_gpus(resource.spec, known.size, offers.options)
