"""Make scratch homes of state from the packaged model, so that the serving bench touches no user's versions, routes or logs.

`plain/` has every cache off, and Triton models that only serve as controls; `cached/` has the caches on and two versions.
"""

import argparse
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from pipeline.data.records import write_json
from pipeline.errors import run_stage
from pipeline.params import load_params
from pipeline.runtime.model_files import model_digest
from serving.release.manifest import MANIFEST, UNLISTED, file_digest, package_files, repository
from serving.release.publish import publish

SUFFIX = " (2)"  # after each label of version 2, so that every answer shows its version
UNBATCHED, PLAIN_FP32, FIXED = "unbatched", "plain_fp32", "padded_fixed"
CONTROLS = (UNBATCHED, PLAIN_FP32, FIXED)
PADDED_SESSIONS = {
    "packed-openvino-bf16": "openvino-bf16",
    "packed-openvino-int8": "openvino-bf16",
}  # other sessions: ONNX Runtime in fp32
HERE = Path(__file__).parent
Edit = Callable[[Any], None]  # of a model_config_pb2.ModelConfig, in place


def make(package: Path, dvc_lock: Path, out: Path, name: str, max_pieces: int) -> None:
    """Make both homes under `out`; versions are published as a user publishes them."""
    staged = out / "staged"
    publish(_variant(package, staged / "uncached", _without_cache), dvc_lock, name, out / "plain")
    for control in CONTROLS:
        _control(control, package, repository(out / "plain") / control, max_pieces)
    publish(package, dvc_lock, name, out / "cached")
    publish(_relabelled(_variant(package, staged / "second", _unchanged)), dvc_lock, name, out / "cached")
    shutil.rmtree(staged)


def _control(control: str, package: Path, folder: Path, max_pieces: int) -> None:
    """Make a Triton model for comparison only; its caches are off."""
    edits: dict[str, Edit] = {
        UNBATCHED: lambda config: config.ClearField("dynamic_batching"),
        PLAIN_FP32: lambda config: _compute_with(config, "onnxruntime-fp32"),
        FIXED: lambda config: _take_pieces(config, max_pieces),
    }

    def edit(config: Any) -> None:
        _without_cache(config)
        edits[control](config)

    _variant(package, folder, edit)
    if control == FIXED:
        (folder / "1" / "model.py").unlink()
        shutil.copy(HERE / "control_padded.py", folder / "1" / "model.py")
    (folder / MANIFEST).unlink()  # it is no version of the release


def _variant(package: Path, out: Path, edit: Edit) -> Path:
    """Make the package with another config.pbtxt and a matching manifest; its large files are hard links."""
    shutil.copytree(package, out, copy_function=_link_or_copy, ignore=shutil.ignore_patterns("__pycache__"))
    config = model_config_pb2.ModelConfig()
    text_format.Parse((package / "config.pbtxt").read_text(encoding="utf-8"), config)
    edit(config)
    _replace(out / "config.pbtxt", text_format.MessageToString(config))
    return _with_new_manifest(out)


def _relabelled(folder: Path) -> Path:
    """Give the same model other labels; its digests and golden answers follow."""
    card = json.loads((folder / "1" / "model.json").read_text(encoding="utf-8"))
    card["labels"] = [label + SUFFIX for label in card["labels"]]
    _replace(folder / "1" / "model.json", json.dumps(card, indent=2))
    _replace(folder / "labels.txt", "".join(f"{label}\n" for label in card["labels"]))
    for path in folder.rglob("golden.json"):
        golden = json.loads(path.read_text(encoding="utf-8"))
        _replace(path, json.dumps(golden | {"labels": [label + SUFFIX for label in golden["labels"]]}))
    config = model_config_pb2.ModelConfig()
    text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), config)
    config.parameters["labels"].string_value = json.dumps(card["labels"])
    config.parameters["model_digest"].string_value = model_digest(folder / "1")
    _replace(folder / "config.pbtxt", text_format.MessageToString(config))
    return _with_new_manifest(folder)


def _with_new_manifest(folder: Path) -> Path:
    """Write a manifest that matches the files."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    (folder / MANIFEST).unlink()
    files = package_files(folder, follow_links=True)  # hard links to the large ones
    digests = {name: file_digest(path) for name, path in files.items() if name not in UNLISTED}
    write_json(folder / MANIFEST, {**manifest, "files": digests, "sizes": {}})
    return folder


def _without_cache(config: Any) -> None:
    config.ClearField("response_cache")


def _unchanged(_config: Any) -> None:
    pass


def _compute_with(config: Any, session: str) -> None:
    config.parameters["session"].string_value = session


def _take_pieces(config: Any, length: int) -> None:
    """Take `input_ids` and `attention_mask` of one length instead of text, with the padded session closest to the chosen one."""
    session = str(config.parameters["session"].string_value)
    _compute_with(config, session if not session.startswith("packed-") else PADDED_SESSIONS.get(session, "onnxruntime-fp32"))
    del config.input[:]
    for name in ("input_ids", "attention_mask"):
        config.input.add(name=name, data_type=model_config_pb2.TYPE_INT64, dims=[length])
    outputs = [output for output in config.output if output.name in ("label", "probabilities")]
    del config.output[:]
    config.output.extend(outputs)
    del config.model_warmup[:]


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
    return target


def _replace(path: Path, text: str) -> None:
    """Write a new file in place of this one: the old one may be a hard link into the package."""
    path.unlink()
    path.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, required=True)
    parser.add_argument("--lock", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()
    make(args.package, args.lock, args.out, params.publish.name, params.model.max_pieces)


if __name__ == "__main__":
    run_stage(main)
