/* Binding: a layout in the spelling of one group of an architecture. Used by layouts_load() alone. */
#ifndef MOEFS_LAYOUT_LAYOUTS_BIND_H
#define MOEFS_LAYOUT_LAYOUTS_BIND_H

#include "layouts.h"

/* Makes rule->bound: every built-in layout, in the spelling of `entry`, a group of an architecture (NULL:
 * the default spelling). -1 with the layout and the key in *err. */
int layouts_bind(struct layouts *layouts, const struct cJSON *entry, struct block_rule *rule,
                 struct error *err);

/* The same for the user's layouts, in the spelling that layouts_bind() was given. */
int layouts_bind_users(struct layouts *layouts, struct block_rule *rule, struct error *err);

/* The text of the object's key, or NULL where it has none. */
const char *layouts_json_text(const struct cJSON *object, const char *key);

#endif
