"""The C++ library passes its own tests under AddressSanitizer and UBSan."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]


def compiler() -> str | None:
    return os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
@pytest.mark.skipif(compiler() is None, reason="no C++ compiler is installed")
def test_the_cpp_tests_pass_with_sanitizers(tmp_path: Path) -> None:
    configure = ["cmake", "-S", str(REPOSITORY), "-B", str(tmp_path)]
    configure += ["-DLLMSERVINGSIM_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=Debug"]
    if shutil.which("ninja"):
        configure += ["-G", "Ninja"]
    for command in (configure, ["cmake", "--build", str(tmp_path), "--parallel", "2"], [str(tmp_path / "astra_tests")]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "0 failed" in done.stdout
