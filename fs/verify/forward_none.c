/* Level 2 of a build without the reference kernel (meson option verify). */
#include "verify.h"

struct function_run *function_begin(struct verify *verify, const struct logical_group *group,
                                    struct block_result *result)
{
    (void)verify;
    *result =
        (struct block_result){.block = group->title, .skipped = "this moefs was built without -Dverify=true"};
    return NULL;
}

void function_open(struct function_run *run, struct worker_memory *memory, uint64_t expert)
{
    (void)run;
    (void)memory;
    (void)expert;
}

void function_rows(struct worker_memory *memory, const struct logical_form *form, uint64_t first, uint64_t n)
{
    (void)memory;
    (void)form;
    (void)first;
    (void)n;
}

void function_close(struct worker_memory *memory)
{
    (void)memory;
}

void function_free(struct worker_memory *memory)
{
    (void)memory;
}

int function_end(struct function_run *run)
{
    (void)run;
    return 0;
}

int function_write(const struct verify *verify, struct error *err)
{
    return error_set(err, "--write-outputs %s: this moefs was built without -Dverify=true",
                     verify->options->write_outputs);
}
