/* Two config.json, key by key: whether a loader builds the same model from both. The keys that may differ,
 * and those that two releases spell differently, are data: layout/data/config_keys.json. */
#ifndef MOEFS_FS_VERIFY_CONFIG_KEYS_H
#define MOEFS_FS_VERIFY_CONFIG_KEYS_H

#include "layout/base/error.h"

#include <stdbool.h>
#include <stddef.h>

/* A config.json. */
struct config_text {
    char *text; /* NULL: there is none */
    size_t length;
};

/* What the comparison tells, in the order of the source's keys and then of the other's; texts are lent.
 * `changes`: the key changes what is loaded. Otherwise it is a key of the other alone, which changes nothing
 * where it says what a loader takes without it. */
struct config_key_difference {
    const char *path; /* "text_config.hidden_act" */
    const char *want; /* the source's value as JSON; NULL: it has none */
    const char *got;
    bool changes;
};
typedef void config_key_visitor(void *context, const struct config_key_difference *difference);

/* Both texts have been parsed before (config_parse), so that only the built-in data or a text that has
 * changed since can fail. */
int config_keys_compare(const struct config_text *source, const struct config_text *other,
                        config_key_visitor *visit, void *context, struct error *err);

#endif
