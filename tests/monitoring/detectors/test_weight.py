"""Detectors import quickly: a monitor restarts often, and its command line waits for them."""

import subprocess
import sys

from tests.conftest import ROOT


def test_all_detectors_together_import_numpy_and_no_other_package() -> None:
    code = "import sys, monitoring.detectors; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    others = {name for name in done.stdout.split() if not name.startswith("_")} - set(sys.stdlib_module_names)
    assert others - {"cython_runtime", "monitoring"} == {"numpy"}
