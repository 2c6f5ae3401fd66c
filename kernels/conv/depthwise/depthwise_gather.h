/* The copy into planes, forward and backward_input. Included for each compute dtype, with T and SFX defined. */

/* to[plane][row][column][lanes]: rows from y0 and columns from x0 of `channels` channels from c; what lies beside the
 * image is zero, and so are the lanes beyond the last channel. Planes are `size` elements apart. */
static void FD_CAT(depthwise_planes, SFX)(const fd_tensor *t, ptrdiff_t n, ptrdiff_t c, ptrdiff_t channels, ptrdiff_t y0,
                                          ptrdiff_t rows, ptrdiff_t x0, ptrdiff_t columns, T *to, ptrdiff_t size) {
    typedef FD_CAT(fd_v, SFX) vector;
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX), whole = channels / lanes * lanes, sw = t->stride[3];
    const ptrdiff_t left = fd_max(0, fd_min(-x0, columns)), right = fd_max(left, fd_min(t->shape[3] - x0, columns));
    const int same = t->type == (sizeof(T) == 8 ? FD_F64 : FD_F32) && t->stride[1] == (ptrdiff_t)sizeof(T);
    const int images = t->stride[1] != t->itemsize && channels > 1; /* copied channel by channel, not pixel by pixel */
    T run[64];
    for (ptrdiff_t y = y0; y < y0 + rows; y++, to += columns * lanes) {
        const int inside = y >= 0 && y < t->shape[2] && right > left;
        for (ptrdiff_t k = 0; k < channels; k += lanes) {
            T *line = to + k / lanes * size;
            if (!inside || k == whole) memset(line, 0, (size_t)(columns * lanes) * sizeof(T));
            if (!inside) continue;
            memset(line, 0, (size_t)(left * lanes) * sizeof(T));
            memset(line + right * lanes, 0, (size_t)((columns - right) * lanes) * sizeof(T));
        }
        if (!inside) continue;
        const char *from = fd_at(t, n, c, y, x0 + left);
        T *line = to + left * lanes;
        if (images) {
            for (ptrdiff_t k = 0; k < channels; k++)
                for (ptrdiff_t x = 0; x < right - left; x += 64) {
                    const ptrdiff_t many = fd_min(64, right - left - x);
                    T *at = line + k / lanes * size + x * lanes + k % lanes;
                    FD_CAT(fd_load, SFX)(t->type, from + k * t->stride[1] + x * sw, sw, run, many);
                    for (ptrdiff_t i = 0; i < many; i++) at[i * lanes] = run[i];
                }
            continue;
        }
        for (ptrdiff_t x = left; x < right; x++, from += sw, line += lanes) {
            T *at = line;
            for (ptrdiff_t k = 0; k < whole; k += lanes, at += size) {
                if (same) *(vector *)at = *(const vector *)(from + k * sizeof(T));
                else FD_CAT(fd_load, SFX)(t->type, from + k * t->itemsize, t->itemsize, at, lanes);
            }
            if (whole < channels) FD_CAT(fd_read, SFX)(t->type, from + whole * t->itemsize, t->itemsize, at, channels - whole);
        }
    }
}

static int FD_CAT(depthwise_gather_task, SFX)(void *context, ptrdiff_t index) {
    const depthwise_call *g = (const depthwise_call *)context;
    const depthwise_axis *row = &g->axis[0], *column = &g->axis[1];
    const depthwise_block b = depthwise_block_of(g, index / g->channel_blocks, index % g->channel_blocks);
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX), size = g->buffer_rows * g->buffer_columns * lanes;
    const ptrdiff_t x_step = column->scale * lanes, x_line = row->scale * g->buffer_columns * lanes;
    const int type = sizeof(T) == 8 ? FD_F64 : FD_F32;
    const fd_tensor *out = &g->out, *mask = g->mask;
    const int direct = out->type == type && out->stride[1] == (ptrdiff_t)sizeof(T) &&
                       (!mask || (mask->type == type && mask->stride[1] == (ptrdiff_t)sizeof(T)));
    T *buffer = (T *)rt->push((size_t)(fd_ceil_div(b.channels, lanes) * size) * sizeof(T));
    T *tile = (T *)rt->push((size_t)(DEPTHWISE_PIXELS * lanes) * sizeof(T));
    if (!buffer || !tile) return FD_NO_MEMORY;
    FD_CAT(depthwise_planes, SFX)(&g->x, b.n, b.c, b.channels, b.i * row->scale + row->first, g->buffer_rows,
                                  b.j * column->scale + column->first, g->buffer_columns, buffer, size);
    for (ptrdiff_t k = 0; k < b.channels; k += lanes) {
        const ptrdiff_t c = b.c + k, channels = fd_min(lanes, b.channels - k);
        const int whole = direct && channels == lanes;
        const T *w = (const T *)g->packed + c * g->taps, *bias = g->bias ? (const T *)g->bias + c : NULL;
        const ptrdiff_t *offset = g->offset;
        for (ptrdiff_t phase = 0; phase < row->classes * column->classes; phase++) {
            const depthwise_class *rows = &row->at[phase / column->classes], *columns = &column->at[phase % column->classes];
            const ptrdiff_t taps = rows->taps * columns->taps, many = fd_min(g->columns, columns->count - b.j);
            const ptrdiff_t tiles = fd_ceil_div(fd_max(many, 0), DEPTHWISE_PIXELS), step = column->step * out->stride[3];
            const ptrdiff_t y_step = mask ? column->step * mask->stride[3] : 0;
            const T *from = buffer + k / lanes * size;
            for (ptrdiff_t i = b.i; i < fd_min(b.i + g->rows, rows->count); i++, from += x_line) {
                const ptrdiff_t h = rows->start + i * row->step, v = columns->start + b.j * column->step;
                char *to = fd_at(out, b.n, c, h, v);
                const char *y = mask ? fd_at(mask, b.n, c, h, v) : NULL;
                const T *x = from;
                for (ptrdiff_t t = 0; t < tiles; t++) {
                    const ptrdiff_t m = many / tiles + (t < many % tiles);
                    if (whole) {
                        FD_CAT(depthwise_gather, SFX)[m](taps, offset, (const char *)x, x_step * (ptrdiff_t)sizeof(T), w, to,
                                                         step, bias, g->relu, y, y_step);
                    } else {
                        FD_CAT(depthwise_gather, SFX)[m](taps, offset, (const char *)x, x_step * (ptrdiff_t)sizeof(T), w,
                                                         (char *)tile, lanes * (ptrdiff_t)sizeof(T), bias, g->relu, NULL, 0);
                        for (ptrdiff_t p = 0; p < m; p++) {
                            if (mask)
                                FD_CAT(fd_relu_mask, SFX)(tile + p * lanes, mask->type, y + p * y_step, mask->stride[1],
                                                          channels);
                            FD_CAT(fd_write, SFX)(out->type, tile + p * lanes, to + p * step, out->stride[1], channels);
                        }
                    }
                    x += m * x_step;
                    to += m * step;
                    y += m * y_step;
                }
            }
            offset += taps;
            w += taps * lanes;
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
    int status = depthwise_begin(g, lanes, sizeof(T));
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
