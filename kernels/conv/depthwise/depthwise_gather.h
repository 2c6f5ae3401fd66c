/* Forward and backward_input. Included for each compute dtype, with T and SFX defined. */

/* One row of one phase of one vector of channels. */
static inline void FD_CAT(depthwise_row, SFX)(const depthwise_call *g, const depthwise_source *s, depthwise_line *line,
                                              const depthwise_run *run, const depthwise_run *end, ptrdiff_t plane,
                                              ptrdiff_t channels, const T *w, const T *bias, char *to, const char *y,
                                              T *tile) {
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX), to_step = g->axis[1].step * g->out.stride[3];
    for (; run < end; run++) {
        const ptrdiff_t x = (run->source - s->left) * s->pixel + plane;
        const FD_CAT(depthwise_gather_fn, SFX) gather = FD_CAT(depthwise_gather, SFX)[run->count];
        line->columns = run->taps;
        if (!tile) {
            gather(line, x, w + run->first * lanes, to + run->start * to_step, bias,
                   y ? y + run->start * line->y_ld : NULL);
            continue;
        }
        gather(line, x, w + run->first * lanes, (char *)tile, bias, NULL);
        for (ptrdiff_t p = 0; p < run->count; p++) {
            const ptrdiff_t at = run->start + p;
            if (y)
                FD_CAT(fd_relu_mask, SFX)(tile + p * lanes, g->mask->type, y + at * line->y_ld, g->mask->stride[1],
                                          channels);
            FD_CAT(fd_write, SFX)(g->out.type, tile + p * lanes, to + at * to_step, g->out.stride[1], channels);
        }
    }
}

static int FD_CAT(depthwise_gather_task, SFX)(void *context, ptrdiff_t index) {
    const depthwise_call *g = (const depthwise_call *)context;
    const fd_tensor *out = &g->out, *mask = g->mask;
    const depthwise_axis *row = &g->axis[0], *column = &g->axis[1];
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX), kernel = g->w.shape[2];
    const depthwise_block b =
        depthwise_block_of(g, index / g->channel_blocks, index % g->channel_blocks, lanes);
    const int to_whole =
        b.whole && FD_CAT(depthwise_direct, SFX)(out) && (!mask || FD_CAT(depthwise_direct, SFX)(mask));
    if (g->strip && g->direct && to_whole) return FD_CAT(depthwise_strips, SFX)(g, &b);
    T *buffer = NULL, *tile = NULL;
    if (!(g->direct && b.whole)) {
        const ptrdiff_t size = g->buffer_rows * g->buffer_columns * FD_VECTOR_BYTES;
        buffer = (T *)rt->push((size_t)(fd_ceil_div(b.channels, lanes) * size));
        if (!buffer) return FD_NO_MEMORY;
    }
    if (!to_whole) {
        tile = (T *)rt->push((size_t)(DEPTHWISE_PIXELS * FD_VECTOR_BYTES));
        if (!tile) return FD_NO_MEMORY;
    }
    depthwise_source s = FD_CAT(depthwise_source_of, SFX)(g, &b, buffer);
    depthwise_run *runs = (depthwise_run *)rt->push((size_t)(column->classes * g->columns) * sizeof(depthwise_run));
    depthwise_run *rows = (depthwise_run *)rt->push((size_t)row->classes * sizeof(depthwise_run));
    ptrdiff_t *many = (ptrdiff_t *)rt->push((size_t)column->classes * sizeof(ptrdiff_t));
    const char **source = (const char **)rt->push((size_t)(row->classes * kernel) * sizeof(const char *));
    if (!runs || !rows || !many || !source) return FD_NO_MEMORY;
    for (ptrdiff_t k = 0; k < column->classes; k++)
        many[k] = depthwise_cut(column, &column->at[k], s.low[1], s.high[1], b.j,
                                fd_min(b.j + g->columns, column->at[k].count), DEPTHWISE_PIXELS,
                                runs + k * g->columns);
    depthwise_line line = {0};
    line.relu = g->relu;
    line.tap = column->dilation * s.pixel;
    line.r1 = column->scale * s.pixel;
    line.ld = tile ? FD_VECTOR_BYTES : column->step * out->stride[3];
    line.y_ld = mask ? column->step * mask->stride[3] : 0;
    const ptrdiff_t pixels = fd_min(g->columns, column->most - b.j);
    for (ptrdiff_t i = b.i; i < fd_min(b.i + g->rows, row->most); i++) {
        FD_CAT(depthwise_fill, SFX)(g, &b, i * row->scale + row->first, i * row->scale + row->last, &s);
        for (ptrdiff_t a = 0; a < row->classes; a++) {
            depthwise_cut(row, &row->at[a], s.low[0], s.high[0], i, i + 1, 1, &rows[a]);
            for (ptrdiff_t r = 0; r < rows[a].taps; r++)
                source[a * kernel + r] = s.data + depthwise_at(&s, rows[a].source + r * row->dilation, s.left);
        }
        const char *ahead = fd_at(&g->x, b.n, b.c, (i + 1) * row->scale + row->last, b.j * column->scale);
        for (ptrdiff_t k = 0; k < b.channels; k += lanes) {
            const ptrdiff_t plane = k / lanes * s.plane;
            const T *w = (const T *)g->packed + (b.c + k) * g->taps;
            const T *bias = g->bias ? (const T *)g->bias + b.c + k : NULL;
            depthwise_prefetch(ahead + k * g->x.stride[1], row->scale, g->x.stride[2], pixels * column->scale,
                               g->x.stride[3]);
            for (ptrdiff_t a = 0; a < row->classes; a++)
                for (ptrdiff_t c = 0; c < column->classes; c++) {
                    const ptrdiff_t taps = column->at[c].taps * lanes, h = row->at[a].start + i * row->step;
                    const ptrdiff_t v = column->at[c].start;
                    line.taps = rows[a].taps;
                    line.row = source + a * kernel;
                    line.w_line = taps;
                    if (i < row->at[a].count)
                        FD_CAT(depthwise_row, SFX)(g, &s, &line, runs + c * g->columns, runs + c * g->columns + many[c],
                                                   plane, fd_min(lanes, b.channels - k), w + rows[a].first * taps, bias,
                                                   fd_at(out, b.n, b.c + k, h, v),
                                                   mask ? fd_at(mask, b.n, b.c + k, h, v) : NULL, tile);
                    w += row->at[a].taps * taps;
                }
        }
    }
    return FD_OK;
}

/* [plane][tap in the order of the phases][lanes] */
static int FD_CAT(depthwise_pack_task, SFX)(void *context, ptrdiff_t plane) {
    const depthwise_call *g = (const depthwise_call *)context;
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX), c = plane * lanes, channels = fd_min(lanes, g->w.shape[0] - c);
    T *to = (T *)g->packed + c * g->taps;
    if (channels < lanes) memset(to, 0, (size_t)(g->taps * lanes) * sizeof(T));
    for (ptrdiff_t t = 0; t < g->taps; t++, to += lanes)
        FD_CAT(fd_load, SFX)(g->w.type, fd_at(&g->w, c, 0, g->tap[t] / g->w.shape[3], g->tap[t] % g->w.shape[3]),
                             g->w.stride[0], to, channels);
    return FD_OK;
}

static int FD_CAT(depthwise_gather_run, SFX)(depthwise_call *g, const fd_tensor *bias, int threads) {
    const size_t mark = rt->mark();
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX);
    int status = depthwise_begin(g, 0, lanes);
    T *padded = NULL;
    g->direct = FD_CAT(depthwise_direct, SFX)(&g->x);
    g->packed = rt->push((size_t)(g->planes * lanes * g->taps) * sizeof(T));
    if (!g->packed) status = FD_NO_MEMORY;
    if (bias && !status) {
        padded = (T *)rt->push((size_t)(g->planes * lanes) * sizeof(T));
        if (padded) {
            memset(padded, 0, (size_t)(g->planes * lanes) * sizeof(T));
            FD_CAT(fd_load, SFX)(bias->type, bias->data, bias->stride[0], padded, g->w.shape[0]);
        } else {
            status = FD_NO_MEMORY;
        }
    }
    g->bias = padded;
    if (!status)
        status = rt->parallel_for(FD_CAT(depthwise_pack_task, SFX), g, g->planes, threads,
                                  (double)(g->planes * lanes) * (double)g->taps);
    if (!status)
        status = rt->parallel_for(FD_CAT(depthwise_gather_task, SFX), g,
                                  g->out.shape[0] * g->row_blocks * g->column_blocks * g->channel_blocks, threads,
                                  (double)g->out.size * (double)(g->taps + 16) / 40);
    rt->release(mark);
    return status;
}
