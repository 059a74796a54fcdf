"""The container `engine` of a model's pod: an engine of another make, beside `serve`, which asks it by loopback.

The volume `run` is what the containers share: the link to the weights that `download` makes, and the engine's output,
which goes to the container's log and to a file that `serve` reads.
"""

from typing import Any

from ams_common.adapters import LINKS, RANK_FILE, RANK_WORD
from ams_common.engines.row import EngineRow
from ams_common.engines.wishes import EngineWishes, Member, engine_resources, wishes_of
from ams_common.gguf_embedding import WORD_FILES
from ams_common.resource.spec import ModelDeployment
from ams_common.source import InvalidSource, names_gguf, parse_source

from ams_operator.decide.children.common import ObjectBody
from ams_operator.decide.children.containers import (
    CONTAINER_SECURITY,
    MODELS_DIR,
    SERVE_PORT,
    as_list,
    asked,
    given,
    literal,
    literally,
)
from ams_operator.decide.children.sources import source_mounts
from ams_operator.decide.engine import Engine, changes_adapters, stays_for_sleep
from ams_operator.settings import OperatorSettings

ENGINE = "engine"
ENGINE_END_SECONDS = 15  # that an engine gets to end, once nobody asks it any more
RUN_DIR = "/run/ams"
RUN_MOUNT: ObjectBody = {"name": "run", "mountPath": RUN_DIR}
# Of `serve` beside an engine: it decodes media and templates prompts, and computes nothing.
BESIDE: ObjectBody = {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}}

_LOG = f"{RUN_DIR}/engine.log"
_PIPE = f"{RUN_DIR}/engine.pipe"
_CACHE = "/cache"
_LOOPBACK = "127.0.0.1"
# The engine stays the container's first process, which gets its signals. /app is where llama.cpp's image has its own.
_TEED = f'rm -f {_PIPE}; mkfifo {_PIPE}; tee -a {_LOG} <{_PIPE} & export PATH="$PATH:/app"; exec "$@" >{_PIPE} 2>&1'
# Words for what is known once all is downloaded, and the files that tell it: the highest rank of the adapters, and
# how a GGUF file of an embedding model pools and how long its texts may be.
_LATER = {
    RANK_WORD: f"{RUN_DIR}/{LINKS}/{RANK_FILE}",
    **{word: f"{RUN_DIR}/{file}" for word, file in WORD_FILES.items()},
}
_SHARED_MEMORY = ("vllm", "sglang")  # whose processes pass tensors that way; a container has 64 MiB of it otherwise
# The controller of LeaderWorkerSets sets these variables in each container.
_LEADER = Member(leader=True, rank="0", address="$(LWS_LEADER_ADDRESS)")
_WORKER = Member(leader=False, rank="$(LWS_WORKER_INDEX)", address="$(LWS_LEADER_ADDRESS)")
# Under which address the others find this one; otherwise guessed by the way to a host of the internet.
_ADDRESS_VARIABLES = {"vllm": ("VLLM_HOST_IP",), "sglang": ("SGLANG_HOST_IP",)}
_OWN_ADDRESS: ObjectBody = {"valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
_ANSWER_SECONDS = 5
_START_SECONDS = 300  # until `serve` answers for the first time; how long the model may load, its own probe says
_LOST_SECONDS = 20  # without an answer of `serve`, which the kubelet starts again within 10 s the second time


def engine_settings(resource: ModelDeployment, engine: Engine, row: EngineRow) -> dict[str, Any]:
    """What `serve` is told of the engine beside it."""
    autoscaling = resource.spec.autoscaling
    rests = autoscaling is not None and stays_for_sleep(resource, engine)
    return {
        "engine": row.name,
        "engine_address": f"http://{_LOOPBACK}:{_port(resource, row)}",
        "engine_log": "" if row.name == "custom" else _LOG,
        "engine_sleep_seconds": float(autoscaling.idle_seconds) if autoscaling is not None and rests else 0.0,
    }


def engine_container(
    resource: ModelDeployment, engine: Engine, row: EngineRow, settings: OperatorSettings
) -> ObjectBody:
    """Its probes ask `serve`, which watches the engine and says why it is to be started anew."""
    command = _command(resource, engine, row, _LEADER)
    started: ObjectBody = {"command": _started(command, _TEED)}
    if row.name == "custom":
        started = {"args": command} if command else {}
    return {
        **_engine(resource, engine, row, settings),
        **started,
        "startupProbe": _probe(_START_SECONDS, "?start"),  # it asks anew whenever the container has begun anew
        "livenessProbe": _probe(_LOST_SECONDS),
        "lifecycle": {"preStop": {"httpGet": {"path": "/internal/engine/drained", "port": SERVE_PORT}}},
    }


def worker_container(
    resource: ModelDeployment, engine: Engine, row: EngineRow, settings: OperatorSettings
) -> ObjectBody:
    """The engine's part on another node than the leader's. It answers nobody: that it ended is all that shows."""
    command = _command(resource, engine, row, _WORKER)
    return {
        **_engine(resource, engine, row, settings),
        "command": _started(command, 'exec "$@"') if any(word in command for word in _LATER) else command,
    }


def _started(command: list[str], script: str) -> list[str]:
    """A shell that runs this script with the engine's command as its arguments."""
    filled = "".join(_filled(word, file) for word, file in _LATER.items() if word in command)
    return ["/bin/sh", "-c", literal(filled + script), ENGINE, *command]


def _filled(word: str, file: str) -> str:
    """A shell's part that puts what the file says in the place of the word among its arguments."""
    return f"""r=$(cat {file}); for a do shift; [ "$a" = "{word}" ] && a=$r; set -- "$@" "$a"; done; """


def _command(resource: ModelDeployment, engine: Engine, row: EngineRow, member: Member) -> list[str]:
    """Words of a container's command, in which the kubelet replaces what is of a member."""
    wishes = _wishes(resource, engine, row)
    joins = row.joins(member) if row.joins is not None and wishes.nodes > 1 else []
    words = [literal(word) for word in row.command(wishes)]
    return [*words, *joins, *(literal(word) for word in wishes.arguments)]


def _wishes(resource: ModelDeployment, engine: Engine, row: EngineRow) -> EngineWishes:
    return wishes_of(
        resource,
        model=_model(resource),
        host=_LOOPBACK,
        port=_port(resource, row),
        facts=engine.facts,
        links=RUN_DIR,
        dynamic_adapters=changes_adapters(resource, engine),
    )


def _engine(resource: ModelDeployment, engine: Engine, row: EngineRow, settings: OperatorSettings) -> ObjectBody:
    """What containers of it have in common, on whichever node."""
    spec, wishes = resource.spec, _wishes(resource, engine, row)
    environment = literally({**_variables(row), **row.variables(wishes)})
    if wishes.nodes > 1:
        environment |= dict.fromkeys(_ADDRESS_VARIABLES.get(row.name, ()), _OWN_ADDRESS)
    environment |= given(spec.engine.env)
    mounts: list[ObjectBody] = [
        {"name": "models", "mountPath": MODELS_DIR, "readOnly": True},
        {"name": "engine-tmp", "mountPath": "/tmp"},
        RUN_MOUNT,
        _cache_mount(resource, row),
    ]
    mounts += source_mounts(resource)
    if row.name in _SHARED_MEMORY:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    return {
        "name": ENGINE,
        "image": engine.image,
        "imagePullPolicy": spec.image_pull_policy or settings.engine_image_pull_policy,
        "env": as_list(environment),
        "volumeMounts": mounts,
        # Of an image that isn't known, nobody can say where it writes.
        "securityContext": {**CONTAINER_SECURITY, "readOnlyRootFilesystem": row.name != "custom"},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": asked(engine_resources(spec)),
    }


def engine_volumes(resource: ModelDeployment, engine: Engine) -> list[ObjectBody]:
    volumes: list[ObjectBody] = [
        {"name": "run", "emptyDir": {"sizeLimit": "256Mi"}},
        {"name": "engine-tmp", "emptyDir": {}},
    ]
    if not _keeps_caches(resource):
        volumes.append({"name": "engine-cache", "emptyDir": {}})
    if engine.name in _SHARED_MEMORY:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
    return volumes


def _probe(seconds: int, query: str = "") -> ObjectBody:
    return {
        "httpGet": {"path": f"/internal/engine/alive{query}", "port": SERVE_PORT},
        "periodSeconds": _ANSWER_SECONDS,
        "timeoutSeconds": _ANSWER_SECONDS,
        "failureThreshold": seconds // _ANSWER_SECONDS,
        # One that hangs doesn't listen to SIGTERM.
        "terminationGracePeriodSeconds": _ANSWER_SECONDS,
    }


def _variables(row: EngineRow) -> dict[str, str]:
    """Where it may write: what it compiles stays on the volume of the weights. Its user has no name of its own."""
    return {
        "HOME": _CACHE,
        "USER": "ams",
        "XDG_CACHE_HOME": _CACHE,
        "TORCHINDUCTOR_CACHE_DIR": f"{_CACHE}/inductor",
        "TRITON_CACHE_DIR": f"{_CACHE}/triton",
        "HF_HUB_OFFLINE": "1",
    } | ({"VLLM_CACHE_ROOT": f"{_CACHE}/vllm"} if row.name == "vllm" else {})


def _cache_mount(resource: ModelDeployment, row: EngineRow) -> ObjectBody:
    if not _keeps_caches(resource):
        return {"name": "engine-cache", "mountPath": _CACHE}
    return {"name": "models", "mountPath": _CACHE, "subPath": f".engine-cache/{row.name}"}


def _keeps_caches(resource: ModelDeployment) -> bool:
    return resource.spec.cache.access_mode != "ReadOnlyMany"


def _model(resource: ModelDeployment) -> str:
    try:
        file = names_gguf(parse_source(resource.spec.model.source))
    except InvalidSource:
        file = False
    return f"{RUN_DIR}/model.gguf" if file else f"{RUN_DIR}/model"


def _port(resource: ModelDeployment, row: EngineRow) -> int:
    return resource.spec.engine.port or row.port
