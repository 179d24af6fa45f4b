/* A layer whose rules make reads fail or wait. */
#include "fault.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct rule {
    bool is_delay;
    bool any_file;
    uint64_t file, begin, end;
    uint64_t nth, every; /* 0: not asked for */
    uint64_t ms, error_number;
    char *trigger; /* owned; NULL: always on */
    atomic_uint_fast64_t reads;
};

struct source_fault {
    struct source source;
    struct source *under;
    size_t n;
    struct rule rules[];
};

static bool rule_applies(struct rule *rule, uint32_t file, uint64_t offset, size_t length)
{
    if (!rule->any_file && rule->file != file)
        return false;
    if (offset >= rule->end || offset + length <= rule->begin)
        return false;
    if (rule->trigger && access(rule->trigger, F_OK) != 0)
        return false;
    uint64_t number = atomic_fetch_add(&rule->reads, 1) + 1;
    if (rule->nth && number != rule->nth)
        return false;
    return !rule->every || number % rule->every == 0;
}

static void sleep_ms(uint64_t ms)
{
    struct timespec left = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};

    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}

static int fault_pread(struct source *source, uint32_t file, uint64_t offset, void *buffer, size_t length)
{
    struct source_fault *fault = (struct source_fault *)source;

    for (size_t i = 0; i < fault->n; i++) {
        struct rule *rule = &fault->rules[i];
        if (!rule_applies(rule, file, offset, length))
            continue;
        if (!rule->is_delay)
            return (int)rule->error_number;
        sleep_ms(rule->ms);
    }
    return source_pread(fault->under, file, offset, buffer, length);
}

static const char *fault_name(struct source *source, uint32_t file)
{
    return source_name(((struct source_fault *)source)->under, file);
}

static int fault_hold_head(struct source *source, uint32_t file, const void *head, size_t length)
{
    return source_hold_head(((struct source_fault *)source)->under, file, head, length);
}

static void show_files(struct source_fault *fault)
{
    fault->source.files = fault->under->files;
    fault->source.n_files = fault->under->n_files;
}

static int fault_keep(struct source *source, const uint32_t *numbers, uint32_t n)
{
    struct source_fault *fault = (struct source_fault *)source;
    int e = source_keep(fault->under, numbers, n);

    show_files(fault);
    return e;
}

static void fault_free(struct source_fault *fault)
{
    for (size_t i = 0; i < fault->n; i++)
        free(fault->rules[i].trigger);
    free(fault);
}

static void fault_close(struct source *source)
{
    struct source_fault *fault = (struct source_fault *)source;

    source_close(fault->under);
    fault_free(fault);
}

static const struct source_ops fault_ops = {.pread = fault_pread,
                                            .name = fault_name,
                                            .hold_head = fault_hold_head,
                                            .keep = fault_keep,
                                            .close = fault_close};

static int parse_number(const char *condition, const char *digits, uint64_t least, uint64_t most,
                        uint64_t *number, struct error *err)
{
    char *end;

    errno = 0;
    uintmax_t value = strtoumax(digits, &end, 10);
    if (errno || end == digits || *end || *digits == '-' || value < least || value > most)
        return error_set(err, "fault: '%s': expected a number from %" PRIu64 " to %" PRIu64, condition, least,
                         most);
    *number = value;
    return 0;
}

/* condition is "name=value". */
static int parse_condition(struct rule *rule, const char *condition, struct error *err)
{
    const struct {
        const char *name;
        uint64_t *number;
        uint64_t least, most;
        int belongs; /* 0: to errors, 1: to delays, -1: to both */
    } names[] = {
        {"nth=", &rule->nth, 1, UINT64_MAX, -1},     {"every=", &rule->every, 1, UINT64_MAX, -1},
        {"file=", &rule->file, 0, UINT32_MAX, -1},   {"begin=", &rule->begin, 0, UINT64_MAX, -1},
        {"end=", &rule->end, 0, UINT64_MAX, -1},     {"ms=", &rule->ms, 0, 3600 * 1000, 1},
        {"errno=", &rule->error_number, 1, 4095, 0},
    };

    if (strncmp(condition, "trigger=", 8) == 0 && condition[8]) {
        free(rule->trigger);
        rule->trigger = strdup(condition + 8);
        return rule->trigger ? 0 : error_set(err, "fault: out of memory");
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        size_t length = strlen(names[i].name);
        if (strncmp(condition, names[i].name, length) != 0)
            continue;
        if (names[i].belongs >= 0 && names[i].belongs != rule->is_delay)
            break;
        if (names[i].number == &rule->file)
            rule->any_file = false;
        return parse_number(condition, condition + length, names[i].least, names[i].most, names[i].number,
                            err);
    }
    return error_set(err, "fault: '%s' is not a condition of %s", condition,
                     rule->is_delay ? "delay" : "error");
}

/* text is taken apart. */
static int parse_rule(struct rule *rule, char *text, struct error *err)
{
    char *rest, *colon = strchr(text, ':');

    *rule = (struct rule){.any_file = true, .end = UINT64_MAX, .error_number = EIO};
    if (strncmp(text, "delay:", 6) == 0)
        rule->is_delay = true;
    else if (strncmp(text, "error:", 6) != 0)
        return error_set(err, "fault: '%s': expected 'error:' or 'delay:'", text);
    for (char *condition = strtok_r(colon + 1, ",", &rest); condition; condition = strtok_r(NULL, ",", &rest))
        if (parse_condition(rule, condition, err) != 0)
            return -1;
    if (rule->is_delay && rule->ms == 0)
        return error_set(err, "fault: a delay needs ms=N");
    return 0;
}

struct source *source_fault_open(struct source *under, const char *text, struct error *err)
{
    size_t most = 1;
    char *rest, *copy = strdup(text);

    for (const char *at = text; *at; at++)
        most += *at == ';';
    struct source_fault *fault = calloc(1, sizeof *fault + most * sizeof fault->rules[0]);
    if (!copy || !fault) {
        error_set(err, "fault: out of memory");
        goto out;
    }
    fault->source.ops = &fault_ops;
    fault->under = under;
    show_files(fault);
    for (char *rule = strtok_r(copy, ";", &rest); rule; rule = strtok_r(NULL, ";", &rest))
        if (parse_rule(&fault->rules[fault->n++], rule, err) != 0)
            goto out;
    if (fault->n == 0) {
        error_set(err, "fault: no rule");
        goto out;
    }
    free(copy);
    return &fault->source;
out:
    if (fault)
        fault_free(fault);
    free(copy);
    return NULL;
}
