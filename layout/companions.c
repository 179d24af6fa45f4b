/* Tensors that are no weights of a group: which of them belong to one all the same. */
#include "recognising.h"
#include "layout/base/array.h"
#include "layout/base/checked.h"

#include <ctype.h>
#include <string.h>

/* A tensor of a block without groups whose name begins with the stem of a weight. */
struct stem_hit {
    struct hit hit;
    const char *suffix; /* what follows the stem, in the tensor's name */
    bool exact;         /* it is the weight's own name */
};

static const UT_icd stem_icd = {sizeof(struct stem_hit), NULL, NULL, NULL};

/* A tensor under "....experts.<digits>." that nothing else claims. */
struct stray {
    uint32_t tensor;
    size_t block_length;
};

static const UT_icd stray_icd = {sizeof(struct stray), NULL, NULL, NULL};

struct search {
    struct recognising *work;
    UT_array *stems;  /* struct stem_hit */
    UT_array *strays; /* struct stray */
};

static const struct tensor_info *tensor_info(const struct recognising *work, uint32_t tensor)
{
    return work->input->tensors[tensor];
}

static void claim(struct recognising *work, const struct block_entry *block, uint32_t tensor)
{
    struct group *group = array_at(work->groups, block->first_group);

    work->result->group_of[tensor] = block->first_group;
    if (group->n_companions++ == 0)
        group->companion = tensor;
}

/* ---- by the stem ---- */

static void add_stem(struct search *search, const struct found_form *found, uint32_t tensor, size_t length)
{
    struct recognising *work = search->work;
    const struct form *form = &found->bound->forms[found->form];
    const char *name = tensor_info(work, tensor)->name;
    const struct block_entry *block = recognising_find_block(work, name, found->match.block_length);
    struct name_match match;

    if (!layouts_is_main(work->input->layouts, form->part))
        return;
    /* A user's layout may have short names that other tensors have for stems: it makes no block of them. */
    if (!block && work->input->layouts->layouts[found->layout].user)
        return;
    block = block ? block : recognising_block(work, name, found->match.block_length);
    struct stem_hit stem = {.hit = recognising_hit(found, block->number, tensor),
                            .suffix = name + length,
                            .exact = template_match(&form->name, name, strlen(name), &match)};
    utarray_push_back(search->stems, &stem);
}

/* A name that begins with a weight's name without ".weight", up to a character that ends a word: the tensor
 * belongs to the weight's group. Where the block has no group, the stem is kept. */
static bool claim_by_stem(struct search *search, uint32_t tensor)
{
    struct recognising *work = search->work;
    const char *name = tensor_info(work, tensor)->name;

    for (size_t length = strlen(name); length > 0; length--) {
        struct form_cursor at = {0};
        struct found_form found;
        if (isalnum((unsigned char)name[length]))
            continue;
        while (recognising_next_form(work, name, length, template_match_stem, &at, &found)) {
            struct block_entry *block = recognising_find_block(work, name, found.match.block_length);
            if (block && block->n_groups > 0) {
                claim(work, block, tensor);
                return true;
            }
            add_stem(search, &found, tensor, length);
        }
    }
    return false;
}

/* ---- by the place ---- */

/* "....experts.<digits>.": where ".experts." begins, or 0. */
static size_t find_numbered_expert(const char *name)
{
    static const char word[] = ".experts.";

    for (const char *at = strstr(name, word); at; at = strstr(at + 1, word)) {
        size_t digits = strspn(at + sizeof word - 1, "0123456789");
        char behind = at[sizeof word - 1 + digits];
        if (digits > 0 && (behind == '.' || behind == '\0'))
            return (size_t)(at - name);
    }
    return 0;
}

/* A tensor under "....experts.<digits>." belongs to the group of the block whose name goes furthest. */
static bool claim_numbered(struct search *search, uint32_t tensor)
{
    const char *name = tensor_info(search->work, tensor)->name;
    size_t length = find_numbered_expert(name);

    for (size_t end = length; end > 0; end--) {
        const struct block_entry *block =
            name[end] == '.' ? recognising_find_block(search->work, name, end) : NULL;
        if (!block || block->n_groups == 0)
            continue;
        claim(search->work, block, tensor);
        return true;
    }
    if (length > 0) {
        struct stray stray = {tensor, length};
        utarray_push_back(search->strays, &stray);
    }
    return false;
}

/* The text behind the block with which the names of all weights of the layout begin, up to a "." and with
 * "experts." in it; its length, or 0. Only where the experts are all that this module consists of: numbered
 * modules, or parameters of its own; a module with others for its parts may have a router among these. */
static size_t find_place(const struct layouts *layouts, const struct bound_layout *bound, const char **place)
{
    size_t length = 0;

    *place = NULL;
    for (unsigned f = 0; f < bound->n_forms; f++) {
        const char *text = bound->forms[f].name.literals[0].text;
        size_t same = 0, dot = 0;
        if (!layouts_is_main(layouts, bound->forms[f].part))
            continue;
        if (!*place)
            length = bound->forms[f].name.literals[0].length;
        *place = *place ? *place : text;
        while (same < length && same < bound->forms[f].name.literals[0].length &&
               (*place)[same] == text[same])
            if (text[same++] == '.')
                dot = same;
        length = dot;
    }
    for (unsigned f = 0; f < bound->n_forms; f++)
        if (layouts_is_main(layouts, bound->forms[f].part) &&
            memchr(bound->forms[f].name.literals[0].text + length, '.',
                   bound->forms[f].name.literals[0].length - length))
            return 0;
    return length > 0 && memmem(*place, length, "experts.", strlen("experts.")) ? length : 0;
}

/* The same for a group; 0 too where its architecture's own layouts have other modules among the experts. */
static size_t find_group_place(const struct layouts *layouts, const struct group *group, const char **place)
{
    const struct layout_list *own[] = {&group->rule->original, &group->rule->v5};
    const char *unused;

    for (unsigned i = 0; i < 2; i++)
        for (unsigned l = 0; l < own[i]->n; l++)
            if (find_place(layouts, layouts_bound(layouts, group->rule, own[i]->list[l]), &unused) == 0)
                return 0;
    return find_place(layouts, group->bound, place);
}

/* A matrix directly under the place of a group's experts, such as an adapter's. Vectors are the router's
 * there (corrections, norms), and are no part of the experts. */
static bool claim_by_place(struct recognising *work, uint32_t tensor)
{
    const struct tensor_info *info = tensor_info(work, tensor);

    if (info->n_dims < 2 || !strstr(info->name, "experts."))
        return false;
    for (size_t end = strlen(info->name) - 1; end > 0; end--) {
        const struct block_entry *block =
            info->name[end] == '.' ? recognising_find_block(work, info->name, end) : NULL;
        const char *place = NULL;
        if (!block || block->n_groups == 0)
            continue;
        const struct group *group = array_at(work->groups, block->first_group);
        size_t length = find_group_place(work->input->layouts, group, &place);
        if (length == 0 || strncmp(info->name + end, place, length) != 0)
            continue;
        claim(work, block, tensor);
        return true;
    }
    return false;
}

/* ---- blocks that no layout fits ---- */

static int stem_compare(const void *a, const void *b)
{
    const struct stem_hit *x = a, *y = b;
    int order = hit_compare(&x->hit, &y->hit);

    return order ? order : (x->hit.tensor > y->hit.tensor) - (x->hit.tensor < y->hit.tensor);
}

/* Elements that stand for weights together with scales. */
static bool holds_codes(const struct tensor_info *info)
{
    return info->n_dims >= 2 && !dtype_is_full_float(info->dtype);
}

/* What the codes of a block's weights have behind their stems: that of the most bytes (zeros are fewer). NULL
 * without codes, or where the codes have the weights' own names. */
static const char *find_codes_suffix(const struct recognising *work, const struct stem_hit *stems, size_t n)
{
    const struct stem_hit *codes = NULL;
    uint64_t most = 0, bytes;

    for (size_t i = 0; i < n; i++) {
        const struct tensor_info *info = tensor_info(work, stems[i].hit.tensor);
        if (!holds_codes(info) || !safetensors_tensor_bytes(info, &bytes) || (codes && bytes <= most))
            continue;
        codes = &stems[i];
        most = bytes;
    }
    return codes && !codes->exact ? codes->suffix : NULL;
}

/* Whether there is a tensor for every weight of the layout whose stems these are. Where some are codes, only
 * codes and whole weights count: scales and zeros without codes are no weight. */
static int check_named(const struct recognising *work, const struct block_entry *block,
                       const struct stem_hit *stems, size_t n, uint64_t *n_experts, struct error *err)
{
    const struct block_rule *rule = architecture_rule(work->input->architecture, block->name);
    struct hit *hits = xreallocarray(NULL, n, sizeof *hits);
    const char *suffix = find_codes_suffix(work, stems, n);
    bool codes = false;
    size_t kept = 0;

    for (size_t i = 0; i < n; i++)
        codes |= holds_codes(tensor_info(work, stems[i].hit.tensor));
    for (size_t i = 0; i < n; i++)
        if (!codes || stems[i].exact || (suffix && strcmp(stems[i].suffix, suffix) == 0))
            hits[kept++] = stems[i].hit;
    int result = fit_stems(work->input, rule, &rule->bound[stems[0].hit.layout], block->name, hits, kept,
                           &work->result->arena, n_experts, err);
    free(hits);
    return result;
}

static bool same_weight(const struct stem_hit *a, const struct stem_hit *b)
{
    return hit_compare(&a->hit, &b->hit) == 0;
}

/* Which of the tensors of one weight's stem is the weight: the one with the weight's own name, else the one
 * of the most bytes (codes, not their zeros or scales). */
static const struct stem_hit *find_weight(const struct recognising *work, const struct stem_hit *stems,
                                          size_t n)
{
    const struct stem_hit *weight = NULL;
    uint64_t most = 0; /* bytes */

    for (size_t i = 0; i < n; i++) {
        const struct tensor_info *info = tensor_info(work, stems[i].hit.tensor);
        uint64_t bytes = 0;
        if (stems[i].exact)
            return &stems[i];
        if (!safetensors_tensor_bytes(info, &bytes) || (weight && bytes <= most))
            continue;
        weight = &stems[i];
        most = bytes;
    }
    return weight;
}

/* The first weight that is codes with something beside it on its stem; without codes, the first that has
 * something beside it. */
static void find_pair(const struct recognising *work, const struct stem_hit *stems, size_t n,
                      struct unfit_block *unfit)
{
    for (size_t i = 0, next; i < n && unfit->codes == NO_TENSOR; i = next) {
        for (next = i; next < n && same_weight(&stems[i], &stems[next]); next++)
            ;
        const struct stem_hit *weight = find_weight(work, stems + i, next - i);
        bool codes = weight && holds_codes(tensor_info(work, weight->hit.tensor));
        if (!weight || next - i < 2 || (unfit->companion != NO_TENSOR && !codes))
            continue;
        unfit->companion =
            stems[i].hit.tensor == weight->hit.tensor ? stems[i + 1].hit.tensor : stems[i].hit.tensor;
        if (codes)
            unfit->codes = weight->hit.tensor;
    }
    for (size_t i = 0; i < n; i++)
        unfit->exact |= stems[i].exact;
}

/* What is known of one block without groups from its tensors' stems. */
static void describe_block(struct recognising *work, const struct stem_hit *stems, size_t n)
{
    struct block_entry *block = *(struct block_entry **)array_at(work->blocks, stems[0].hit.block);
    struct unfit_block *unfit = block->unfit != NO_UNFIT ? array_at(work->unfit, block->unfit) : NULL;
    const char *first = tensor_info(work, stems[0].hit.tensor)->name;
    struct error reason = {0};

    if (!unfit)
        unfit = recognising_add_unfit(work, block, NULL);
    for (size_t i = 0, next; i < n; i = next) {
        struct error cause = {0};
        uint64_t n_experts;
        for (next = i; next < n && stems[next].hit.layout == stems[i].hit.layout; next++)
            ;
        if (check_named(work, block, stems + i, next - i, &n_experts, &cause) == 0) {
            unfit->named |= UINT32_C(1) << stems[i].hit.layout;
            unfit->n_experts = max_u64(n_experts, unfit->n_experts);
        } else if (!reason.text) {
            reason = cause;
            cause.text = NULL;
        }
        error_free(&cause);
    }
    find_pair(work, stems, n, unfit);
    if (!unfit->reason && unfit->named)
        unfit->reason = xasprintf(
            "%s begins as a weight of layout %s does, but no layout has this name. A layout of your own can "
            "have it (docs/layouts.md): --from FILE.json",
            first, work->input->layouts->layouts[stems[0].hit.layout].name);
    else if (!unfit->reason)
        unfit->reason = xasprintf("%s is no tensor of a known layout (%s)", first, reason.text);
    error_free(&reason);
}

static void describe_blocks(struct search *search)
{
    if (utarray_len(search->stems) > 0)
        utarray_sort(search->stems, stem_compare);
    const struct stem_hit *stems = (const struct stem_hit *)utarray_front(search->stems);
    size_t n = utarray_len(search->stems);
    for (size_t i = 0, next; i < n; i = next) {
        for (next = i; next < n && stems[next].hit.block == stems[i].hit.block; next++)
            ;
        describe_block(search->work, stems + i, next - i);
    }
}

static void report_strays(struct search *search)
{
    for (unsigned i = 0; i < utarray_len(search->strays); i++) {
        const struct stray *stray = array_at(search->strays, i);
        const char *name = tensor_info(search->work, stray->tensor)->name;
        struct block_entry *block = recognising_block(search->work, name, stray->block_length);
        if (block->n_groups == 0 && block->unfit == NO_UNFIT)
            recognising_add_unfit(search->work, block,
                                  xasprintf("%s looks like an expert's tensor of no known layout", name));
    }
}

/* ---- names without a tensor ---- */

/* The block in which a name would be a weight, or a companion of one where the block has others. */
static struct block_entry *find_home(struct recognising *work, const char *name)
{
    struct form_cursor at = {0};
    struct found_form found;

    if (recognising_next_form(work, name, strlen(name), template_match, &at, &found))
        return recognising_block(work, name, found.match.block_length);
    for (size_t length = strlen(name); length > 0; length--) {
        at = (struct form_cursor){0};
        if (isalnum((unsigned char)name[length]))
            continue;
        while (recognising_next_form(work, name, length, template_match_stem, &at, &found)) {
            struct block_entry *block = recognising_find_block(work, name, found.match.block_length);
            if (block)
                return block;
        }
    }
    return NULL;
}

/* Names that the index promises and no file has, where they would be part of a group: once for each block. */
static void find_absent(struct recognising *work)
{
    for (size_t i = 0; i < work->input->n_absent; i++) {
        struct block_entry *block = find_home(work, work->input->absent[i]);
        if (block && !block->absent)
            block->absent = work->input->absent[i];
        if (block)
            block->n_absent++;
    }
    for (unsigned b = 0; b < utarray_len(work->blocks); b++) {
        struct block_entry *block = *(struct block_entry **)array_at(work->blocks, b);
        if (block->n_absent == 1)
            recognising_add_unfit(work, block,
                                  xasprintf("the index names %s, but no file has it", block->absent));
        else if (block->n_absent > 1)
            recognising_add_unfit(work, block,
                                  xasprintf("the index names %s and %u more, but no file has them",
                                            block->absent, block->n_absent - 1));
    }
}

void recognising_find_companions(struct recognising *work)
{
    struct search search = {.work = work};

    utarray_new(search.stems, &stem_icd);
    utarray_new(search.strays, &stray_icd);
    for (uint32_t t = 0; t < work->input->n_tensors; t++)
        if (work->result->group_of[t] == NO_GROUP && !claim_by_stem(&search, t) &&
            !claim_numbered(&search, t))
            claim_by_place(work, t);
    describe_blocks(&search);
    report_strays(&search);
    find_absent(work);
    utarray_free(search.stems);
    utarray_free(search.strays);
}
