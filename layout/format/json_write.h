/* Writing JSON, as Python's json.dumps writes it: ASCII only, ", " and ": " between. The only place that knows
 * how a string is escaped.
 *
 * A writer knows where commas belong:
 *
 *     struct json_writer w;
 *     json_writer_init(&w, stdout);
 *     json_write_object(&w, JSON_ONE_LINE);
 *     json_write_key(&w, "shape");
 *     json_write_array(&w, JSON_ONE_LINE);
 *     json_write_number(&w, 4);
 *     json_write_end(&w);
 *     json_write_end(&w);                 {"shape": [4]}
 *
 * Errors of the stream are its owner's: ferror(). */
#ifndef MOEFS_LAYOUT_JSON_WRITE_H
#define MOEFS_LAYOUT_JSON_WRITE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define JSON_WRITE_DEPTH_MAX 8

/* Whether what an object or array holds stands on one line, or each element on its own. */
enum json_write_style { JSON_ONE_LINE, JSON_LINES };

struct json_writer {
    FILE *out;
    unsigned depth;
    bool after_key; /* the next value belongs to a key that is written */
    struct {
        char close; /* '}' or ']' */
        bool lines, filled;
    } open[JSON_WRITE_DEPTH_MAX];
};

void json_writer_init(struct json_writer *w, FILE *out);

void json_write_object(struct json_writer *w, enum json_write_style style);
void json_write_array(struct json_writer *w, enum json_write_style style);
/* Ends the object or array that was begun last. */
void json_write_end(struct json_writer *w);

/* An object's key: a value comes next. */
void json_write_key(struct json_writer *w, const char *key);

/* NULL is written as null. */
void json_write_text(struct json_writer *w, const char *text);
void json_write_number(struct json_writer *w, uint64_t number);
/* With nine significant digits; null where it is not finite, which JSON cannot say. */
void json_write_real(struct json_writer *w, double number);
void json_write_bool(struct json_writer *w, bool value);
void json_write_numbers(struct json_writer *w, const uint64_t *numbers, size_t n);

/* A key and its value. */
void json_write_text_of(struct json_writer *w, const char *key, const char *text);
void json_write_number_of(struct json_writer *w, const char *key, uint64_t number);
void json_write_real_of(struct json_writer *w, const char *key, double number);
void json_write_bool_of(struct json_writer *w, const char *key, bool value);

/* Parts of it, for texts that are written by other rules than the writer's. */

/* A string with its quotes. A byte that is not UTF-8 becomes \udcXX: what Python makes of such a byte in a
 * file's name, and makes into the byte again. */
void json_write_string(FILE *out, const char *text);
/* The same as serde_json writes it: only what must be escaped is. */
void json_write_string_raw(FILE *out, const char *text);
/* The code point at *text, which moves behind it. */
void json_write_code_point(FILE *out, const char **text);
/* One UTF-16 unit. */
void json_write_unit(FILE *out, unsigned unit);

#endif
