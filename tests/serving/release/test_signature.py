"""A model is served when it is exactly what a trusted key has signed: no other file, no link, no other name."""

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing.verifying import Config as ReferenceVerifier

from pipeline.errors import InputError, RefusedError
from serving.release.manifest import LINEAGE, MANIFEST, SIGNATURE, content_digest, describe_files, read_verified
from serving.release.publish import sign_released
from serving.release.release_table import Release
from serving.release.signature import Statement, read_signed, sign, write_bundle
from serving.release.signing_keys import key_id, signing_key, trusted_folder, trusted_keys


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a signed version of one megabyte; the keys are in the home above it."""
    folder = tmp_path / "models" / "intent-7"
    (folder / "1/runtime").mkdir(parents=True)
    (folder / "1/model.py").write_text("raise SystemExit\n")
    (folder / "1/runtime/__init__.py").write_text("")
    (folder / "1/model.onnx").write_bytes(os.urandom(2**20))
    (folder / MANIFEST).write_text(json.dumps(describe_files(folder)))
    (folder / LINEAGE).write_text('{"version": 7}')
    sign(folder, folder.name, signing_key(tmp_path))
    return folder


def verify(folder: Path) -> None:
    home = folder.parents[1]
    read_signed(folder, trusted_keys(trusted_folder(home)))


def reseal(folder: Path) -> None:
    """Write a manifest that fits the files, and leave the signature as it was."""
    (folder / MANIFEST).write_text(json.dumps(describe_files(folder)))


def test_the_reference_implementation_verifies_what_is_signed_here(model: Path) -> None:
    verify(model)
    (public,) = (model.parents[1] / "signing").glob("*.pub")
    ReferenceVerifier().use_elliptic_key_verifier(public_key=public).verify(model, model / SIGNATURE)
    (model / LINEAGE).write_text("{}")
    with pytest.raises(ValueError, match=r"lineage\.json"):
        ReferenceVerifier().use_elliptic_key_verifier(public_key=public).verify(model, model / SIGNATURE)


def plant_bytecode(model: Path) -> Path:
    path = model / "1/runtime/__pycache__/__init__.cpython-311.pyc"
    path.parent.mkdir()
    path.write_bytes(b"code")
    return path


def plant_sourceless(model: Path) -> Path:
    path = model / "1/session.pyc"
    path.write_bytes(b"code")
    return path


def replace_folder_by_link(model: Path) -> Path:
    path = model / "1/runtime"
    path.rename(model.parent / "elsewhere")
    path.symlink_to(model.parent / "elsewhere")
    return path


def replace_file_by_link(model: Path) -> Path:
    path = model / "1/model.onnx"
    path.rename(model.parent / "elsewhere")
    path.symlink_to(model.parent / "elsewhere")
    return path


def replace_file_by_hard_link(model: Path) -> Path:
    (model.parent / "elsewhere").hardlink_to(model / "1/model.onnx")
    return model / "1/model.onnx"


def add_pipe(model: Path) -> Path:
    os.mkfifo(model / "1/pipe")
    return model / "1/pipe"


def add_version(model: Path) -> Path:
    (model / "2").mkdir()
    return model / "2"


def grow(model: Path) -> Path:
    with (model / "1/model.onnx").open("ab") as file:
        file.truncate(2**40)  # a terabyte of zeros would take an hour to hash
    return model / "1/model.onnx"


@pytest.mark.parametrize(
    "tamper",
    [
        plant_bytecode,
        plant_sourceless,
        replace_folder_by_link,
        replace_file_by_link,
        replace_file_by_hard_link,
        add_pipe,
        add_version,
        grow,
    ],
)
def test_anything_but_the_listed_plain_files_is_refused_and_named(tamper: Callable[[Path], Path], model: Path) -> None:
    path = tamper(model)
    with pytest.raises(RefusedError) as refused:
        read_verified(model)
    assert refused.value.where == str(path)


def test_a_version_that_is_a_link_to_another_is_refused(model: Path) -> None:
    link = model.with_name("intent-8")
    link.symlink_to(model)
    with pytest.raises(RefusedError, match="a link"):
        verify(link)


@pytest.mark.parametrize("name", ["1/session.pyc", "1/weights.pkl", "1/lib.so", "1/script", "warmup/deep/short"])
def test_a_manifest_cannot_list_a_file_of_an_unknown_kind(name: str, model: Path) -> None:
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).write_bytes(b"code")
    reseal(model)
    sign(model, model.name, signing_key(model.parents[1]))
    with pytest.raises(RefusedError, match="of a kind that no package holds"):
        verify(model)


@pytest.mark.parametrize("name", ["1/model.py", LINEAGE])
def test_a_file_that_was_changed_together_with_the_manifest_is_refused(name: str, model: Path) -> None:
    (model / name).write_text("changed")
    reseal(model)
    with pytest.raises(RefusedError, match="not the one that was signed"):
        verify(model)


def test_a_signed_version_under_another_number_is_refused(model: Path) -> None:
    other = model.rename(model.with_name("intent-8"))
    with pytest.raises(RefusedError, match="that of intent-7"):
        verify(other)


def test_an_unsigned_version_is_refused_with_the_command_that_signs_it(model: Path, tmp_path: Path) -> None:
    (model / SIGNATURE).unlink()
    with pytest.raises(RefusedError, match=r"not signed[^$]*evergreen publish 7"):
        verify(model)
    other = Release(7, "0" * 64, "champion")
    with pytest.raises(RefusedError, match="not the content that was released"):
        sign_released(model, other, tmp_path)
    assert sign_released(model, other._replace(content_digest=content_digest(read_verified(model))), tmp_path)
    verify(model)


@pytest.mark.parametrize("name", ["intent-7-torch", "control-7"])
def test_an_unsigned_model_of_another_framework_is_refused_with_the_command_that_makes_it(name: str, model: Path) -> None:
    other = model.rename(model.with_name(name))
    (other / SIGNATURE).unlink()
    with pytest.raises(RefusedError, match=r"not signed[^$]*make frameworks"):
        verify(other)


def test_bytecode_of_earlier_servers_does_not_keep_a_released_version_from_being_signed(model: Path, tmp_path: Path) -> None:
    released = Release(7, content_digest(read_verified(model)), "champion")
    (model / SIGNATURE).unlink()
    bytecode = plant_bytecode(model)
    with pytest.raises(RefusedError, match=r"not signed[^$]*evergreen publish 7"):
        verify(model)
    assert sign_released(model, released, tmp_path)
    verify(model)
    assert not bytecode.exists()


def test_planted_caches_that_cannot_be_removed_are_refused_without_a_traceback(model: Path, tmp_path: Path) -> None:
    released = Release(7, content_digest(read_verified(model)), "champion")
    (model / SIGNATURE).unlink()
    (model / "1/__pycache__/__pycache__").mkdir(parents=True)
    (model / "__pycache__").write_bytes(b"code")
    with pytest.raises(RefusedError, match="__pycache__"):
        sign_released(model, released, tmp_path)


def test_a_manifest_that_is_no_text_is_refused(model: Path) -> None:
    (model / MANIFEST).write_bytes(b"\xff\xfe")
    with pytest.raises(RefusedError, match="the manifest is damaged"):
        verify(model)


def test_a_signature_of_an_unknown_key_is_refused_until_its_public_key_is_trusted(model: Path, tmp_path: Path) -> None:
    team = tmp_path / "team"
    sign(model, model.name, signing_key(team))
    with pytest.raises(RefusedError, match="not trusted"):
        verify(model)
    (public,) = (team / "signing").glob("*.pub")
    shutil.copy(public, tmp_path / "signing")
    verify(model)


def test_a_forged_signature_that_names_a_trusted_key_is_refused(model: Path, tmp_path: Path) -> None:
    forged = json.loads(write_bundle(Statement(model.name, {}), ec.generate_private_key(ec.SECP256R1())))
    hint = key_id(signing_key(tmp_path).public_key())
    forged["verificationMaterial"]["publicKey"]["hint"] = hint
    (model / SIGNATURE).write_text(json.dumps(forged))
    with pytest.raises(RefusedError, match="does not fit"):
        verify(model)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"verificationMaterial": 1}', "[" * 100_000])
def test_a_damaged_signature_is_refused_without_a_traceback(text: str, model: Path) -> None:
    (model / SIGNATURE).write_text(text)
    with pytest.raises(RefusedError, match="damaged"):
        verify(model)


def test_only_the_owner_can_read_the_key_and_another_process_finds_the_same(tmp_path: Path) -> None:
    key = signing_key(tmp_path)
    assert stat.S_IMODE((tmp_path / "signing/key.pem").stat().st_mode) == 0o600
    assert key_id(signing_key(tmp_path).public_key()) == key_id(key.public_key())
    assert [path.suffix for path in sorted((tmp_path / "signing").iterdir())] == [".pub", ".pem"]


def test_after_a_rotation_both_keys_are_trusted_until_the_old_one_is_removed(model: Path, tmp_path: Path) -> None:
    (old,) = (tmp_path / "signing").glob("*.pub")
    (tmp_path / "signing/key.pem").unlink()
    signing_key(tmp_path)
    assert len(trusted_keys(tmp_path / "signing")) == 2
    verify(model)
    old.unlink()
    with pytest.raises(RefusedError, match="not trusted"):
        verify(model)


def test_a_teams_key_signs_only_where_its_public_key_is_trusted(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signing_key(tmp_path / "team")
    monkeypatch.setenv("EVERGREEN_SIGNING_KEY_FILE", str(tmp_path / "team/signing/key.pem"))
    monkeypatch.setenv("EVERGREEN_TRUSTED_KEYS", str(tmp_path / "signing"))
    with pytest.raises(InputError, match="not in this folder"):
        signing_key(tmp_path)
    monkeypatch.setenv("EVERGREEN_TRUSTED_KEYS", str(tmp_path / "team/signing"))
    sign(model, model.name, signing_key(tmp_path))
    verify(model)


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP256K1()), None], ids=["another curve", "not there"])
def test_a_key_that_cannot_sign_is_named(
    key: ec.EllipticCurvePrivateKey | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key.pem"
    if key:
        no_password = serialization.NoEncryption()
        path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_password))
    monkeypatch.setenv("EVERGREEN_SIGNING_KEY_FILE", str(path))
    with pytest.raises(InputError) as refused:
        signing_key(tmp_path)
    assert refused.value.where == str(path)
