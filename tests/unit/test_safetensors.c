/* The rules of the container, each broken once, and the writer. What is accepted here was also given to the
 * reference (huggingface/safetensors 0.8.0); tests/integration/test_safetensors_differential.py does so for
 * thousands of mutations. */
#include "layout/format/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

static int parse(const char *json, uint64_t data_bytes, struct arena *arena,
                 struct safetensors_header *header, struct error *err)
{
    uint64_t n = strlen(json);

    return safetensors_parse("x.safetensors", json, n, 8 + n + data_bytes, arena, header, err);
}

#define ENTRY(dtype, shape, offsets)                                                                         \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define ONE(dtype, shape, offsets) "{\"a\":" ENTRY(dtype, shape, offsets) "}"
#define TWO(first, second) "{\"a\":" first ",\"b\":" second "}"
#define BYTE ENTRY("U8", "[1]", "[0,1]")

static const struct {
    const char *json;
    uint64_t data_bytes;
    size_t n_tensors;
} ACCEPTED[] = {
    {"{}", 0, 0},
    {"{\"__metadata__\":{}}", 0, 0},
    {"{\"__metadata__\":null,\"a\":" BYTE "}", 1, 1},
    {"{\"__metadata__\":{\"format\":\"pt\",\"x\":\"\\u00e9\"},\"a\":" BYTE "}", 1, 1},
    {"{\"a\":" BYTE "}   ", 1, 1},
    {"{\"a\":" BYTE "}\n\t\r ", 1, 1},
    {"{ \"a\" : " BYTE " }", 1, 1},
    {ONE("F32", "[]", "[0,4]"), 4, 1},                                            /* rule 13: a scalar */
    {ONE("F32", "[0,3]", "[0,0]"), 0, 1},                                         /* rule 13: empty */
    {ONE("F32", "[0,18446744073709551615,18446744073709551615]", "[0,0]"), 0, 1}, /* rule 8: from the left */
    {ONE("F4", "[2]", "[0,1]"), 1, 1},                                            /* rule 9 */
    {ONE("F6_E2M3", "[4]", "[0,3]"), 3, 1},                                       /* rule 9 */
    {TWO(ENTRY("U8", "[1]", "[3,4]"), ENTRY("U8", "[3]", "[0,3]")), 4, 2},        /* any order */
    {TWO(ENTRY("U8", "[2]", "[0,2]"), ENTRY("U8", "[0]", "[0,0]")), 2, 2},        /* empty in front */
    {TWO(ENTRY("U8", "[2]", "[0,2]"), ENTRY("U8", "[0]", "[2,2]")), 2, 2},        /* empty behind */
    {"{\"a\":{\"x\":[1.5,{\"y\":\"z\"},true,null],\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
     1},
    {"{\"a\":{\"\\u0064type\":\"\\u00558\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, 1},
};

static void valid_headers_are_accepted(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(ACCEPTED); i++) {
        struct arena arena = {0};
        struct error err = {0};
        struct safetensors_header header;
        if (parse(ACCEPTED[i].json, ACCEPTED[i].data_bytes, &arena, &header, &err))
            fail_msg("%s: %s", ACCEPTED[i].json, err.text);
        assert_int_equal(header.n_tensors, ACCEPTED[i].n_tensors);
        assert_int_equal(header.data_offset, 8 + strlen(ACCEPTED[i].json));
        arena_free(&arena);
    }
}

#define HUGE_N "18446744073709551615"

/* Rules 4-13 as the reference has them, then what only moefs refuses. */
static const struct {
    const char *json;
    uint64_t data_bytes;
    const char *message;
} REFUSED[] = {
    /* 4: UTF-8 */
    {"{\"\xff\":" BYTE "}", 1, "x.safetensors: the header is not valid JSON: byte 2: not UTF-8 (0xff)"},
    /* 5: JSON */
    {"", 0, "x.safetensors: the header does not begin with '{'"},
    {"[]", 0, "does not begin with '{'"},
    {"{\"a\":" BYTE, 1, "the text ends where a comma or } is expected"},
    {"{\"a\":" BYTE "}x", 1, "'x' where the end of the text is expected"},
    {"{\"a\":" BYTE ",}", 1, "'}' where a key is expected"},
    {"{\"a\nb\":" BYTE "}", 1, "a raw control character (0x0a)"},
    {"{\"\\ud800\":" BYTE "}", 1, "byte 2 of the header: a string holds the lone surrogate \\ud800"},
    {ONE("U8", "[01]", "[0,1]"), 1, "a number with a leading zero"},
    {ONE("U8", "[1.0]", "[0,1]"), 1,
     "tensor 'a': shape holds '1.0', which is not an integer from 0 to 2^64-1"},
    {ONE("U8", "[1e0]", "[0,1]"), 1, "shape holds '1e0'"},
    {ONE("U8", "[-1]", "[0,1]"), 1, "shape holds '-1'"},
    {ONE("U8", "[18446744073709551616]", "[0,1]"), 1, "shape holds '18446744073709551616'"},
    {ONE("U8", "[\"1\"]", "[0,1]"), 1, "shape holds '1'"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":1e999}}", 1,
     "a number above 1e308"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":NaN}}", 1,
     "'N' where a value is expected"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":\"\\udc00\"}}", 1,
     "lone surrogate \\udc00"},
    /* 6: what the object holds */
    {"{\"__metadata__\":[]}", 0, "x.safetensors: __metadata__ is not an object"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__: the value of 'a' is not a string"},
    {"{\"__metadata__\":{\"a\":null}}", 0, "__metadata__: the value of 'a' is not a string"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "__metadata__ is given twice"},
    {"{\"a\":1}", 0, "x.safetensors: tensor 'a': its entry is not an object"},
    {"{\"a\":null}", 0, "tensor 'a': its entry is not an object"},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "tensor 'a': dtype is missing"},
    {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "tensor 'a': shape is missing"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "tensor 'a': data_offsets is missing"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
     "shape is given twice"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"sh\\u0061pe\":[1],\"data_offsets\":[0,1]}}", 1,
     "shape is given twice"},
    {"{\"a\":{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "tensor 'a': dtype is not a string"},
    {ONE("U8", "1", "[0,1]"), 1, "tensor 'a': shape is not an array"},
    {ONE("U8", "[1]", "1"), 1, "tensor 'a': data_offsets is not an array"},
    {ONE("U8", "[1]", "[0]"), 1, "tensor 'a': data_offsets has 1 numbers, not 2"},
    {ONE("U8", "[1]", "[0,1,2]"), 1, "tensor 'a': data_offsets has more than 2 numbers"},
    /* 7: no holes, no overlap */
    {ONE("U8", "[1]", "[1,2]"), 2,
     "x.safetensors: tensor 'a': data_offsets [1, 2]: the first tensor must begin at 0"},
    {TWO(BYTE, ENTRY("U8", "[1]", "[2,3]")), 3,
     "x.safetensors: tensor 'b': data_offsets [2, 3] leave a hole: tensor 'a' before it ends at 1"},
    {TWO(ENTRY("U8", "[2]", "[0,2]"), ENTRY("U8", "[2]", "[1,3]")), 3,
     "tensor 'b': data_offsets [1, 3] overlap: tensor 'a' before it ends at 2"},
    {TWO(BYTE, BYTE), 1, "tensor 'b': data_offsets [0, 1] overlap: tensor 'a' before it ends at 1"},
    {TWO(ENTRY("U8", "[4]", "[0,4]"), ENTRY("U8", "[1]", "[4,3]")), 3,
     "data_offsets [4, 3] end before they begin"},
    /* 8: sizes that do not fit */
    {ONE("U8", "[" HUGE_N "," HUGE_N ",0]", "[0,0]"), 0,
     "x.safetensors: tensor 'a': the size of U8 [" HUGE_N ", " HUGE_N ", 0] overflows 64 bits"},
    {ONE("I64", "[" HUGE_N "]", "[0,8]"), 8, "the size of I64 [" HUGE_N "] overflows 64 bits"},
    /* 9: whole bytes */
    {ONE("F4", "[3]", "[0,1]"), 1,
     "x.safetensors: tensor 'a': F4 [3] has 12 bits, which do not fill whole bytes"},
    {ONE("F6_E3M2", "[3]", "[0,2]"), 2, "F6_E3M2 [3] has 18 bits, which do not fill whole bytes"},
    /* 10: as many bytes as dtype and shape need */
    {ONE("BF16", "[2,2]", "[0,6]"), 6,
     "x.safetensors: tensor 'a': data_offsets [0, 6] hold 6 bytes, but BF16 [2, 2] needs 8"},
    {ONE("BF16", "[2,2]", "[0,10]"), 10, "hold 10 bytes, but BF16 [2, 2] needs 8"},
    /* 11: the tensors end where the file does */
    {"{\"a\":" BYTE "}", 0,
     "x.safetensors: a header of 61 bytes and 1 bytes of tensors, but the file has 61 bytes"},
    {"{\"a\":" BYTE "}", 2, "a header of 61 bytes and 1 bytes of tensors, but the file has 63 bytes"},
    {"{}", 1, "a header of 10 bytes and 0 bytes of tensors, but the file has 11 bytes"},
    /* 12: dtypes */
    {ONE("F128", "[1]", "[0,16]"), 16, "x.safetensors: tensor 'a': unknown dtype 'F128'"},
    {ONE("u8", "[1]", "[0,1]"), 1, "unknown dtype 'u8'"},
    {ONE("", "[1]", "[0,1]"), 1, "unknown dtype ''"},
    /* 13: a scalar has one element, an empty tensor none */
    {ONE("F32", "[]", "[0,0]"), 0, "hold 0 bytes, but F32 [] needs 4"},
    {ONE("F32", "[0]", "[0,4]"), 4, "hold 4 bytes, but F32 [0] needs 0"},
    /* Only moefs */
    {" {\"a\":" BYTE "}", 1, "x.safetensors: the header does not begin with '{'"},
    {"{\"a\":[\"U8\",[1],[0,1]]}", 1, "tensor 'a': its entry is not an object"},
    {"{\"\":" BYTE "}", 1, "x.safetensors: a tensor's name is empty"},
    {"{\"a\\u0000b\":" BYTE "}", 1, "byte 2 of the header: a string holds U+0000"},
    {"{\"a\":" BYTE ",\"a\":" BYTE "}", 1,
     "x.safetensors: tensor 'a': the name is given twice in the header"},
    {"{\"a\":" BYTE ",\"b\":" ENTRY("U8", "[0]", "[1,1]") ",\"\\u0061\":" BYTE "}", 1,
     "tensor 'a': the name is given twice in the header"},
    {"{\"__metadata__\":{\"b\":\"1\",\"a\":\"\",\"\\u0062\":\"\"}}", 0, "__metadata__ has the key 'b' twice"},
    {"{\"a\":{\"dtype\":{\"U8\":null},\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "dtype is not a string"},
};

static void each_broken_rule_is_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(REFUSED); i++) {
        struct arena arena = {0};
        struct error err = {0};
        struct safetensors_header header;
        if (parse(REFUSED[i].json, REFUSED[i].data_bytes, &arena, &header, &err) == 0)
            fail_msg("accepted: %s", REFUSED[i].json);
        if (!strstr(err.text, REFUSED[i].message) || strncmp(err.text, "x.safetensors: ", 15) != 0)
            fail_msg("%s: \"%s\" lacks \"%s\"", REFUSED[i].json, err.text, REFUSED[i].message);
        error_free(&err);
        arena_free(&arena);
    }
}

static const struct {
    uint64_t n, file_size;
    const char *message; /* NULL: accepted */
} LENGTHS[] = {
    {2, 10, NULL},
    {100000000, 100000008, NULL},
    {0, 0, "x.safetensors: the file has 0 bytes, too few for a safetensors header of at least 8"},     /* 1 */
    {0, 7, "the file has 7 bytes, too few"},                                                           /* 1 */
    {100000001, 200000000, "announce a header of 100000001 bytes, but at most 100000000 are allowed"}, /* 2 */
    {UINT64_MAX, 100, "announce a header of 18446744073709551615 bytes, but at most"},                 /* 2 */
    {3, 10, "announce a header of 3 bytes, but the file has only 10 bytes"},                           /* 3 */
    {2, UINT64_MAX, "more than a file offset can hold"}, /* only moefs */
};

static void the_length_is_checked(void **state)
{
    (void)state;
    for (size_t i = 0; i < LENGTH(LENGTHS); i++) {
        struct error err = {0};
        uint8_t prefix[8];
        uint64_t n;
        for (int b = 0; b < 8; b++)
            prefix[b] = (uint8_t)(LENGTHS[i].n >> (8 * b));
        int failed = safetensors_header_length("x.safetensors", prefix, LENGTHS[i].file_size, &n, &err);
        if (LENGTHS[i].message) {
            assert_int_equal(failed, -1);
            assert_non_null(strstr(err.text, LENGTHS[i].message));
        } else {
            assert_int_equal(failed, 0);
            assert_true(n == LENGTHS[i].n);
        }
        error_free(&err);
    }
}

/* Name and bits: safetensors/src/tensor.rs, Dtype::bitsize. */
static const struct {
    enum dtype dtype;
    const char *name;
    unsigned bits;
} DTYPES[] = {
    {DTYPE_BOOL, "BOOL", 8},
    {DTYPE_F4, "F4", 4},
    {DTYPE_F6_E2M3, "F6_E2M3", 6},
    {DTYPE_F6_E3M2, "F6_E3M2", 6},
    {DTYPE_U8, "U8", 8},
    {DTYPE_I8, "I8", 8},
    {DTYPE_F8_E5M2, "F8_E5M2", 8},
    {DTYPE_F8_E4M3, "F8_E4M3", 8},
    {DTYPE_F8_E8M0, "F8_E8M0", 8},
    {DTYPE_F8_E4M3FNUZ, "F8_E4M3FNUZ", 8},
    {DTYPE_F8_E5M2FNUZ, "F8_E5M2FNUZ", 8},
    {DTYPE_I16, "I16", 16},
    {DTYPE_U16, "U16", 16},
    {DTYPE_F16, "F16", 16},
    {DTYPE_BF16, "BF16", 16},
    {DTYPE_I32, "I32", 32},
    {DTYPE_U32, "U32", 32},
    {DTYPE_F32, "F32", 32},
    {DTYPE_C64, "C64", 64},
    {DTYPE_F64, "F64", 64},
    {DTYPE_I64, "I64", 64},
    {DTYPE_U64, "U64", 64},
};

static void dtypes_have_the_reference_names_and_sizes(void **state)
{
    (void)state;
    assert_int_equal(LENGTH(DTYPES), DTYPE_COUNT);
    for (size_t i = 0; i < LENGTH(DTYPES); i++) {
        assert_string_equal(dtype_name(DTYPES[i].dtype), DTYPES[i].name);
        assert_int_equal(dtype_bits(DTYPES[i].dtype), DTYPES[i].bits);
        assert_int_equal(dtype_find(DTYPES[i].name, strlen(DTYPES[i].name)), DTYPES[i].dtype);
    }
    assert_int_equal(dtype_find("F8", 2), DTYPE_COUNT);
    assert_int_equal(dtype_find("F320", 3), DTYPE_F32);
}

static void the_table_is_in_the_file_s_order(void **state)
{
    static const char JSON[] =
        "{\"z\":" ENTRY("BF16", "[2,3]", "[4,16]") ",\"e2\":" ENTRY("U8", "[0]", "[4,4]") ",\"e1\":" ENTRY(
            "U8", "[0]", "[4,4]") ",\"a\":" ENTRY("I32", "[]", "[0,4]") "}";
    struct arena arena = {0};
    struct error err = {0};
    struct safetensors_header header;

    (void)state;
    assert_int_equal(parse(JSON, 16, &arena, &header, &err), 0);
    assert_int_equal(header.n_tensors, 4);
    assert_string_equal(header.tensors[0].info.name, "a");
    assert_int_equal(header.tensors[0].info.n_dims, 0);
    assert_int_equal(header.tensors[0].info.dtype, DTYPE_I32);
    assert_string_equal(header.tensors[1].info.name, "e2");
    assert_string_equal(header.tensors[2].info.name, "e1");
    assert_string_equal(header.tensors[3].info.name, "z");
    assert_int_equal(header.tensors[3].info.n_dims, 2);
    assert_int_equal(header.tensors[3].info.shape[0], 2);
    assert_int_equal(header.tensors[3].info.shape[1], 3);
    assert_int_equal(header.tensors[3].begin, 4);
    assert_int_equal(header.tensors[3].end, 16);
    arena_free(&arena);
}

/* 64 dimensions are read, 65 refused; nested values are read as deep as the reference reads them (measured:
 * 127). */
static void limits_are_where_they_are_said_to_be(void **state)
{
    char json[1024], ones[256] = "1", nested[300];
    struct arena arena = {0};
    struct error err = {0};
    struct safetensors_header header;

    (void)state;
    for (int i = 1; i < 64; i++)
        strcat(ones, ",1");
    snprintf(json, sizeof json, ONE("U8", "[%s]", "[0,1]"), ones);
    assert_int_equal(parse(json, 1, &arena, &header, &err), 0);
    assert_int_equal(header.tensors[0].info.n_dims, 64);
    snprintf(json, sizeof json, ONE("U8", "[%s,1]", "[0,1]"), ones);
    assert_int_equal(parse(json, 1, &arena, &header, &err), -1);
    assert_string_equal(err.text, "x.safetensors: tensor 'a': shape has more than 64 numbers");
    for (int depth = 125; depth <= 126; depth++) {
        memset(nested, '[', (size_t)depth);
        memset(nested + depth, ']', (size_t)depth);
        nested[2 * depth] = '\0';
        snprintf(json, sizeof json,
                 "{\"a\":{\"x\":%s,\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", nested);
        assert_int_equal(parse(json, 1, &arena, &header, &err), depth == 125 ? 0 : -1);
    }
    assert_non_null(strstr(err.text, "nested deeper than 127"));
    error_free(&err);
    arena_free(&arena);
}

/* From safetensors.torch.save({"b": bf16 [1, 2], "a": f16 [1], "e.10": f32 zeros(0, 3), "e.2": f32 scalar 7,
 * "i": i64 [3], "q\"\n\x01é": [True]}, {"format": "pt"}) of safetensors 0.8.0. */
static const char REFERENCE_HEADER[] =
    "\x80\x01\0\0\0\0\0\0"
    "{\"__metadata__\":{\"format\":\"pt\"},\"i\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]},"
    "\"e.10\":{\"dtype\":\"F32\",\"shape\":[0,3],\"data_offsets\":[8,8]},"
    "\"e.2\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[8,12]},"
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[12,16]},"
    "\"a\":{\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[16,18]},"
    "\"q\\\"\\n\\u0001\xc3\xa9\":{\"dtype\":\"BOOL\",\"shape\":[1],\"data_offsets\":[18,19]}}       ";

static const uint64_t ONE_DIM[] = {1}, TWO_DIM[] = {2}, EMPTY_DIMS[] = {0, 3};

static int compare(const void *a, const void *b)
{
    return safetensors_writer_compare(*(const struct tensor_info *const *)a,
                                      *(const struct tensor_info *const *)b);
}

static void the_writer_equals_the_reference(void **state)
{
    static const struct tensor_info TENSORS[] = {
        {"b", TWO_DIM, 1, DTYPE_BF16},      {"a", ONE_DIM, 1, DTYPE_F16},
        {"e.10", EMPTY_DIMS, 2, DTYPE_F32}, {"e.2", NULL, 0, DTYPE_F32},
        {"i", ONE_DIM, 1, DTYPE_I64},       {"q\"\n\x01\xc3\xa9", ONE_DIM, 1, DTYPE_BOOL},
    };
    const struct tensor_info *order[LENGTH(TENSORS)];
    struct error err = {0};
    uint64_t length;

    (void)state;
    for (size_t i = 0; i < LENGTH(TENSORS); i++)
        order[i] = &TENSORS[i];
    qsort(order, LENGTH(order), sizeof *order, compare);
    cleanup_free char *header =
        safetensors_write_header("x.safetensors", order, LENGTH(order), &length, &err);
    assert_non_null(header);
    assert_int_equal(length, sizeof REFERENCE_HEADER - 1);
    assert_memory_equal(header, REFERENCE_HEADER, length);
}

static void a_header_above_the_limit_is_not_written(void **state)
{
    size_t length = 50000000;
    cleanup_free char *name = xmalloc(length + 1);
    struct error err = {0};
    uint64_t size;

    (void)state;
    memset(name, '"', length); /* 100,000,000 bytes once escaped */
    name[length] = '\0';
    struct tensor_info info = {name, ONE_DIM, 1, DTYPE_U8};
    const struct tensor_info *tensors[] = {&info};
    assert_null(safetensors_write_header("x.safetensors", tensors, 1, &size, &err));
    assert_string_equal(
        err.text, "x.safetensors: its header would have 100000088 bytes, but at most 100000000 are allowed");
    error_free(&err);
}

/* 208,000 tensors, in the header in an order that is sorted neither by name nor by offset. */
static void a_large_header_is_read_quickly(void **state)
{
    const unsigned n = 208000, step = 77777; /* coprime to n */
    char *json = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&json, &size);
    struct arena arena = {0};
    struct error err = {0};
    struct safetensors_header header;
    struct timespec begin, end;

    (void)state;
    putc('{', out);
    for (unsigned i = 0; i < n; i++) {
        unsigned place = (unsigned)((uint64_t)i * step % n);
        fprintf(out,
                "%s\"model.layers.%u.mlp.experts.%u.gate_proj.weight\":{\"dtype\":\"BF16\",\"shape\":[2,2],"
                "\"data_offsets\":[%u,%u]}",
                i ? "," : "", i / 1000, i % 1000, 8 * place, 8 * place + 8);
    }
    putc('}', out);
    fclose(out);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
    int failed = parse(json, UINT64_C(8) * n, &arena, &header, &err);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
    double seconds = (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9;
    print_message("%u tensors, %zu bytes: %.3f s\n", n, size, seconds);
    assert_int_equal(failed, 0);
    assert_int_equal(header.n_tensors, n);
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(header.tensors[i].begin, 8 * i);
    assert_true(seconds < 5); /* sanitizers and slow machines included; a quadratic step takes minutes */
    arena_free(&arena);
    free(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(valid_headers_are_accepted),
        cmocka_unit_test(each_broken_rule_is_named),
        cmocka_unit_test(the_length_is_checked),
        cmocka_unit_test(dtypes_have_the_reference_names_and_sizes),
        cmocka_unit_test(the_table_is_in_the_file_s_order),
        cmocka_unit_test(limits_are_where_they_are_said_to_be),
        cmocka_unit_test(the_writer_equals_the_reference),
        cmocka_unit_test(a_header_above_the_limit_is_not_written),
        cmocka_unit_test(a_large_header_is_read_quickly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
