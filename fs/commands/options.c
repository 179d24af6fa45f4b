#include "options.h"

#include "layout/base/checked.h"
#include "layout/base/memory.h"
#include "fs/mount/bdi.h"
#include "fs/mount/readahead.h"
#include "fs/read/reader.h"

#include <errno.h>
#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define TOKENS_MAX 1024 /* their states and shares are held in memory */

enum option_code {
    OPTION_TO = 256,
    OPTION_FROM,
    OPTION_FOLLOW_SYMLINKS,
    OPTION_EXCLUDE,
    OPTION_CACHE_SIZE,
    OPTION_FOREGROUND = 'f',
    OPTION_LOG_FILE = OPTION_CACHE_SIZE + 1,
    OPTION_FUSE = 'o',
    OPTION_JSON = OPTION_LOG_FILE + 1,
    OPTION_LAZY,
    OPTION_FP8,
    OPTION_MAX_SHARD_SIZE,
    OPTION_EXPLAIN,
    OPTION_KERNEL_READ_AHEAD,
    OPTION_PASSTHROUGH,
    OPTION_READAHEAD,
    OPTION_SOURCE_CACHE,
    OPTION_LAYERS,
    OPTION_TOKENS,
    OPTION_SEED,
    OPTION_ORDER,
    OPTION_SOURCE,
    OPTION_WRITE_DIGESTS,
    OPTION_CHECK_DIGESTS,
    OPTION_WRITE_OUTPUTS,
    OPTION_HELP = 'h'
};

struct option_row {
    int code;
    unsigned set; /* 0: every command */
    const char *name;
    const char *argument;
    const char *help;
};

static const struct option_row option_rows[] = {
    {OPTION_TO, OPTIONS_PLAN, "to", "LAYOUT",
     "show the experts in this layout; v5 (default) and original mean the\n"
     "architecture's own (`moefs layouts` lists them); a file of your own:\n"
     "./mine.json"},
    {OPTION_FROM, OPTIONS_PLAN, "from", "LAYOUT",
     "read every expert group that fits this layout (or file) as that layout"},
    {OPTION_EXCLUDE, OPTIONS_PLAN, "exclude", "GLOB",
     "hide files by their names relative to SRC; may be repeated"},
    {OPTION_FP8, OPTIONS_PLAN, "fp8", "keep",
     "convert FP8 experts with their scales, although a loader that dequantises\n"
     "reads merged FP8 as garbage without an error"},
    {OPTION_MAX_SHARD_SIZE, OPTIONS_PLAN, "max-shard-size", "SIZE",
     "deal the tensors out anew to weight files of at most SIZE: 5GB, 500MB\n"
     "(powers of 1000)"},
    {OPTION_FOLLOW_SYMLINKS, OPTIONS_PLAN, "follow-symlinks", NULL,
     "follow links that leave SRC and its Hugging Face cache"},
    {OPTION_CACHE_SIZE, OPTIONS_MOUNT, "cache-size", "SIZE",
     "memory for computed blocks: 64M, 1G; default 256M"},
    {OPTION_SOURCE_CACHE, OPTIONS_MOUNT, "source-cache", "keep|drop",
     "whether the page cache keeps what moefs reads of SRC, beside what is read of\n"
     "the mount; default drop"},
    {OPTION_READAHEAD, OPTIONS_MOUNT, "readahead", "SIZE|off",
     "how much a helper process populates ahead of each sequential reader; default\n64M"},
    {OPTION_KERNEL_READ_AHEAD, OPTIONS_MOUNT, "kernel-read-ahead", "SIZE",
     "how far the kernel reads ahead, where moefs may set it (root);\n"
     "default 1M, 0 leaves it alone"},
    {OPTION_PASSTHROUGH, OPTIONS_MOUNT, "passthrough", NULL,
     "the kernel reads unchanged files from SRC by itself: native speed,\n"
     "no check for a changed source; needs root, Linux 6.9, libfuse 3.17"},
    {OPTION_FOREGROUND, OPTIONS_MOUNT, "foreground", NULL, "stay in the foreground and log to stderr"},
    {OPTION_LOG_FILE, OPTIONS_MOUNT, "log-file", "FILE", "append the daemon's log to FILE; default syslog"},
    {OPTION_FUSE, OPTIONS_MOUNT, NULL, "OPTIONS", "mount options, e.g. allow_other, nonempty"},
    {OPTION_LAYERS, OPTIONS_VERIFY, "layers", "LIST",
     "only tensors of these layers, by the first number in their names: 0,3-5"},
    {OPTION_TOKENS, OPTIONS_VERIFY, "tokens", "N",
     "route N tokens by the checkpoint's router, where it is known; without this\n"
     "option, 16 tokens that visit every expert"},
    {OPTION_SEED, OPTIONS_VERIFY, "seed", "N", "another seed gives other hidden states"},
    {OPTION_ORDER, OPTIONS_VERIFY, "order", "after|before-down",
     "where the routing weight goes in the fused path; default after, as in\n"
     "transformers; before-down as in VeOmni"},
    {OPTION_SOURCE, OPTIONS_VERIFY, "source", NULL,
     "check first that the source's files are what the names of a Hugging Face\n"
     "cache and the index promise"},
    {OPTION_WRITE_DIGESTS, OPTIONS_VERIFY, "write-digests", "FILE",
     "write each tensor's and file's XXH3-128 with its dtype and shape, a line each"},
    {OPTION_CHECK_DIGESTS, OPTIONS_VERIFY, "check-digests", "FILE", "compare with such a file"},
    {OPTION_WRITE_OUTPUTS, OPTIONS_VERIFY, "write-outputs", "FILE",
     "write what the experts were given and gave, as safetensors"},
    {OPTION_JSON, OPTIONS_JSON | OPTIONS_REPORT, "json", NULL, "print JSON"},
    {OPTION_EXPLAIN, OPTIONS_JSON, "explain", "TENSOR",
     "say where this virtual tensor comes from, step by step"},
    {OPTION_LAZY, OPTIONS_LAZY, "lazy", NULL,
     "unmount although it is in use: readers go on until they close"},
    {OPTION_HELP, 0, "help", NULL, "print this"},
};
#define N_ROWS (sizeof option_rows / sizeof *option_rows)

static bool row_applies(const struct option_row *row, const struct options_command *command)
{
    return row->set == 0 || (row->set & command->sets) != 0;
}

static void print_help(const struct options_command *command)
{
    printf("usage: moefs %s [options] %s\n\n%s\n\noptions:\n", command->name, command->operands,
           command->purpose);
    for (size_t i = 0; i < N_ROWS; i++) {
        const struct option_row *row = &option_rows[i];
        char left[64];
        if (!row_applies(row, command))
            continue;
        bool is_short = row->code < 128;
        snprintf(left, sizeof left, "%s%c%s%s%s%s%s", is_short ? "-" : "  ", is_short ? row->code : ' ',
                 row->name && is_short ? ", "
                 : row->name           ? " "
                                       : "",
                 row->name ? "--" : "", row->name ? row->name : "", row->argument ? " " : "",
                 row->argument ? row->argument : "");
        for (const char *text = row->help; text;) {
            size_t length = strcspn(text, "\n");
            printf("  %-24s %.*s\n", text == row->help ? left : "", (int)length, text);
            text = text[length] ? text + length + 1 : NULL;
        }
    }
}

bool options_parse_size(const char *text, size_t *bytes)
{
    static const char units[] = "KMG";
    uint64_t value = 0, scale = 1;

    if (*text < '0' || *text > '9')
        return false;
    for (; *text >= '0' && *text <= '9'; text++) {
        if (!checked_mul(value, 10, &value) || !checked_add(value, (uint64_t)(*text - '0'), &value))
            return false;
    }
    if (*text != '\0') {
        const char *unit = strchr(units, *text >= 'a' && *text <= 'z' ? *text - 'a' + 'A' : *text);
        if (!unit || text[1] != '\0')
            return false;
        scale = UINT64_C(1) << (10 * (unit - units + 1));
    }
    if (!checked_mul(value, scale, &value) || value > SIZE_MAX)
        return false;
    *bytes = (size_t)value;
    return true;
}

/* "5GB", "500MB" or a number of bytes: powers of 1000, as transformers' max_shard_size. */
static bool parse_shard_size(const char *text, uint64_t *bytes)
{
    static const struct {
        const char *unit;
        uint64_t scale;
    } units[] = {{"", 1}, {"KB", 1000}, {"MB", 1000000}, {"GB", 1000000000}, {"TB", UINT64_C(1000000000000)}};
    size_t digits = strspn(text, "0123456789");
    uint64_t value = 0;

    for (size_t i = 0; i < digits; i++)
        if (!checked_mul(value, 10, &value) || !checked_add(value, (uint64_t)(text[i] - '0'), &value))
            return false;
    for (size_t u = 0; u < sizeof units / sizeof *units; u++)
        if (value > 0 && strcasecmp(text + digits, units[u].unit) == 0)
            return checked_mul(value, units[u].scale, bytes);
    return false;
}

static int set_cache_size(const struct options_command *command, const char *text, struct options *options,
                          struct error *err)
{
    if (!options_parse_size(text, &options->cache_size))
        return error_set(err, "%s: --cache-size %s: not a size (examples: 64M, 1G, 268435456)", command->name,
                         text);
    if (options->cache_size < READER_CACHE_MIN)
        return error_set(err, "%s: --cache-size %s: at least %zu bytes (1M) are needed", command->name, text,
                         READER_CACHE_MIN);
    return 0;
}

static int set_kernel_read_ahead(const struct options_command *command, const char *text,
                                 struct options *options, struct error *err)
{
    if (!options_parse_size(text, &options->kernel_read_ahead))
        return error_set(err, "%s: --kernel-read-ahead %s: not a size (examples: 1M, 512K, 0)", command->name,
                         text);
    if (options->kernel_read_ahead > KERNEL_READ_AHEAD_MAX || options->kernel_read_ahead % 1024 != 0)
        return error_set(err, "%s: --kernel-read-ahead %s: whole KiB, at most 1G", command->name, text);
    return 0;
}

static int set_readahead(const struct options_command *command, const char *text, struct options *options,
                         struct error *err)
{
    options->readahead = 0;
    if (strcmp(text, "off") == 0)
        return 0;
    if (!options_parse_size(text, &options->readahead))
        return error_set(err, "%s: --readahead %s: neither a size (examples: 64M, 1G) nor off", command->name,
                         text);
    if (options->readahead < READAHEAD_MIN || options->readahead > READAHEAD_MAX)
        return error_set(err, "%s: --readahead %s: 1M to 4G, or off", command->name, text);
    return 0;
}

static int set_source_cache(const struct options_command *command, const char *text, struct options *options,
                            struct error *err)
{
    options->drop_source_cache = strcmp(text, "keep") != 0;
    if (options->drop_source_cache && strcmp(text, "drop") != 0)
        return error_set(err, "%s: --source-cache %s: keep or drop", command->name, text);
    return 0;
}

static void add_exclude(struct options *options, const char *glob)
{
    size_t n = 0;

    while (options->exclude && options->exclude[n])
        n++;
    options->exclude = xreallocarray(options->exclude, n + 2, sizeof *options->exclude);
    options->exclude[n] = glob;
    options->exclude[n + 1] = NULL;
    options->directory.exclude = options->exclude;
}

static void add_fuse(struct options *options, const char *text)
{
    char *joined = options->fuse ? xasprintf("%s,%s", options->fuse, text) : xstrdup(text);

    free(options->fuse);
    options->fuse = joined;
}

static int set_number(const struct options_command *command, const char *option, const char *text,
                      uint64_t maximum, uint64_t *number, struct error *err)
{
    char *end;

    errno = 0;
    *number = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || *number > maximum)
        return error_set(err, "%s: --%s %s: not a number up to %llu", command->name, option, text,
                         (unsigned long long)maximum);
    return 0;
}

static int set_tokens(const struct options_command *command, const char *text, struct options *options,
                      struct error *err)
{
    if (set_number(command, "tokens", text, TOKENS_MAX, &options->tokens, err) < 0)
        return -1;
    return options->tokens > 0 ? 0 : error_set(err, "%s: --tokens 0: at least one", command->name);
}

/* Numbers and ranges of up to nine digits, separated by commas. */
static int set_layers(const struct options_command *command, const char *text, struct options *options,
                      struct error *err)
{
    options->layers = text;
    for (const char *at = text;; at++) {
        const size_t first = strspn(at, "0123456789");
        const size_t second = at[first] == '-' ? strspn(at + first + 1, "0123456789") : 0;
        if (first == 0 || first > 9 || second > 9 || (at[first] == '-' && second == 0))
            break;
        at += at[first] == '-' ? first + 1 + second : first;
        if (!*at)
            return 0;
        if (*at != ',')
            break;
    }
    return error_set(err, "%s: --layers %s: not a list of numbers and ranges (example: 0,3-5)", command->name,
                     text);
}

static int set_order(const struct options_command *command, const char *text, struct options *options,
                     struct error *err)
{
    options->before_down = strcmp(text, "before-down") == 0;
    if (!options->before_down && strcmp(text, "after") != 0)
        return error_set(err, "%s: --order %s: after or before-down", command->name, text);
    return 0;
}

static int set_option(const struct options_command *command, int code, struct options *options,
                      struct error *err)
{
    switch (code) {
    case OPTION_TO:
        options->plan.to = optarg;
        return 0;
    case OPTION_FROM:
        options->plan.from = optarg;
        return 0;
    case OPTION_FP8:
        if (strcmp(optarg, "keep") != 0)
            return error_set(err, "%s: --fp8 %s: the only choice is keep", command->name, optarg);
        options->plan.fp8_keep = true;
        return 0;
    case OPTION_MAX_SHARD_SIZE:
        if (!parse_shard_size(optarg, &options->plan.max_shard_size))
            return error_set(err, "%s: --max-shard-size %s: not a size (examples: 5GB, 500MB, 1000000)",
                             command->name, optarg);
        return 0;
    case OPTION_EXPLAIN:
        options->explain = optarg;
        return 0;
    case OPTION_FOLLOW_SYMLINKS:
        options->directory.follow_symlinks = true;
        return 0;
    case OPTION_EXCLUDE:
        add_exclude(options, optarg);
        return 0;
    case OPTION_CACHE_SIZE:
        return set_cache_size(command, optarg, options, err);
    case OPTION_SOURCE_CACHE:
        return set_source_cache(command, optarg, options, err);
    case OPTION_KERNEL_READ_AHEAD:
        return set_kernel_read_ahead(command, optarg, options, err);
    case OPTION_READAHEAD:
        return set_readahead(command, optarg, options, err);
    case OPTION_PASSTHROUGH:
        options->passthrough = true;
        return 0;
    case OPTION_FOREGROUND:
        options->foreground = true;
        return 0;
    case OPTION_LOG_FILE:
        options->log_file = optarg;
        return 0;
    case OPTION_FUSE:
        add_fuse(options, optarg);
        return 0;
    case OPTION_JSON:
        options->json = true;
        return 0;
    case OPTION_LAZY:
        options->lazy = true;
        return 0;
    case OPTION_LAYERS:
        return set_layers(command, optarg, options, err);
    case OPTION_TOKENS:
        return set_tokens(command, optarg, options, err);
    case OPTION_SEED:
        return set_number(command, "seed", optarg, UINT64_MAX, &options->seed, err);
    case OPTION_ORDER:
        return set_order(command, optarg, options, err);
    case OPTION_SOURCE:
        options->source = true;
        return 0;
    case OPTION_WRITE_DIGESTS:
        options->write_digests = optarg;
        return 0;
    case OPTION_CHECK_DIGESTS:
        options->check_digests = optarg;
        return 0;
    case OPTION_WRITE_OUTPUTS:
        options->write_outputs = optarg;
        return 0;
    default:
        return error_set(err, "%s: option %d has no meaning here", command->name, code);
    }
}

/* getopt's own two tables, of the rows that the command takes. */
static void make_tables(const struct options_command *command, struct option *longs, char *shorts)
{
    *shorts++ = ':';
    for (size_t i = 0; i < N_ROWS; i++) {
        const struct option_row *row = &option_rows[i];
        if (!row_applies(row, command))
            continue;
        if (row->name)
            *longs++ =
                (struct option){row->name, row->argument ? required_argument : no_argument, NULL, row->code};
        if (row->code < 128) {
            *shorts++ = (char)row->code;
            if (row->argument)
                *shorts++ = ':';
        }
    }
    *longs = (struct option){0};
    *shorts = '\0';
}

/* optopt is 0 for an unknown long option, its own value for a long one that is wrongly used (a letter, too,
 * where it has one), and the letter of an unknown short one, which may stand inside a word. */
static enum options_result refuse_option(const struct options_command *command, int code, const char *shorts,
                                         char **argv, struct error *err)
{
    bool is_known = optopt >= 128 || (optopt > 0 && strchr(shorts, optopt));
    const char *what = code == ':' ? "needs a value" : is_known ? "takes no value" : "unknown option";

    if (optopt > 0 && !is_known)
        error_set(err, "%s: -%c: %s; `moefs %s --help` lists them", command->name, optopt, what,
                  command->name);
    else
        error_set(err, "%s: %s: %s; `moefs %s --help` lists them", command->name, argv[optind - 1], what,
                  command->name);
    return OPTIONS_ERROR;
}

enum options_result options_parse(const struct options_command *command, int argc, char **argv,
                                  struct options *options, struct error *err)
{
    struct option longs[N_ROWS + 1];
    char shorts[2 * N_ROWS + 2];
    int code;

    *options = (struct options){.cache_size = READER_CACHE_DEFAULT,
                                .readahead = READAHEAD_DEFAULT,
                                .kernel_read_ahead = KERNEL_READ_AHEAD_DEFAULT,
                                .drop_source_cache = true};
    make_tables(command, longs, shorts);
    opterr = 0;
    optind = 0;
    while ((code = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
        if (code == OPTION_HELP) {
            print_help(command);
            return OPTIONS_DONE;
        }
        if (code == ':' || code == '?')
            return refuse_option(command, code, shorts, argv, err);
        if (set_option(command, code, options, err) < 0)
            return OPTIONS_ERROR;
    }
    options->n_operands = argc - optind;
    if (options->n_operands < command->n_operands ||
        options->n_operands > command->n_operands + command->n_optional)
        return error_set(err, "%s: expected %s, got %d operand%s; `moefs %s --help` explains", command->name,
                         command->operands, argc - optind, argc - optind == 1 ? "" : "s", command->name);
    options->operands = (const char *const *)(argv + optind);
    return OPTIONS_GO;
}

void options_free(struct options *options)
{
    free(options->exclude);
    free(options->fuse);
    *options = (struct options){0};
}
