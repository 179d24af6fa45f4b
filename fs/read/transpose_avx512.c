#define LEVEL avx512
#define VECTOR 64
#include "transpose_body.h"
