/* A strict pull parser for JSON text of any size: RFC 8259, UTF-8, no duplicate handling (the caller sees
 * every key).
 *
 * It builds no tree: a header of 208,000 tensors is read in one pass without a copy of the text. Stricter
 * than cJSON, which takes `01`, raw control characters and invalid UTF-8, and cuts strings at NUL. */
#ifndef MOEFS_LAYOUT_JSON_H
#define MOEFS_LAYOUT_JSON_H

#include "layout/base/error.h"
#include "layout/base/memory.h"

#include <stdbool.h>
#include <stdint.h>

enum json_kind {
    JSON_OBJECT_BEGIN,
    JSON_OBJECT_END,
    JSON_ARRAY_BEGIN,
    JSON_ARRAY_END,
    JSON_KEY, /* an object's key; the colon behind it is consumed */
    JSON_STRING,
    JSON_NUMBER, /* raw text in `text` */
    JSON_TRUE,
    JSON_FALSE,
    JSON_NULL,
    JSON_END /* the text ended after one complete value and white space */
};

struct json_token {
    enum json_kind kind;
    const char *text; /* raw, inside the reader's text: a number, or a key or string without its quotes */
    size_t length;
    bool escaped; /* key or string: holds backslashes, json_string() decodes them */
};

#define JSON_DEPTH_MAX 128 /* serde_json's recursion limit */

struct json_reader {
    const char *text;
    size_t length;
    size_t at; /* offset of the next byte: for messages */
    unsigned depth;
    uint8_t state;
    bool accept_nan; /* take NaN, Infinity, -Infinity as numbers (Python's json writes them) */
    uint8_t nesting[JSON_DEPTH_MAX];
};

void json_reader_init(struct json_reader *reader, const char *text, size_t length);

/* The next token. On malformed text: -1 with *err set to the reason and the byte offset (no file name: the
 * caller adds it). */
int json_next(struct json_reader *reader, struct json_token *token, struct error *err);

/* Skips the rest of the value whose first token was just read (nothing to do for a scalar). */
int json_skip(struct json_reader *reader, const struct json_token *first, struct error *err);

/* The decoded text of a key or string, NUL-terminated, in the arena. -1 when it holds U+0000 or a lone
 * surrogate. */
int json_string(const struct json_token *token, struct arena *arena, const char **text, size_t *length,
                struct error *err);

/* A non-negative integer without sign, fraction, exponent or leading zero; false when it is anything else or
 * does not fit in 64 bits. */
bool json_u64(const struct json_token *token, uint64_t *value);

#endif
