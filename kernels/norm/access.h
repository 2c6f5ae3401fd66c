/* Parts of an operand as contiguous memory of the compute dtype. Included once for each, with T, SFX and TYPE defined.
 *
 * A block is rows x channels with the channels beside each other; a run is one channel of consecutive rows. Where the
 * array is already like that, the caller gets a pointer into it, else a copy in its buffer. */

#define NORM_COLUMN 64 /* rows that are turned from runs into columns of a block at once */

static inline int FD_CAT(norm_is_block, SFX)(const norm_grid *g, const norm_operand *o, ptrdiff_t row, ptrdiff_t rows) {
    return o->type == TYPE && o->channel == (ptrdiff_t)sizeof(T) && norm_reach(g, row, rows) == rows;
}

static inline int FD_CAT(norm_is_run, SFX)(const norm_grid *g, const norm_operand *o, ptrdiff_t row, ptrdiff_t rows) {
    return o->type == TYPE && o->stride[2] == (ptrdiff_t)sizeof(T) && norm_reach(g, row, rows) == rows;
}

/* Copies a block between the array and `block` (rows of `n` values): to the array if `store`. */
static void FD_CAT(norm_copy_block, SFX)(const norm_grid *g, const norm_operand *o, ptrdiff_t row, ptrdiff_t rows,
                                         ptrdiff_t channel, ptrdiff_t n, T *block, int store) {
    const ptrdiff_t step = o->stride[2];
    const int flat = o->channel == o->item && step == n * o->item;
    const int turned = !flat && norm_prefers_runs(g, o);
    while (rows > 0) {
        const ptrdiff_t reach = fd_min(norm_reach(g, row, rows), turned ? NORM_COLUMN : rows);
        char *at = norm_at(g, o, row, channel);
        if (flat) {
            if (store) FD_CAT(fd_store, SFX)(o->type, block, at, o->item, reach * n);
            else FD_CAT(fd_load, SFX)(o->type, at, o->item, block, reach * n);
        } else if (turned) {
            T column[NORM_COLUMN];
            for (ptrdiff_t c = 0; c < n; c++) {
                if (store) {
                    for (ptrdiff_t i = 0; i < reach; i++) column[i] = block[i * n + c];
                    FD_CAT(fd_store, SFX)(o->type, column, at + c * o->channel, step, reach);
                } else {
                    FD_CAT(fd_load, SFX)(o->type, at + c * o->channel, step, column, reach);
                    for (ptrdiff_t i = 0; i < reach; i++) block[i * n + c] = column[i];
                }
            }
        } else {
            for (ptrdiff_t i = 0; i < reach; i++) {
                if (store) FD_CAT(fd_store, SFX)(o->type, block + i * n, at + i * step, o->channel, n);
                else FD_CAT(fd_load, SFX)(o->type, at + i * step, o->channel, block + i * n, n);
            }
        }
        block += reach * n;
        row += reach;
        rows -= reach;
    }
}

/* The block, in place or in `buffer`; *pitch is the number of elements from row to row. */
static const T *FD_CAT(norm_block, SFX)(const norm_grid *g, const norm_operand *o, ptrdiff_t row, ptrdiff_t rows,
                                        ptrdiff_t channel, ptrdiff_t n, T *buffer, ptrdiff_t *pitch) {
    *pitch = n;
    if (!FD_CAT(norm_is_block, SFX)(g, o, row, rows)) {
        FD_CAT(norm_copy_block, SFX)(g, o, row, rows, channel, n, buffer, 0);
        return buffer;
    }
    if (rows > 1) *pitch = o->stride[2] / (ptrdiff_t)sizeof(T);
    return (const T *)norm_at(g, o, row, channel);
}

/* Copies a run between the array and `run`: to the array if `store`. */
static void FD_CAT(norm_copy_run, SFX)(const norm_grid *g, const norm_operand *o, ptrdiff_t row, ptrdiff_t rows,
                                       ptrdiff_t channel, T *run, int store) {
    while (rows > 0) {
        const ptrdiff_t reach = norm_reach(g, row, rows);
        char *at = norm_at(g, o, row, channel);
        if (store) FD_CAT(fd_store, SFX)(o->type, run, at, o->stride[2], reach);
        else FD_CAT(fd_load, SFX)(o->type, at, o->stride[2], run, reach);
        run += reach;
        row += reach;
        rows -= reach;
    }
}

/* The run, in place or in `buffer`. */
static const T *FD_CAT(norm_run, SFX)(const norm_grid *g, const norm_operand *o, ptrdiff_t row, ptrdiff_t rows,
                                      ptrdiff_t channel, T *buffer) {
    if (FD_CAT(norm_is_run, SFX)(g, o, row, rows)) return (const T *)norm_at(g, o, row, channel);
    FD_CAT(norm_copy_run, SFX)(g, o, row, rows, channel, buffer, 0);
    return buffer;
}
#undef NORM_COLUMN
