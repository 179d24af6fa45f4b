/* moefs layouts: what is known. */
#include "commands.h"

#include "layout/layouts.h"

#include <stdio.h>
#include <string.h>

static void print_layout(const struct layouts *layouts, const struct layout *layout)
{
    const struct bound_layout *bound = layouts_bound(layouts, layout);

    printf("%s: %s\n", layout->name, layout->summary ? layout->summary : "");
    for (unsigned f = 0; f < layout->n_forms; f++) {
        const struct form *form = &layout->forms[f];
        printf("    %s  [", bound->names[f].text);
        for (unsigned d = 0; d < form->axes.n_dims; d++) {
            printf("%s%s", d ? ", " : "", form->axes.dims[d].n > 1 ? "(" : "");
            for (unsigned a = 0; a < form->axes.dims[d].n; a++)
                printf("%s%s", a ? " " : "", layouts->words.words[form->axes.dims[d].axis[a]]);
            printf("%s", form->axes.dims[d].n > 1 ? ")" : "");
        }
        printf("]  holds");
        for (unsigned p = 0; p < form->n_projs; p++)
            printf(" %s", proj_name(form->projs[p]));
        putchar('\n');
    }
}

static void print_list(const char *title, const struct layout_list *list)
{
    printf("  %s: %s", title, list->any ? "left as it is" : "");
    for (unsigned i = 0; i < list->n; i++)
        printf("%s%s", i ? " or " : "", list->list[i]->name);
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
        print_list("v5", &rule->v5);
        putchar('\n');
    }
}

int command_layouts(int argc, char **argv, struct error *err)
{
    struct layouts layouts;

    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        printf("usage: moefs layouts\n\nPrints the layouts and the architectures that are known.\n");
        return EXIT_OK;
    }
    if (argc != 1)
        return error_set(err, "layouts: takes no operands, got '%s'", argv[1]), EXIT_USAGE;
    if (layouts_load(&layouts, err) < 0)
        return EXIT_REFUSED;
    printf("Layouts (--to, --from):\n\n");
    for (unsigned i = 0; i < layouts.n_layouts; i++)
        print_layout(&layouts, &layouts.layouts[i]);
    printf("\nArchitectures (what --to original and --to v5 mean):\n\n");
    for (unsigned i = 0; i < layouts.n_architectures; i++)
        print_architecture(&layouts.architectures[i]);
    layouts_free(&layouts);
    return EXIT_OK;
}
