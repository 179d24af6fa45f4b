/* The tiles of transpose.h for AVX-512. */
#define LEVEL avx512
#define VECTOR 64
#include "transpose_body.h"
