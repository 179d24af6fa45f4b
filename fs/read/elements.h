/* Elements of 1, 2, 4 and 8 bytes, as the copies move them. They lie anywhere: a safetensors header's length
 * is arbitrary to readers, and so are buffers. */
#ifndef MOEFS_FS_ELEMENTS_H
#define MOEFS_FS_ELEMENTS_H

#include <stdint.h>

typedef uint8_t element_1 __attribute__((may_alias));
typedef uint16_t element_2 __attribute__((aligned(1), may_alias));
typedef uint32_t element_4 __attribute__((aligned(1), may_alias));
typedef uint64_t element_8 __attribute__((aligned(1), may_alias));

#endif
