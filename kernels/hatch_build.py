"""Compiles the library with the system's C++ compiler; on other machines than x86-64 Linux the package is empty."""

import os
import platform
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMMON = ("-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-Wall", "-Wextra")
# Uninitialised vectors are how GCC's own headers say "any value".
AVX512 = (
    *("-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"),
    *("-mavx512vnni", "-mavx512bf16", "-Wno-maybe-uninitialized", "-Wno-uninitialized"),
)
SOURCES = {"cpu.cpp": (), "avx512.cpp": AVX512}


class Kernels(BuildHookInterface[Any]):
    """One library of sources that are compiled for different processors. It is no module: ctypes opens it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or platform.system() != "Linux" or platform.machine() != "x86_64":
            return
        source, compiler = Path(self.root) / "src", shlex.split(os.environ.get("CXX", "c++"))
        self._folder = tempfile.TemporaryDirectory()
        target = Path(self._folder.name)
        objects = []
        for name, flags in SOURCES.items():
            objects.append(str(target / f"{name}.o"))
            subprocess.run([*compiler, *COMMON, *flags, "-c", str(source / name), "-o", objects[-1]], check=True)
        library = str(target / "native.so")
        linking = ["-shared", "-static-libstdc++", "-static-libgcc", "-pthread", "-o", library]
        subprocess.run([*compiler, *objects, *linking], check=True)
        build_data["force_include"][library] = "ams_kernels/native.so"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if folder := getattr(self, "_folder", None):
            folder.cleanup()
