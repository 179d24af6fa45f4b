/* The tiles of transpose.h for AVX2. */
#define LEVEL avx2
#define VECTOR 32
#include "transpose_body.h"
