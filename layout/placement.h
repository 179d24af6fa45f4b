/* Placement: which virtual file each planned tensor lies in, the files' names and headers, and the index.
 *
 * Shards mirror the source: a tensor that passes through stays in its shard, a converted one goes to the
 * shard of its byte 0, a shard left empty is dropped. A shard whose tensors are all unchanged is the source
 * file; any other is what safetensors' writer makes of its tensors. With options->max_shard_size the tensors
 * are dealt out anew instead, as huggingface_hub does when it saves: in natural order of their names,
 * greedily; a tensor above the limit is alone in a file of its own. */
#ifndef MOEFS_LAYOUT_PLACEMENT_H
#define MOEFS_LAYOUT_PLACEMENT_H

#include "compile.h"
#include "plan.h"

/* Takes the compiled tensors (in any order; extents, gathers and boxes stay where they are) and fills in
 * plan's files, tensors and total_size. passes[t]: source tensor t is among them unchanged. */
int placement_build(const struct checkpoint *checkpoint, const struct plan_options *options,
                    const struct compile_output *output, const bool *passes, struct plan *plan,
                    struct error *err);

#endif
