/* Gradient of the weight. Included for each compute dtype, with T and SFX defined.
 *
 * partial[slice][plane][tap][lanes]: a task adds up one block of channels over one slice of blocks. */

/* A rectangle of positions that stand on the same taps: sums[tap][lanes] += sum of the vectors at its taps (x: at the
 * first tap) times those of dout. Neighbouring taps of a filter row make a run, several runs a tile. */
static void FD_CAT(depthwise_rectangle, SFX)(const depthwise_call *g, const depthwise_source *s, const depthwise_run *i,
                                             const depthwise_run *j, ptrdiff_t plane, const char *d, ptrdiff_t d_line,
                                             ptrdiff_t d_step, T *sums) {
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX), width = g->w.shape[3];
    const ptrdiff_t tap = g->dilation[1] * s->pixel, run = g->dilation[0] * s->line;
    const ptrdiff_t parts = fd_ceil_div(j->taps, DEPTHWISE_TAPS);
    const ptrdiff_t together = parts == 1 ? fd_min(DEPTHWISE_RUNS, DEPTHWISE_TAPS / j->taps) : 1;
    const char *x = s->data + depthwise_at(s, i->source, j->source) + plane;
    sums += (i->first * width + j->first) * lanes;
    for (ptrdiff_t r = 0; r < i->taps; r += together)
        for (ptrdiff_t part = 0, t = 0, many; part < parts; part++, t += many) {
            many = j->taps / parts + (part < j->taps % parts);
            FD_CAT(depthwise_weight, SFX)[fd_min(together, i->taps - r) - 1][many](
                i->count, j->count, x + r * run + t * tap, g->stride[0] * s->line, g->stride[1] * s->pixel, run, tap, d,
                d_line, d_step, sums + (r * width + t) * lanes, width * lanes);
        }
}

static int FD_CAT(depthwise_weight_task, SFX)(void *context, ptrdiff_t index) {
    const depthwise_call *g = (const depthwise_call *)context;
    const depthwise_axis *row = &g->axis[0], *column = &g->axis[1];
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX), vector = FD_VECTOR_BYTES, slice = index / g->channel_blocks;
    const ptrdiff_t blocks = g->out.shape[0] * g->row_blocks * g->column_blocks;
    const ptrdiff_t first = blocks * slice / g->slices, last = blocks * (slice + 1) / g->slices;
    const ptrdiff_t size = g->buffer_rows * g->buffer_columns * lanes, d_size = g->lines * g->columns * lanes;
    depthwise_block b = depthwise_block_of(g, first, index % g->channel_blocks, lanes);
    const ptrdiff_t planes = fd_ceil_div(b.channels, lanes);
    const int direct = b.whole && FD_CAT(depthwise_direct, SFX)(&g->out);
    T *buffer = NULL, *dout = NULL; /* copies of x and of dout, where they cannot be read themselves */
    if (!(g->direct && b.whole) && !(buffer = (T *)rt->push((size_t)(planes * size) * sizeof(T)))) return FD_NO_MEMORY;
    if (!direct && !(dout = (T *)rt->push((size_t)(planes * d_size) * sizeof(T)))) return FD_NO_MEMORY;
    depthwise_run *down = (depthwise_run *)rt->push((size_t)g->lines * sizeof(depthwise_run));
    depthwise_run *across = (depthwise_run *)rt->push((size_t)g->columns * sizeof(depthwise_run));
    if (!down || !across) return FD_NO_MEMORY;
    T *sums = (T *)g->partial + (slice * g->planes * lanes + b.c) * g->taps;
    memset(sums, 0, (size_t)(planes * lanes * g->taps) * sizeof(T));
    for (ptrdiff_t block = first; block < last; block++) {
        b = depthwise_block_of(g, block, index % g->channel_blocks, lanes);
        depthwise_source s = FD_CAT(depthwise_source_of, SFX)(g, &b, buffer);
        const ptrdiff_t end = fd_min(b.i + g->rows, g->out.shape[2]);
        const ptrdiff_t columns = fd_min(g->columns, g->out.shape[3] - b.j);
        /* Cut by the borders of the image in the copy too: so its sums are those of the image itself. */
        const ptrdiff_t runs = depthwise_cut(column, column->at, 0, g->x.shape[3], b.j, b.j + columns, columns, across);
        for (ptrdiff_t i = b.i, lines; i < end; i += lines) {
            lines = fd_min(g->lines, end - i);
            const char *d = fd_at(&g->out, b.n, b.c, i, b.j);
            ptrdiff_t d_line = g->out.stride[2], d_step = g->out.stride[3], d_plane = vector;
            FD_CAT(depthwise_fill, SFX)(g, &b, s.top, (i + lines - 1) * row->scale + row->last, &s);
            if (!direct) {
                for (ptrdiff_t k = 0; k < lines; k++)
                    FD_CAT(depthwise_copy, SFX)(&g->out, b.n, b.c, b.channels, i + k, b.j, columns,
                                                dout + k * columns * lanes, d_size);
                d = (const char *)dout;
                d_step = vector;
                d_line = columns * vector;
                d_plane = d_size * (ptrdiff_t)sizeof(T);
            }
            if (g->strip) {
                FD_CAT(depthwise_weight_strips, SFX)(g, &b, &s, i, lines, columns, d, d_line, d_step, d_plane, sums);
                continue;
            }
            const ptrdiff_t bands = depthwise_cut(row, row->at, 0, g->x.shape[2], i, i + lines, lines, down);
            for (ptrdiff_t plane = 0; plane < planes; plane++) {
                depthwise_prefetch(fd_at(&g->x, b.n, b.c + plane * lanes, (i + lines) * row->scale + row->last,
                                         b.j * column->scale),
                                   lines * row->scale, g->x.stride[2], columns * column->scale, g->x.stride[3]);
                depthwise_prefetch(fd_at(&g->out, b.n, b.c + plane * lanes, i + lines, b.j), lines, g->out.stride[2],
                                   columns, g->out.stride[3]);
                for (const depthwise_run *p = down; p < down + bands; p++)
                    for (const depthwise_run *q = across; q < across + runs; q++)
                        if (p->taps && q->taps)
                            FD_CAT(depthwise_rectangle, SFX)(
                                g, &s, p, q, plane * s.plane,
                                d + plane * d_plane + (p->start - i) * d_line + (q->start - b.j) * d_step, d_line,
                                d_step, sums + plane * g->taps * lanes);
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
    int status = depthwise_begin(g, 1, FD_CAT(FD_LANES, SFX));
    const double sums = (double)g->slices * g->planes * FD_CAT(FD_LANES, SFX) * g->taps;
    g->direct = FD_CAT(depthwise_direct, SFX)(&g->x);
    g->partial = rt->push((size_t)sums * sizeof(T));
    if (!g->partial) status = FD_NO_MEMORY;
    if (!status)
        status = rt->parallel_for(FD_CAT(depthwise_weight_task, SFX), g, g->slices * g->channel_blocks, threads,
                                  (double)g->out.size * (double)(g->taps + 16) / 40);
    if (!status) status = rt->parallel_for(FD_CAT(depthwise_weight_sum, SFX), g, g->planes, threads, sums / 8);
    rt->release(mark);
    return status;
}
