/* moefs plan: what a mount would show, without mounting. */
#include "fs/source/directory.h"
#include "fs/base/messages.h"
#include "plan_rows.h"
#include "plan_view.h"
#include "fs/view/tree.h"

struct plan_command {
    struct plan_arguments plan;
    bool json;
    const char *explain; /* a virtual tensor's name, or NULL */
};

static const struct option_row print_rows[] = {
    {"json", 0, NULL, option_flag, offsetof(struct plan_command, json), "print JSON"},
    {"explain", 0, "TENSOR", option_text, offsetof(struct plan_command, explain),
     "say where this virtual tensor comes from, step by step"},
    {0},
};

static int print_plan(const struct view *opened, const struct plan_command *options, struct error *err)
{
    const struct plan_view view = {.checkpoint = &opened->directory->checkpoint, .plan = &opened->plan};
    const struct planned_tensor *tensor = NULL;

    if (options->explain) {
        tensor = plan_view_find(&view, options->explain);
        if (!tensor)
            return error_set(err, "--explain %s: the plan has no tensor of this name (moefs plan lists them)",
                             options->explain);
    }
    if (tensor && options->json)
        plan_json_print_tensor(&view, tensor);
    else if (tensor)
        plan_text_print_tensor(&view, tensor);
    else if (options->json)
        plan_json_print(&view);
    else
        plan_text_print(&view);
    return 0;
}

static int plan_source(const struct plan_command *options, const char *src, struct error *err)
{
    struct directory directory;
    struct view view = {0};
    struct tree tree = {0};
    int status = EXIT_REFUSED;

    if (directory_open(src, &options->plan.directory, &directory, err) < 0)
        return EXIT_REFUSED;
    messages_print_notes(&directory.notes);
    if (view_open(&view, &directory, &options->plan.plan, err) == 0) {
        messages_print_notes(&view.plan.notes);
        /* what a mount would refuse for its names is refused here too */
        if (tree_build(&view, 1, &tree, err) == 0 && print_plan(&view, options, err) == 0)
            status = EXIT_OK;
    }
    tree_free(&tree);
    view_close(&view);
    directory_close(&directory);
    return status;
}

static int run_plan(int argc, char **argv, struct error *err)
{
    struct plan_command options = {0};
    struct operands operands;
    int status = options_parse(&command_plan, argc, argv, &options, &operands, err);

    if (status == OPTIONS_GO)
        status = plan_source(&options, operands.list[0], err);
    plan_arguments_free(&options.plan);
    return status;
}

const struct command command_plan = {
    .name = "plan",
    .purpose = "show what would be mounted: tensors, files, where the bytes come from",
    .operands = "SRC",
    .n_operands = 1,
    .description =
        "Prints what a mount of SRC would hold: each virtual tensor's name, dtype, shape and file, "
        "and where its bytes come from; totals; and which known loaders take this layout. Mounts "
        "nothing.",
    .options =
        (const struct option_set[]){{plan_rows, offsetof(struct plan_command, plan)}, {print_rows, 0}, {0}},
    .run = run_plan,
};
