/* The order in which checkpoints are saved. */
#ifndef MOEFS_LAYOUT_NATURAL_H
#define MOEFS_LAYOUT_NATURAL_H

/* Compares tensor names part by part (at the dots), numbers as numbers and before words: dot_natural_key of
 * transformers' core_model_loading.py. qsort-style result. */
int natural_compare(const char *a, const char *b);

#endif
