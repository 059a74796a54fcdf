// Compiled for any x86-64, so that it can be asked on any.
#include "kernels.h"

extern "C" int ams_version(void) { return 8; }

extern "C" int ams_supported(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
#if defined(AMS_FOR_AVX512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
#elif defined(AMS_FOR_AVX2)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
#error "which processor it is for isn't defined"
#endif
#else
    return 0;
#endif
}
