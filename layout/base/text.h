/* Small rules about text that several parts need: UTF-8, paths, a tensor's shape in words, and what a
 * terminal may be sent. */
#ifndef MOEFS_LAYOUT_TEXT_H
#define MOEFS_LAYOUT_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How many bytes the UTF-8 character at `at` has, of `left` bytes that are there; 0 where there is none:
 * RFC 3629, without overlong forms, surrogates and anything above U+10FFFF. */
size_t text_utf8_length(const char *at, size_t left);

/* Whether all of the text is UTF-8. */
bool text_is_utf8(const char *text);

/* Copies the text with every character that a terminal obeys instead of showing written as the bytes it has,
 * "\\x1b": control characters (line breaks too), marks that turn the direction of writing, line and paragraph
 * separators, and what is no UTF-8. Names come from files that others wrote. As snprintf(): at most `size` bytes
 * are written, with the NUL, and the length of the whole is returned; no character and no escape is cut. A copy
 * is copied unchanged. */
size_t text_escape(char *to, size_t size, const char *text);

/* Word `n`, counted from 0, of words with single spaces between, and its length; NULL where there is none. */
const char *text_nth_word(const char *words, unsigned n, size_t *length);

/* What follows `directory` in a path below it: "/name/...", or "" for the directory itself; NULL for any other
 * path. Both are canonical: absolute, without ".", ".." and closing slashes. */
const char *text_path_below(const char *path, const char *directory);

/* "[4, 48, 64]"; malloc'd. */
char *text_of_shape(const uint64_t *shape, unsigned n_dims);

#endif
