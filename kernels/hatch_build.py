"""Compiles the libraries with the system's C++ compiler; on other machines than x86-64 Linux the package is empty."""

import os
import platform
import shlex
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMMON = ("-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-Wall", "-Wextra")
AVX2 = ("-mavx2", "-mfma", "-mf16c")
# Each kind of processor has a library of its own, of the same sources: the linker would make one of functions that both
# have, and call it on processors that it isn't compiled for. Uninitialised vectors are how GCC's own headers say "any
# value".
VARIANTS = {
    "avx512": (
        *(*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mavx512bf16"),
        *("-Wno-maybe-uninitialized", "-Wno-uninitialized"),
    ),
    "avx2": AVX2,
}
LINKED = ("-shared", "-static-libstdc++", "-static-libgcc", "-pthread", "-Wl,-Bsymbolic", "-Wl,--exclude-libs,ALL")


def compile_library(source: Path, variant: str, folder: Path) -> Path:
    """`VARIANT.so` in the folder. CalledProcessError where the compiler fails."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    units = {"cpu.cpp": (f"-DAMS_FOR_{variant.upper()}",), "layers.cpp": VARIANTS[variant]}
    objects = {name: str(folder / f"{variant}-{name}.o") for name in units}
    for name, flags in units.items():
        subprocess.run([*compiler, *COMMON, *flags, "-c", str(source / name), "-o", objects[name]], check=True)
    library = folder / f"{variant}.so"
    subprocess.run([*compiler, *objects.values(), *LINKED, "-o", str(library)], check=True)
    return library


class Kernels(BuildHookInterface[Any]):
    """Libraries that are no modules: ctypes opens one of them."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or platform.system() != "Linux" or platform.machine() != "x86_64":
            return
        source = Path(self.root) / "src"
        self._folder = tempfile.TemporaryDirectory()
        target = Path(self._folder.name)
        with ThreadPoolExecutor() as pool:
            for library in pool.map(lambda variant: compile_library(source, variant, target), VARIANTS):
                build_data["force_include"][str(library)] = f"ams_kernels/{library.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if folder := getattr(self, "_folder", None):
            folder.cleanup()
