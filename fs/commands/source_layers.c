/* What was read is dropped from the cache if so asked, and reads fail if MOEFS_FAULT says so. */
#include "source_layers.h"

#include "fs/base/log.h"
#include "fs/source/fault.h"
#include "fs/source/files.h"

#include <stdlib.h>

#define FAULT_VARIABLE "MOEFS_FAULT"

int source_layers_add(struct directory *directory, bool keep_cache, struct error *err)
{
    const char *fault = getenv(FAULT_VARIABLE);

    if (!keep_cache && source_files_drop_cache(directory->source) < 0)
        return error_set(err, "out of memory");
    if (!fault || !*fault)
        return 0;
    log_line(LOG_LEVEL_WARNING, FAULT_VARIABLE " is set: reads will fail as it says");
    struct source *faulty = source_fault_open(directory->source, fault, err);
    if (!faulty)
        return -1;
    directory->source = faulty;
    return 0;
}
