"""The Triton model that the stage `package` lays out, and the check that no byte of it has changed."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2 as triton

from pipeline.abstention import ABSTAIN_FILE, NEVER, Abstention, parse_abstention, read_abstention
from pipeline.card.facts import card_of, read_facts
from pipeline.card.training_texts import TRAINING_TEXTS, read_training_texts
from pipeline.data.records import read_examples, write_json
from pipeline.errors import EXIT_REFUSED, InputError, RefusedError
from pipeline.params import Params
from pipeline.session.golden_answers import read_golden
from serving.release.manifest import LINEAGE, MANIFEST, content_digest, read_verified
from serving.release.model_repository import WARMUP, config_text, output_widths, package
from tests.conftest import Project

WIDTHS = {"logits": 20, "sketch": 64}
INPUTS = ("artifacts/export", "artifacts/session", "artifacts/reference/reference.npz")
PARAMETERS = {"model_digest": "0" * 64, "labels": '["a", "b"]', "session": "onnxruntime-fp32"}


@pytest.fixture
def config(params: Params) -> triton.ModelConfig:
    return text_format.Parse(config_text(WIDTHS, PARAMETERS, params.package), triton.ModelConfig())


@pytest.fixture
def packaged(made: Project, tmp_path: Path) -> Path:
    """Return a copy of the package of `made`, to corrupt."""
    return Path(shutil.copytree(made / "artifacts/package", tmp_path / "package"))


def test_one_text_goes_in(config: triton.ModelConfig) -> None:
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [("text", triton.TYPE_STRING, [1])]


def test_label_probabilities_sketch_and_lengths_come_out(config: triton.ModelConfig) -> None:
    assert [(o.name, o.data_type, list(o.dims)) for o in config.output] == [
        ("label", triton.TYPE_STRING, [1]),
        ("probabilities", triton.TYPE_FP32, [20]),
        ("sketch", triton.TYPE_FP16, [64]),
        ("pieces", triton.TYPE_INT32, [1]),
        ("pieces_per_word", triton.TYPE_FP32, [1]),
    ]
    assert {o.name: o.label_filename for o in config.output if o.label_filename} == {"probabilities": "labels.txt"}


def test_triton_batches_and_warms_up_as_params_say(config: triton.ModelConfig, params: Params) -> None:
    assert config.backend == "python"
    assert config.max_batch_size == params.package.max_batch_size
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds == params.package.queue_delay_us
    assert not config.HasField("response_cache")  # it would give one caller the outputs that another has asked for
    assert [(group.kind, group.count) for group in config.instance_group] == [
        (triton.ModelInstanceGroup.KIND_CPU, params.package.instances)
    ]
    assert [(sample.batch_size, sample.inputs["text"].input_data_file) for sample in config.model_warmup] == [
        (1, name) for name in WARMUP
    ]
    assert {name: value.string_value for name, value in config.parameters.items()} == {
        **PARAMETERS,
        "device": "cpu",
        "token_budget": str(params.package.token_budget),
        "intra_op_threads": str(params.package.intra_op_threads),
    }


def test_on_a_gpu_the_instances_are_of_that_kind(params: Params) -> None:
    chosen = params.package.model_copy(update={"device": "gpu"})
    config = text_format.Parse(config_text(WIDTHS, PARAMETERS, chosen), triton.ModelConfig())
    assert [group.kind for group in config.instance_group] == [triton.ModelInstanceGroup.KIND_GPU]


def test_a_threshold_travels_as_a_file_and_as_a_parameter_and_the_rest_stays(made: Project, tmp_path: Path) -> None:
    inputs = [made / name for name in INPUTS]
    plain = package(*inputs, tmp_path / "plain", made.params.package)
    manifests = {}
    for threshold in (0.0, 0.625):
        given, out = tmp_path / f"given-{threshold}" / ABSTAIN_FILE, tmp_path / f"package-{threshold}"
        write_json(given, {"threshold": threshold, "fallback": "a person", "target": "accuracy"})
        manifests[threshold] = package(*inputs, out, made.params.package, given)
        assert read_abstention(out) == (Abstention(threshold, "a person") if threshold else NEVER)
    assert manifests[0.0] == plain  # a model that always answers is packaged as ever
    changed = {name for name, digest in manifests[0.625]["files"].items() if plain["files"].get(name) != digest}
    assert changed == {ABSTAIN_FILE, "config.pbtxt"}
    config = text_format.Parse((tmp_path / "package-0.625/config.pbtxt").read_text(), triton.ModelConfig())
    assert parse_abstention(json.loads(config.parameters["abstain"].string_value)) == Abstention(0.625, "a person")


def test_warm_up_texts_are_golden_ones_from_the_shortest_to_the_longest(made: Project) -> None:
    texts = sorted(read_golden(made / "artifacts/session").texts, key=len)
    files = [(made / "artifacts/package/warmup" / name).read_bytes() for name in WARMUP]
    assert [int.from_bytes(file[:4], "little") for file in files] == [len(file) - 4 for file in files]
    assert [file[4:].decode() for file in files] == [texts[0], texts[len(texts) // 2], texts[-1]]


def test_more_threads_than_cores_are_refused_before_anything_is_written(made: Project, tmp_path: Path) -> None:
    settings = made.params.package.model_copy(update={"instances": 10_000})
    with pytest.raises(InputError, match="10000 instances"):
        package(*(made / name for name in INPUTS), tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


def test_the_config_has_no_name_so_that_any_version_can_use_it(config: triton.ModelConfig) -> None:
    assert config.name == ""


@given(st.integers(1, 10_000), st.integers(1, 4096), st.integers(0, 10**6), st.integers(1, 512))
@settings(deadline=None, max_examples=30)
def test_any_widths_and_settings_survive_the_text_form(params: Params, classes: int, sketch: int, delay: int, batch: int) -> None:
    chosen = params.package.model_copy(update={"queue_delay_us": delay, "max_batch_size": batch})
    config = text_format.Parse(config_text({"logits": classes, "sketch": sketch}, PARAMETERS, chosen), triton.ModelConfig())
    assert [list(o.dims) for o in config.output[1:3]] == [[classes], [sketch]]
    assert (config.dynamic_batching.max_queue_delay_microseconds, config.max_batch_size) == (delay, batch)


def test_widths_are_read_from_the_exported_graph(made: Project) -> None:
    assert output_widths(made / "artifacts/export/model.onnx") == {"logits": 4, "sketch": made.params.model.sketch_size}


def test_the_package_holds_what_triton_loads(made: Project) -> None:
    folder = made / "artifacts/package"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "card.json", "config.pbtxt", "control.npz", "golden.json", "labels.txt", "manifest.json", "reference.npz", "session.json",
        "training_texts.parquet",
        "warmup/short", "warmup/middle", "warmup/long",
        "1/model.py", "1/model.onnx", "1/packed.onnx", "1/tokenizer.json", "1/model.json",
        "1/runtime/__init__.py", "1/runtime/batches.py", "1/runtime/classifier.py", "1/runtime/model_files.py",
        "1/runtime/outputs.py", "1/runtime/pieces.py", "1/runtime/sessions.py", "1/runtime/text.py",
    }  # fmt: skip


def test_the_manifest_has_the_digest_of_every_file(made: Project) -> None:
    folder = made / "artifacts/package"
    manifest = json.loads((folder / MANIFEST).read_text())
    digests = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path != folder / MANIFEST
    }
    assert manifest["files"] == digests


def test_labels_stand_in_the_order_of_the_probabilities(made: Project) -> None:
    lines = (made / "artifacts/package/labels.txt").read_text(encoding="utf-8").splitlines()
    assert lines == json.loads((made / "artifacts/export/model.json").read_text(encoding="utf-8"))["labels"]
    assert len(lines) == 4


def test_files_that_come_from_elsewhere_are_copied_byte_for_byte(made: Project) -> None:
    package_folder = made / "artifacts/package"
    for name in ("model.onnx", "tokenizer.json", "model.json"):
        assert (package_folder / "1" / name).read_bytes() == (made / "artifacts/export" / name).read_bytes()
    assert (package_folder / "reference.npz").read_bytes() == (made / "artifacts/reference/reference.npz").read_bytes()
    assert (package_folder / "1/model.py").read_bytes() == (made / "serving/backend/model.py").read_bytes()


def test_training_texts_and_reports_travel_with_the_package(made: Project) -> None:
    known = read_training_texts(made / "artifacts/package" / TRAINING_TEXTS)
    rows = {row.id: row for row in read_examples(made / "artifacts/split/train.parquet")}
    assert known.ids
    assert [(rows[id].label, rows[id].text) for id in known.ids] == list(zip(known.labels, known.texts, strict=True))
    assert known.sketch.shape == (len(known.ids), made.params.model.sketch_size)
    facts = read_facts(made / "artifacts/package", "a model", made.params.model.base)
    assert facts.scores == json.loads((made / "artifacts/evaluation/metrics.json").read_text())
    assert facts.data["source"]["rows"] > 0
    assert facts.scripts == ["Latin"]


def test_packing_the_same_model_twice_gives_the_same_content(made: Project, tmp_path: Path) -> None:
    inputs = [made / name for name in INPUTS]
    card = card_of(made / "artifacts/evaluation", made / "artifacts/data/report.json", keeps_texts=True)
    control = made / "artifacts/control/control.npz"
    once, again = (
        package(*inputs, tmp_path / name, made.params.package, card=card, control=control) for name in ("once", "again")
    )
    stored = read_verified(made / "artifacts/package")
    assert content_digest(once) == content_digest(again) == content_digest(stored)


def test_the_digest_follows_the_content_and_not_the_order_of_names() -> None:
    assert content_digest({"files": {"a": "1", "b": "2"}}) == content_digest({"files": {"b": "2", "a": "1"}})
    assert content_digest({"files": {"a": "1", "b": "2"}}) != content_digest({"files": {"a": "2", "b": "1"}})


def test_an_unaltered_package_is_read(packaged: Path) -> None:
    assert set(read_verified(packaged)["files"]) >= {"1/model.onnx", "config.pbtxt"}


def test_the_lineage_comes_later_and_compiled_files_never(packaged: Path) -> None:
    (packaged / LINEAGE).write_text("{}")
    assert LINEAGE not in read_verified(packaged)["files"]
    (packaged / "1/__pycache__").mkdir()
    (packaged / "1/__pycache__/model.cpython-311.pyc").write_bytes(b"planted")
    with pytest.raises(RefusedError, match="lists no such file"):
        read_verified(packaged)


def flip(path: Path) -> None:
    """Flip one bit in the middle of the file; its length stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("corrupt", [flip, Path.unlink], ids=["a flipped bit", "a missing file"])
@pytest.mark.parametrize("name", ["1/model.onnx", "1/runtime/classifier.py", "config.pbtxt", "labels.txt", "reference.npz"])
def test_a_corrupted_file_is_refused_and_named(corrupt: Callable[[Path], None], name: str, packaged: Path) -> None:
    corrupt(packaged / name)
    with pytest.raises(RefusedError) as refused:
        read_verified(packaged)
    assert refused.value.where == str(packaged / name)
    assert refused.value.exit_code == EXIT_REFUSED


@pytest.mark.parametrize("name", ["1/extra.py", "extra.json", "2/model.onnx", f"1/{MANIFEST}", f"1/runtime/{LINEAGE}"])
def test_an_extra_file_is_refused_and_named(name: str, packaged: Path) -> None:
    (packaged / name).parent.mkdir(exist_ok=True)
    (packaged / name).write_text("{}")
    with pytest.raises(RefusedError) as refused:
        read_verified(packaged)
    assert refused.value.where == str(packaged / name)


def test_a_folder_without_a_manifest_is_not_a_complete_package(packaged: Path) -> None:
    (packaged / MANIFEST).unlink()
    with pytest.raises(RefusedError, match="no complete package"):
        read_verified(packaged)


PAIRS, NO_NUMBER = '{"files": [["config.pbtxt", "0"]]}', '{"files": {}, "sizes": {"config.pbtxt": "9"}}'


@pytest.mark.parametrize("content", ["", '{"files": {', "{}", "[]", PAIRS, NO_NUMBER])
def test_a_damaged_manifest_is_refused_without_a_traceback(content: str, packaged: Path) -> None:
    (packaged / MANIFEST).write_text(content)
    with pytest.raises(RefusedError):
        read_verified(packaged)
