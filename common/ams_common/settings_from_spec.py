"""From a ModelDeployment to what its pods are told; the operator and `ams up` add where things are."""

import msgspec

from ams_common.adapters import AdapterSettings, adapters_text
from ams_common.options import variable_name
from ams_common.pod_settings import DownloadSettings, ServeSettings
from ams_common.quantity import parse_bytes
from ams_common.resource.spec import ModelDeployment, Spec


def download_settings(resource: ModelDeployment) -> DownloadSettings:
    """Settings of `ams-pod download` for this model; folders, ports and files are left at their defaults."""
    model = resource.spec.model
    settings = DownloadSettings(
        source=model.source,
        lock=msgspec.json.encode(model.lock, order="sorted").decode() if model.lock else "",
        adapters=adapters_text(adapters_of(resource)),
    )
    if (signature := model.signature) is None:
        return settings
    return msgspec.structs.replace(settings, signature_key=signature.public_key, signature_file=signature.file)


def serve_settings(resource: ModelDeployment) -> ServeSettings:
    """Settings of `ams-pod serve` for this model; folders, addresses and files are left at their defaults."""
    spec, limits = resource.spec, resource.spec.limits
    return ServeSettings(
        name=resource.metadata.name,
        source=spec.model.source,
        adapters=adapters_text(adapters_of(resource)),
        aliases=",".join(spec.model.aliases),
        family=spec.model.family,
        tool_parser=spec.model.tool_parser,
        precision=spec.precision,
        quantization=spec.quantization,
        max_memory=_max_memory(spec.max_memory),
        fallbacks=",".join(spec.fallbacks),
        max_new_tokens=0 if limits.max_new_tokens == "auto" else limits.max_new_tokens,
        context_tokens=0 if limits.context_tokens == "auto" else limits.context_tokens,
        prefix_cache_tokens=-1 if limits.prefix_cache_tokens == "auto" else limits.prefix_cache_tokens,
        concurrent_requests=limits.concurrent_requests,
        queued_requests=limits.queued_requests,
        request_timeout_seconds=float(limits.request_timeout_seconds),
        max_body_bytes=parse_bytes(limits.max_body_bytes),
        video_frames=limits.video_frames,
        image_pixels=0 if limits.image_pixels == "auto" else limits.image_pixels,
        media_url_hosts=",".join(limits.media_url_hosts),
        golden_prompts=msgspec.json.encode(spec.rollout.golden_prompts).decode() if spec.rollout.golden_prompts else "",
    )


def adapters_of(resource: ModelDeployment) -> list[AdapterSettings]:
    return [AdapterSettings(each.name, each.source, dict(sorted(each.lock.items()))) for each in resource.spec.adapters]


def allows_pickle(spec: Spec) -> bool:
    """Whether the download may take pickled weights, by AMS_ALLOW_PICKLE in spec.env."""
    name = variable_name("allow_pickle")
    variable = next((each for each in reversed(spec.env) if each.name == name), None)
    if variable is None:
        return False
    if variable.value_from is not None:
        return True  # only the pod knows, and decides
    try:
        return msgspec.convert(variable.value, bool, strict=False)
    except msgspec.ValidationError:
        return False


def _max_memory(devices: dict[str, str | int]) -> str:
    sizes = {device: parse_bytes(size) for device, size in devices.items()}
    return msgspec.json.encode(sizes, order="sorted").decode() if sizes else ""
