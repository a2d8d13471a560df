"""Stage `package`: turn the exported model into a Triton model that any Triton with the Python backend loads.

`<out>/config.pbtxt` `<out>/labels.txt` `<out>/warmup/` `<out>/1/{model.py, model.onnx, tokenizer.json, model.json, runtime/}`
`<out>/reference.npz` `<out>/control.npz` `<out>/session.json` `<out>/golden.json` `<out>/training_texts.parquet`
`<out>/card.json` `<out>/manifest.json`, and `<out>/abstain.json` if it may abstain.
config.pbtxt has no name: Triton takes the folder's, so the same bytes serve as any version.
"""

import argparse
import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from pipeline.abstention import ABSTAIN_FILE, NEVER, read_abstention
from pipeline.card.facts import CARD, card_of
from pipeline.card.frozen_control import CONTROL
from pipeline.cores import available_cores
from pipeline.data.records import write_json
from pipeline.errors import InputError, RefusedError, run_stage
from pipeline.output.plain_text import print_line
from pipeline.params import Package, load_params
from pipeline.runtime.model_files import MODEL_FILES, model_digest
from pipeline.session.golden_answers import read_golden
from serving.release.manifest import MANIFEST, content_digest, describe_files

WARMUP = ("short", "middle", "long")
BACKEND_SOURCE = Path(__file__).parents[1] / "backend" / "model.py"
RUNTIME_SOURCE = Path(__file__).parents[2] / "pipeline" / "runtime"


def package(
    exported: Path,
    chosen: Path,
    reference: Path,
    out: Path,
    settings: Package,
    abstain: Path | None = None,
    card: Mapping[str, Any] | None = None,
    control: Path | None = None,
) -> dict[str, Any]:
    """Write the Triton model and return its manifest, which is written last: its presence means that the package is complete.

    `card` holds the reports that a version carries for people; `control` is the file of the frozen control.
    """
    require_cores(settings, available_cores())
    version = out / "1"
    shutil.copytree(RUNTIME_SOURCE, version / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(BACKEND_SOURCE, version / "model.py")
    for name in MODEL_FILES:
        shutil.copy(exported / name, version / name)
    shutil.copy(reference, out / "reference.npz")
    if control:
        shutil.copy(control, out / CONTROL)
    if card:
        write_json(out / CARD, card)
    for path in chosen.iterdir():  # an ONNX graph, if any, for the session; the rest for people and swap
        shutil.copy(path, version / path.name if path.suffix == ".onnx" else out / path.name)
    session = json.loads((chosen / "session.json").read_text(encoding="utf-8"))["session"]
    labels = json.loads((exported / "model.json").read_text(encoding="utf-8"))["labels"]
    parameters = {"labels": json.dumps(labels), "model_digest": model_digest(exported), "session": session}
    abstention = read_abstention(abstain.parent) if abstain else NEVER
    if abstain and abstention != NEVER:
        shutil.copy(abstain, out / ABSTAIN_FILE)
        parameters["abstain"] = abstention.as_parameter()
    return write_model(out, labels, exported, chosen, parameters, settings)


def require_cores(package: Package, cores: int) -> None:
    """Raise `InputError` when the instances of a model on the CPU would have more threads than there are cores."""
    wanted = package.instances * package.intra_op_threads
    if package.device == "cpu" and wanted > cores:
        what = f"{package.instances} instances x {package.intra_op_threads} threads need {wanted} cores, but there are {cores}"
        do = "lower package.instances or package.intra_op_threads: threads that share a core slow down every prediction"
        raise InputError("params.yaml, section package", what, do)


def write_model(
    out: Path, labels: list[str], exported: Path, chosen: Path, parameters: dict[str, str], settings: Package
) -> dict[str, Any]:
    """Write everything of a Triton model but its version folder `1/`; returns the manifest, which is written last."""
    (out / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    config = config_text(output_widths(exported / "model.onnx"), parameters, settings)
    (out / "config.pbtxt").write_text(config, encoding="utf-8")
    write_warmup(read_golden(chosen).texts, out / "warmup")
    manifest = describe_files(out)
    write_json(out / MANIFEST, manifest)
    return manifest


def write_warmup(texts: list[str], folder: Path) -> None:
    """Write three texts as BYTES elements, the shortest, the median and the longest: Triton runs them before a model is ready."""
    folder.mkdir(parents=True)
    by_length = sorted(texts, key=len)
    for name, text in zip(WARMUP, (by_length[0], by_length[len(texts) // 2], by_length[-1]), strict=True):
        encoded = text.encode("utf-8")
        (folder / name).write_bytes(struct.pack("<I", len(encoded)) + encoded)


def output_widths(model: Path) -> dict[str, int]:
    """Return the widths of the graph's outputs: `{"logits": classes, "sketch": sketch_size}`."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return {output.name: output.shape[1] for output in session.get_outputs()}


def config_text(widths: dict[str, int], parameters: dict[str, str], settings: Package) -> str:
    """Return config.pbtxt in protobuf's text form, built with Triton's own message type and parsed back with it.

    Clients can read `parameters`: `model_digest` identifies the model, `labels` (JSON) its schema, `session` the runtime,
    `abstain` (JSON) the threshold below which the gateway gives no label. Triton itself always answers with the model's label.
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
    kind = (
        model_config_pb2.ModelInstanceGroup.KIND_GPU if settings.device == "gpu" else model_config_pb2.ModelInstanceGroup.KIND_CPU
    )
    config.instance_group.add(kind=kind, count=settings.instances)
    config.dynamic_batching.max_queue_delay_microseconds = settings.queue_delay_us
    for name, value in (
        *parameters.items(),
        ("device", settings.device),
        ("token_budget", settings.token_budget),
        ("intra_op_threads", settings.intra_op_threads),
    ):
        config.parameters[name].string_value = str(value)
    for name in WARMUP:
        warmup = config.model_warmup.add(name=name, batch_size=1)
        warmup.inputs["text"].CopyFrom(
            model_config_pb2.ModelWarmup.Input(data_type=model_config_pb2.TYPE_STRING, dims=[1], input_data_file=name)
        )
    written: str = text_format.MessageToString(config)
    if text_format.Parse(written, model_config_pb2.ModelConfig()) != config:
        raise RefusedError(
            "config.pbtxt", "Triton's own parser does not read back what was written", "report this: it is a bug of this project"
        )
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exported", type=Path, required=True)
    parser.add_argument("--session", type=Path, required=True)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--control", type=Path, required=True)
    parser.add_argument("--abstain", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = load_params()
    card = card_of(args.evaluation, args.data, keeps_texts=params.log.text == "keep")
    manifest = package(args.exported, args.session, args.reference, args.out, params.package, args.abstain, card, args.control)
    print_line(f"{len(manifest['files'])} files, content {content_digest(manifest)[:12]} → {args.out}")


if __name__ == "__main__":
    run_stage(main)
