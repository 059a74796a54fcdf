"""Our compiled kernels, where the package `ams-kernels` is installed and the processor has what they need."""
