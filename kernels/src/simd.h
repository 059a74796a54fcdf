// Vectors of 16 floats, and the products of rows with weights, of the processors that this unit is compiled for. Both
// headers have the same names; what is written with them doesn't know how wide a register is.
#pragma once
#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
#include "avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "avx2.h"
#else
#error "compile it for AVX512 with VNNI and bfloat16, or for AVX2 with FMA and F16C"
#endif
