"""Signs published models, and verifies the signatures of those that are loaded.

The format is that of sigstore's model-signing 1.1 with an elliptic-curve key: an in-toto statement about every file of the
folder, in a DSSE envelope, in a sigstore bundle. `model_signing verify key` reads it. It is written with `cryptography`, because
model-signing brings 15 more packages to an installation that needs none of them otherwise.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.atomic_write import atomic_write
from pipeline.errors import RefusedError
from serving.release.manifest import (
    LINEAGE,
    MANIFEST,
    SIGNATURE,
    file_digest,
    model_name,
    package_files,
    read_verified,
    version_folder,
)
from serving.release.signing_keys import key_id, trusted_folder, trusted_keys

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
PUBLISH_AGAIN = "publish its package again: .venv/bin/evergreen publish"

TrustedKeys = Mapping[str, ec.EllipticCurvePublicKey]  # by their ids


class Statement(NamedTuple):
    """What a signature says: the model's name, and the SHA-256 of each file of its folder but the signature."""

    name: str
    digests: dict[str, str]


def sign(folder: Path, name: str, key: ec.EllipticCurvePrivateKey) -> None:
    """Sign a complete folder as the model `name`: every file, `manifest.json` and `lineage.json` included."""
    digests = {file: file_digest(path) for file, path in package_files(folder).items() if file != SIGNATURE}
    with atomic_write(folder / SIGNATURE) as part:
        part.write_text(write_bundle(Statement(name, digests), key), encoding="utf-8")


def is_signed(folder: Path) -> bool:
    """Return whether there is a signature, valid or not."""
    return (folder / SIGNATURE).exists()


def read_signed(folder: Path, trusted: TrustedKeys) -> dict[str, Any]:
    """Return the manifest of a complete, unaltered model that a trusted key has signed under the folder's name.

    Raise `RefusedError` for anything else. To be called before Triton sees the folder.
    """
    if (folder / MANIFEST).is_file() and not is_signed(folder):
        raise RefusedError(str(folder), "this version is not signed", _how_to_sign(folder.name))
    manifest = read_verified(folder)
    where = str(folder / SIGNATURE)
    statement = read_bundle((folder / SIGNATURE).read_text(encoding="utf-8", errors="replace"), where, trusted)
    if statement.name != folder.name:
        raise RefusedError(where, f"the signature is that of {statement.name}", PUBLISH_AGAIN)
    actual = manifest["files"] | {name: file_digest(folder / name) for name in (MANIFEST, LINEAGE) if (folder / name).is_file()}
    for name in sorted(actual.keys() | statement.digests.keys()):
        if actual.get(name) != statement.digests.get(name):
            raise RefusedError(str(folder / name), "this file is not the one that was signed", PUBLISH_AGAIN)
    return manifest


def signed_folder(version: int, home: Path) -> Path:
    """Return the version's folder, live or parked, once its signature is checked; raise `RefusedError` as `read_signed` does."""
    folder = version_folder(home, version)
    read_signed(folder, trusted_keys(trusted_folder(home)))
    return folder


def write_bundle(statement: Statement, key: ec.EllipticCurvePrivateKey) -> str:
    """Return the signature file for a statement."""
    ordered = sorted(statement.digests.items())
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in ordered)).hexdigest()
    serialization = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": [SIGNATURE]}
    payload = json.dumps(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": statement.name, "digest": {"sha256": root}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "serialization": serialization,
                "resources": [{"name": name, "algorithm": "sha256", "digest": digest} for name, digest in ordered],
            },
        }
    ).encode()
    signature = key.sign(_to_be_signed(payload), ec.ECDSA(_hash_of(key.public_key())))
    return json.dumps(
        {
            "mediaType": BUNDLE_TYPE,
            "verificationMaterial": {"publicKey": {"hint": key_id(key.public_key())}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
            },
        }
    )


def read_bundle(text: str, where: str, trusted: TrustedKeys) -> Statement:
    """Return what a trusted key has signed; raise `RefusedError` for another key, another format or a wrong signature."""
    try:
        bundle = json.loads(text)
        key = trusted.get(str(bundle["verificationMaterial"]["publicKey"]["hint"]))
        envelope = bundle["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        if key is None:
            raise RefusedError(where, "the signature is by a key that is not trusted here", f"trust its key, or {PUBLISH_AGAIN}")
        key.verify(signature, _to_be_signed(payload), ec.ECDSA(_hash_of(key)))
        statement = json.loads(payload)
        if (envelope["payloadType"], statement["_type"], statement["predicateType"]) != (
            PAYLOAD_TYPE,
            STATEMENT_TYPE,
            PREDICATE_TYPE,
        ):
            raise ValueError("another kind of statement")
        digests = {str(file["name"]): str(file["digest"]) for file in statement["predicate"]["resources"]}
        return Statement(str(statement["subject"][0]["name"]), digests)
    except InvalidSignature:
        raise RefusedError(where, "the signature does not fit what it signs", PUBLISH_AGAIN) from None
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        raise RefusedError(where, "the signature is damaged, or of an unknown kind", PUBLISH_AGAIN) from None


def _how_to_sign(model: str) -> str:
    version = model.rpartition("-")[2]
    if not version.isdigit() or model != model_name(int(version)):
        return "make it again: make frameworks"
    return f"sign it, if its content is what was released: .venv/bin/evergreen publish {version}"


def _to_be_signed(payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding of the payload and its type."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _hash_of(key: ec.EllipticCurvePublicKey) -> hashes.HashAlgorithm:
    return {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.key_size]
