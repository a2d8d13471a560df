"""Fetch the released models from an object store or a volume and verify them, before Triton starts in a cluster.

The store is any folder that fsspec can read: `champion.json`, which is `{"versions": [7, 8]}`, and the folders `intent-7/` and
`intent-8/` as publish writes them. Only named files are read, never a listing, so plain HTTP is enough. A writer uploads the
folders first and `champion.json` last; a version's content never changes.

Nothing is downloaded before the signature of a model is that of a trusted key, and then exactly the signed files, each no longer
than the manifest says.

Afterwards the target holds these folders, `champion.json` (written last) and no other model, so that Triton can load all of it.
Exit codes: 0 done · 2 the store has no usable `champion.json`, or the target holds other files · 3 the store cannot be read or
the target cannot be written · 4 a model is incomplete, altered or not signed · 143 stopped. A second call finishes the work.
"""

import argparse
import json
import re
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import fsspec
from fsspec.callbacks import Callback

from pipeline.errors import InputError, RefusedError, ToolError, run_stage
from pipeline.output.plain_text import print_line
from serving.release.manifest import LINEAGE, MANIFEST, SIGNATURE, content_digest, file_digest, model_name, read_manifest
from serving.release.signature import TrustedKeys, read_bundle, read_signed
from serving.release.signing_keys import trusted_keys

CHAMPION = "champion.json"
SMALL_BYTES = 2**20  # of files whose size nobody has signed: champion.json, signature, manifest, lineage
LARGE_BYTES = 2**30  # of a file that is fetched by its digest: the sizes beside it are not part of that
STAGING = ".fetching"  # on the models' volume, so that a rename is atomic; removed before Triton starts
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # no hidden name, no `..`, no character with a meaning in a URL
MODEL = re.compile(r"intent-[1-9][0-9]*")
T = TypeVar("T")


class Store(NamedTuple):
    """A remote folder and its retry policy: waits of `wait_s`, twice that, four times that, and so on."""

    files: Any  # fsspec's file system
    root: str
    attempts: int
    wait_s: float
    sleep: Callable[[float], None]


class Fetched(NamedTuple):
    """The versions that the target holds now, and the changes of this call."""

    versions: list[int]
    added: list[int]
    removed: list[str]


def open_store(url: str, *, attempts: int, wait_s: float, sleep: Callable[[float], None] = time.sleep) -> Store:
    """Return the store at an fsspec URL or a path; raises `ToolError` when its protocol is unknown or its package is missing."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:  # they would appear in logs and in the process list
        where = f"{parts.scheme}://{parts.hostname}"
        raise InputError(
            where,
            "the store's URL carries credentials or a query",
            "give credentials as files that fsspec reads",
        )
    try:
        files, root = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ToolError(
            url, f"this kind of store cannot be read here: {error}", "install the package that fsspec names"
        ) from None
    return Store(files, root.rstrip("/"), attempts, wait_s, sleep)


def fetch(store: Store, to: Path, trusted: TrustedKeys) -> Fetched:
    """Fetch the released versions into the folder `to`; complete ones there stay, other models are removed last."""
    versions = released_versions(read_small_file(store, CHAMPION), f"{store.root}/{CHAMPION}")
    others = sorted(path.name for path in to.iterdir() if not _is_ours(path)) if to.is_dir() else []
    if others:
        raise InputError(str(to / others[0]), "this folder holds more than models", "give --to a folder for models alone")
    shutil.rmtree(to / STAGING, ignore_errors=True)
    added = [version for version in versions if fetch_model(store, to, model_name(version), trusted)]
    _write_champion(to, versions)
    wanted = {model_name(version) for version in versions}
    removed = sorted(path.name for path in to.iterdir() if MODEL.fullmatch(path.name) and path.name not in wanted)
    for name in removed:
        shutil.rmtree(to / name)
    shutil.rmtree(to / STAGING, ignore_errors=True)
    return Fetched(versions, added, removed)


def released_versions(text: str, where: str) -> list[int]:
    """Return the versions that `champion.json` names; other keys are ignored."""
    try:
        versions = json.loads(text)["versions"]
    except (ValueError, KeyError, TypeError, RecursionError):
        versions = None
    numbers = isinstance(versions, list) and all(type(version) is int and version > 0 for version in versions)
    if not versions or not numbers or len(set(versions)) < len(versions):
        raise InputError(where, "this does not name the released versions", 'write it as {"versions": [7]}, each version once')
    return list(versions)


def fetch_model(store: Store, to: Path, name: str, trusted: TrustedKeys) -> bool:
    """Download one signed model folder, verify it and move it into place; returns False when it was there already.

    Raises `RefusedError` when the store's folder is incomplete, when no trusted key has signed it, and when the target holds
    different content under the same name.
    """
    where = f"{store.root}/{name}"
    signature, text = read_small_file(store, f"{name}/{SIGNATURE}"), read_small_file(store, f"{name}/{MANIFEST}")
    signed = read_bundle(signature, f"{where}/{SIGNATURE}", trusted)
    manifest = read_manifest(text, f"{where}/{MANIFEST}")
    if sha256(text.encode()).hexdigest() != signed.digests.get(MANIFEST):
        raise RefusedError(f"{where}/{MANIFEST}", "this file is not the one that was signed", "upload the published folder again")
    target, staged = to / name, to / STAGING / name
    local = _content_of(target, trusted)
    if local == content_digest(manifest):
        return False
    if local is not None:
        raise RefusedError(str(target), "this version is here with different content", "empty this folder and fetch again")
    sizes = dict.fromkeys((MANIFEST, LINEAGE), SMALL_BYTES) | manifest.get("sizes", {})  # older manifests have no sizes
    for file in valid_names(signed.digests, where):
        _download(store, f"{where}/{file}", staged / file, sizes.get(file))
    (staged / SIGNATURE).write_text(signature, encoding="utf-8")
    try:
        read_signed(staged, trusted)
    except RefusedError as error:
        raise RefusedError(error.where, f"{error.what} in {where}", "upload the published folder again") from None
    shutil.rmtree(target, ignore_errors=True)  # a damaged one
    staged.rename(target)
    return True


def fetch_files(store: Store, name: str, digest: str, wanted: Sequence[str], to: Path) -> None:
    """Download and verify some files of a model and its manifest; the folder `to` appears once all of them are there.

    Raises `RefusedError` for a folder with another content digest, and for files that differ from the manifest.
    """
    where = f"{store.root}/{name}"
    text = read_small_file(store, f"{name}/{MANIFEST}")
    manifest = read_manifest(text, f"{where}/{MANIFEST}")
    if content_digest(manifest) != digest:
        what = "this is not the content that was released as this version"
        raise RefusedError(where, what, "upload the published folder")
    staged = to.parent / STAGING / to.name
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    for file in wanted:
        if file not in manifest["files"]:
            raise RefusedError(where, f"its manifest names no {file}", "publish a version that has one")
        size = manifest.get("sizes", {}).get(file, LARGE_BYTES)
        _download(store, f"{where}/{file}", staged / file, min(size, LARGE_BYTES))
    wrong = [file for file in wanted if file_digest(staged / file) != manifest["files"][file]]
    if wrong:
        what = "the file does not have the SHA-256 of the manifest"
        raise RefusedError(f"{where}/{wrong[0]}", what, "upload the published folder again")
    (staged / MANIFEST).write_text(text, encoding="utf-8")
    shutil.rmtree(to, ignore_errors=True)
    staged.rename(to)


def valid_names(names: Iterable[str], where: str) -> list[str]:
    """Return a model's file names; raise `RefusedError` for one that leaves the folder or is both a file and a folder."""
    files = sorted(names)
    for name in files:
        parents = {str(parent) for parent in PurePosixPath(name).parents}
        if not all(PART.fullmatch(part) for part in name.split("/")) or not parents.isdisjoint(files):
            raise RefusedError(where, f"{name!r} is not a valid file name in a model", "find out who wrote it")
    return files


def read_small_file(store: Store, name: str) -> str:
    """Return a small file of the store as text; raise `RefusedError` when it is longer, because nobody has signed its size."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "file"
        _download(store, f"{store.root}/{name}", file, SMALL_BYTES)
        return file.read_bytes().decode("utf-8", errors="replace")


class DownloadLimit(Callback):  # type: ignore[misc]
    """Ends a download that is longer than its file may be."""

    def __init__(self, path: str, most: int | None) -> None:
        super().__init__()
        self._path, self._most = path, most

    def relative_update(self, inc: int = 1) -> None:
        """Count the bytes of a chunk; raise `RefusedError` once there are too many."""
        super().relative_update(inc)
        self.check(self.value)

    def check(self, size: int) -> None:
        """Raise `RefusedError` for a file of this size if it is too long."""
        if self._most is not None and size > self._most:
            what = f"the file has more than the {self._most} bytes that it may have"
            raise RefusedError(self._path, what, "upload the published folder again")


def _download(store: Store, path: str, to: Path, most: int | None) -> None:
    """Download a file; raise `RefusedError` when it has more than `most` bytes."""
    to.parent.mkdir(parents=True, exist_ok=True)

    def get() -> None:
        limit = DownloadLimit(path, most)
        store.files.get_file(path, str(to), callback=limit)
        limit.check(to.stat().st_size)  # a file system that copies whole files reports no chunks

    _with_retries(store, path, get)


def _content_of(folder: Path, trusted: TrustedKeys) -> str | None:
    """Return the content digest of a complete, unaltered and signed model, None for another or none."""
    try:
        return content_digest(read_signed(folder, trusted))
    except RefusedError:
        return None


def _with_retries(store: Store, path: str, read: Callable[[], T]) -> T:
    """Return the result of `read`, repeated after failures; a missing file is refused at once."""
    for attempt in range(1, store.attempts + 1):
        try:
            return read()
        except FileNotFoundError:
            if path.endswith(f"/{CHAMPION}"):
                raise InputError(path, "nothing has been released to this store", "upload the models, then this file") from None
            raise RefusedError(path, "the file is missing", "upload the published folder again") from None
        except RefusedError:
            raise
        except Exception as error:  # every store raises different errors: aiohttp's, botocore's, the system's
            if attempt == store.attempts:
                what = f"it could not be read in {attempt} attempts: {type(error).__name__}: {error}"
                raise ToolError(
                    path, what, "check that the store answers, that this account may read it, and that the disk has room"
                ) from None
            print_line(f"{path}: {type(error).__name__}: {error}; attempt {attempt} of {store.attempts}")
            store.sleep(store.wait_s * 2 ** (attempt - 1))
    raise AssertionError("at least one attempt")


def _is_ours(path: Path) -> bool:
    return path.name in (CHAMPION, STAGING) or bool(MODEL.fullmatch(path.name))


def _write_champion(to: Path, versions: list[int]) -> None:
    """Write `champion.json` atomically, once each version that it names is complete."""
    text = json.dumps({"versions": versions}) + "\n"
    if (to / CHAMPION).is_file() and (to / CHAMPION).read_text(encoding="utf-8") == text:
        return
    (to / STAGING).mkdir(exist_ok=True)
    (to / STAGING / CHAMPION).write_text(text, encoding="utf-8")
    (to / STAGING / CHAMPION).replace(to / CHAMPION)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--from", dest="store", required=True, help="fsspec URL or path of the store")
    parser.add_argument("--to", type=Path, required=True, help="the folder that Triton serves from, for models alone")
    parser.add_argument("--trusted", type=Path, required=True, help="the folder of public keys (*.pub) that may sign a model")
    parser.add_argument("--attempts", type=int, required=True, help="attempts to read each file")
    parser.add_argument("--wait-s", type=float, required=True, help="the first wait between attempts; it doubles")
    args = parser.parse_args()
    try:
        trusted = trusted_keys(args.trusted)
        if not trusted:
            do = "put the public key of who publishes there: live/signing/*.pub"
            raise InputError(str(args.trusted), "there is no public key (*.pub) in this folder", do)
        fetched = fetch(open_store(args.store, attempts=args.attempts, wait_s=args.wait_s), args.to, trusted)
    except OSError as error:
        raise ToolError(
            str(error.filename or args.to), str(error.strerror), "make room on the volume, and let this user write there"
        ) from None
    print_line(f"versions {fetched.versions} in {args.to}: added {fetched.added}, removed {fetched.removed}")


if __name__ == "__main__":
    run_stage(main)
