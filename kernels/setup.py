"""Builds the library with the system's C++ compiler; on other machines than x86-64 the package is empty."""

import platform

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

COMMON = ["-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-Wall", "-Wextra"]
# Uninitialised vectors are how GCC's own headers say "any value".
AVX512 = ["-mavx2", "-mfma", "-mf16c", *(f"-mavx512{each}" for each in ("f", "bw", "vl", "dq", "vnni", "bf16"))]
AVX512 += ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]


class BuildExt(build_ext):
    """One library of sources that are compiled for different processors. It isn't a module: ctypes opens it."""

    def build_extension(self, ext: Extension) -> None:
        objects = []
        for source in ext.sources:
            flags = [*COMMON, *(AVX512 if "avx512" in source else [])]
            objects += self.compiler.compile(
                [source], output_dir=self.build_temp, extra_postargs=flags, depends=ext.depends
            )
        self.compiler.link_shared_object(
            objects,
            self.get_ext_fullpath(ext.name),
            extra_postargs=["-static-libstdc++", "-static-libgcc"],
            target_lang="c++",
        )

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"


EXTENSION = Extension(
    "ams_kernels.native",
    sources=["src/cpu.cpp", "src/avx512.cpp"],
    depends=[f"src/{name}.h" for name in ("kernels", "team", "matmul", "attention")],
    py_limited_api=True,
)
BUILDS = platform.machine() in ("x86_64", "AMD64") and platform.system() == "Linux"
setup(
    ext_modules=[EXTENSION] if BUILDS else [],
    cmdclass={"build_ext": BuildExt},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if BUILDS else {},
)
