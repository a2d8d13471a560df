"""The command `export`: the folder loads with transformers and peft alone, and gives the packaged model's answers."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from evergreen.cli import app
from pipeline.network.base_model import base_folder
from pipeline.runtime.classifier import Classifier
from pipeline.runtime.sessions import open_onnx
from tests.conftest import Project

TEXTS = ["where is my parcel?", "the kettle arrived with a crack in it", "my card was declined twice today"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["export", *arguments])


@pytest.fixture(scope="module")
def exported(made: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made.folder)
        patch.setenv("EVERGREEN_HOME", str(made.home))
        done = run("--to", str(folder))
    assert done.exit_code == 0, (done.output, done.exception)
    return folder


def test_the_cards_own_code_gives_the_models_probabilities(
    exported: Path, made: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.S)
    offline = code.replace('settings["base_model"]', repr(str(base_folder(made.params.model))))
    monkeypatch.chdir(exported)
    names: dict[str, Any] = {}
    exec(compile(offline.replace('["where is my parcel?"]', repr(TEXTS)), "README.md", "exec"), names)  # noqa: S102 (code of the card that the test wrote)
    expected = Classifier(made / "artifacts/package/1").predict(TEXTS)
    np.testing.assert_allclose(np.array(names["probabilities"].tolist()), expected.probabilities, atol=1e-4)
    assert [line.rsplit(" ", 2)[1] for line in capsys.readouterr().out.splitlines()] == expected.labels


def test_the_adapter_has_pefts_names_and_its_base(exported: Path, made: Project) -> None:
    from safetensors import safe_open

    config = json.loads((exported / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["peft_type"], config["base_model_name_or_path"]) == ("LORA", made.params.model.base)
    with safe_open(exported / "adapter_model.safetensors", "numpy") as file:
        names = list(file.keys())
    assert names
    assert all(re.fullmatch(r"base_model\.model\..*\.lora_[AB]\.weight", name) for name in names)


def test_the_onnx_graph_with_the_label_map_gives_the_same_labels(exported: Path, made: Project) -> None:
    settings = json.loads((exported / "classifier.json").read_text(encoding="utf-8"))
    expected = Classifier(made / "artifacts/package/1")
    session = open_onnx(exported / "onnx" / "model.onnx", 1)
    assert [value.name for value in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert [settings["id2label"][str(n)] for n in range(len(expected.labels))] == expected.labels
    assert settings["temperature"] == expected.temperature


def test_an_export_replaces_an_earlier_one_on_demand_and_nothing_else(
    exported: Path, made: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made.folder)
    monkeypatch.setenv("EVERGREEN_HOME", str(made.home))
    assert "the folder exists" in str(run("--to", str(exported)).exception)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.doc").touch()
    (tmp_path / "mine" / "README.md").touch()  # a project of the user's
    assert "the folder exists" in str(run("--to", str(tmp_path / "mine"), "--force").exception)
    assert (tmp_path / "mine" / "thesis.doc").exists()
    added = Path(shutil.copytree(exported, tmp_path / "added")) / "notes.txt"
    added.touch()  # to an export
    assert "the folder exists" in str(run("--to", str(added.parent), "--force").exception)
    assert added.exists()
