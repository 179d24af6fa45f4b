/* How the planned copy will be read: what its reader must be told. */
#include "planning.h"
#include "refusals.h"

#include <string.h>

static const struct group *find_group(const struct recognition *recognition, const char *block, uint8_t word)
{
    size_t low = 0, high = recognition->n_groups;

    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct group *group = &recognition->groups[middle];
        int order = strcmp(group->block, block);
        if (order == 0)
            order = group->word - word;
        if (order == 0)
            return group;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static const char *find_unfit(const struct recognition *recognition, const char *block)
{
    for (uint32_t i = 0; i < recognition->n_unfit; i++)
        if (strcmp(recognition->unfit[i].block, block) == 0)
            return recognition->unfit[i].reason;
    return NULL;
}

/* How the result is read without being told anything, and as what it was made. */
struct way_back {
    struct recognition plain, told;
};

static bool reads_as(const struct recognition *recognition, const struct group *was,
                     const struct compile_target *target)
{
    const struct group *is = find_group(recognition, target->block, was->word);

    return is && !find_unfit(recognition, target->block) && !is->ambiguous &&
           bound_same_placement(is->bound, target->bound);
}

static void warn_misread(struct planning *p, const struct group *was, const struct group *seen,
                         const char *made)
{
    if (!seen)
        notes_add(&p->plan->notes, NOTE_WARNING,
                  "%s: as %s its experts will not be recognised: reading it back needs --from %s", was->block,
                  made, made);
    else if (strcmp(seen->bound->layout->name, made) != 0)
        notes_add(
            &p->plan->notes, NOTE_WARNING,
            "%s: as %s it will be taken for %s, without an error, by whoever loads that; reading it back "
            "needs --from %s",
            was->block, made, seen->bound->layout->name, made);
    else
        notes_add(&p->plan->notes, NOTE_WARNING,
                  "%s: model_type %s is not known, so reading this copy back needs --from %s", was->block,
                  planning_model_type(p), made);
}

/* Not even --from reads it. A layout that is made for others only is the user's business. */
static void report_unreadable(struct planning *p, struct refusals *refusals, const struct group *was,
                              const struct compile_target *target, const char *reason)
{
    const char *made = target->bound->layout->name;

    /* Not with the built-in data: the sizes of a generic layout follow from its own shapes and names. */
    if (target->bound->layout->generic)
        refusals_add(refusals, was->block, was->block, "as %s it could not be read again: %s", made, reason);
    else
        notes_add(&p->plan->notes, NOTE_WARNING, "%s: as %s it cannot be read back: %s", was->block, made,
                  reason);
}

static void compare_way_back(struct planning *p, const struct way_back *back)
{
    struct refusals refusals = {0};
    bool warned = false;

    for (uint32_t g = 0; g < p->recognition->n_groups; g++) {
        const struct group *was = &p->recognition->groups[g];
        const struct compile_target *target = &p->targets[g];
        if (!target->bound || reads_as(&back->plain, was, target))
            continue;
        const char *reason = find_unfit(&back->told, target->block);
        bool readable = reads_as(&back->told, was, target);
        if (!readable && (!warned || target->bound->layout->generic))
            report_unreadable(p, &refusals, was, target, reason ? reason : "no experts would be seen");
        else if (!warned)
            warn_misread(p, was, find_group(&back->plain, target->block, was->word),
                         target->bound->layout->name);
        warned = true;
    }
    refusals_report(&refusals, p->err);
}

static bool all_read(const struct planning *p, const struct recognition *back)
{
    bool all = true;

    for (uint32_t g = 0; g < p->recognition->n_groups && all; g++)
        all = !p->targets[g].bound || reads_as(back, &p->recognition->groups[g], &p->targets[g]);
    return all;
}

int plan_check_way_back(struct planning *p)
{
    const struct tensor_info **infos = xreallocarray(NULL, p->plan->n_tensors, sizeof *infos);
    struct way_back back;

    for (uint32_t i = 0; i < p->plan->n_tensors; i++)
        infos[i] = &p->plan->tensors[i].info;
    struct recognise_input input = {.layouts = p->layouts,
                                    .architecture = p->architecture,
                                    .config = &p->checkpoint->config,
                                    .tensors = infos,
                                    .n_tensors = p->plan->n_tensors};
    recognise(&input, &back.plain);
    if (!all_read(p, &back.plain)) {
        input.from = p->to;
        recognise(&input, &back.told);
        compare_way_back(p, &back);
        recognition_free(&back.told);
    }
    recognition_free(&back.plain);
    free(infos);
    return p->err->text ? -1 : 0;
}
