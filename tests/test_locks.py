"""Every installed package is compared with a hash: here, in the images, and in the environment of the bench's controls."""

import re

import pytest

from tests.conftest import ROOT
from tests.lock_hashes import LOCKS, WITHOUT, fits


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_hashes_and_torch_alone_has_none(lock: str) -> None:
    lines = [line for line in (ROOT / lock).read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    unhashed = [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.!+]+( --hash=sha256:[0-9a-f]{64})+", line)]
    assert [line.partition("==")[0] for line in unhashed] in ([], [WITHOUT]), "make hashes"


def test_pip_compares_the_hashes_in_the_environment_and_in_the_images() -> None:
    for name, count in (("Makefile", 3), ("Dockerfile", 4)):
        text = (ROOT / name).read_text(encoding="utf-8")
        installs = re.findall(r"(?:\$\(PIP\)|\.peers/bin/pip install|pip install)[^;\n]*(?:--requirement|-r )[^;\n]*", text)
        assert len(installs) == count
        assert all("--require-hashes" in line for line in installs), name


def test_only_files_that_this_system_can_install_are_hashed() -> None:
    good = (
        "numpy-1.26.4-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "numpy-1.26.4-cp312-cp312-manylinux_2_17_aarch64.whl",
        "psutil-7.2.2-cp36-abi3-manylinux2010_x86_64.whl",
        "rich-15.0.0-py3-none-any.whl",
        "openvino-1.0-0-cp311-cp311-manylinux2014_x86_64.whl",
    )
    bad = (
        "numpy-1.26.4-cp310-cp310-manylinux_2_17_x86_64.whl",
        "numpy-1.26.4-cp311-cp311-win_amd64.whl",
        "numpy-1.26.4-cp311-cp311-musllinux_1_1_x86_64.whl",
        "x-1.0-cp313-abi3-manylinux_2_17_x86_64.whl",
    )
    assert [fits(name) for name in (*good, *bad)] == [True] * len(good) + [False] * len(bad)
