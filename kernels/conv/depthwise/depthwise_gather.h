/* The copy into planes, forward and backward_input. Included for each compute dtype, with T and SFX defined. */

/* Columns from x0 on of one row of one image, as vectors of channels: to[plane][column][lanes], planes `size` elements
 * apart. What lies beside the image is zero, and so are the lanes beyond the last channel. */
static void FD_CAT(depthwise_line, SFX)(const fd_tensor *t, ptrdiff_t n, ptrdiff_t c, ptrdiff_t channels, ptrdiff_t y,
                                        ptrdiff_t x0, ptrdiff_t columns, T *to, ptrdiff_t size) {
    typedef FD_CAT(fd_v, SFX) vector;
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX), sw = t->stride[3], sc = t->stride[1];
    const ptrdiff_t left = fd_max(0, fd_min(-x0, columns)), right = fd_max(left, fd_min(t->shape[3] - x0, columns));
    const int same = t->type == (sizeof(T) == 8 ? FD_F64 : FD_F32) && sc == (ptrdiff_t)sizeof(T);
    const int inside = y >= 0 && y < t->shape[2] && right > left;
    for (ptrdiff_t k = 0; k < channels; k += lanes, to += size) {
        const ptrdiff_t many = fd_min(lanes, channels - k);
        if (!inside || many < lanes) memset(to, 0, (size_t)(columns * lanes) * sizeof(T));
        if (!inside) continue;
        const char *from = fd_at(t, n, c + k, y, x0 + left);
        vector *at = (vector *)to, *const end = at + right;
        for (ptrdiff_t x = 0; x < left; x++) at[x] = (vector){0};
        for (ptrdiff_t x = right; x < columns; x++) at[x] = (vector){0};
        at += left;
        if (same && many == lanes) {
            for (; at < end; at++, from += sw) *at = *(const vector *)from;
        } else if (sc == t->itemsize || many == 1) { /* pixel by pixel */
            for (; at < end; at++, from += sw) FD_CAT(fd_load, SFX)(t->type, from, sc, (T *)at, many);
        } else { /* channel by channel */
            T run[64];
            for (; at < end; at += 64, from += 64 * sw)
                for (ptrdiff_t i = 0; i < many; i++) {
                    const ptrdiff_t count = fd_min(64, end - at);
                    FD_CAT(fd_load, SFX)(t->type, from + i * sc, sw, run, count);
                    for (ptrdiff_t x = 0; x < count; x++) ((T *)(at + x))[i] = run[x];
                }
        }
    }
}

/* Fills the buffer of a block as far as `rows` rows, from the top. Row by row, just before they are used: so they are
 * still in L1 then, and the loads from memory alternate with work. */
static void FD_CAT(depthwise_fill, SFX)(const depthwise_call *g, depthwise_block *b, ptrdiff_t rows, T *buffer) {
    const depthwise_axis *row = &g->axis[0], *column = &g->axis[1];
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX), size = g->buffer_rows * g->buffer_columns * lanes;
    for (; b->filled < rows; b->filled++)
        FD_CAT(depthwise_line, SFX)(&g->x, b->n, b->c, b->channels, b->i * row->scale + row->first + b->filled,
                                    b->j * column->scale + column->first, g->buffer_columns,
                                    buffer + b->filled % g->buffer_rows * g->buffer_columns * lanes, size);
}

/* Whether whole vectors of the compute dtype can be written to (or read from) the array itself. */
static int FD_CAT(depthwise_direct, SFX)(const fd_tensor *t) {
    return t->type == (sizeof(T) == 8 ? FD_F64 : FD_F32) && t->stride[1] == (ptrdiff_t)sizeof(T);
}

/* Row i of one phase. */
static void FD_CAT(depthwise_row, SFX)(const depthwise_call *g, const depthwise_block *b, ptrdiff_t i,
                                       const depthwise_class *rows, const depthwise_class *columns,
                                       const ptrdiff_t *offset, const T *buffer, const T *w, T *tile) {
    const fd_tensor *out = &g->out, *mask = g->mask;
    const depthwise_axis *row = &g->axis[0], *column = &g->axis[1];
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX), size = g->buffer_rows * g->buffer_columns * lanes;
    const ptrdiff_t scale = column->scale;
    const ptrdiff_t h = rows->start + i * row->step, v = columns->start + b->j * column->step;
    const ptrdiff_t many = fd_min(g->columns, columns->count - b->j), tiles = fd_ceil_div(many, DEPTHWISE_PIXELS);
    const ptrdiff_t step = column->step * out->stride[3], y_step = mask ? column->step * mask->stride[3] : 0;
    const int direct = FD_CAT(depthwise_direct, SFX)(out) && (!mask || FD_CAT(depthwise_direct, SFX)(mask));
    const char *ahead = fd_at(&g->x, b->n, b->c, (i + 1) * row->scale + row->last, b->j * scale);
    char *line = fd_at(out, b->n, b->c, h, v);
    const char *y_line = mask ? fd_at(mask, b->n, b->c, h, v) : NULL;
    for (ptrdiff_t k = 0; k < b->channels; k += lanes, buffer += size, w += g->taps * lanes) {
        const ptrdiff_t channels = fd_min(lanes, b->channels - k);
        const int whole = direct && channels == lanes;
        const T *bias = g->bias ? (const T *)g->bias + b->c + k : NULL;
        const char *x = (const char *)buffer, *y = mask ? y_line + k * mask->stride[1] : NULL;
        char *to = line + k * out->stride[1];
        depthwise_prefetch(ahead + k * g->x.stride[1], row->scale, g->x.stride[2], many * scale, g->x.stride[3]);
        depthwise_prefetch(to + row->step * out->stride[2], 1, 0, many, step);
        for (ptrdiff_t t = 0, m; t < tiles; t++, x += m * scale * FD_VECTOR_BYTES, to += m * step, y += m * y_step) {
            m = many / tiles + (t < many % tiles);
            FD_CAT(depthwise_gather, SFX)[scale <= 2 ? scale : 0][m](
                rows->taps * columns->taps, offset, x, scale * FD_VECTOR_BYTES, w, whole ? to : (char *)tile,
                whole ? step : FD_VECTOR_BYTES, bias, g->relu, whole ? y : NULL, y_step);
            for (ptrdiff_t p = 0; !whole && p < m; p++) {
                if (mask)
                    FD_CAT(fd_relu_mask, SFX)(tile + p * lanes, mask->type, y + p * y_step, mask->stride[1], channels);
                FD_CAT(fd_write, SFX)(out->type, tile + p * lanes, to + p * step, out->stride[1], channels);
            }
        }
    }
}

static int FD_CAT(depthwise_gather_task, SFX)(void *context, ptrdiff_t index) {
    const depthwise_call *g = (const depthwise_call *)context;
    const depthwise_axis *row = &g->axis[0], *column = &g->axis[1];
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX), size = g->buffer_rows * g->buffer_columns * lanes;
    depthwise_block b = depthwise_block_of(g, index / g->channel_blocks, index % g->channel_blocks);
    T *buffer = (T *)rt->push((size_t)(fd_ceil_div(b.channels, lanes) * size) * sizeof(T));
    T *tile = (T *)rt->push((size_t)(DEPTHWISE_PIXELS * FD_VECTOR_BYTES));
    if (!buffer || !tile) return FD_NO_MEMORY;
    for (ptrdiff_t i = b.i; i < fd_min(b.i + g->rows, row->most); i++) {
        const ptrdiff_t top = (i - b.i) * row->scale;
        const ptrdiff_t *offset = g->offset + top % g->buffer_rows * (g->w.shape[2] * g->w.shape[3]);
        b.filled = fd_max(b.filled, top); /* rows between windows */
        FD_CAT(depthwise_fill, SFX)(g, &b, top + row->last - row->first + 1, buffer);
        for (ptrdiff_t phase = 0, tap = 0; phase < row->classes * column->classes; phase++) {
            const depthwise_class *rows = &row->at[phase / column->classes];
            const depthwise_class *columns = &column->at[phase % column->classes];
            if (i < rows->count && b.j < columns->count)
                FD_CAT(depthwise_row, SFX)(g, &b, i, rows, columns, offset + tap, buffer,
                                           (const T *)g->packed + b.c * g->taps + tap * lanes, tile);
            tap += rows->taps * columns->taps;
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
    int status = depthwise_begin(g, 0, lanes, sizeof(T));
    T *padded = NULL;
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
