/* XXH3-128 digests, a line each, much as sha256sum writes them: a logical tensor's is the same in every
 * layout. */
#include "verify.h"

#ifdef MOEFS_HAVE_XXH_DISPATCH
#include <xxh_x86dispatch.h>
#endif

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PIECE ((size_t)8 << 20)
#define HEX_DIGITS 32
static const char file_prefix[] = "file:";

static void hash_text(XXH128_hash_t hash, char text[HEX_DIGITS + 1])
{
    snprintf(text, HEX_DIGITS + 1, "%016" PRIx64 "%016" PRIx64, (uint64_t)hash.high64, (uint64_t)hash.low64);
}

/* ---- files ---- */

static int digest_file(struct verify *verify, const struct side *side, uint32_t file, uint64_t size,
                       void *buffer, struct digest *digest)
{
    XXH3_state_t *state = XXH3_createState();
    int error = 0;

    if (!state)
        memory_exhausted();
    XXH3_128bits_reset(state);
    for (uint64_t at = 0; at < size && !error; at += PIECE) {
        const size_t n = size - at < PIECE ? (size_t)(size - at) : PIECE;
        error = side_read(side, file, at, buffer, n);
        if (!error)
            XXH3_128bits_update(state, buffer, n);
    }
    digest->hash = XXH3_128bits_digest(state);
    XXH3_freeState(state);
    if (error)
        return report_failure(&verify->report, "%s: %s: %s", side->title, side_file_name(side, file),
                              strerror(error));
    digest->name = xasprintf("%s%s", file_prefix, side_file_name(side, file));
    return 0;
}

int digests_of_files(struct verify *verify)
{
    const struct side *side = &verify->sides[verify->n_sides - 1];
    const uint32_t n = side->plan ? side->plan->n_files : side->checkpoint->n_shards;
    cleanup_free void *buffer = xmalloc(PIECE);

    verify->digests = xreallocarray(verify->digests, verify->n_digests + n, sizeof *verify->digests);
    memset(verify->digests + verify->n_digests, 0, n * sizeof *verify->digests);
    for (uint32_t f = 0; f < n; f++) {
        const uint64_t size = side->plan ? side->plan->files[f].size : side->checkpoint->shards[f].size;
        if (digest_file(verify, side, f, size, buffer, &verify->digests[verify->n_digests + f]) < 0)
            return -1;
    }
    verify->n_files = n;
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

int digests_write(const struct verify *verify, const char *path, struct error *err)
{
    FILE *file = fopen(path, "we");

    if (!file)
        return error_set(err, "%s: %m", path);
    for (uint64_t d = 0; d < verify->n_digests + verify->n_files; d++)
        write_line(file, &verify->digests[d]);
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

static void check_line(struct verify *verify, const char *path, uint64_t number, struct named *names,
                       const struct line *line)
{
    const struct difference place = report_place((UINT64_C(3) << 62) + number, "digest");
    const char *name = line->name;
    char here[HEX_DIGITS + 1];
    struct named *named;

    HASH_FIND(hh, names, name, strlen(name), named);
    if (!named) {
        if (!is_file(name) && !verify->options->layers)
            report_difference(&verify->report, &place, name, "%s names it, and it is not here", path);
        return;
    }
    named->seen = true;
    hash_text(named->digest->hash, here);
    if (line->type && named->digest->type && strcmp(line->type, named->digest->type) != 0)
        report_difference(&verify->report, &place, name, "%s has it as %s, here it is %s", path, line->type,
                          named->digest->type);
    else if (strcmp(line->hex, here) != 0)
        report_difference(&verify->report, &place, name, "%s has %s, here it is %s", path, line->hex, here);
}

static void check_unseen(struct verify *verify, const char *path, const struct named *names)
{
    for (const struct named *named = names; named; named = named->hh.next) {
        const struct difference place =
            report_place((UINT64_C(3) << 62) + (UINT64_C(1) << 60) + named->number, "digest");
        if (!named->seen && !is_file(named->digest->name))
            report_difference(&verify->report, &place, named->digest->name, "%s does not name it", path);
    }
}

int digests_check(struct verify *verify, const char *path, struct error *err)
{
    const uint64_t n = verify->n_digests + verify->n_files;
    FILE *file = fopen(path, "re");
    struct named *names = NULL;
    struct line line;
    char *text = NULL;
    size_t size = 0;
    uint64_t untyped = 0;
    int result = 0;

    if (!file)
        return error_set(err, "%s: %m", path);
    struct named *all = xcalloc(n, sizeof *all);
    for (uint64_t d = 0; d < n; d++) {
        all[d] = (struct named){.digest = &verify->digests[d], .number = d};
        HASH_ADD_KEYPTR(hh, names, all[d].digest->name, strlen(all[d].digest->name), &all[d]);
    }
    for (uint64_t number = 1; result == 0 && getline(&text, &size, file) >= 0; number++)
        if (parse_line(text, &line)) {
            untyped += !line.type && !is_file(line.name);
            check_line(verify, path, number, names, &line);
        } else {
            result = error_set(err,
                               "%s:%" PRIu64 ": not a line of digests: 32 hex digits, a space, a type and "
                               "shape such as BF16[6,4], two spaces, a name",
                               path, number);
        }
    if (untyped > 0)
        notes_add(&verify->report.notes, NOTE_WARNING,
                  "%s: %" PRIu64
                  " lines have no dtype and shape: an earlier moefs wrote them, and only their bytes "
                  "were compared",
                  path, untyped);
    if (result == 0 && ferror(file))
        result = error_set(err, "%s: cannot be read", path);
    if (result == 0)
        check_unseen(verify, path, names);
    HASH_CLEAR(hh, names);
    free(all);
    free(text);
    fclose(file);
    return result;
}
