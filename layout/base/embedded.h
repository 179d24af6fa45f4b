/* The JSON files of layout/data, built into the binary (scripts/embed.py writes the definitions).
 * NUL-terminated. */
#ifndef MOEFS_LAYOUT_EMBEDDED_H
#define MOEFS_LAYOUT_EMBEDDED_H

#include <stddef.h>

extern const char embedded_layouts[];
extern const size_t embedded_layouts_length;
extern const char embedded_architectures[];
extern const size_t embedded_architectures_length;
extern const char embedded_samples[];
extern const size_t embedded_samples_length;
extern const char embedded_config_keys[];
extern const size_t embedded_config_keys_length;
extern const char embedded_functions[];
extern const size_t embedded_functions_length;

#endif
