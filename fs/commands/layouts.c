/* moefs layouts: what is known, and whether a user's own layout is well formed. */
#include "options.h"
#include "fs/source/layout_file.h"

#include "fs/base/messages.h"
#include "layout/layouts.h"

#include <stdio.h>

struct layouts_command {
    const char *check; /* a file, or NULL */
};

static const struct option_row layouts_rows[] = {
    {"check", 0, "FILE", option_text, offsetof(struct layouts_command, check),
     "say whether FILE is a layout that --to takes, and how it was understood"},
    {0},
};

static void print_layout(struct layouts *layouts, const struct layout *layout)
{
    const struct bound_layout *bound = layouts_bound(layouts, &layouts->unknown.rules[0], layout);

    messages_printf("%s: %s\n", layout->name, layout->summary ? layout->summary : "");
    for (unsigned f = 0; f < bound->n_forms; f++) {
        const struct form *form = &bound->forms[f];
        messages_printf("    %s  [%s]  holds", form->name.text,
                        axes_text(&form->axes, &layouts->words, &layouts->arena));
        for (unsigned p = 0; p < form->n_projs; p++)
            printf(" %s", proj_name(form->projs[p]));
        putchar('\n');
    }
}

static void print_list(const char *title, const struct layout_list *list)
{
    printf("  %s: %s", title, list->any ? "left as it is" : "");
    for (unsigned i = 0; i < list->n; i++)
        messages_printf("%s%s", i ? " or " : "", list->list[i]->name);
}

static void print_architecture(const struct architecture *architecture)
{
    for (const char **type = architecture->types; *type; type++)
        printf("%s%s", type == architecture->types ? "" : " ", *type);
    putchar('\n');
    for (unsigned r = 0; r < architecture->n_rules; r++) {
        const struct block_rule *rule = &architecture->rules[r];
        printf("    %s", rule->blocks ? rule->blocks : "all blocks");
        print_list("original", &rule->original);
        if (rule->quantised.n > 0)
            print_list("original, quantised", &rule->quantised);
        print_list("v5", &rule->v5);
        putchar('\n');
    }
    if (architecture->n_rules == 0)
        printf("    nothing is converted\n");
}

static void print_all(struct layouts *layouts)
{
    printf("Layouts (--to, --from), in the default spelling:\n\n");
    for (unsigned i = 0; i < layouts->n_layouts; i++)
        print_layout(layouts, &layouts->layouts[i]);
    printf("\nArchitectures (what --to original and --to v5 mean):\n\n");
    for (unsigned i = 0; i < layouts->n_architectures; i++)
        print_architecture(&layouts->architectures[i]);
}

/* Whether the file is a layout; prints it as it was understood. */
static int check_file(const char *path, struct error *err)
{
    struct layout_text users[LAYOUTS_USER_MAX] = {{.path = path}};
    cleanup_free char *text = layout_file_read(path, &users[0].length, err);
    struct layouts layouts;

    users[0].text = text;
    if (!text || layouts_load(&layouts, users, err) < 0)
        return EXIT_REFUSED;
    const struct layout *layout = layouts_find(&layouts, path);
    print_layout(&layouts, layout);
    if (layout->block)
        messages_printf("    blocks become %s\n", layout->block);
    for (size_t i = 0; i < layout->n_renames; i++)
        messages_printf("    rename %s to %s\n", layout->rename[i][0], layout->rename[i][1]);
    layouts_free(&layouts);
    return EXIT_OK;
}

static int run_layouts(int argc, char **argv, struct error *err)
{
    struct layouts_command options = {0};
    struct layouts layouts;
    struct operands operands;
    const int parsed = options_parse(&command_layouts, argc, argv, &options, &operands, err);

    if (parsed != OPTIONS_GO)
        return parsed;
    if (options.check)
        return check_file(options.check, err);
    if (layouts_load(&layouts, NULL, err) < 0)
        return EXIT_REFUSED;
    print_all(&layouts);
    layouts_free(&layouts);
    return EXIT_OK;
}

const struct command command_layouts = {
    .name = "layouts",
    .purpose = "list the known layouts and architectures",
    .operands = "",
    .description = "Prints the layouts and the architectures that are known.",
    .options = (const struct option_set[]){{layouts_rows, 0}, {0}},
    .run = run_layouts,
};
