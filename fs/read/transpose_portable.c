#define LEVEL portable
#define VECTOR 16
#include "transpose_body.h"
