"""Package Triton models of other frameworks: `intent-<n>-torch` (PyTorch) and `control-<n>` (scikit-learn).

They have the champion's tensors. Each holds the output of `pipeline.frameworks` and one of the sessions in `serving/backend`.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from pipeline.errors import run_stage
from pipeline.home import find_home
from pipeline.output.plain_text import print_line
from pipeline.params import Package, load_params
from serving.release.manifest import repository
from serving.release.model_repository import BACKEND_SOURCE, RUNTIME_SOURCE, write_model
from serving.release.publish import champion
from serving.release.signature import sign
from serving.release.signing_keys import signing_key

SESSIONS = {"torch": "torch_session.py", "control": "control_session.py"}


def package_framework(source: Path, exported: Path, chosen: Path, out: Path, settings: Package) -> dict[str, Any]:
    """Package the folder `torch` or `control` that `pipeline.frameworks` wrote; returns the manifest, which is written last."""
    version = out / "1"
    shutil.copytree(source, version)
    shutil.copytree(RUNTIME_SOURCE, version / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(BACKEND_SOURCE, version / "model.py")
    shutil.copy(BACKEND_SOURCE.parent / SESSIONS[source.name], version / "session.py")
    labels = json.loads((source / "model.json").read_text(encoding="utf-8"))["labels"]
    parameters = {"labels": json.dumps(labels), "session": source.name}
    return write_model(out, labels, exported, chosen, parameters, settings.model_copy(update={"instances": 1}))


def framework_names(version: int) -> dict[str, str]:
    """Return the name of each framework's Triton model."""
    return {"torch": f"intent-{version}-torch", "control": f"control-{version}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("made", "exported", "session"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    home = find_home()
    release = champion(home)
    version = release.version if release else 0
    for kind, name in framework_names(version).items():
        target = repository(home) / name
        shutil.rmtree(target, ignore_errors=True)
        package_framework(args.made / kind, args.exported, args.session, target, load_params().package)
        sign(target, name, signing_key(home))
        print_line(f"{kind} → {target}")


if __name__ == "__main__":
    run_stage(main)
