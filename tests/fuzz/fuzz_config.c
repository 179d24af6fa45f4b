/* Any bytes as a config.json: what is accepted has its sets in order, and its numbers can be asked for. */
#include "layout/format/config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_set(const struct config_set *set)
{
    for (size_t i = 0; i < set->n; i++)
        if (set->numbers[i] == 0 || (i > 0 && set->numbers[i] <= set->numbers[i - 1]) ||
            !config_set_has(set, set->numbers[i]))
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t numbers[4];
    struct config config;
    struct error err = {0};

    if (config_parse("c.json", (const char *)data, size, &config, &err) == 0) {
        check_set(&config.expert_counts);
        check_set(&config.hidden_sizes);
        check_set(&config.inner_sizes);
        size_t n = config_numbers(&config, "num_experts a.b text_config.hidden_size a", numbers, 4);
        for (size_t i = 0; i < n; i++)
            for (size_t k = 0; k < i; k++)
                if (numbers[i] == 0 || numbers[i] == numbers[k])
                    abort();
        if ((config.model_type && strlen(config.model_type) > size) ||
            (config.transformers_weights && strlen(config.transformers_weights) > size))
            abort();
        config_free(&config);
    } else if (!err.text || strncmp(err.text, "c.json", 6) != 0) {
        abort(); /* the message must name the file */
    }
    error_free(&err);
    return 0;
}
