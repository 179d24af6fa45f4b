/* XXH3-128 digests, a line each, much as sha256sum writes them: a logical tensor's is the same in every
 * layout. */
#include "digests.h"

#include "layout/base/checked.h"

#ifdef MOEFS_HAVE_XXH_DISPATCH
#include <xxh_x86dispatch.h>
#endif

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <utstring.h>

#define PIECE ((size_t)8 << 20)
#define HEX_DIGITS 32
static const char file_prefix[] = "file:";

static void hash_text(XXH128_hash_t hash, char text[HEX_DIGITS + 1])
{
    snprintf(text, HEX_DIGITS + 1, "%016" PRIx64 "%016" PRIx64, (uint64_t)hash.high64, (uint64_t)hash.low64);
}

/* ---- logical tensors ---- */

static char *type_text(enum dtype dtype, const uint64_t *shape, unsigned n_dims)
{
    UT_string text;

    utstring_init(&text);
    utstring_printf(&text, "%s[", dtype_name(dtype));
    for (unsigned d = 0; d < n_dims; d++)
        utstring_printf(&text, "%s%" PRIu64, d ? "," : "", shape[d]);
    utstring_printf(&text, "]");
    return utstring_body(&text);
}

static void name_form(struct digests *digests, const struct logical_group *group,
                      const struct logical_form *form)
{
    for (uint64_t e = 0; e < form->count; e++) {
        struct digest *digest = &digests->list[form->first_digest + e];
        struct logical_place place;
        logical_locate(group, form, 0, e, &place);
        digest->name = logical_name(group, form, e);
        digest->type = type_text(place.tensor->info.dtype, form->n, form->n_axes);
    }
}

void digests_number(struct digests *digests, struct logical *logical)
{
    uint64_t n = 0;

    for (uint32_t g = 0; g < logical->n_groups; g++)
        for (unsigned f = 0; f < logical->groups[g].n_forms; f++) {
            logical->groups[g].forms[f].first_digest = n;
            n += logical->groups[g].forms[f].count;
        }
    *digests = (struct digests){.n_tensors = n + logical->n_ungrouped, .first_ungrouped = n};
    digests->list = xcalloc(digests->n_tensors, sizeof *digests->list);
    for (uint32_t g = 0; g < logical->n_groups; g++)
        for (unsigned f = 0; f < logical->groups[g].n_forms; f++)
            name_form(digests, &logical->groups[g], &logical->groups[g].forms[f]);
    for (uint32_t t = 0; t < logical->n_ungrouped; t++) {
        const struct tensor_info *info = &logical->ungrouped[t].tensor->info;
        digests->list[n + t].name = xstrdup(info->name);
        digests->list[n + t].type = type_text(info->dtype, info->shape, info->n_dims);
    }
}

void digests_free(struct digests *digests)
{
    for (uint64_t d = 0; d < digests->n_tensors + digests->n_files; d++) {
        free(digests->list[d].name);
        free(digests->list[d].type);
    }
    free(digests->list);
    *digests = (struct digests){0};
}

const char *digests_owner(const struct digests *digests, uint64_t digest)
{
    if (digest == DIFFERENCE_NONE)
        return NULL;
    for (uint64_t d = 0; d < digests->n_tensors; d++)
        if (d != digest && XXH128_isEqual(digests->list[d].hash, digests->list[digest].found))
            return digests->list[d].name;
    return NULL;
}

/* ---- files ---- */

static int digest_file(const struct side *side, uint32_t file, uint64_t size, void *buffer,
                       struct digest *digest, struct report *report)
{
    XXH3_state_t *state = XXH3_createState();
    int error = 0;

    if (!state)
        memory_exhausted();
    XXH3_128bits_reset(state);
    for (uint64_t at = 0; at < size && !error; at += PIECE) {
        const size_t n = (size_t)min_u64(size - at, PIECE);
        error = side_read(side, file, at, buffer, n);
        if (!error)
            XXH3_128bits_update(state, buffer, n);
    }
    digest->hash = XXH3_128bits_digest(state);
    XXH3_freeState(state);
    if (error)
        return report_failure(report, "%s: %s: %s", side->title, side_file_name(side, file), strerror(error));
    digest->name = xasprintf("%s%s", file_prefix, side_file_name(side, file));
    return 0;
}

int digests_add_files(struct digests *digests, const struct side *side, struct report *report)
{
    const uint32_t n = side->plan ? side->plan->n_files : side->checkpoint->n_shards;
    cleanup_free void *buffer = xmalloc(PIECE);

    digests->list = xreallocarray(digests->list, digests->n_tensors + n, sizeof *digests->list);
    memset(digests->list + digests->n_tensors, 0, n * sizeof *digests->list);
    digests->n_files = n;
    for (uint32_t f = 0; f < n; f++) {
        const uint64_t size = side->plan ? side->plan->files[f].size : side->checkpoint->shards[f].size;
        if (digest_file(side, f, size, buffer, &digests->list[digests->n_tensors + f], report) < 0)
            return -1;
    }
    return 0;
}

/* ---- the list ---- */

/* A name with a backslash or an end of line is escaped, and its line begins with a backslash. */
static void write_line(FILE *file, const struct digest *digest)
{
    char hex[HEX_DIGITS + 1];
    const bool escape = strpbrk(digest->name, "\\\n\r") != NULL;

    hash_text(digest->hash, hex);
    fprintf(file, "%s%s%s%s  ", escape ? "\\" : "", hex, digest->type ? " " : "",
            digest->type ? digest->type : "");
    for (const char *c = digest->name; *c; c++)
        if (*c == '\\')
            fputs("\\\\", file);
        else if (*c == '\n')
            fputs("\\n", file);
        else if (*c == '\r')
            fputs("\\r", file);
        else
            fputc(*c, file);
    fputc('\n', file);
}

int digests_write(const struct digests *digests, const char *path, struct error *err)
{
    FILE *file = fopen(path, "we");

    if (!file)
        return error_set(err, "%s: %m", path);
    for (uint64_t d = 0; d < digests->n_tensors + digests->n_files; d++)
        write_line(file, &digests->list[d]);
    const bool failed = ferror(file) != 0;
    if (fclose(file) != 0 || failed)
        return error_set(err, "%s: %m", path);
    return 0;
}

/* ---- comparing with a list ---- */

struct named {
    const struct digest *digest;
    uint64_t number;
    bool seen;
    UT_hash_handle hh;
};

static void unescape(char *name)
{
    char *to = name;

    for (const char *from = name; *from; from++)
        if (*from != '\\' || !from[1])
            *to++ = *from;
        else
            *to++ = *++from == 'n' ? '\n' : *from == 'r' ? '\r' : *from;
    *to = '\0';
}

/* One line, taken apart in place. */
struct line {
    char *hex, *name;
    char *type; /* "BF16[6,4]"; NULL: a file's line, or one of a release that wrote bytes alone */
};

/* Cuts the end off, which editors and transfers from Windows make a carriage return and a line feed. */
static void trim_end(char *line)
{
    size_t length = strcspn(line, "\n");

    if (length > 0 && line[length - 1] == '\r')
        length--;
    line[length] = '\0';
}

/* False where the text is no line of digests. */
static bool parse_line(char *text, struct line *line)
{
    const bool escaped = *text == '\\';

    trim_end(text);
    *line = (struct line){.hex = text + escaped};
    if (strspn(line->hex, "0123456789abcdef") != HEX_DIGITS || line->hex[HEX_DIGITS] != ' ')
        return false;
    line->hex[HEX_DIGITS] = '\0';
    line->name = line->hex + HEX_DIGITS + 1;
    const size_t type = strcspn(line->name, " *");
    if (type > 0) {
        line->type = line->name;
        if (line->type[type] != ' ' || line->type[type - 1] != ']')
            return false;
        line->type[type] = '\0';
        line->name = line->type + type + 1;
    }
    if ((*line->name != ' ' && *line->name != '*') || !line->name[1])
        return false;
    line->name++;
    if (escaped)
        unescape(line->name);
    return true;
}

static bool is_file(const char *name)
{
    return strncmp(name, file_prefix, strlen(file_prefix)) == 0;
}

/* What a list is compared with. */
struct check {
    const char *path; /* the list */
    struct named *names;
    bool partial;
    struct report *report;
    uint64_t line, untyped;
};

static void check_line(struct check *check, const struct line *line)
{
    const struct difference place = report_place(DIFFERENCE_DIGESTS, check->line, "digest");
    const char *name = line->name;
    char here[HEX_DIGITS + 1];
    struct named *named;

    check->untyped += !line->type && !is_file(name);
    HASH_FIND(hh, check->names, name, strlen(name), named);
    if (!named) {
        if (!is_file(name) && !check->partial)
            report_difference(check->report, &place, name, "%s names it, and it is not here", check->path);
        return;
    }
    named->seen = true;
    hash_text(named->digest->hash, here);
    if (line->type && named->digest->type && strcmp(line->type, named->digest->type) != 0)
        report_difference(check->report, &place, name, "%s has it as %s, here it is %s", check->path,
                          line->type, named->digest->type);
    else if (strcmp(line->hex, here) != 0)
        report_difference(check->report, &place, name, "%s has %s, here it is %s", check->path, line->hex,
                          here);
}

static void check_unseen(const struct check *check)
{
    for (const struct named *named = check->names; named; named = named->hh.next) {
        const struct difference place =
            report_place(DIFFERENCE_DIGESTS, check->line + named->number, "digest");
        if (!named->seen && !is_file(named->digest->name))
            report_difference(check->report, &place, named->digest->name, "%s does not name it", check->path);
    }
}

static int check_lines(struct check *check, FILE *file, struct error *err)
{
    struct line line;
    char *text = NULL;
    size_t size = 0;
    int result = 0;

    for (check->line = 1; result == 0 && getline(&text, &size, file) >= 0; check->line++)
        if (parse_line(text, &line))
            check_line(check, &line);
        else
            result = error_set(err,
                               "%s:%" PRIu64 ": not a line of digests: 32 hex digits, a space, a type and "
                               "shape such as BF16[6,4], two spaces, a name",
                               check->path, check->line);
    if (result == 0 && ferror(file))
        result = error_set(err, "%s: cannot be read", check->path);
    free(text);
    return result;
}

int digests_check(const struct digests *digests, const char *path, bool partial, struct report *report,
                  struct error *err)
{
    const uint64_t n = digests->n_tensors + digests->n_files;
    struct check check = {.path = path, .partial = partial, .report = report};

    cleanup_close FILE *file = fopen(path, "re");
    if (!file)
        return error_set(err, "%s: %m", path);
    struct named *all = xcalloc(n, sizeof *all);
    for (uint64_t d = 0; d < n; d++) {
        all[d] = (struct named){.digest = &digests->list[d], .number = d};
        HASH_ADD_KEYPTR(hh, check.names, all[d].digest->name, strlen(all[d].digest->name), &all[d]);
    }
    int result = check_lines(&check, file, err);
    if (result == 0)
        check_unseen(&check);
    if (result == 0 && check.untyped > 0)
        notes_add(&report->notes, NOTE_WARNING,
                  "%s: %" PRIu64
                  " lines have no dtype and shape: an earlier moefs wrote them, and only their bytes "
                  "were compared",
                  path, check.untyped);
    HASH_CLEAR(hh, check.names);
    free(all);
    return result;
}
