/* moefs verify: opens both sides and lets fs/verify/ compare them. */
#include "fs/base/messages.h"
#include "plan_rows.h"

#include "fs/verify/target.h"
#include "fs/verify/verify.h"
#include "fs/view/view.h"

#include <string.h>

#define TOKENS_MAX 1024 /* their states and shares are held in memory */
#define CACHE_SIZE ((size_t)256 << 20)

struct verify_command {
    struct plan_arguments plan;
    struct verify_options verify;
};

static int parse_tokens(const struct option_use *use, void *field, struct error *err)
{
    return option_parse_number(use, 1, TOKENS_MAX, field, err);
}

/* Numbers and ranges of up to nine digits, separated by commas. */
static bool is_layer_list(const char *text)
{
    for (const char *at = text;; at++) {
        const size_t first = strspn(at, "0123456789");
        const size_t second = at[first] == '-' ? strspn(at + first + 1, "0123456789") : 0;
        if (first == 0 || first > 9 || second > 9 || (at[first] == '-' && second == 0))
            return false;
        at += at[first] == '-' ? first + 1 + second : first;
        if (*at != ',')
            return *at == '\0';
    }
}

static int parse_layers(const struct option_use *use, void *field, struct error *err)
{
    if (!is_layer_list(use->text))
        return option_refuse(use, err, "not a list of numbers and ranges (example: 0,3-5)");
    return option_text(use, field, err);
}

static int parse_order(const struct option_use *use, void *field, struct error *err)
{
    static const char *const words[] = {"after", "before-down", NULL};
    const int word = option_parse_choice(use, words, err);

    *(bool *)field = word == 1;
    return word < 0 ? -1 : 0;
}

#define FIELD(member) offsetof(struct verify_command, verify.member)

static const struct option_row verify_rows[] = {
    {"layers", 0, "LIST", parse_layers, FIELD(layers),
     "only tensors of these layers, by the first number in their names: 0,3-5"},
    {"tokens", 0, "N", parse_tokens, FIELD(tokens),
     "route N tokens by the checkpoint's router, where it is known; without this option, 16 tokens that "
     "visit "
     "every expert"},
    {"seed", 0, "N", option_number, FIELD(seed), "another seed gives other hidden states"},
    {"order", 0, "after|before-down", parse_order, FIELD(before_down),
     "where the routing weight goes in the fused path; default after, as in transformers; before-down as in "
     "VeOmni"},
    {"source", 0, NULL, option_flag, FIELD(source),
     "check first that the source's files are what the names of a Hugging Face cache and the index promise"},
    {"write-digests", 0, "FILE", option_text, FIELD(write_digests),
     "write each tensor's and file's XXH3-128 with its dtype and shape, a line each"},
    {"check-digests", 0, "FILE", option_text, FIELD(check_digests), "compare with such a file"},
    {"write-outputs", 0, "FILE", option_text, FIELD(write_outputs),
     "write what the experts were given and gave, as safetensors"},
    {"json", 0, NULL, option_flag, FIELD(json), "print JSON"},
    {0},
};

/* What is open during a run. */
struct opened {
    struct directory source_directory, other_directory;
    struct plan_options plan_options; /* what the view was made with */
    char *to;                         /* owned: --to as it was found, or NULL */
    struct view view;
};

static int open_directories(struct opened *opened, const struct verify_command *options, struct error *err)
{
    const struct scan_options follow = {.follow_symlinks = true};

    if (directory_open(options->verify.src, &options->plan.directory, &opened->source_directory, err) < 0)
        return -1;
    messages_print_notes(&opened->source_directory.notes);
    return options->verify.other
               ? directory_open(options->verify.other, &follow, &opened->other_directory, err)
               : 0;
}

static int open_all(struct opened *opened, const struct verify_command *options, struct error *err)
{
    if (open_directories(opened, options, err) < 0)
        return -1;
    opened->plan_options = options->plan.plan;
    if (options->verify.other && !opened->plan_options.to) {
        opened->to = target_find(&opened->source_directory.checkpoint, &opened->plan_options,
                                 &opened->other_directory.checkpoint, err);
        if (!opened->to)
            return -1;
        opened->plan_options.to = opened->to;
    }
    if (view_open(&opened->view, &opened->source_directory, &opened->plan_options, err) < 0)
        return -1;
    messages_print_notes(&opened->view.plan.notes);
    return view_start(&opened->view, CACHE_SIZE, err);
}

/* Where --to was found from names and shapes, which do not tell every layout: the others that may be meant. */
static void print_alike(const struct opened *opened, const char *other)
{
    cleanup_free char *alike =
        target_alike(&opened->source_directory.checkpoint, &opened->plan_options, &opened->view.plan);
    struct notes notes = {0};

    if (!alike)
        return;
    notes_add(
        &notes, NOTE_INFO,
        "%s was compared as --to %s; tensors of these names and shapes may also be %s: if it was made so, "
        "give that with --to",
        other, opened->to, alike);
    messages_print_notes(&notes);
    notes_free(&notes);
}

static void close_all(struct opened *opened)
{
    view_close(&opened->view);
    free(opened->to);
    directory_close(&opened->source_directory);
    directory_close(&opened->other_directory);
}

static int verify_directories(const struct verify_command *options, struct error *err)
{
    struct opened opened = {0};
    int status = EXIT_REFUSED;

    if (open_all(&opened, options, err) == 0) {
        const struct verify_input input = {.plan_options = &opened.plan_options,
                                           .view = &opened.view,
                                           .other = options->verify.other ? &opened.other_directory : NULL};
        const int found = verify_run(&options->verify, &input, err);
        if (found > 0 && opened.to)
            print_alike(&opened, options->verify.other);
        status = found < 0 ? EXIT_REFUSED : found > 0 ? EXIT_DIFFERENT : EXIT_OK;
    }
    close_all(&opened);
    return status;
}

static int run_verify(int argc, char **argv, struct error *err)
{
    struct verify_command options = {0};
    struct operands operands;
    int status = options_parse(&command_verify, argc, argv, &options, &operands, err);

    if (status == OPTIONS_GO) {
        options.verify.src = operands.list[0];
        options.verify.other = operands.n > 1 ? operands.list[1] : NULL;
        status = verify_directories(&options, err);
    }
    plan_arguments_free(&options.plan);
    return status;
}

const struct command command_verify = {
    .name = "verify",
    .purpose = "prove that what is exposed holds the source's weights",
    .operands = "SRC [MNT|DST]",
    .n_operands = 1,
    .n_optional = 1,
    .description =
        "Reads every tensor that a mount of SRC would show, and those of a mount MNT or a converted "
        "directory DST where one is given, and compares each with the source's: its bytes, and what "
        "the experts of each MoE layer compute. Without --to, the names and shapes of its tensors say which "
        "layout it was made in. The verdict is the last line. Exit status: 0 equal, 3 a difference was "
        "found, 1 a "
        "failure, 2 wrong usage.",
    .options = (const struct option_set[]){{plan_rows, offsetof(struct verify_command, plan)},
                                           {verify_rows, 0},
                                           {0}},
    .run = run_verify,
};
