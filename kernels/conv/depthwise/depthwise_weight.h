/* Gradient of the weight. Included for each compute dtype, with T and SFX defined.
 *
 * partial[slice][plane][tap][lanes]: a task adds up one block of channels over one slice of blocks. */
static int FD_CAT(depthwise_weight_task, SFX)(void *context, ptrdiff_t index) {
    const depthwise_call *g = (const depthwise_call *)context;
    const depthwise_axis *row = &g->axis[0], *column = &g->axis[1];
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX), vector = FD_VECTOR_BYTES, slice = index / g->channel_blocks;
    const ptrdiff_t blocks = g->out.shape[0] * g->row_blocks * g->column_blocks;
    const ptrdiff_t first = blocks * slice / g->slices, last = blocks * (slice + 1) / g->slices;
    const ptrdiff_t size = g->buffer_rows * g->buffer_columns * lanes, d_size = g->lines * g->columns * lanes;
    const ptrdiff_t x_step = column->scale * vector, x_line = row->scale * g->buffer_columns * vector;
    /* Taps of one filter row that are neighbours, and how many such runs a tile takes. */
    const ptrdiff_t length = g->dilation[1] == 1 ? g->w.shape[3] : 1, runs = g->taps / length;
    const ptrdiff_t parts = fd_ceil_div(length, DEPTHWISE_TAPS);
    const ptrdiff_t together = parts > 1 ? 1 : fd_min(DEPTHWISE_RUNS, DEPTHWISE_TAPS / length);
    const ptrdiff_t planes = fd_ceil_div(g->channels, lanes);
    const int direct = FD_CAT(depthwise_direct, SFX)(&g->out) && g->out.shape[1] % lanes == 0;
    T *buffer = (T *)rt->push((size_t)(planes * size) * sizeof(T));
    T *dout = (T *)rt->push((size_t)(planes * d_size) * sizeof(T)); /* a copy of it, where it is not whole vectors */
    if (!buffer || !dout) return FD_NO_MEMORY;
    depthwise_block b = depthwise_block_of(g, first, index % g->channel_blocks);
    T *sums = (T *)g->partial + (slice * g->planes * lanes + b.c) * g->taps;
    memset(sums, 0, (size_t)(fd_round_up(b.channels, lanes) * g->taps) * sizeof(T));
    for (ptrdiff_t block = first; block < last; block++) {
        b = depthwise_block_of(g, block, index % g->channel_blocks);
        const ptrdiff_t rows = fd_min(g->rows, g->out.shape[2] - b.i);
        const ptrdiff_t columns = fd_min(g->columns, g->out.shape[3] - b.j);
        for (ptrdiff_t i = 0; i < rows; i += g->lines) {
            const ptrdiff_t lines = fd_min(g->lines, rows - i);
            const char *d = fd_at(&g->out, b.n, b.c, b.i + i, b.j);
            ptrdiff_t d_line = g->out.stride[2], d_step = g->out.stride[3], d_plane = vector;
            FD_CAT(depthwise_fill, SFX)(g, &b, (i + lines - 1) * row->scale + row->last - row->first + 1, buffer);
            if (!direct) {
                for (ptrdiff_t k = 0; k < lines; k++)
                    FD_CAT(depthwise_line, SFX)(&g->out, b.n, b.c, b.channels, b.i + i + k, b.j, columns,
                                                dout + k * columns * lanes, d_size);
                d = (const char *)dout;
                d_step = vector;
                d_line = columns * vector;
                d_plane = d_size * (ptrdiff_t)sizeof(T);
            }
            for (ptrdiff_t plane = 0; plane * lanes < b.channels; plane++) {
                depthwise_prefetch(fd_at(&g->x, b.n, b.c + plane * lanes, (b.i + i + lines) * row->scale + row->last,
                                         b.j * column->scale),
                                   lines * row->scale, g->x.stride[2], columns * column->scale, g->x.stride[3]);
                depthwise_prefetch(fd_at(&g->out, b.n, b.c + plane * lanes, b.i + i + lines, b.j), lines, g->out.stride[2],
                                   columns, g->out.stride[3]);
                for (ptrdiff_t run = 0; run < runs; run += together) {
                    const ptrdiff_t q = fd_min(together, runs - run);
                    ptrdiff_t starts[DEPTHWISE_RUNS], tap = run * length;
                    for (ptrdiff_t part = 0; part < parts; part++) {
                        const ptrdiff_t l = length / parts + (part < length % parts);
                        for (ptrdiff_t k = 0; k < q; k++) starts[k] = g->offset[tap + k * length];
                        FD_CAT(depthwise_weight, SFX)[q - 1][l](
                            lines, columns, (const char *)(buffer + plane * size) + i * x_line, x_line, x_step, starts,
                            d + plane * d_plane, d_line, d_step, sums + (plane * g->taps + tap) * lanes, length * lanes);
                        tap += l;
                    }
                }
            }
        }
    }
    return FD_OK;
}

/* Adds up the slices of one plane and writes them to dw. */
static int FD_CAT(depthwise_weight_sum, SFX)(void *context, ptrdiff_t plane) {
    const depthwise_call *g = (const depthwise_call *)context;
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX), n = lanes * g->taps, c = plane * lanes;
    T *sum = (T *)g->partial + plane * n;
    for (ptrdiff_t slice = 1; slice < g->slices; slice++) {
        const T *more = sum + slice * g->planes * n;
        for (ptrdiff_t i = 0; i < n; i++) sum[i] += more[i];
    }
    for (ptrdiff_t t = 0; t < g->taps; t++)
        FD_CAT(fd_store, SFX)(g->w.type, sum + t * lanes, fd_at(&g->w, c, 0, t / g->w.shape[3], t % g->w.shape[3]),
                              g->w.stride[0], fd_min(lanes, g->w.shape[0] - c));
    return FD_OK;
}

static int FD_CAT(depthwise_weight_run, SFX)(depthwise_call *g, int threads) {
    const size_t mark = rt->mark();
    int status = depthwise_begin(g, 1, FD_CAT(FD_LANES, SFX), sizeof(T));
    const double sums = (double)g->slices * g->planes * FD_CAT(FD_LANES, SFX) * g->taps;
    g->partial = rt->push((size_t)sums * sizeof(T));
    if (!g->partial) status = FD_NO_MEMORY;
    if (!status)
        status = rt->parallel_for(FD_CAT(depthwise_weight_task, SFX), g, g->slices * g->channel_blocks, threads,
                                  (double)g->out.size * (double)(g->taps + 16) / 40);
    if (!status) status = rt->parallel_for(FD_CAT(depthwise_weight_sum, SFX), g, g->planes, threads, sums / 8);
    rt->release(mark);
    return status;
}
