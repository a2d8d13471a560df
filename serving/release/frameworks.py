"""Triton models of other frameworks, beside the champion: `intent-<n>-torch` (PyTorch) and `control-<n>` (scikit-learn).

They have the same tensors; what `pipeline.frameworks` wrote goes in, and one of `backend/`'s sessions beside it.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from pipeline.data.records import write_json
from pipeline.errors import run_stage
from pipeline.home import find_home
from pipeline.params import Package, load_params
from pipeline.session.golden_answers import read_golden
from serving.release.manifest import MANIFEST, file_digests, repository
from serving.release.model_repository import BACKEND_SOURCE, RUNTIME_SOURCE, config_text, signature, write_warmup
from serving.release.publish import champion

SESSIONS = {"torch": "torch_session.py", "control": "control_session.py"}


def package_framework(made: Path, exported: Path, chosen: Path, out: Path, settings: Package) -> dict[str, Any]:
    """One Triton model of the folder `torch` or `control` that `pipeline.frameworks` made; returns its manifest, written last."""
    version = out / "1"
    shutil.copytree(made, version)
    shutil.copytree(RUNTIME_SOURCE, version / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(BACKEND_SOURCE, version / "model.py")
    shutil.copy(BACKEND_SOURCE.parent / SESSIONS[made.name], version / "session.py")
    labels = json.loads((made / "model.json").read_text(encoding="utf-8"))["labels"]
    (out / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    told = {"labels": json.dumps(labels), "session": made.name}
    one = settings.model_copy(update={"instances": 1})
    (out / "config.pbtxt").write_text(config_text(signature(exported / "model.onnx"), told, one), encoding="utf-8")
    write_warmup(read_golden(chosen).texts, out / "warmup")
    manifest = {"files": file_digests(out)}
    write_json(out / MANIFEST, manifest)
    return manifest


def framework_names(version: int) -> dict[str, str]:
    """Triton's name for each of them."""
    return {"torch": f"intent-{version}-torch", "control": f"control-{version}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("made", "exported", "session"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    home = find_home()
    there = champion(home)
    version = there.version if there else 0
    for kind, name in framework_names(version).items():
        target = repository(home) / name
        shutil.rmtree(target, ignore_errors=True)
        package_framework(args.made / kind, args.exported, args.session, target, load_params().package)
        print(f"{kind} → {target}")


if __name__ == "__main__":
    run_stage(main)
