/* Gradient of the weight. Included for each compute dtype, with T and SFX defined.
 *
 * sum[tap][k]: each tile adds the products of one block of pixels for up to five runs of taps, which it keeps in
 * registers; the sums of a slice of blocks lie in `partial`. */

/* The part of dout that belongs to a block, as whole vectors of the compute dtype: dout itself where it is that. */
static const char *FD_CAT(small_dout, SFX)(const small_call *g, const small_block *b, T *copy, ptrdiff_t *line,
                                           ptrdiff_t *step) {
    const fd_tensor *d = &g->out;
    if (!copy) {
        *line = d->stride[2];
        *step = d->stride[3];
        return fd_at(d, b->n, 0, b->i, b->j);
    }
    FD_CAT(conv_pad, SFX)(d, b->n, 0, g->k, b->i, b->rows, b->j, b->columns, copy, g->wide);
    *step = g->wide * (ptrdiff_t)sizeof(T);
    *line = b->columns * *step;
    return (const char *)copy;
}

static int FD_CAT(small_weight_task, SFX)(void *context, ptrdiff_t slice) {
    const small_call *g = (const small_call *)context;
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX), size = sizeof(T), wide = g->wide;
    const ptrdiff_t first = g->blocks * slice / g->slices, last = g->blocks * (slice + 1) / g->slices;
    const ptrdiff_t x_line = g->stride_h * g->buffer_columns * g->c * size, x_step = g->stride_w * g->c * size;
    /* With more than one panel, the tiles would read dout in pieces, line by line from memory: a copy of the block in
     * cache takes less time (vgg 3 -> 64: 95 -> 120 GFLOP/s), while dout of one panel is read in order anyway (16
     * channels: 150 instead of 100). */
    const int direct = g->out.type == (sizeof(T) == 8 ? FD_F64 : FD_F32) && g->out.stride[1] == size && g->k == wide &&
                       wide <= 2 * lanes;
    /* 27 taps (3 x 3 x 3) x 1 vector: dout, far larger than the rest, is read once, not once for each run of taps. */
    const int one_tile = g->taps > SMALL_LIMIT_2 && g->taps <= SMALL_LIMIT_1 && g->runs <= SMALL_RUNS;
    T *buffer = FD_CAT(small_buffer, SFX)(g), *copy = NULL, *sum = (T *)g->partial + slice * g->taps * wide;
    if (!direct) copy = (T *)rt->push((size_t)(g->rows * g->columns * wide) * sizeof(T));
    if (!buffer || (!direct && !copy)) return FD_NO_MEMORY;
    memset(sum, 0, (size_t)(g->taps * wide) * sizeof(T));
    for (ptrdiff_t index = first; index < last; index++) {
        const small_block b = small_block_of(g, index);
        ptrdiff_t d_line, d_step;
        FD_CAT(small_fill, SFX)(g, &b, buffer);
        const char *d = FD_CAT(small_dout, SFX)(g, &b, copy, &d_line, &d_step);
        for (ptrdiff_t k = 0, nv; k < wide; k += nv * lanes) {
            nv = wide - k > lanes && !one_tile ? 2 : 1;
            const ptrdiff_t most = nv == 1 ? SMALL_LIMIT_1 : SMALL_LIMIT_2;
            const ptrdiff_t parts = fd_ceil_div(g->run_length, most); /* of a run, where it is longer than a tile */
            const ptrdiff_t together = parts > 1 ? 1 : fd_min(SMALL_RUNS, most / g->run_length);
            for (ptrdiff_t run = 0; run < g->runs; run += together) {
                const ptrdiff_t q = fd_min(together, g->runs - run);
                ptrdiff_t starts[SMALL_RUNS], tap = run * g->run_length;
                for (ptrdiff_t part = 0; part < parts; part++) {
                    const ptrdiff_t length = g->run_length / parts + (part < g->run_length % parts);
                    for (ptrdiff_t i = 0; i < q; i++) starts[i] = g->offset[tap + i * g->run_length];
                    FD_CAT(small_weight, SFX)[nv - 1][q - 1][length](
                        b.rows, b.columns, (const char *)buffer, x_line, x_step, starts, d + k * size, d_line, d_step,
                        sum + tap * wide + k, g->run_length * wide, wide);
                    tap += length;
                }
            }
        }
    }
    return FD_OK;
}

/* Adds up the slices of one tap and writes them to dw. */
static int FD_CAT(small_weight_sum, SFX)(void *context, ptrdiff_t tap) {
    const small_call *g = (const small_call *)context;
    const ptrdiff_t c = tap % g->c, s = tap / g->c % g->w.shape[3], r = tap / g->c / g->w.shape[3];
    T *sum = (T *)g->partial + tap * g->wide;
    for (ptrdiff_t slice = 1; slice < g->slices; slice++) {
        const T *more = sum + slice * g->taps * g->wide;
        for (ptrdiff_t k = 0; k < g->wide; k++) sum[k] += more[k];
    }
    FD_CAT(fd_store, SFX)(g->w.type, sum, fd_at(&g->w, 0, c, r, s), g->w.stride[0], g->k);
    return FD_OK;
}

static int FD_CAT(small_weight_run, SFX)(small_call *g, int threads) {
    const size_t mark = rt->mark();
    int status = small_begin(g, sizeof(T), FD_CAT(FD_LANES, SFX));
    const double sums = (double)g->slices * g->taps * g->wide;
    g->partial = rt->push((size_t)sums * sizeof(T));
    if (!g->partial) status = FD_NO_MEMORY;
    if (!status)
        status = rt->parallel_for(FD_CAT(small_weight_task, SFX), g, g->slices, threads,
                                  (double)g->out.size * (double)(g->taps + 4) / 50 + sums / 8);
    if (!status) status = rt->parallel_for(FD_CAT(small_weight_sum, SFX), g, g->taps, threads, sums / 8);
    rt->release(mark);
    return status;
}
