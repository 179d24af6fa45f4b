/* Any bytes as JSON: no access outside the text; every token lies inside it; skipping ends where reading
 * ends. */
#include "layout/format/json.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int read_all(struct json_reader *reader, struct error *err)
{
    struct arena arena = {0};
    struct json_token token;
    const char *string;
    size_t length;
    uint64_t number;
    int failed;

    do {
        failed = json_next(reader, &token, err);
        if (failed)
            break;
        if (token.text < reader->text || token.text + token.length > reader->text + reader->length)
            abort();
        if (token.kind == JSON_KEY || token.kind == JSON_STRING) {
            if (json_string(&token, &arena, &string, &length, err) == 0 && length > token.length)
                abort();
        }
        if (json_u64(&token, &number) && token.kind != JSON_NUMBER)
            abort();
    } while (token.kind != JSON_END);
    arena_free(&arena);
    return failed;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct json_reader reader, skipper;
    struct json_token token;
    struct error err = {0};

    if (size == 0)
        return 0;
    json_reader_init(&reader, (const char *)data + 1, size - 1);
    reader.accept_nan = data[0] & 1;
    skipper = reader;
    int failed = read_all(&reader, &err);
    int skip_failed = json_next(&skipper, &token, &err) || json_skip(&skipper, &token, &err) ||
                      json_next(&skipper, &token, &err);
    if ((failed != 0) != (skip_failed != 0) ||
        (!failed && (token.kind != JSON_END || skipper.at != reader.at)))
        abort();
    error_free(&err);
    return 0;
}
