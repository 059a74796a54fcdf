"""A model as the gateway sees it, from its manifest and its weights."""

from pathlib import Path

from ams_common.engines.choose import EngineChoice
from ams_common.quantity import parse_bytes
from ams_common.resource.spec import ModelDeployment
from ams_gateway.registry.port import KeepAnswers, Model, ModelFacts

from ams_cli import weights

_BITS = {"4bit": 4, "8bit": 8}


def gateway_model(
    resource: ModelDeployment, models_dir: Path, created: int, *, engine: EngineChoice, always_on: bool
) -> Model:
    """The model as routed to and reported; reads config.json if the weights are on this machine."""
    spec, limits = resource.spec, resource.spec.limits
    answers = spec.cache.answers
    folder = weights.folder(resource, models_dir, engine.name)
    family = weights.family(resource, folder)
    facts = ModelFacts(
        model_type=family.model_type if family else None,
        source=str(folder) if folder else None,
        source_exists=folder is not None,
        quantization_bits=_BITS.get(spec.quantization),
        max_memory=spec.max_memory or None,
        replicas=1 if always_on else 0,
        engine=engine.name,
        engine_reason=engine.reason,
    )
    return Model(
        name=resource.metadata.name,
        aliases=tuple(spec.model.aliases),
        adapters=tuple(each.name for each in spec.adapters),
        modalities=frozenset(family.modalities) if family else None,
        max_body_bytes=parse_bytes(limits.max_body_bytes),
        request_timeout_seconds=float(limits.request_timeout_seconds),
        created=created,
        context_tokens=None if limits.context_tokens == "auto" else limits.context_tokens,
        max_new_tokens=None if limits.max_new_tokens == "auto" else limits.max_new_tokens,
        answers=None if answers is None else KeepAnswers(answers.seconds, parse_bytes(answers.bytes)),
        facts=facts,
    )
