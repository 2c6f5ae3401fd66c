/* Gradient of the weight. Included for each compute dtype, with T and SFX defined.
 *
 * dw[r][s, c][k] = sum over pixels of x[row + r][column + s, c] * dout[pixel][k]. In a chunk's padded rows (direct_gather.h)
 * the taps s and the channels of a block are neighbours, S * cb of them: rows of the register tile, whose inner loop goes
 * over the chunk's pixels, output row by output row, and reads panels of dout, [panel][image][row][column][nr].
 *
 * The chunks are cut into `slices` runs. A task adds up channel_step channels over one of them into sums of its own,
 * [group][panel][block of channels][r][s][channel][nr], a chunk at a time in registers; the slices are then added in
 * their order, so the result does not depend on who computed them. */

/* dout at a chunk's positions, for one group. */
static void FD_CAT(direct_panels, SFX)(const direct_call *g, const direct_chunk *k, ptrdiff_t group, T *to) {
    const fd_tensor *d = &g->out;
    const ptrdiff_t nr = g->nr, plane = k->images * (k->q1 - k->q0) * (k->p1 - k->p0) * nr;
    for (ptrdiff_t n = k->n0; n < k->n0 + k->images; n++)
        for (ptrdiff_t q = k->q0; q < k->q1; q++) {
            const char *from = d->data + n * d->stride[0] + group * g->produce * d->stride[1] + q * d->stride[2] +
                               k->p0 * d->stride[3];
            for (ptrdiff_t p = k->p0; p < k->p1; p++, to += nr, from += d->stride[3])
                FD_CAT(direct_deal, SFX)(d->type, from, d->stride[1], g->produce, nr, to, plane);
        }
}

static int FD_CAT(direct_weight_task, SFX)(void *context, ptrdiff_t index) {
    const direct_call *g = (const direct_call *)context;
    const direct_axis *row = g->rows, *column = g->columns;
    const ptrdiff_t steps = fd_ceil_div(g->reduce, g->channel_step), nr = g->nr, chunks = direct_chunks(g);
    const ptrdiff_t c0 = index % steps * g->channel_step, channels = fd_min(g->channel_step, g->reduce - c0);
    const ptrdiff_t group = index / steps % g->groups, slice = index / steps / g->groups;
    const ptrdiff_t first = chunks * slice / g->slices, last = chunks * (slice + 1) / g->slices;
    const ptrdiff_t taps = row->taps * column->taps, inner = taps * g->reduce;
    const int nv = FD_CAT(fd_panel_vectors, SFX)(g->produce);
    T *sums = (T *)g->partial + (slice * g->groups + group) * g->panels * inner * nr;
    T *a = (T *)rt->push((size_t)(g->images * direct_span_of(row, 1, 0, g->height).count *
                                  direct_span_of(column, 1, 0, g->width).count * channels) * sizeof(T));
    const ptrdiff_t most = g->panels * g->images * g->height * g->width * nr;
    T *b = (T *)rt->push((size_t)most * sizeof(T));
    if (!a || !b) return FD_NO_MEMORY;
    /* one panel that lies in memory as the tiles want it is read where it is */
    const fd_tensor *d = &g->out;
    const int ready = g->groups == 1 && g->produce == nr && d->itemsize == sizeof(T) && g->width == d->shape[3] &&
                      d->stride[1] == d->itemsize && d->stride[3] == nr * d->itemsize &&
                      d->stride[2] == d->shape[3] * d->stride[3];
    if (!ready) memset(b, 0, (size_t)most * sizeof(T)); /* channels that fill up the last panel */
    for (ptrdiff_t chunk = first; chunk < last; chunk++) {
        const direct_chunk k = direct_chunk_of(g, chunk);
        const ptrdiff_t m = k.p1 - k.p0, image = (k.q1 - k.q0) * m * nr, plane = k.rows.count * k.columns.count;
        FD_CAT(direct_fill, SFX)(&g->source, &k, group * g->reduce + c0, channels, g->cb, a);
        if (!ready) FD_CAT(direct_panels, SFX)(g, &k, group, b);
        for (ptrdiff_t panel = 0; panel < g->panels; panel++)
            for (ptrdiff_t c = 0; c < channels; c += g->cb)
                for (ptrdiff_t r = 0; r < row->taps; r++) {
                    const ptrdiff_t wide = fd_min(g->cb, channels - c), rows = column->taps * wide;
                    const ptrdiff_t line = k.columns.count * wide;
                    /* output rows that meet this filter row in the padding are skipped */
                    const ptrdiff_t high = g->source.shape[2] - row->offset - r;
                    const ptrdiff_t above = fd_ceil_div(fd_max(-row->offset - r, 0), row->scale);
                    const ptrdiff_t q0 = fd_min(fd_max(k.q0, above), k.q1);
                    const ptrdiff_t q1 = fd_max(q0, fd_min(k.q1, high > 0 ? fd_ceil_div(high, row->scale) : 0));
                    T *to = sums + ((panel * inner) + taps * (c0 + c) + r * rows) * nr;
                    for (ptrdiff_t n = 0; n < k.images; n++) {
                        const T *dout = ready ? (const T *)(d->data + (k.n0 + n) * d->stride[0] + k.q0 * d->stride[2])
                                              : b + (panel * k.images + n) * image;
                        FD_CAT(fd_panel_runs, SFX)(nv, rows, q1 - q0, k.rows.step * line, m,
                                                   a + (c * k.images + n * wide) * plane +
                                                       ((q0 - k.q0) * k.rows.step + r) * line,
                                                   1, k.columns.step * wide, dout + (q0 - k.q0) * m * nr, nr, to, nr,
                                                   chunk > first || n > 0);
                    }
                }
    }
    return FD_OK;
}

/* Adds up the slices of one block of channels and one panel, and writes them to dw, across: the sums have neighbouring k,
 * dw has neighbouring taps or channels. */
static int FD_CAT(direct_weight_sum, SFX)(void *context, ptrdiff_t index) {
    const direct_call *g = (const direct_call *)context;
    const fd_tensor *dw = &g->weight;
    const ptrdiff_t blocks = fd_ceil_div(g->reduce, g->cb), nr = g->nr, taps = g->rows->taps * g->columns->taps;
    const ptrdiff_t c0 = index % blocks * g->cb, wide = fd_min(g->cb, g->reduce - c0), many = taps * wide;
    const ptrdiff_t panel = index / blocks % g->panels, group = index / blocks / g->panels;
    const ptrdiff_t size = g->groups * g->panels * taps * g->reduce * nr, n = fd_min(nr, g->produce - panel * nr);
    const T *sums = (const T *)g->partial + ((group * g->panels + panel) * g->reduce + c0) * taps * nr;
    char *to = dw->data + group * g->w_group + panel * nr * g->w_produce + c0 * g->w_reduce;
    T *across = (T *)rt->push((size_t)(nr * many) * sizeof(T)), *sum = (T *)rt->push((size_t)nr * sizeof(T));
    if (!across || !sum) return FD_NO_MEMORY;
    /* one run [channel][r][s] of each k where dw has that order, runs of channels otherwise */
    const int whole = dw->stride[3] == dw->itemsize && dw->stride[2] == dw->itemsize * g->columns->taps &&
                      g->w_reduce == dw->itemsize * taps;
    const ptrdiff_t tap_step = whole ? 1 : wide, channel_step = whole ? taps : 1;
    for (ptrdiff_t tap = 0; tap < taps; tap++)
        for (ptrdiff_t c = 0; c < wide; c++, sums += nr) {
            const T *v = sums;
            if (g->slices > 1) {
                for (ptrdiff_t j = 0; j < nr; j++) sum[j] = sums[j];
                for (ptrdiff_t slice = 1; slice < g->slices; slice++)
                    for (ptrdiff_t j = 0; j < nr; j++) sum[j] += sums[slice * size + j];
                v = sum;
            }
            T *d = across + tap * tap_step + c * channel_step;
            for (ptrdiff_t j = 0; j < n; j++) d[j * many] = v[j];
        }
    for (ptrdiff_t j = 0; j < n; j++, to += g->w_produce) {
        if (whole) FD_CAT(fd_store, SFX)(dw->type, across + j * many, to, dw->itemsize, many);
        else
            for (ptrdiff_t tap = 0; tap < taps; tap++)
                FD_CAT(fd_store, SFX)(dw->type, across + j * many + tap * wide,
                                      to + tap / g->columns->taps * dw->stride[2] + tap % g->columns->taps * dw->stride[3],
                                      g->w_reduce, wide);
    }
    return FD_OK;
}

static int FD_CAT(direct_weight_run, SFX)(direct_call *g, int threads) {
    const size_t mark = rt->mark();
    int status;
    if (g->weight.size == 0) return FD_OK;
    g->nr = FD_CAT(fd_panel_vectors, SFX)(g->produce) * FD_CAT(FD_LANES, SFX);
    g->panels = fd_ceil_div(g->produce, g->nr);
    const double sums = (double)g->slices * g->groups * g->panels * g->nr * g->reduce * g->rows->taps * g->columns->taps;
    const double pixels = (double)g->source.shape[0] * g->rows->count * g->columns->count;
    g->partial = rt->push((size_t)sums * sizeof(T));
    if (!g->partial) return FD_NO_MEMORY;
    if (pixels == 0) memset(g->partial, 0, (size_t)sums * sizeof(T));
    status = pixels == 0 ? FD_OK
                         : rt->parallel_for(FD_CAT(direct_weight_task, SFX), g,
                                            g->slices * g->groups * fd_ceil_div(g->reduce, g->channel_step), threads,
                                            pixels * sums / g->slices / 50);
    if (!status)
        status = rt->parallel_for(FD_CAT(direct_weight_sum, SFX), g, g->groups * g->panels * fd_ceil_div(g->reduce, g->cb),
                                  threads, sums / 4);
    rt->release(mark);
    return status;
}
