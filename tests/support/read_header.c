/* For test_safetensors_differential.py: a case is a file; its answer is a line of JSON, the table or the
 * error. */
#include "cases.h"
#include "layout/format/json.h"
#include "layout/format/safetensors.h"

#include <inttypes.h>

static int read_file(const char *file, uint64_t size, struct arena *arena, struct safetensors_header *header,
                     struct error *err)
{
    uint64_t n;
    uint8_t prefix[8] = {0};

    for (uint64_t i = 0; i < sizeof prefix && i < size; i++)
        prefix[i] = (uint8_t)file[i];
    if (safetensors_header_length("case", prefix, size, &n, err))
        return -1;
    return safetensors_parse("case", file + 8, n, size, arena, header, err);
}

/* An error quotes what the file holds, which may be no text at all: as the numbers of its bytes. */
static void print_error(const char *text)
{
    printf("{\"error\": [");
    for (const char *c = text; *c; c++)
        printf("%s%u", c == text ? "" : ", ", (unsigned)(unsigned char)*c);
    printf("]}\n");
}

static void print_table(const struct safetensors_header *header)
{
    printf("{\"tensors\": [");
    for (size_t i = 0; i < header->n_tensors; i++) {
        const struct safetensors_tensor *tensor = &header->tensors[i];
        printf("%s[", i ? ", " : "");
        json_write_string(stdout, tensor->info.name);
        printf(", \"%s\", [", dtype_name((enum dtype)tensor->info.dtype));
        for (unsigned d = 0; d < tensor->info.n_dims; d++)
            printf("%s%" PRIu64, d ? ", " : "", tensor->info.shape[d]);
        printf("], %" PRIu64 ", %" PRIu64 "]", header->data_offset + tensor->begin,
               header->data_offset + tensor->end);
    }
    printf("]}\n");
}

int main(void)
{
    uint64_t size;

    for (char *file; (file = cases_next(&size)); free(file)) {
        struct safetensors_header header;
        struct arena arena = {0};
        struct error err = {0};
        if (read_file(file, size, &arena, &header, &err))
            print_error(err.text);
        else
            print_table(&header);
        error_free(&err);
        arena_free(&arena);
    }
    return 0;
}
