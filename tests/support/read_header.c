/* For test_safetensors_differential.py: a case is a file; its answer is a line of JSON, the table or the
 * error. */
#include "cases.h"
#include "layout/format/json_write.h"
#include "layout/format/safetensors.h"

static int read_file(const char *file, uint64_t size, struct arena *arena, struct safetensors_header *header,
                     struct error *err)
{
    uint64_t n;
    uint8_t prefix[SAFETENSORS_PREFIX_SIZE] = {0};

    for (uint64_t i = 0; i < sizeof prefix && i < size; i++)
        prefix[i] = (uint8_t)file[i];
    if (safetensors_header_length("case", prefix, size, &n, err))
        return -1;
    return safetensors_parse("case", file + sizeof prefix, n, size, arena, header, err);
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
    struct json_writer w;

    json_writer_init(&w, stdout);
    json_write_object(&w, JSON_ONE_LINE);
    json_write_key(&w, "tensors");
    json_write_array(&w, JSON_ONE_LINE);
    for (size_t i = 0; i < header->n_tensors; i++) {
        const struct safetensors_tensor *tensor = &header->tensors[i];
        json_write_array(&w, JSON_ONE_LINE);
        json_write_text(&w, tensor->info.name);
        json_write_text(&w, dtype_name((enum dtype)tensor->info.dtype));
        json_write_numbers(&w, tensor->info.shape, tensor->info.n_dims);
        json_write_number(&w, header->data_offset + tensor->begin);
        json_write_number(&w, header->data_offset + tensor->end);
        json_write_end(&w);
    }
    json_write_end(&w);
    json_write_end(&w);
    putchar('\n');
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
