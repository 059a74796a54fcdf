"""Signed weights: what the field's own tool signed is taken, and nothing else is where a key is named."""

import base64
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ams_pod.download.failures import Failed
from ams_pod.download.signature import LARGEST_BYTES, Signer
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fakehub.repository import Repository
from fakehub.server import FakeHub
from fakehub.tiny_gguf import make_gguf
from test_pod.download_process import Downloads
from test_pod.test_download_sources import Index, make_wheel

pytest_plugins = ["fakehub.fixtures", "test_pod.download_fixtures"]

# Made once by `python -m model_signing sign key` (model-signing 1.1.1) over a README, a configuration and "weights".
REFERENCE = Path(__file__).with_name("signed_model")
FILES = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"w" * 5000}
TYPE = "application/vnd.in-toto+json"


def pem(key: Any) -> str:
    return str(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def statement(files: Mapping[str, bytes], **changes: Any) -> dict[str, Any]:
    digests = {name: hashlib.sha256(content) for name, content in sorted(files.items())}
    whole = hashlib.sha256(b"".join(digest.digest() for digest in digests.values()))
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "model", "digest": {"sha256": whole.hexdigest()}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            "resources": [
                {"name": name, "algorithm": "sha256", "digest": digest.hexdigest()} for name, digest in digests.items()
            ],
        },
        **changes,
    }


def sign(content: Any, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A signature file of this statement."""
    payload = json.dumps(content).encode()
    digest = {256: hashes.SHA256, 384: hashes.SHA384, 521: hashes.SHA512}[key.curve.key_size]()
    signature = key.sign(f"DSSEv1 {len(TYPE)} {TYPE} {len(payload)} ".encode() + payload, ec.ECDSA(digest))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": TYPE,
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }
    media = "application/vnd.dev.sigstore.bundle.v0.3+json"
    return json.dumps({"mediaType": media, "verificationMaterial": {}, "dsseEnvelope": envelope}).encode()


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def flags(key: ec.EllipticCurvePrivateKey) -> list[str]:
    return ["--signature-key", pem(key)]


def test_what_the_reference_tool_signed_is_verified() -> None:
    signer = Signer((REFERENCE / "pub.pem").read_text(), "model.sig")
    signed = signer.signed((REFERENCE / "model.sig").read_bytes())
    names = ["README.md", "config.json", "model.safetensors"]
    assert signed == {name: hashlib.sha256((REFERENCE / name).read_bytes()).hexdigest() for name in names}


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: str(curve.name))
def test_every_curve_of_the_format_is_taken(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    assert Signer(pem(key), "model.sig").signed(sign(statement(FILES), key)).keys() == FILES.keys()


def test_each_changed_byte_of_the_signed_part_is_noticed(key: ec.EllipticCurvePrivateKey) -> None:
    bundle = json.loads(sign(statement(FILES), key))
    payload = bytearray(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    signer = Signer(pem(key), "model.sig")
    for place in range(0, len(payload), 7):
        changed = bytearray(payload)
        changed[place] ^= 1
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(changed).decode()
        with pytest.raises(Failed) as caught:
            signer.signed(json.dumps(bundle).encode())
        assert caught.value.failure.reason == "SignatureMismatch"


def shards() -> dict[str, Any]:
    content = statement(FILES)
    content["predicate"]["serialization"]["method"] = "shards"
    return content


def other_sum() -> dict[str, Any]:
    return statement(FILES, subject=[{"name": "model", "digest": {"sha256": "0" * 64}}])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (shards(), "sign without --shard_size"),
        (other_sum(), "contradicts itself"),
        (statement(FILES, predicateType="https://slsa.dev/provenance/v1"), "no signature of a model in version 1.0"),
        (statement(FILES, predicate={"resources": 1}), "can't be read"),
        ([], "can't be read"),
    ],
)
def test_a_signed_statement_of_another_kind_is_refused(
    content: Any, words: str, key: ec.EllipticCurvePrivateKey
) -> None:
    with pytest.raises(Failed, match=words) as caught:
        Signer(pem(key), "model.sig").signed(sign(content, key))
    assert caught.value.failure.reason == "SignatureMismatch"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"{}",
        b"[" * 60_000,
        b'{"dsseEnvelope":{"payload":"%","payloadType":"","signatures":[]}}',
        b" " * (LARGEST_BYTES + 1),
    ],
)
def test_a_file_that_is_no_signature_is_refused(content: bytes, key: ec.EllipticCurvePrivateKey) -> None:
    with pytest.raises(Failed) as caught:
        Signer(pem(key), "model.sig").signed(content)
    assert caught.value.failure.reason == "SignatureMismatch"


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        pem(rsa.generate_private_key(65537, 2048)),
        pem(ed25519.Ed25519PrivateKey.generate()),
        pem(ec.generate_private_key(ec.SECP256K1())),
        "ssh-rsa AAAA",
    ],
    ids=["broken", "rsa", "ed25519", "secp256k1", "ssh"],
)
def test_a_key_that_models_are_not_signed_with_is_refused_at_once(text: str, downloads: Downloads) -> None:
    outcome = downloads.run("hf://acme/tiny", "--signature-key", text)
    assert outcome.reason == "InvalidSignatureKey"
    assert "publicKey must be the PEM text" in outcome.message


# of a hub


def test_signed_weights_are_downloaded_and_the_next_start_checks_them(
    hub: FakeHub, downloads: Downloads, key: ec.EllipticCurvePrivateKey, flags: list[str]
) -> None:
    signature = sign(statement({**FILES, "README.md": b"not fetched"}), key)
    commit = hub.add(Repository("acme/tiny")).commit({**FILES, "model.sig": signature})
    folder = downloads.run("hf://acme/tiny", *flags).folder
    assert (folder / "model.sig").read_bytes() == signature
    hub.requests.clear()
    assert downloads.run(f"hf://acme/tiny@{commit}", *flags).folder == folder
    assert hub.requests == []
    other = pem(ec.generate_private_key(ec.SECP256R1()))
    assert downloads.run(f"hf://acme/tiny@{commit}", "--signature-key", other).reason == "SignatureMismatch"


def test_weights_from_before_a_key_was_named_are_checked(
    hub: FakeHub, downloads: Downloads, key: ec.EllipticCurvePrivateKey, flags: list[str]
) -> None:
    """Only the signature is fetched for them."""
    commit = hub.add(Repository("acme/tiny")).commit({**FILES, "model.sig": sign(statement(FILES), key)})
    folder = downloads.run(f"hf://acme/tiny@{commit}").folder
    assert not (folder / "model.sig").exists()
    hub.requests.clear()
    assert downloads.run(f"hf://acme/tiny@{commit}", *flags).folder == folder
    assert (folder / "model.sig").exists()
    assert not [asked for asked in hub.requests if "safetensors" in asked.where]


@pytest.mark.parametrize("changed", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_file_that_was_not_signed_so_is_never_served(
    changed: str, hub: FakeHub, downloads: Downloads, key: ec.EllipticCurvePrivateKey, flags: list[str]
) -> None:
    signature = sign(statement({**FILES, changed: b"as the author made it"}), key)
    hub.add(Repository("acme/tiny")).commit({**FILES, "model.sig": signature})
    outcome = downloads.run("hf://acme/tiny", *flags)
    assert outcome.reason == "SignatureMismatch"
    assert changed in outcome.message
    assert not list(downloads.models.rglob("manifest.json"))


def test_large_files_that_are_not_signed_so_are_not_even_fetched(
    hub: FakeHub, downloads: Downloads, key: ec.EllipticCurvePrivateKey, flags: list[str]
) -> None:
    signature = sign(statement({**FILES, "model.safetensors": b"others"}), key)
    hub.add(Repository("acme/tiny")).commit({**FILES, "model.sig": signature})
    assert downloads.run("hf://acme/tiny", *flags).reason == "SignatureMismatch"
    assert not [path for path in downloads.models.rglob("*") if path.name.startswith("model.safetensors")]


def test_a_file_that_nobody_signed_is_never_served(
    hub: FakeHub, downloads: Downloads, key: ec.EllipticCurvePrivateKey, flags: list[str]
) -> None:
    hub.add(Repository("acme/tiny")).commit(
        {**FILES, "model.sig": sign(statement(FILES), key), "chat_template.jinja": b"{{ added }}"}
    )
    outcome = downloads.run("hf://acme/tiny", *flags)
    assert (outcome.reason, "chat_template.jinja is not among the files" in outcome.message) == (
        "SignatureMismatch", True,
    )  # fmt: skip


def test_no_signature_means_no_download(hub: FakeHub, downloads: Downloads, flags: list[str]) -> None:
    hub.add(Repository("acme/tiny")).commit(FILES)
    outcome = downloads.run("hf://acme/tiny", *flags)
    assert outcome.reason == "SignatureMismatch"
    assert "has no model.sig, which spec.model.signature asks for" in outcome.message


def test_a_signed_gguf_file_of_a_hub_is_converted(
    hub: FakeHub, downloads: Downloads, key: ec.EllipticCurvePrivateKey, flags: list[str], tmp_path: Path
) -> None:
    gguf = make_gguf(tmp_path / "tiny.gguf").read_bytes()
    signature = sign(statement({"tiny.gguf": gguf}), key)
    commit = hub.add(Repository("acme/gguf")).commit({"tiny.gguf": gguf, "signatures/it.sig": signature})
    where = ["--signature-file", "signatures/it.sig"]
    source = f"hf://acme/gguf@{commit}?file=tiny.gguf"
    folder = downloads.run(source, *flags, *where).folder
    assert (folder / "model.safetensors").exists()
    hub.requests.clear()
    assert downloads.run(source, *flags, *where).folder == folder
    assert hub.requests == []


# elsewhere


def test_a_folder_of_this_machine_is_hashed_whole(
    downloads: Downloads, key: ec.EllipticCurvePrivateKey, flags: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in {**FILES, "model.sig": sign(statement(FILES), key)}.items():
        (folder / name).write_bytes(content)
    assert downloads.run(f"file://{folder}", *flags).folder == folder
    (folder / "tokenizer.json").write_bytes(b"[]")
    outcome = downloads.run(f"file://{folder}", *flags)
    assert (outcome.reason, "tokenizer.json has sha256" in outcome.message) == ("SignatureMismatch", True)
    (folder / "model.sig").unlink()
    assert "has no model.sig" in downloads.run(f"file://{folder}", *flags).message


def test_a_gguf_file_of_this_machine_has_its_signature_beside_it(
    downloads: Downloads, key: ec.EllipticCurvePrivateKey, flags: list[str], tmp_path: Path
) -> None:
    (tmp_path / "it").mkdir()
    gguf = make_gguf(tmp_path / "it" / "tiny.gguf")
    assert "has no model.sig" in downloads.run(f"file://{gguf}", *flags).message
    (gguf.parent / "model.sig").write_bytes(sign(statement({"tiny.gguf": b"another"}), key))
    assert downloads.run(f"file://{gguf}", *flags).reason == "SignatureMismatch"
    (gguf.parent / "model.sig").write_bytes(sign(statement({"tiny.gguf": gguf.read_bytes()}), key))
    folder = downloads.run(f"file://{gguf}", *flags).folder
    assert (folder / "model.sig").exists()
    assert downloads.run(f"file://{gguf}", *flags).folder == folder


def test_wheels_are_checked_too(
    downloads: Downloads, key: ec.EllipticCurvePrivateKey, flags: list[str], tmp_path: Path
) -> None:
    index = Index(downloads)
    gguf = make_gguf(tmp_path / "tiny.gguf").read_bytes()
    members = {f"weights/data/{name}": content for name, content in FILES.items()}
    members |= {"weights/data/model.sig": sign(statement(FILES), key)}
    members |= {"weights/tiny.gguf": gguf, "weights/model.sig": sign(statement({"tiny.gguf": gguf}), key)}
    make_wheel(index.wheels, members)
    for source in ("wheel://weights==1.0/weights/data", "wheel://weights==1.0/weights/tiny.gguf"):
        folder = index.run(source, *flags).folder
        assert index.run(source, *flags).folder == folder
        other = pem(ec.generate_private_key(ec.SECP384R1()))
        assert index.run(source, "--signature-key", other).reason == "SignatureMismatch"
        shutil.rmtree(folder)
