/* The tiles of transpose.h for any processor. */
#define LEVEL portable
#define VECTOR 16
#include "transpose_body.h"
