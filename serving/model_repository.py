"""Stage `package`: the exported model becomes a Triton model that any Triton with the Python backend loads.

`<out>/config.pbtxt` `<out>/labels.txt` `<out>/1/{model.py, model.onnx, tokenizer.json, model.json, runtime/}`
`<out>/reference.npz` `<out>/manifest.json`.
config.pbtxt carries no name: Triton takes the folder's, so the same bytes serve as any version.
"""

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import onnxruntime as ort
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from pipeline.errors import RefusedError, run_stage
from pipeline.params import Package, load_params
from pipeline.records import write_json
from pipeline.runtime.classifier import MODEL_FILES, model_digest

BACKEND_SOURCE = Path(__file__).parent / "backend" / "model.py"
RUNTIME_SOURCE = Path(__file__).parents[1] / "pipeline" / "runtime"
MANIFEST = "manifest.json"
LINEAGE = "lineage.json"  # written by publish, after the manifest


def package(exported: Path, reference: Path, out: Path, settings: Package) -> dict[str, Any]:
    """Lay out the Triton model and return its manifest, which is written last: its presence means that all is there."""
    version = out / "1"
    shutil.copytree(RUNTIME_SOURCE, version / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(BACKEND_SOURCE, version / "model.py")
    for name in MODEL_FILES:
        shutil.copy(exported / name, version / name)
    shutil.copy(reference, out / "reference.npz")
    labels = json.loads((exported / "model.json").read_text(encoding="utf-8"))["labels"]
    (out / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    config = config_text(signature(exported / "model.onnx"), model_digest(exported), settings)
    (out / "config.pbtxt").write_text(config, encoding="utf-8")
    manifest = {"files": file_digests(out)}
    write_json(out / MANIFEST, manifest)
    return manifest


def signature(model: Path) -> dict[str, int]:
    """Widths of the graph's outputs: `{"logits": classes, "sketch": sketch_size}`."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return {output.name: output.shape[1] for output in session.get_outputs()}


def config_text(widths: dict[str, int], digest: str, settings: Package) -> str:
    """config.pbtxt in protobuf's text form, built with Triton's own message type and parsed back with it.

    Whoever asks a server can see by the parameter `model_digest` which model answers.
    """
    config = model_config_pb2.ModelConfig(backend="python", max_batch_size=settings.max_batch_size)
    config.input.add(name="text", data_type=model_config_pb2.TYPE_STRING, dims=[1])
    for name, kind, width in (
        ("label", model_config_pb2.TYPE_STRING, 1),
        ("probabilities", model_config_pb2.TYPE_FP32, widths["logits"]),
        ("sketch", model_config_pb2.TYPE_FP16, widths["sketch"]),
        ("pieces", model_config_pb2.TYPE_INT32, 1),
        ("pieces_per_word", model_config_pb2.TYPE_FP32, 1),
    ):
        config.output.add(name=name, data_type=kind, dims=[width])
    config.output[1].label_filename = "labels.txt"
    config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU, count=settings.instances)
    config.dynamic_batching.max_queue_delay_microseconds = settings.queue_delay_us
    config.parameters["model_digest"].string_value = digest
    config.parameters["token_budget"].string_value = str(settings.token_budget)
    config.parameters["intra_op_threads"].string_value = str(settings.intra_op_threads)
    config.response_cache.enable = True
    warmup = config.model_warmup.add(name="one text", batch_size=1)
    warmup.inputs["text"].CopyFrom(
        model_config_pb2.ModelWarmup.Input(data_type=model_config_pb2.TYPE_STRING, dims=[1], zero_data=True),
    )
    written: str = text_format.MessageToString(config)
    if text_format.Parse(written, model_config_pb2.ModelConfig()) != config:
        raise RefusedError(
            "config.pbtxt", "Triton's own parser reads something else than was meant", "report this: it is a fault of the project"
        )
    return written


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under the folder but the manifest and the lineage, by relative path."""
    unlisted = (folder / MANIFEST, folder / LINEAGE)
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p not in unlisted and "__pycache__" not in p.parts)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def content_digest(manifest: dict[str, Any]) -> str:
    """One SHA-256 for the whole package."""
    return hashlib.sha256(json.dumps(manifest["files"], sort_keys=True).encode()).hexdigest()


def read_verified(folder: Path) -> dict[str, Any]:
    """The manifest of a whole, unaltered package; raises `RefusedError` naming the file that is absent, extra or different."""
    if not (folder / MANIFEST).is_file():
        raise RefusedError(str(folder), "there is no whole package here (no manifest.json)", "make one: .venv/bin/dvc repro")
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        listed = dict(manifest["files"])
    except (ValueError, KeyError, TypeError):
        raise RefusedError(
            str(folder / MANIFEST), "the manifest is torn", "make the package again: .venv/bin/dvc repro -f package"
        ) from None
    found = file_digests(folder)
    wrong = sorted(name for name in found.keys() | listed.keys() if found.get(name) != listed.get(name))
    if wrong:
        raise RefusedError(
            str(folder / wrong[0]),
            "the file does not have the SHA-256 of the manifest",
            "make the package again: .venv/bin/dvc repro -f package",
        )
    return manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exported", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    manifest = package(args.exported, args.reference, args.out, load_params().package)
    print(f"{len(manifest['files'])} files, content {content_digest(manifest)[:12]} → {args.out}")


if __name__ == "__main__":
    run_stage(main)
