"""Our compiled kernels, where the package `ams-kernels` is installed and has some for the processor."""
