/* For test_shards.py: a case is numbers, the limit and each tensor's bytes; its answer is a line of each
 * tensor's shard. */
#include "cases.h"
#include "layout/format/shards.h"

#include <inttypes.h>
#include <string.h>

int main(void)
{
    uint64_t length;

    for (char *text; (text = cases_next(&length)); free(text)) {
        char *rest;
        uint64_t *lengths = xmalloc((length + 1) * sizeof *lengths), limit = strtoull(text, &rest, 10);
        uint32_t *shard_of = xmalloc((length + 1) * sizeof *shard_of), n = 0;

        for (char *at = strtok(rest, " "); at; at = strtok(NULL, " "))
            lengths[n++] = strtoull(at, NULL, 10);
        shards_deal_out(lengths, n, limit, shard_of);
        for (uint32_t i = 0; i < n; i++)
            printf("%s%" PRIu32, i ? " " : "", shard_of[i]);
        putchar('\n');
        free(lengths);
        free(shard_of);
    }
    return 0;
}
