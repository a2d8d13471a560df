"""The key that signs published models, and the public keys that are trusted when models are loaded.

Both are PEM files. By default the first publish makes a key pair in `<home>/signing/`. A team names its own key with
`EVERGREEN_SIGNING_KEY_FILE`, and with `EVERGREEN_TRUSTED_KEYS` the folder of public keys (`*.pub`) that may have signed a model.
"""

import hashlib
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.errors import InputError
from serving.key_file import create_private

CURVES = ("secp256r1", "secp384r1", "secp521r1")
MAKE_KEY = "make one: openssl ecparam -name prime256v1 -genkey -noout"


def signing_key(home: Path) -> ec.EllipticCurvePrivateKey:
    """Return the key that signs, made when the home has none; by default its public key becomes a trusted one."""
    named = os.environ.get("EVERGREEN_SIGNING_KEY_FILE")
    path = Path(named) if named else home / "signing" / "key.pem"
    if not named:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        create_private(path, _new_key)
    key = _read_private(path)
    folder = trusted_folder(home)
    if key_id(key.public_key()) not in trusted_keys(folder):
        if os.environ.get("EVERGREEN_TRUSTED_KEYS"):
            raise InputError(str(folder), f"the public key of {path} is not in this folder", "put it there as a file named *.pub")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / f"{key_id(key.public_key())[:16]}.pub").write_bytes(_public_pem(key.public_key()))
    return key


def trusted_folder(home: Path) -> Path:
    """Return the folder of trusted public keys: `EVERGREEN_TRUSTED_KEYS`, by default `signing/` in the home of state."""
    return Path(os.environ.get("EVERGREEN_TRUSTED_KEYS") or home / "signing")


def trusted_keys(folder: Path) -> dict[str, ec.EllipticCurvePublicKey]:
    """Return the public keys `*.pub` of a folder by their ids; to stop trusting a key, remove its file."""
    keys = [_read_public(path) for path in sorted(folder.glob("*.pub"))]
    return {key_id(key): key for key in keys}


def key_id(key: ec.EllipticCurvePublicKey) -> str:
    """Return the SHA-256 of the public key's PEM form."""
    return hashlib.sha256(_public_pem(key)).hexdigest()


def _new_key() -> bytes:
    """Return the PEM form of a new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read_private(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:  # a TypeError: it has a password
        raise InputError(str(path), f"the signing key cannot be read: {error}", MAKE_KEY) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise InputError(str(path), f"the signing key is on none of the curves {', '.join(CURVES)}", MAKE_KEY)
    return key


def _read_public(path: Path) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise InputError(str(path), f"the public key cannot be read: {error}", "write it as PEM: openssl ec -pubout") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise InputError(str(path), f"the public key is on none of the curves {', '.join(CURVES)}", MAKE_KEY)
    return key


def _public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
