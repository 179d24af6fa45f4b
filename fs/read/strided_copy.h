/* The strided copy: elements of a rectangle, each to its place, whatever order the two sides have them in. */
#ifndef MOEFS_FS_STRIDED_COPY_H
#define MOEFS_FS_STRIDED_COPY_H

#include <stdint.h>

/* n_outer x n_inner elements of element_size bytes (1, 2, 4 or 8); strides in elements. Where the target's
 * inner stride is 2, one element behind each that is written is read and written back (transpose.h). */
void strided_copy_2d(void *target, const void *source, unsigned element_size, uint64_t n_outer,
                     uint64_t n_inner, uint64_t target_outer, uint64_t target_inner, uint64_t source_outer,
                     uint64_t source_inner);

#endif
