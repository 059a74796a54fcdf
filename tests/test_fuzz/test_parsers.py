"""Whatever bytes come from outside, a parser gives a value or its own error, and soon.

A handful of examples in the usual run; AMS_FUZZ_EXAMPLES says how many, as `make nightly` does. What failed is kept by
hypothesis in .hypothesis, and belongs into the seeds.
"""

import asyncio
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ams_cli import weights
from ams_cli.chat import Conversation
from ams_cli.exit_reason import reported_failure
from ams_cli.gateway_client import GatewayError
from ams_cli.importing.command import imported_text
from ams_cli.manifests import ManifestError, load_manifests
from ams_cli.preview_gguf import NoGguf, read_first_bytes
from ams_common import key_changes
from ams_common.adapters import parse_adapters
from ams_common.errors import ApiError
from ams_common.hub_files import RemoteFile, UnusableFiles, choose_files
from ams_common.keys import InvalidKeys, read_keys, write_keys
from ams_common.lock import lock_of
from ams_common.outside import InvalidJson, read_json
from ams_common.quantity import InvalidQuantity, parse_memory, parse_quantity
from ams_common.request_body import RequestReader
from ams_common.resource.parse import parse_model_deployment
from ams_common.source import InvalidSource, parse_source
from ams_common.wire import ChatRequest, CompletionRequest, GenerateRequest, RoutingFields
from ams_gateway.auth.jwks import read_key
from ams_gateway.auth.token_rules import InvalidIssuers, Issuer, Refused, Rule, TokenPolicy, read_issuers, user_of
from ams_gateway.auth.tokens import parse as parse_token
from ams_gateway.front.form import boundary_of, texts_of
from ams_operator.decide.status.endings import termination_failure
from ams_pod.download.adapter_check import WrongAdapter, check_peft
from ams_pod.download.failures import Failed
from ams_pod.download.manifest import read_manifest
from ams_pod.download.signature import Signer
from ams_pod.engines.builtin.memory.placing import _tensors
from ams_pod.engines.builtin.model.gguf import _describe, _NotConverted
from ams_pod.engines.builtin.model.gguf_folder import Unplanned, plan
from ams_pod.engines.builtin.model.gguf_settings import NotComputed
from ams_pod.engines.openai.adapters import AdapterFollower
from ams_pod.engines.openai.dialects.custom import Custom
from ams_pod.engines.openai.dialects.llamacpp import LlamaCpp
from ams_pod.engines.openai.dialects.sglang import SGLang
from ams_pod.engines.openai.dialects.vllm import Vllm
from ams_pod.engines.openai.figures import figures_of
from ams_pod.engines.openai.pieces import VectorForm
from ams_pod.engines.port import EngineError, LoadFailed
from ams_pod.engines.prompts.embedding import read_recipe
from ams_pod.media.base64text import decoded_base64
from ams_pod.serve.golden import parse_golden_prompts
from fakehub.tiny_lora import base_shapes, peft, safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("AMS_FUZZ_EXAMPLES", "25"))
PATIENCE_SECONDS = 5.0
ADAPTER = peft(rank=1, layers=1)
DEEP = b"[" * 60_000

JSON_SEEDS = [
    b'{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}],"stream":true,"stop":["a"]}',
    b'{"prompt":"hi","max_new_tokens":3,"temperature":0.5,"image":["AAAA"],"seed":-1}',
    b'{"model":"m","prompt":[[1,2],[3]],"logit_bias":{"1":2.5},"n":1}',
    b'{"reason":"GatedModel","message":"m","retryable":false}',
    b'{"files":3,"sha256":"' + b"0" * 64 + b'"}',
    b'{"metadata":{},"weight_map":{"a":"model-00001-of-00002.safetensors"}}',
    b'{"architectures":["LlamaForCausalLM"],"text_config":{"num_hidden_layers":2}}',
    b'[{"prompt":"2+2","contains":"4","maxSeconds":3}]',
    b'{"a":"\xff"}', b'"\xed\xa0\x80"', b'{"a":1e999,"b":-0,"c":"\\ud800"}', b"\xef\xbb\xbf{}", DEEP, b'{"a":' * 20_000,
    b"null", b"", b"[]", b"7", b'{"a":1,"a":2}', b'{"\\n\\u0000":1}',
]  # fmt: skip
YAML_SEEDS = [
    b"apiVersion: aimodelserver.io/v1alpha1\nkind: ModelDeployment\nmetadata: {name: m}\n"
    b"spec: {model: {source: 'hf://a/b@main'}, limits: {contextTokens: auto, maxBodyBytes: 1Mi}}\n",
    b"kind: List\nitems: [{kind: ModelDeployment}]\n", b"a: &a [*a]", b"a: &a {b: 1}\nc: {<<: *a}\n", b"? [1]\n: 2\n",
    b"!!python/object:os.system {}", b"2026-01-01", b"a: !!binary AAAA", b"--- \n...\n---\n", DEEP[:3000],
]  # fmt: skip
FOREIGN_SEEDS = [
    *YAML_SEEDS,
    b"apiVersion: kubeai.org/v1\nkind: Model\nmetadata: {name: m}\nspec: {url: 'hf://a/b', engine: VLLM, "
    b"args: [--max-model-len=1k, -q, awq], resourceProfile: 'nvidia-gpu-l4:2', adapters: [{name: x}]}\n",
    b"apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: m}\nspec: {predictor: {model: "
    b"{modelFormat: {name: vLLM}, storageUri: 'pvc://a/b', args: [--model_id=a/b], resources: {limits: {cpu: 1}}}}}\n",
    b"apiVersion: kaito.sh/v1beta1\nkind: Workspace\nmetadata: {name: m}\nresource: {instanceType: g5.xlarge, "
    b"labelSelector: {matchLabels: {a: b}}}\ninference: {preset: {name: phi-4}, config: c}\n---\n"
    b"kind: ConfigMap\nmetadata: {name: c}\ndata: {inference_config.yaml: 'vllm: {max-model-len: 1}'}\n",
    b"macros: {a: '${PORT}'}\nglobalTTL: 3\nmodels: {m: {cmd: 'llama-server -m ${a}.gguf -c 8 -np 2', ttl: 5}}\n",
    b"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: m}\nspec: {template: {spec: {containers: [{image: "
    b"'vllm/vllm-openai:v1', command: [sh, -c], args: ['A=1; vllm serve $M --key $(K)'], env: [{name: M, value: b/b}, "
    b"{name: K, valueFrom: {secretKeyRef: {name: s, key: k}}}], volumeMounts: [{name: v, mountPath: /m}]}], volumes: "
    b"[{name: v, persistentVolumeClaim: {claimName: c}}]}}}\n---\napiVersion: keda.sh/v1\nkind: ScaledObject\n"
    b"spec: {scaleTargetRef: {name: m}, triggers: [{metadata: {threshold: '1'}}]}\n",
    b"services: {m: {image: 'tgi:${T:-1}', command: '--model-id ${M:-a/b} --num-shard 2', environment: [A=1, B], "
    b"volumes: ['./a:/b'], gpus: all, mem_limit: 1g}}\n",
    b"servingEngineSpec: {modelSpec: [{name: m, modelURL: a/b, requestGPU: 1, hf_token: x, vllmConfig: {dtype: a}, "
    b"keda: {enabled: true}, lmcacheConfig: {enabled: true}}]}\n",
    b"modelArtifacts: {name: a/b, uri: 'hf://{{ .Values.modelArtifacts.name }}'}\ndecode: {parallelism: {tensor: 2}, "
    b"containers: [{modelCommand: vllmServe, args: [--dtype, half]}]}\n",
    b"models: {m: {cmd: \"docker run -v /a:/b vllm/vllm-openai --model '/b/c'\", env: [A=1], concurrencyLimit: 2}}\n",
]  # fmt: skip
TEXT_SEEDS = [
    b"hf://owner/name@refs/pr/1?file=a.gguf", b"wheel://a==1/b/c.gguf", b"pvc://claim/a%2e%2e/b", b"file:///a?file=b",
    b"hf://a/b?file=..%2f..%2fx", b"8Gi", b"500m", b"1e3", b"9" * 400, b"0.0000000001Ei", b"data:image/png;base64,AAAA",
    b"QUJD\r\nQUI=", b"====", "ﬀ".encode(), b"\x00", b"-1Ki", b"1e99999999",
]  # fmt: skip
FORM_SEEDS = [
    b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--x\r\n'
    b'Content-Disposition: form-data; name=file; filename="a"\r\n\r\n\x00\x01\r\n--x--\r\n',
    b"--x", b"--x--", b"--x\r\n\r\n\r\n--x--", b'--x\r\n; name="\\"\r\n\r\n', b"--x\r\n" * 200,
]  # fmt: skip
STREAM_SEEDS = [
    b': queued\n\ndata: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n',
    b'data: {"error":{"message":"m"}}\n\n', b'data: {"error":{}}\n\n', b"data: {\n\n", b"data: [DONE]",
    b"data: \xff\n", b"data: " + DEEP + b"\n",
]  # fmt: skip


@dataclass(frozen=True)
class Parser:
    """`parse` raises only `errors`."""

    parse: Callable[[bytes, Path], Any]
    errors: tuple[type[Exception], ...]
    seeds: list[bytes]


def text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def in_file(name: str, read: Callable[[Path], Any]) -> Callable[[bytes, Path], Any]:
    """A parser of files: it gets the folder."""

    def parse(data: bytes, folder: Path) -> Any:
        (folder / name).write_bytes(data)
        return read(folder)

    return parse


def body_of(kind: type[msgspec.Struct]) -> Callable[[bytes, Path], Any]:
    reader = RequestReader(kind)

    def parse(data: bytes, _: Path) -> Any:
        return reader.read(data)

    return parse


class Stream:
    """An answer of a gateway whose body is given."""

    status, where = 200, "http://gateway"

    def __init__(self, data: bytes) -> None:
        self.content: Any = self
        self._lines = data.splitlines(keepends=True)

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> bytes:
        if not self._lines:
            raise StopAsyncIteration
        return self._lines.pop(0)

    async def read(self) -> bytes:
        return b"".join(self._lines)

    def close(self) -> None:
        pass

    async def open(self, method: str, path: str, body: Any = None) -> Any:
        return self


def converse(data: bytes, _: Path) -> Any:
    async def run() -> list[str]:
        return [piece async for piece in Conversation(Stream(data), "m").ask("q", [], lambda words: None)]

    return asyncio.run(run())


def adapter_of(files: dict[str, bytes]) -> Callable[[Path], Any]:
    """Checks the adapter in a folder, whose missing files are those given, against a model of its kind."""

    def check(folder: Path) -> Any:
        for name, data in files.items():
            if not (folder / name).exists():
                (folder / name).write_bytes(data)
        (folder / "model.safetensors").write_bytes(safetensors(base_shapes()))
        return check_peft(folder, folder, "vllm")

    return check


def config_family(folder: Path) -> Any:
    resource = parse_model_deployment(
        {
            "apiVersion": "aimodelserver.io/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "m"},
            "spec": {"model": {"source": f"file://{folder}"}},
        }
    )
    return weights.family(resource, folder)


def header(content: bytes) -> bytes:
    """Of a safetensors file."""
    return len(content).to_bytes(8, "little") + content


def gguf(*fields: bytes, count: int | None = None, tensors: int = 0) -> bytes:
    counts = tensors.to_bytes(8, "little") + (len(fields) if count is None else count).to_bytes(8, "little")
    return b"GGUF" + (3).to_bytes(4, "little") + counts + b"".join(fields)


def field(name: bytes, kind: int, value: bytes) -> bytes:
    return len(name).to_bytes(8, "little") + name + kind.to_bytes(4, "little") + value


def number(value: int, size: int = 8) -> bytes:
    return value.to_bytes(size, "little")


SAFETENSORS_SEEDS = [
    header(b'{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"__metadata__":{"format":"pt"}}') + bytes(16),
    header(b'{"a":{"shape":[1099511627776,1099511627776]}}'), number(1 << 63) + b"{}", number(3) + b"{}",
    b"\0" * 7, b"", header(b'{"a":{"shape":[' + b"9," * 10_000 + b"9]}}"),
]  # fmt: skip
GGUF_SEEDS = [
    gguf(
        field(b"general.architecture", 8, number(5) + b"llama"),
        field(b"tokenizer.chat_template", 8, number(2) + b"hi"),
        field(b"tokenizer.ggml.eos_token_id", 4, number(2, 4)),
        field(b"tokenizer.ggml.added", 9, number(8, 4) + number(2) + number(1) + b"a" + number(1) + b"b"),
    ),
    gguf(
        *(number(1) + b"t" + number(2, 4) + number(4) + number(8) + number(0, 4) + number(0), bytes(200)),
        count=0, tensors=1,
    ),
    gguf(count=1 << 60), gguf(tensors=1 << 60), gguf(field(b"a", 8, number(1 << 62))), gguf(field(b"a", 77, b"")),
    gguf(field(b"a", 9, number(8, 4) + number(1 << 60))), gguf(field(b"a", 9, (number(9, 4) + number(1)) * 2000)),
    gguf(field(b"\xff\xfe", 4, number(1, 4))), b"GGUF", b"",
]  # fmt: skip
SIGNATURE_SEEDS = [
    b'{"dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"MAA="}]}}',
    b'{"dsseEnvelope":{"payload":"e30=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"=="}]}}',
    *JSON_SEEDS,
]  # fmt: skip
PUBLIC_KEY = (Path(__file__).parents[1] / "test_pod" / "signed_model" / "pub.pem").read_text()

TOKEN_SEEDS = [
    b"eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.eyJpc3MiOiJpIiwiYXVkIjoiYSIsInN1YiI6InMiLCJleHAiOjk5OTl9.c2ln",
    b"eyJhbGciOiJub25lIiwiY3JpdCI6WyJ4Il19.eyJleHAiOjFlNDAwfQ.AA", b"ey.ey.ey", b"e30.e30.", b"..", b"ey\xff.a.b",
]  # fmt: skip
CLAIMS_SEEDS = [
    b'{"iss":"i","aud":["x","a"],"sub":"s","exp":9999,"nbf":1,"iat":1.5,"groups":["ml-a",1,true,null],"realm":{"r":"x"}}',
    b'{"aud":"a","sub":"\\ud800","exp":1e308}', b'{"aud":"a","sub":"s","exp":' + b"9" * 400 + b"}", *JSON_SEEDS,
]  # fmt: skip
ISSUERS_SEEDS = [
    b'{"issuers":[{"issuer":"https://a.example","audience":["x"],"rules":[{"claims":{"g":"a*"},"policy":{}}]}]}',
    b'{"issuers":[{"issuer":"https://[::1","audience":"x","default":{}}]}',
    b'{"issuers":[{"issuer":"http://a:99999","audience":"x","default":{}}]}', *JSON_SEEDS,
]  # fmt: skip
KEY_SEEDS = [
    b'{"kty":"RSA","n":"' + b"A" * 400 + b'","e":"AQAB","kid":"a"}', b'{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}',
    b'{"kty":"OKP","crv":"Ed25519","x":"' + b"A" * 43 + b'","alg":"EdDSA"}', b'{"kty":"RSA","n":1,"e":[]}', *JSON_SEEDS,
]  # fmt: skip
KEYS_SEEDS = [write_keys(key_changes.first_file(b"k" * 32, b"i" * 6, 1.8e9)[1]), *JSON_SEEDS]
ISSUER = Issuer(
    issuer="i",
    audience="a",
    rules=(Rule(claims={"groups": ("ml-*", "x"), "realm.r": "*"}), Rule(claims={"scope": "m"}, policy=TokenPolicy())),
)

EVENT_SEEDS = [
    b'{"choices":[{"text":"a","token_ids":[1],"finish_reason":"stop","logprobs":{"tokens":["token_id:1"],'
    b'"token_logprobs":[-0.5],"top_logprobs":[{"token_id:1":-0.5}]}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}',
    b'{"choices":[{"text":"a","logprobs":{"tokens":["token_id:\xc2\xb2"],"token_logprobs":[null]}}]}',
    b'{"choices":[{"delta":{"content":"a"},"logprobs":{"content":[{"token":"token_id:1","logprob":-1,"top_logprobs":[]}]}}]}',
    b'{"choices":[{"text":"a","prompt_logprobs":[null,{"5":{"logprob":-1.0},"7":{"logprob":null}}]}]}',
    b'{"content":"a","tokens":[1],"stop":true,"stop_type":"limit","tokens_predicted":1,"completion_probabilities":'
    b'[{"id":1,"logprob":-1,"top_logprobs":[{"id":2,"logprob":-2}]}],"timings":{"cache_n":1}}',
    b'{"error":{"message":"m","param":"media_io_kwargs"}}', b"[DONE]", *JSON_SEEDS,
]  # fmt: skip
VECTOR_SEEDS = [
    b'{"data":[{"embedding":"AACAPwAAAAA="}],"usage":{"prompt_tokens":2}}', b'{"data":[{"embedding":[1,2.5,1e308]}]}',
    b'{"data":[{"score":0.5}]}', b'{"data":[{"embedding":"AACAfw=="}]}', b'{"data":[]}', *JSON_SEEDS,
]  # fmt: skip
METRICS_SEEDS = [
    b'# HELP a\nvllm:num_requests_running{engine="0"} 3.0\nvllm:kv_cache_usage_perc nan\n',
    b"process_resident_memory_bytes 1e99\n",
    b'vllm:cache_config_info{block_size="16",num_gpu_blocks="' + b"9" * 400 + b'"} 1.0\n', b"a{b} \xff\n", b"\n \n",
]  # fmt: skip
MODULES_SEEDS = [
    b'[{"type":"a.Transformer","path":""},{"type":"b.Pooling","path":"1_Pooling"},{"type":"c.Normalize"}]',
    b'[{"type":"x.Pooling","path":"../../etc"}]', *JSON_SEEDS,
]  # fmt: skip
LOADED_SEEDS = [
    b'{"success":false,"error_message":"beyond max_lora_rank","loaded_adapters":{}}', b'"Success"',
    b'{"error":{"message":"The lora adapter has already been loaded.","code":400}}', b'{"success":null}', *JSON_SEEDS,
]  # fmt: skip
STATES_SEEDS = [
    b'{"adapters":[{"name":"sql","asked":"a1","path":"/sql","version":"0123456789abcdef","rank":8}]}',
    b'{"adapters":[{"name":"sql","asked":"a1","failure":{"reason":"DiskFull","message":"It is full."}}]}', *JSON_SEEDS,
]  # fmt: skip
ENGINES = (Vllm(), LlamaCpp(), SGLang(), Custom())


def followed(folder: Path) -> Any:
    follower = AdapterFollower(str(folder / "state.json"), "m", ENGINES[0])
    follower.read()
    return follower.views, follower.served, follower.wants_to_load(0.0)


def engine_failures(data: bytes, _: Path) -> Any:
    """What an engine says where it gives no answer, and of itself."""
    return [
        (engine.failure(400, data), engine.failure(500, data), engine.dispensable(400, data),
         engine.facts(dict.fromkeys(engine.facts_paths, data)))
        for engine in ENGINES
    ]  # fmt: skip


LISTING = [RemoteFile("config.json", 1), RemoteFile("model.safetensors.index.json", 1), RemoteFile("a.safetensors", 1)]

PARSERS = {
    "manifest": Parser(in_file("m.yaml", lambda folder: load_manifests([str(folder)])), (ManifestError,), YAML_SEEDS),
    "import": Parser(
        in_file("m.yaml", lambda folder: imported_text([str(folder)], "auto", {})), (ManifestError,), FOREIGN_SEEDS
    ),
    "source": Parser(lambda data, _: parse_source(text(data)), (InvalidSource,), TEXT_SEEDS),
    "quantity": Parser(lambda data, _: parse_quantity(text(data)), (InvalidQuantity,), TEXT_SEEDS),
    "memory": Parser(lambda data, _: parse_memory(text(data)), (InvalidQuantity,), TEXT_SEEDS),
    "generate": Parser(body_of(GenerateRequest), (ApiError,), JSON_SEEDS),
    "chat": Parser(body_of(ChatRequest), (ApiError,), JSON_SEEDS),
    "completion": Parser(body_of(CompletionRequest), (ApiError,), JSON_SEEDS),
    "routing": Parser(body_of(RoutingFields), (ApiError,), JSON_SEEDS),
    "base64": Parser(lambda data, _: b"".join(decoded_base64(text(data), "image")), (ApiError,), TEXT_SEEDS),
    "form": Parser(lambda data, _: texts_of(data, b"x", ("model", "stream")), (), FORM_SEEDS),
    "boundary": Parser(lambda data, _: boundary_of("multipart/form-data" + text(data)), (ApiError,), TEXT_SEEDS),
    "termination": Parser(lambda data, _: termination_failure(text(data)), (), JSON_SEEDS),
    "explanation": Parser(in_file("log", lambda folder: reported_failure(folder / "log")), (), JSON_SEEDS),
    "lock": Parser(lambda data, _: lock_of(text(data)), (), JSON_SEEDS),
    "golden": Parser(lambda data, _: parse_golden_prompts(text(data)), (ValueError,), JSON_SEEDS),
    "stored-manifest": Parser(in_file("manifest.json", read_manifest), (), JSON_SEEDS),
    "config": Parser(in_file("config.json", config_family), (), JSON_SEEDS),
    "index": Parser(
        lambda data, _: choose_files(LISTING, where="hf://a/b", gguf=None, index=data, allow_pickle=False),
        (UnusableFiles,),
        JSON_SEEDS,
    ),
    "safetensors": Parser(in_file("model.safetensors", lambda folder: list(_tensors(folder))), (), SAFETENSORS_SEEDS),
    "adapter": Parser(
        in_file("adapter_model.safetensors", adapter_of(ADAPTER)),
        (WrongAdapter,),
        [*SAFETENSORS_SEEDS, *ADAPTER.values()],
    ),
    "adapter-config": Parser(
        in_file("adapter_config.json", adapter_of(ADAPTER)), (WrongAdapter,), [*JSON_SEEDS, *ADAPTER.values()]
    ),
    "adapters": Parser(lambda data, _: parse_adapters(text(data)), (InvalidJson,), JSON_SEEDS),
    "gguf": Parser(
        in_file("m.gguf", lambda folder: plan(_describe(folder / "m.gguf"))),
        (_NotConverted, NotComputed, Unplanned),
        GGUF_SEEDS,
    ),
    "gguf-head": Parser(lambda data, _: read_first_bytes([data], "m.gguf", 1 << 30), (NoGguf,), GGUF_SEEDS),
    "signature": Parser(lambda data, _: Signer(PUBLIC_KEY, "s").signed(data), (Failed,), SIGNATURE_SEEDS),
    "key": Parser(
        lambda data, _: Signer(text(data), "s").signed(b"{}"), (Failed,), [PUBLIC_KEY.encode(), b"-----BEGIN"]
    ),
    "token": Parser(lambda data, _: parse_token(data.decode("utf-8", "surrogateescape")), (Refused,), TOKEN_SEEDS),
    "claims": Parser(
        lambda data, _: user_of(read_json(data, dict[str, Any]), ISSUER, 5000.0), (Refused, InvalidJson), CLAIMS_SEEDS
    ),
    "issuers": Parser(lambda data, _: read_issuers(data), (InvalidIssuers,), ISSUERS_SEEDS),
    "jwk": Parser(lambda data, _: read_key(read_json(data, dict[str, Any])), (InvalidJson,), KEY_SEEDS),
    "api-keys": Parser(lambda data, _: key_changes.tidied(read_keys(data), 2e9), (InvalidKeys,), KEYS_SEEDS),
    "engine-events": Parser(lambda data, _: ENGINES[0].pieces(data), (EngineError,), EVENT_SEEDS),
    "llamacpp-events": Parser(lambda data, _: ENGINES[1].pieces(data), (EngineError,), EVENT_SEEDS),
    "engine-vectors": Parser(lambda data, _: Custom().vector(data, 0, VectorForm()), (EngineError,), VECTOR_SEEDS),
    "engine-failures": Parser(engine_failures, (), EVENT_SEEDS),
    "adapter-loaded": Parser(
        lambda data, _: [SGLang().why_not_loaded(status, data, 8) for status in (200, 400, 404, 500)], (), LOADED_SEEDS
    ),
    "adapter-states": Parser(in_file("state.json", followed), (), STATES_SEEDS),
    "engine-metrics": Parser(lambda data, _: figures_of(data, ENGINES[0].metric_names), (), METRICS_SEEDS),
    "modules": Parser(in_file("modules.json", read_recipe), (LoadFailed,), MODULES_SEEDS),
    "stream": Parser(converse, (GatewayError,), STREAM_SEEDS),
}


@st.composite
def near(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Bytes near a seed: parts of it repeated, left out, exchanged for others or for noise."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 4))):
        start, end = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        match draw(st.integers(0, 3)):
            case 0:
                data = data[:start] + data[end:]
            case 1:
                data = data[:end] + data[start:end] * draw(st.integers(0, 50)) + data[end:]
            case 2:
                data = data[:start] + draw(st.binary(max_size=40)) + data[end:]
            case _:
                data = data[:start] + draw(st.sampled_from(seeds))[:2000] + data[end:]
    return data[:200_000]


@pytest.mark.parametrize("name", PARSERS)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
@pytest.mark.timeout(3600)
def test_a_parser_gives_a_value_or_its_own_error(name: str, tmp_path: Path, data: st.DataObject) -> None:
    parser = PARSERS[name]
    given_bytes = data.draw(near(parser.seeds) | st.binary(max_size=300))
    check(parser, given_bytes, tmp_path)


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name, parser in PARSERS.items() for seed in parser.seeds])
def test_seeds(name: str, seed: bytes, tmp_path: Path) -> None:
    check(PARSERS[name], seed, tmp_path)


def check(parser: Parser, data: bytes, folder: Path) -> None:
    began, message = time.process_time(), "a value"  # of this process: others may have the machine
    try:
        parser.parse(data, folder)
    except parser.errors as error:
        message = str(error)
    assert re.search(r"\w", message)
    assert time.process_time() - began < PATIENCE_SECONDS
