"""What types alone can't say about a ModelDeployment.

Each rule is written twice, side by side: in CEL for the API server, and in Python for everyone without one. Both give
the same sentence.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ams_common.quantity import PATTERN as QUANTITY
from ams_common.quantity import InvalidQuantity, parse_bytes, parse_memory, parse_quantity
from ams_common.resource.check import FieldProblem, join
from ams_common.resource.core import EnvVar
from ams_common.resource.spec import AutoscalingSpec, CacheSpec, EngineSpec, GoldenPrompt, ModelDeployment, Spec
from ams_common.source import InvalidSource, parse_source


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule on the values at `path` (`*` is each value of a map, `[*]` each entry of a list).

    `cel` is None where CEL can't express it, or where its cost, multiplied by the map's size, is past what the API
    server allows: then `schema` says it. `holds` is None for a rule about a change, which needs the old object.
    """

    path: str
    cel: str | None
    message: str
    holds: Callable[[Any], bool] | None
    schema: dict[str, Any] = field(default_factory=dict)


NAME = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
NAME_LENGTH = 50
# Of a model over several nodes: a StatefulSet of each group has it in its name, whose revision has to fit a label.
SPANNING_NAME_LENGTH = 44
ALIAS = r"^[A-Za-z0-9]([A-Za-z0-9._:/@-]*[A-Za-z0-9])?$"
ADAPTER = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
ADAPTER_SOURCE = (
    r"^(hf://[A-Za-z0-9._-]+/[A-Za-z0-9._-]+(@[^@?\s]+)?(\?file=.+)?|"
    r"wheel://[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+/[^\s/]\S*|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/\S*)?|file:///.*)$"
)
MEDIA_HOST = r"^(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?$"
SHA256 = r"^[0-9a-f]{64}$"
SIGNATURE_FILE = r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$"
DEVICE = r"^([0-9]+|cpu|disk)$"
# Kubernetes' quantities, and accelerate's spelling of them: 8GiB.
MEMORY = QUANTITY.replace("[KMGTPE]i|", "[KMGT]i?B|[KMGTPE]i|")


def _matches(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern.removesuffix("$") + r"\Z")
    return lambda text: compiled.match(text) is not None


def _is_quantity(value: str | int) -> bool:
    return _converts(parse_quantity, value, InvalidQuantity)


def _is_memory(value: str | int) -> bool:
    return _converts(parse_memory, value, InvalidQuantity)


def _is_source(text: str) -> bool:
    return _converts(parse_source, text, InvalidSource)


def _compiles(pattern: str | None) -> bool:
    return pattern is None or _converts(re.compile, pattern, re.error)


def _converts(function: Callable[[Any], Any], value: Any, error: type[Exception]) -> bool:
    try:
        function(value)
    except error:
        return False
    return True


def _is_valid_name(resource: ModelDeployment) -> bool:
    return _matches(NAME)(resource.metadata.name) and len(resource.metadata.name) <= NAME_LENGTH


def _is_name_of_groups(resource: ModelDeployment) -> bool:
    return resource.spec.engine.nodes <= 1 or len(resource.metadata.name) <= SPANNING_NAME_LENGTH


def most_replicas(spec: Spec) -> int:
    """The most pods that the resource may come to have."""
    return spec.autoscaling.max_replicas if spec.autoscaling else spec.replicas


def _is_shareable(spec: Spec) -> bool:
    return most_replicas(spec) <= 1 or spec.cache.access_mode != "ReadWriteOnce" or spec.cache.per_replica


def _is_shareable_by_nodes(spec: Spec) -> bool:
    return spec.engine.nodes <= 1 or spec.cache.access_mode != "ReadWriteOnce" or spec.cache.per_replica


def _spans_nodes(engine: EngineSpec) -> bool:
    return engine.nodes <= 1 or engine.name in SPANNING


def _one_check(prompt: GoldenPrompt) -> bool:
    return (prompt.contains is None) != (prompt.regex is None)


def _one_value(variable: EnvVar) -> bool:
    return variable.value is None or variable.value_from is None


def _windows(autoscaling: AutoscalingSpec) -> bool:
    return autoscaling.panic_window_seconds <= autoscaling.stable_window_seconds


def _one_volume(cache: CacheSpec) -> bool:
    return not (cache.per_replica and cache.claim_name)


def _of_a_named_engine(engine: EngineSpec) -> bool:
    own = engine.image or engine.args or engine.env or engine.port or engine.resources
    return engine.name not in _OURS or not own


def _gpus_for_one(spec: Spec) -> bool:
    """The container beside the engine's computes nothing."""
    beside = {**spec.resources.limits, **spec.resources.requests}
    return spec.engine.resources is None or not any("/" in name for name in beside)


def _can_sleep(spec: Spec) -> bool:
    autoscaling = spec.autoscaling
    if autoscaling is None or autoscaling.idle != "sleep":
        return True
    return autoscaling.min_replicas == 0 and spec.engine.name in _SLEEPERS


def _sleeps_on_one_node(spec: Spec) -> bool:
    return spec.engine.nodes <= 1 or spec.autoscaling is None or spec.autoscaling.idle != "sleep"


_OURS = ("auto", "builtin")
_SLEEPERS = ("auto", "vllm")  # auto: it sleeps if that is what is chosen
SPANNING = ("vllm", "sglang")
"""Engines that compute over several nodes."""
_POD_PORTS = (8080, 8081)  # of serving, and of the download's progress
_IS_QUANTITY = {"minimum": 0, "pattern": QUANTITY}
_QUANTITY_MESSAGE = "must be a quantity such as 512Mi, 8Gi or 500m"
_SCHEMES = ("hf", "wheel", "pvc", "file")


def _fixed(name: str) -> Rule:
    same = f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"
    return Rule("spec.cache", same, f"{name} can't be changed; delete the resource and apply it anew", None)


RULES: tuple[Rule, ...] = (
    Rule(
        "",
        f"self.metadata.name.matches(r'{NAME}') && size(self.metadata.name) <= {NAME_LENGTH}",
        "metadata.name must start with a letter, hold only a-z, 0-9 and -, end with a letter or digit, and have at "
        f"most {NAME_LENGTH} characters",
        _is_valid_name,
    ),
    Rule(
        "",
        "!has(self.spec.engine.nodes) || self.spec.engine.nodes <= 1 || "
        f"size(self.metadata.name) <= {SPANNING_NAME_LENGTH}",
        f"metadata.name must have at most {SPANNING_NAME_LENGTH} characters where engine.nodes is more than 1, as"
        " Kubernetes makes longer names of it",
        _is_name_of_groups,
    ),
    Rule(
        "spec",
        "(has(self.autoscaling) ? self.autoscaling.maxReplicas : self.replicas) <= 1 || "
        "self.cache.accessMode != 'ReadWriteOnce' || self.cache.perReplica",
        "a ReadWriteOnce cache allows one replica, as its volume binds to a node; for more set cache.accessMode to "
        "ReadWriteMany or ReadOnlyMany, or cache.perReplica to true",
        _is_shareable,
    ),
    Rule(
        "spec",
        "!has(self.engine.nodes) || self.engine.nodes <= 1 || self.cache.accessMode != 'ReadWriteOnce' || "
        "self.cache.perReplica",
        "a ReadWriteOnce cache binds to one node, and engine.nodes asks for several; set cache.accessMode to "
        "ReadWriteMany or ReadOnlyMany, or cache.perReplica to true",
        _is_shareable_by_nodes,
    ),
    Rule(
        "spec.engine",
        "!has(self.nodes) || self.nodes <= 1 || self.name in ['vllm', 'sglang']",
        "nodes above 1 needs name: vllm or sglang, which alone compute over several nodes",
        _spans_nodes,
    ),
    Rule(
        "spec.model.source",
        " || ".join(f"self.startsWith('{scheme}://')" for scheme in _SCHEMES),
        "must be hf://owner/name[@revision], wheel://distribution==version/path, pvc://claim/path or file:///path",
        lambda text: text.startswith(tuple(f"{scheme}://" for scheme in _SCHEMES)),
    ),
    Rule(
        "spec.model.source",
        r"!self.startsWith('hf://') || self.matches(r'^hf://[A-Za-z0-9._-]+/[A-Za-z0-9._-]+(@[^@?\s]+)?(\?file=.+)?$')",
        "must be hf://owner/name or hf://owner/name@revision, with ?file=name.gguf for a GGUF file",
        lambda text: not text.startswith("hf://") or _is_source(text),
    ),
    Rule(
        "spec.model.source",
        r"!self.startsWith('wheel://') || self.matches(r'^wheel://[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+/[^\s/]\S*$')",
        "must be wheel://distribution==version/path/in/wheel",
        lambda text: not text.startswith("wheel://") or _is_source(text),
    ),
    Rule(
        "spec.model.source",
        r"!self.startsWith('pvc://') || self.matches(r'^pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[^/\s]\S*)?/?$')",
        "must be pvc://claim/path",
        lambda text: not text.startswith("pvc://") or _is_source(text),
    ),
    Rule(
        "spec.model.source",
        "!self.startsWith('file://') || self.startsWith('file:///')",
        "must hold an absolute path, as in file:///srv/models/name",
        lambda text: not text.startswith("file://") or _is_source(text),
    ),
    Rule(
        "spec.adapters[*].source",
        f"self.matches(r'{ADAPTER_SOURCE}')",
        "must be hf://owner/name[@revision], wheel://distribution==version/path, pvc://claim/path or file:///path; a "
        "GGUF file is named by ?file=name.gguf",
        _is_source,
    ),
    Rule(
        "spec.adapters[*].name",
        f"self.matches(r'{ADAPTER}')",
        "must hold only a-z, 0-9 and -, and start and end with a letter or digit",
        _matches(ADAPTER),
    ),
    Rule(
        "spec.adapters",
        "self.all(one, self.exists_one(other, other.name == one.name))",
        "names an adapter twice",
        lambda adapters: len({each.name for each in adapters}) == len(adapters),
    ),
    Rule(
        "spec.adapters[*].lock.*",
        f"self.matches(r'{SHA256}')",
        "must be a sha256: 64 of 0-9 and a-f",
        _matches(SHA256),
    ),
    Rule(
        "spec.engine",
        "!(self.name in ['auto', 'builtin']) || !(has(self.image) || has(self.port) || has(self.resources) || "
        "(has(self.args) && size(self.args) > 0) || (has(self.env) && size(self.env) > 0))",
        "image, args, env, port and resources are for an engine that name names: vllm, sglang, llamacpp or custom",
        _of_a_named_engine,
    ),
    Rule(
        "spec.engine.port",
        "!(self in [8080, 8081])",
        "8080 and 8081 are taken in the pod; choose another port",
        lambda port: port not in _POD_PORTS,
    ),
    Rule(
        "spec",
        "!has(self.engine.resources) || (!(has(self.resources.limits) && self.resources.limits.exists(name, "
        "name.contains('/'))) && !(has(self.resources.requests) && self.resources.requests.exists(name, "
        "name.contains('/'))))",
        "engine.resources are those of the engine's container, so GPUs belong there and not into resources",
        _gpus_for_one,
    ),
    Rule("spec.engine.resources.limits.*", None, _QUANTITY_MESSAGE, _is_quantity, _IS_QUANTITY),
    Rule("spec.engine.resources.requests.*", None, _QUANTITY_MESSAGE, _is_quantity, _IS_QUANTITY),
    Rule(
        "spec.engine.env[*]",
        "!(has(self.value) && has(self.valueFrom))",
        "takes value or valueFrom, not both",
        _one_value,
    ),
    Rule("spec.engine.env[*].name", "!self.contains('=')", "must not hold =", lambda name: "=" not in name),
    Rule(
        "spec",
        "!has(self.autoscaling) || self.autoscaling.idle != 'sleep' || "
        "(self.autoscaling.minReplicas == 0 && self.engine.name in ['auto', 'vllm'])",
        "autoscaling.idle: sleep needs autoscaling.minReplicas: 0, and an engine that can sleep: vllm, or auto",
        _can_sleep,
    ),
    Rule(
        "spec",
        "!has(self.autoscaling) || self.autoscaling.idle != 'sleep' || !has(self.engine.nodes) || "
        "self.engine.nodes <= 1",
        "autoscaling.idle: sleep is for an engine on one node; over several leave it at stop",
        _sleeps_on_one_node,
    ),
    Rule("spec.model.lock.*", f"self.matches(r'{SHA256}')", "must be a sha256: 64 of 0-9 and a-f", _matches(SHA256)),
    Rule(
        "spec.model.signature.publicKey",
        "self.startsWith('-----BEGIN PUBLIC KEY-----')",
        "must be the PEM text of a public key: -----BEGIN PUBLIC KEY----- …",
        lambda text: text.startswith("-----BEGIN PUBLIC KEY-----"),
    ),
    Rule(
        "spec.model.signature.file",
        f"self.matches(r'{SIGNATURE_FILE}') && self != 'manifest.json'",
        "must be the path of a file among the model's, as in model.sig",
        lambda text: re.fullmatch(SIGNATURE_FILE, text) is not None and text != "manifest.json",
    ),
    Rule(
        "spec.model.aliases[*]",
        f"self.matches(r'{ALIAS}')",
        "must start and end with a letter or digit and hold only letters, digits and . _ : / @ -",
        _matches(ALIAS),
    ),
    Rule(
        "spec.limits.mediaUrlHosts[*]",
        f"self.matches(r'{MEDIA_HOST}')",
        "must be a host such as example.com, *.example.com or example.com:8443",
        _matches(MEDIA_HOST),
    ),
    Rule(
        "spec.maxMemory",
        f"self.all(device, device.matches(r'{DEVICE}'))",
        'devices are "0", "1", … for GPUs, cpu and disk',
        lambda devices: all(map(_matches(DEVICE), devices)),
    ),
    Rule(
        "spec.maxMemory.*",
        None,
        "must be a quantity such as 8Gi or 8GiB",
        _is_memory,
        {"minimum": 0, "pattern": MEMORY},
    ),
    Rule(
        "spec.fallbacks",
        "self.all(one, self.exists_one(other, other == one))",
        "names a step twice",
        lambda steps: len(set(steps)) == len(steps),
    ),
    *(
        Rule(
            f"spec.limits.{name}",
            "type(self) == int ? self >= 1 : self == 'auto'",
            "must be auto or a number of tokens, at least 1",
            lambda tokens: tokens == "auto" or tokens >= 1,
        )
        for name in ("maxNewTokens", "contextTokens")
    ),
    Rule(
        "spec.limits.maxBodyBytes",
        f"type(self) == int ? self >= 1024 : self.matches(r'{QUANTITY}') && "
        "quantity(self).compareTo(quantity('1Ki')) >= 0",
        "must be a quantity such as 64Mi, at least 1Ki",
        lambda size: _is_quantity(size) and parse_bytes(size) >= 1024,
    ),
    Rule(
        "spec.cache.size",
        f"type(self) == int ? self >= 1 : self == 'auto' || self.matches(r'{QUANTITY}')",
        "must be auto or a quantity such as 20Gi",
        lambda size: size == "auto" or (_is_quantity(size) and parse_bytes(size) >= 1),
    ),
    Rule(
        "spec.cache.size",
        "self == 'auto' || oldSelf == 'auto' || quantity(string(self)).compareTo(quantity(string(oldSelf))) >= 0",
        "may only grow, as volumes don't shrink",
        None,
    ),
    Rule(
        "spec.cache",
        "!(self.perReplica && has(self.claimName))",
        "perReplica makes a volume for each pod, claimName names one for all: set one of them",
        _one_volume,
    ),
    *(_fixed(name) for name in ("storageClassName", "accessMode", "claimName", "perReplica")),
    Rule(
        "spec.autoscaling",
        "self.minReplicas <= self.maxReplicas",
        "minReplicas must not be more than maxReplicas",
        lambda autoscaling: autoscaling.min_replicas <= autoscaling.max_replicas,
    ),
    Rule(
        "spec.autoscaling",
        "self.panicWindowSeconds <= self.stableWindowSeconds",
        "panicWindowSeconds must not be longer than stableWindowSeconds",
        _windows,
    ),
    Rule(
        "spec.rollout.goldenPrompts[*]",
        "has(self.contains) != has(self.regex)",
        "needs either contains or regex",
        _one_check,
    ),
    Rule("spec.rollout.goldenPrompts[*].regex", None, "is not a regular expression", _compiles),
    Rule("spec.resources.limits.*", None, _QUANTITY_MESSAGE, _is_quantity, _IS_QUANTITY),
    Rule("spec.resources.requests.*", None, _QUANTITY_MESSAGE, _is_quantity, _IS_QUANTITY),
    Rule(
        "spec.env[*]",
        "!(has(self.value) && has(self.valueFrom))",
        "takes value or valueFrom, not both",
        _one_value,
    ),
    Rule("spec.env[*].name", "!self.contains('=')", "must not hold =", lambda name: "=" not in name),
)


def broken(resource: ModelDeployment) -> list[FieldProblem]:
    """The rules that a resource breaks."""
    return [
        FieldProblem(path, rule.message)
        for rule in RULES
        if rule.holds is not None
        for path, value in values_at(resource, rule.path)
        if not rule.holds(value)
    ]


def values_at(value: Any, pattern: str, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each (path, value) of a resource that `pattern` names; fields that are not set have none."""
    if value is None:
        return
    head, _, rest = pattern.partition(".")
    name, listed, _ = head.partition("[*]")
    if not head:
        yield path, value
    elif name == "*":
        for key, item in value.items():
            yield from values_at(item, rest, join(path, key))
    else:
        inner, at = _field(value, name), join(path, name)
        if not listed:
            yield from values_at(inner, rest, at)
        else:
            for index, item in enumerate(inner or ()):
                yield from values_at(item, rest, f"{at}[{index}]")


def _field(value: msgspec.Struct, wire_name: str) -> Any:
    fields = msgspec.structs.fields(value)
    return getattr(value, next(each.name for each in fields if each.encode_name == wire_name))
