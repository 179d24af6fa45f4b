#include "sample_options.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static const char help[] =
    "usage: moefs sample [options] ARCH DIR\n"
    "       moefs sample [options] --like CHECKPOINT DIR\n"
    "\n"
    "Writes a checkpoint of the architecture (one that is not known is answered with those that are) into "
    "DIR,\n"
    "which must be absent or empty: config.json and BF16 weights with random-looking contents, for trying\n"
    "moefs and for tests. The same options give the same bytes everywhere, and the same weights in every\n"
    "layout.\n"
    "\n"
    "options:\n"
    "      --layers N           number of layers; default 2\n"
    "      --experts N          experts of a layer; default 8\n"
    "      --hidden N           width of the model; default 64\n"
    "      --intermediate N     width of an expert; default 48\n"
    "      --layout LAYOUT      store the experts in this layout; default original, as on the hub\n"
    "      --shards N           number of weight files; default 2\n"
    "      --seed N             other contents; default 0\n"
    "      --like CHECKPOINT    sizes and sharding of qwen3-30b-a3b, of qwen3-vl-30b-a3b (its language\n"
    "                           model) or of gpt-oss-20b (in BF16); the options above change them\n"
    "      --sparse             real headers, all weights zero: 61 GB take a few megabytes\n"
    "  -h, --help               print this\n";

enum option_code {
    OPTION_LAYOUT = 256,
    OPTION_SHARDS,
    OPTION_SEED,
    OPTION_LIKE,
    OPTION_SPARSE,
    OPTION_SIZE, /* all four: the option's name is the size's */
    OPTION_HELP = 'h'
};

static const struct option long_options[] = {
    {"layers", required_argument, NULL, OPTION_SIZE},
    {"experts", required_argument, NULL, OPTION_SIZE},
    {"hidden", required_argument, NULL, OPTION_SIZE},
    {"intermediate", required_argument, NULL, OPTION_SIZE},
    {"layout", required_argument, NULL, OPTION_LAYOUT},
    {"shards", required_argument, NULL, OPTION_SHARDS},
    {"seed", required_argument, NULL, OPTION_SEED},
    {"like", required_argument, NULL, OPTION_LIKE},
    {"sparse", no_argument, NULL, OPTION_SPARSE},
    {"help", no_argument, NULL, OPTION_HELP},
    {0},
};

static int parse_number(const char *name, uint64_t least, uint64_t most, uint64_t *value, struct error *err)
{
    char *end;

    errno = 0;
    *value = strtoull(optarg, &end, 10);
    if (*optarg < '0' || *optarg > '9' || *end || errno || *value < least || *value > most)
        return error_set(err, "sample: --%s %s: not a number from %" PRIu64 " to %" PRIu64, name, optarg,
                         least, most);
    return 0;
}

/* Given twice, the last one counts. */
static int set_size(struct sample_options *options, const char *name, struct error *err)
{
    struct sample_size *size = options->sizes;
    const struct sample_size *end = size + options->request.n_sizes;
    uint64_t value;

    if (parse_number(name, 1, SAMPLE_SIZE_MAX, &value, err))
        return -1;
    while (size < end && size->name != name)
        size++;
    options->request.n_sizes += size == end;
    *size = (struct sample_size){.name = name, .value = value};
    return 0;
}

static int set_option(struct sample_options *options, int code, const char *name, struct error *err)
{
    switch (code) {
    case OPTION_SIZE:
        return set_size(options, name, err);
    case OPTION_SHARDS:
        return parse_number(name, 1, SAMPLE_SHARDS_MAX, &options->request.n_shards, err);
    case OPTION_SEED:
        return parse_number(name, 0, UINT64_MAX, &options->seed, err);
    case OPTION_LAYOUT:
        options->layout = optarg;
        return 0;
    case OPTION_LIKE:
        options->request.preset = optarg;
        return 0;
    case OPTION_SPARSE:
        options->sparse = true;
        return 0;
    default:
        return error_set(err, "sample: %s: %s; `moefs sample --help` lists them", name,
                         code == ':' ? "needs a value" : "unknown option");
    }
}

enum options_result sample_options_parse(int argc, char **argv, struct sample_options *options,
                                         struct error *err)
{
    int code, row = 0;

    *options = (struct sample_options){.layout = "original"};
    opterr = 0;
    optind = 0;
    while ((code = getopt_long(argc, argv, ":h", long_options, &row)) != -1) {
        bool known = code != '?' && code != ':';
        if (code == OPTION_HELP) {
            fputs(help, stdout);
            return OPTIONS_DONE;
        }
        if (set_option(options, code, known ? long_options[row].name : argv[optind - 1], err))
            return OPTIONS_ERROR;
    }
    int n = argc - optind;
    if (n != 2 && !(n == 1 && options->request.preset))
        return error_set(err, "sample: expected ARCH DIR, got %d operand%s; `moefs sample --help` explains",
                         n, n == 1 ? "" : "s");
    options->request.model_type = n == 2 ? argv[optind] : NULL;
    options->request.sizes = options->sizes;
    options->directory = argv[argc - 1];
    return OPTIONS_GO;
}
