/* Planning a directory and reading what is planned. */
#include "view.h"

#include "fs/read/reader.h"
#include "fs/source/layout_file.h"

int view_open(struct view *view, const struct directory *directory, const struct plan_options *options,
              struct error *err)
{
    *view = (struct view){.directory = directory};
    return layout_file_plan(&directory->checkpoint, options, &view->plan, err);
}

int view_start(struct view *view, size_t cache_size, struct error *err)
{
    view->reader = reader_new(&view->plan, view->directory->source, cache_size);
    if (!view->reader)
        return error_set(err, "not enough memory for a cache of %zu bytes", cache_size);
    return 0;
}

void view_close(struct view *view)
{
    reader_free(view->reader);
    plan_free(&view->plan);
    *view = (struct view){0};
}
