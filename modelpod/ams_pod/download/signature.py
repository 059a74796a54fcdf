"""Signed weights: the signature file of OpenSSF Model Signing v1.0, checked with one elliptic-curve public key.

The file is a Sigstore bundle: a DSSE envelope around an in-toto statement that names every file with its digest.
https://github.com/ossf/model-signing-spec and https://github.com/secure-systems-lab/dsse (the PAE encoding).
What `model_signing sign key` writes is what is read here; its own verifier isn't used, as it hashes every file again
and wants all signed files to be there, where a pod fetches only those that it needs.
"""

import base64
import binascii
import hashlib
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
from ams_common.outside import InvalidJson, read_json
from ams_common.reasons import Reason

from ams_pod.download.failures import Failed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

LARGEST_BYTES = 4 << 20
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
_CURVES = ("secp256r1", "secp384r1", "secp521r1")


class _Signature(msgspec.Struct, frozen=True):
    sig: str


class _Envelope(msgspec.Struct, frozen=True, rename="camel"):
    payload: str
    payload_type: str
    signatures: list[_Signature]


class _Bundle(msgspec.Struct, frozen=True, rename="camel"):
    dsse_envelope: _Envelope


class _Subject(msgspec.Struct, frozen=True):
    digest: dict[str, str]


class _Resource(msgspec.Struct, frozen=True):
    name: str
    algorithm: str
    digest: str


class _Serialization(msgspec.Struct, frozen=True):
    method: str


class _Predicate(msgspec.Struct, frozen=True):
    serialization: _Serialization
    resources: list[_Resource]


class _Statement(msgspec.Struct, frozen=True, rename="camel"):
    subject: list[_Subject]
    predicate_type: str
    predicate: msgspec.Raw
    type: str = msgspec.field(name="_type")


@dataclass(frozen=True, slots=True)
class Signer:
    """Whom the weights must be signed by: a public key (PEM), and the signature's file among those of the model.

    `below`: the folder of the signature, where the model's files are named from further up; signed names are relative
    to the signature.
    """

    public_key: str
    file: str
    below: str = ""

    @property
    def path(self) -> str:
        return posixpath.join(self.below, self.file)

    def signed(self, content: bytes) -> dict[str, str]:
        """sha256 by file as the signature has them. Failed (SignatureMismatch, InvalidSignatureKey)."""
        files = signed_files(content, read_key(self.public_key), self.path)
        return {posixpath.join(self.below, name): digest for name, digest in files.items()}

    def check(self, content: bytes, digests: Mapping[str, str | None]) -> None:
        """Whether every one of these files is signed as it is; `digests` as for `check_lock`. Failed otherwise."""
        signed = self.signed(content)
        for path, digest in sorted(digests.items()):
            if path == self.path:
                continue
            if path not in signed:
                _refuse(f"{path} is not among the files that {self.path} signs")
            if digest is not None and digest != signed[path]:
                _refuse(f"{path} has sha256 {digest}, but {signed[path]} was signed in {self.path}")

    def missing(self, where: str) -> Failed:
        return _failed(f"{where} has no {self.path}, which spec.model.signature asks for")


def read_signature(path: Path) -> bytes:
    """The content of a signature file, no more of it than may be checked. OSError."""
    with open(path, "rb") as file:
        return file.read(LARGEST_BYTES + 1)


def read_key(pem: str) -> "EllipticCurvePublicKey":
    """The public key of a PEM text. Failed (InvalidSignatureKey) if it is none that models are signed with."""
    # Imported where a signature is asked for: every other download starts without it.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise Failed(
            Reason.INVALID_SIGNATURE_KEY,
            "spec.model.signature.publicKey must be the PEM text of an elliptic-curve public key of curve P-256, P-384"
            " or P-521 (-----BEGIN PUBLIC KEY-----).",
        )
    return key


def signed_files(content: bytes, key: "EllipticCurvePublicKey", name: str) -> dict[str, str]:
    """sha256 by file of a signature file that `key` signed. Failed (SignatureMismatch) for any other content."""
    payload = _verified_payload(content, key, name)
    statement = _read(payload, _Statement, f"the statement in {name}")
    if (statement.type, statement.predicate_type) != (_STATEMENT, _PREDICATE):
        _refuse(f"{name} is no signature of a model in version 1.0 of OpenSSF Model Signing")
    predicate = _read(statement.predicate, _Predicate, f"the statement in {name}")
    others = {resource.algorithm for resource in predicate.resources} - {"sha256"}
    if predicate.serialization.method != "files" or others:
        _refuse(f"{name} signs no sha256 of whole files; sign without --shard_size and with --hash_algorithm sha256")
    whole = hashlib.sha256()
    for resource in predicate.resources:
        if not re.fullmatch(r"[0-9a-f]{64}", resource.digest):
            _refuse(f"{name} has something else than a sha256 for {ascii(resource.name)[:200]}")
        whole.update(bytes.fromhex(resource.digest))
    if [subject.digest.get("sha256") for subject in statement.subject] != [whole.hexdigest()]:
        _refuse(f"{name} contradicts itself: the sum over its files is another one than it says")
    return {resource.name: resource.digest for resource in predicate.resources}


def _verified_payload(content: bytes, key: "EllipticCurvePublicKey", name: str) -> bytes:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    envelope = _read(content, _Bundle, name).dsse_envelope
    if envelope.payload_type != _PAYLOAD_TYPE or len(envelope.signatures) != 1:
        _refuse(f"{name} is no signature of a model")
    try:
        payload = base64.b64decode(envelope.payload, validate=True)
        signature = base64.b64decode(envelope.signatures[0].sig, validate=True)
    except (binascii.Error, ValueError):
        _refuse(f"{name} can't be read: its base64 is broken")
    # The hash that Sigstore's formats tie to the size of the curve.
    sizes: dict[int, hashes.HashAlgorithm] = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
    digest = sizes[key.curve.key_size]
    signed = f"DSSEv1 {len(_PAYLOAD_TYPE)} {_PAYLOAD_TYPE} {len(payload)} ".encode() + payload
    try:
        key.verify(signature, signed, ECDSA(digest))
    except InvalidSignature:
        _refuse(f"{name} was not signed with the key of spec.model.signature, or was changed since")
    return payload


def _read(content: "bytes | msgspec.Raw", type_: type[Any], what: str) -> Any:
    try:
        return read_json(content, type_, max_bytes=LARGEST_BYTES)
    except InvalidJson as error:
        _refuse(f"{what} can't be read: it {error}")


def _refuse(what: str) -> NoReturn:
    raise _failed(what)


def _failed(what: str) -> Failed:
    return Failed(Reason.SIGNATURE_MISMATCH, f"{what}; nothing is served.")
