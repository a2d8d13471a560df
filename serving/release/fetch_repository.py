"""What Triton serves in a cluster: the released models, brought whole and verified from an object store or a volume.

The store is any folder that fsspec can read: `champion.json`, which is `{"versions": [7, 8]}`, and beside it `intent-7/` and
`intent-8/` as publish lays them. Only named files are read, never a listing, so plain HTTP is enough. A writer puts the folders
first and `champion.json` last; a version's content never changes.

Afterwards the target holds these folders, `champion.json` (last) and no other model, so that Triton may load all it finds.
Exit codes: 0 done · 2 the store holds no usable `champion.json`, or the target is not ours · 3 the store cannot be read, or the
target not be written · 4 a model is not whole or altered · 143 told to stop. After each of them a second call finishes the work.
"""

import argparse
import json
import re
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import fsspec

from pipeline.errors import InputError, RefusedError, ToolError, run_stage
from serving.release.manifest import MANIFEST, content_digest, file_digests, model_name, read_verified

CHAMPION = "champion.json"
STAGING = ".fetching"  # beside the models, because a rename stays on one volume; gone before Triton starts
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # no hidden name, no `..`, nothing that a URL reads as something else
MODEL = re.compile(r"intent-[1-9][0-9]*")
T = TypeVar("T")


class Store(NamedTuple):
    """A folder somewhere, and how patiently it is asked: waits of `wait_s`, twice that, four times that, and so on."""

    files: Any  # fsspec's file system
    root: str
    attempts: int
    wait_s: float
    sleep: Callable[[float], None]


class Fetched(NamedTuple):
    """What the target holds now, and what this call changed."""

    versions: list[int]
    laid: list[int]
    removed: list[str]


def open_store(url: str, *, attempts: int, wait_s: float, sleep: Callable[[float], None] = time.sleep) -> Store:
    """The store at an fsspec URL or a path; raises `ToolError` when its protocol is unknown or its package absent."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:  # it would stand in logs and in the process list
        where = f"{parts.scheme}://{parts.hostname}"
        raise InputError(
            where, "the store's URL carries credentials or a query", "give credentials as files, the way its package reads them"
        )
    try:
        files, root = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ToolError(url, f"no such store can be read here: {error}", "install the package that fsspec names") from None
    return Store(files, root.rstrip("/"), attempts, wait_s, sleep)


def fetch(store: Store, to: Path) -> Fetched:
    """Bring the released versions to the folder `to`; what lies there whole is kept, other models are removed last."""
    versions = released_versions(read_text(store, CHAMPION), f"{store.root}/{CHAMPION}")
    foreign = sorted(path.name for path in to.iterdir() if not _is_ours(path)) if to.is_dir() else []
    if foreign:
        raise InputError(
            str(to / foreign[0]), "this folder holds something else than models", "name a folder of its own with --to"
        )
    shutil.rmtree(to / STAGING, ignore_errors=True)
    laid = [version for version in versions if lay(store, to, model_name(version))]
    _write_champion(to, versions)
    wanted = {model_name(version) for version in versions}
    removed = sorted(path.name for path in to.iterdir() if MODEL.fullmatch(path.name) and path.name not in wanted)
    for name in removed:
        shutil.rmtree(to / name)
    shutil.rmtree(to / STAGING, ignore_errors=True)
    return Fetched(versions, laid, removed)


def released_versions(text: str, where: str) -> list[int]:
    """The versions that `champion.json` names; its other keys are for other readers."""
    try:
        versions = json.loads(text)["versions"]
    except (ValueError, KeyError, TypeError, RecursionError):
        versions = None
    numbers = isinstance(versions, list) and all(type(one) is int and one > 0 for one in versions)
    if not versions or not numbers or len(set(versions)) < len(versions):
        raise InputError(where, "this does not name the released versions", 'write it as {"versions": [7]}, each version once')
    return list(versions)


def lay(store: Store, to: Path, name: str) -> bool:
    """One model folder, downloaded aside, verified and moved in whole; False when it was there.

    Raises `RefusedError` when the store's folder is not whole, or the target holds another content under the same name.
    """
    where = f"{store.root}/{name}"
    text = read_text(store, f"{name}/{MANIFEST}")
    names = listed_names(text, where)
    target, staged = to / name, to / STAGING / name
    held = _content_of(target)
    if held == content_digest(json.loads(text)):
        return False
    if held is not None:
        raise RefusedError(str(target), "another content lies here whole under this number", "empty this folder and fetch again")
    for one in names:
        (staged / one).parent.mkdir(parents=True, exist_ok=True)
        _patiently(store, f"{where}/{one}", partial(store.files.get_file, f"{where}/{one}", str(staged / one)))
    (staged / MANIFEST).write_text(text, encoding="utf-8")
    try:
        read_verified(staged)
    except RefusedError as error:
        raise RefusedError(error.where, f"{error.what} in {where}", "put the published folder into the store again") from None
    shutil.rmtree(target, ignore_errors=True)  # a torn one
    staged.rename(target)
    return True


def fetch_some(store: Store, name: str, digest: str, wanted: Sequence[str], to: Path) -> None:
    """Some files of a model, with its manifest, verified; the folder `to` appears when all of them are there.

    Raises `RefusedError` for a folder whose content has not this digest, and for files that are not as its manifest says.
    """
    where = f"{store.root}/{name}"
    text = read_text(store, f"{name}/{MANIFEST}")
    names, manifest = listed_names(text, where), json.loads(text)
    if content_digest(manifest) != digest:
        what = "this is not the content that was released under this number"
        raise RefusedError(where, what, "put the published folder into the store")
    staged = to.parent / STAGING / to.name
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    for one in wanted:
        if one not in names:
            raise RefusedError(where, f"its manifest names no {one}", "publish a version that has one")
        _patiently(store, f"{where}/{one}", partial(store.files.get_file, f"{where}/{one}", str(staged / one)))
    found = file_digests(staged)
    wrong = [one for one in wanted if found.get(one) != manifest["files"][one]]
    if wrong:
        what = "the file does not have the SHA-256 of the manifest"
        raise RefusedError(f"{where}/{wrong[0]}", what, "put the published folder into the store again")
    (staged / MANIFEST).write_text(text, encoding="utf-8")
    shutil.rmtree(to, ignore_errors=True)
    staged.rename(to)


def listed_names(text: str, where: str) -> list[str]:
    """File names of a manifest; raises `RefusedError` for one that could lie outside of its folder or be two things at once."""
    try:
        names = sorted(dict(json.loads(text)["files"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        names = []
    if not names:
        raise RefusedError(f"{where}/{MANIFEST}", "the manifest is torn", "put the published folder into the store again")
    for name in names:
        parents = {str(parent) for parent in PurePosixPath(name).parents}
        if not all(PART.fullmatch(part) for part in name.split("/")) or parents & set(names):
            raise RefusedError(f"{where}/{MANIFEST}", f"{name!r} is no name for a file of a model", "find out who wrote this")
    return names


def read_text(store: Store, name: str) -> str:
    """A small file of the store, as text."""
    content: bytes = _patiently(store, f"{store.root}/{name}", partial(store.files.cat_file, f"{store.root}/{name}"))
    return content.decode("utf-8", errors="replace")


def _patiently(store: Store, path: str, read: Callable[[], T]) -> T:
    """The read's result, tried again after failures; a file that is not there is refused at once."""
    for attempt in range(1, store.attempts + 1):
        try:
            return read()
        except FileNotFoundError:
            if path.endswith(f"/{CHAMPION}"):
                raise InputError(
                    path, "nothing has been released to this store", "put the models there, then this file"
                ) from None
            raise RefusedError(path, "the file is missing", "put the published folder into the store again") from None
        except Exception as error:  # every store has errors of its own: aiohttp's, botocore's, the system's
            if attempt == store.attempts:
                what = f"not to be had in {attempt} attempts: {type(error).__name__}: {error}"
                raise ToolError(
                    path, what, "see whether the store answers, lets this account read, and the disk has room"
                ) from None
            print(f"{path}: {type(error).__name__}: {error}; attempt {attempt} of {store.attempts}", flush=True)
            store.sleep(store.wait_s * 2 ** (attempt - 1))
    raise AssertionError("at least one attempt")


def _is_ours(path: Path) -> bool:
    return path.name in (CHAMPION, STAGING) or bool(MODEL.fullmatch(path.name))


def _content_of(folder: Path) -> str | None:
    try:
        return content_digest(read_verified(folder))
    except RefusedError:
        return None


def _write_champion(to: Path, versions: list[int]) -> None:
    """Moved in whole; each version that it names lies there whole."""
    text = json.dumps({"versions": versions}) + "\n"
    if (to / CHAMPION).is_file() and (to / CHAMPION).read_text(encoding="utf-8") == text:
        return
    (to / STAGING).mkdir(exist_ok=True)
    (to / STAGING / CHAMPION).write_text(text, encoding="utf-8")
    (to / STAGING / CHAMPION).replace(to / CHAMPION)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--from", dest="store", required=True, help="fsspec URL or path of the store")
    parser.add_argument("--to", type=Path, required=True, help="the folder that Triton serves from, ours alone")
    parser.add_argument("--attempts", type=int, required=True, help="how often a file is asked for")
    parser.add_argument("--wait-s", type=float, required=True, help="the first wait between attempts; it doubles")
    args = parser.parse_args()
    try:
        done = fetch(open_store(args.store, attempts=args.attempts, wait_s=args.wait_s), args.to)
    except OSError as error:
        raise ToolError(
            str(error.filename or args.to), str(error.strerror), "give the volume room, and this user the right"
        ) from None
    print(f"versions {done.versions} in {args.to}: laid {done.laid}, removed {done.removed}")


if __name__ == "__main__":
    run_stage(main)
