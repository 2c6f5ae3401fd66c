/* Direct convolution: padded rows of the source times packed weights. Included for each compute dtype, with T and SFX.
 *
 *   rows of a chunk, zero-padded:                A task copies the source rows that its output positions read, once, into
 *      +--------------------------+              a buffer [block of channels][image][row][column][cb]. There the taps s
 *   r0 | 0 c c c c c c c c c c  0 |              and the channels of an output position are neighbours: one filter row is
 *   r1 | 0[c c c]c c c c c c c  0 |              one run of S * cb values. A register tile walks over R such runs, for
 *   r2 | 0[c c c]c c c c c c c  0 |              several neighbours of an output row, scale * cb values apart, with sums
 *      +--[c c c]-----------------+              that stay in registers. Strides, dtype and memory order of the arrays
 *            S                                   live in this copy and in the store, the padding in the copy. */

/* Deals n neighbouring channels of one pixel out to blocks of `block`, `step` apart; the last may be shorter. */
static inline void FD_CAT(direct_deal, SFX)(int type, const char *from, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t block,
                                            T *to, ptrdiff_t step) {
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX);
    if (type == (sizeof(T) == 8 ? FD_F64 : FD_F32) && stride == (ptrdiff_t)sizeof(T)) {
        if (block == lanes)
            for (; n >= lanes; n -= lanes, from += lanes * stride, to += step) FD_CAT(fd_copy, SFX)(to, (const T *)from, lanes);
        else if (block == 2 * lanes)
            for (; n >= 2 * lanes; n -= 2 * lanes, from += 2 * lanes * stride, to += step)
                FD_CAT(fd_copy, SFX)(to, (const T *)from, 2 * lanes);
    }
    for (; n > 0; n -= block, from += block * stride, to += step) FD_CAT(fd_read, SFX)(type, from, stride, to, fd_min(n, block));
}

/* `channels` channels from `channel` on of a chunk's source, in blocks of cb. */
static void FD_CAT(direct_fill, SFX)(const fd_tensor *x, const direct_chunk *k, ptrdiff_t channel, ptrdiff_t channels,
                                     ptrdiff_t cb, T *to) {
    const ptrdiff_t width = k->columns.count, plane = k->images * k->rows.count * width;
    const ptrdiff_t whole = channels - channels % cb, rest = channels - whole; /* the last block may be narrower */
    const int dense = k->columns.step == k->columns.scale;
    const int merged = dense && cb >= channels && x->stride[1] == x->itemsize && x->stride[3] == x->itemsize * channels;
    ptrdiff_t left = 0, right = width; /* inside the image */
    while (left < width && direct_source(&k->columns, left) < 0) left++;
    while (right > left && direct_source(&k->columns, right - 1) >= x->shape[3]) right--;
    for (ptrdiff_t n = 0; n < k->images; n++) {
        for (ptrdiff_t i = 0; i < k->rows.count; i++) {
            const ptrdiff_t line = (n * k->rows.count + i) * width, y = direct_source(&k->rows, i);
            const int inside = y >= 0 && y < x->shape[2];
            const ptrdiff_t a = inside ? left : width, b = inside ? right : width;
            const char *row = x->data + (k->n0 + n) * x->stride[0] + channel * x->stride[1] + y * x->stride[2];
            for (ptrdiff_t c = 0; c < channels; c += cb) {
                const ptrdiff_t wide = fd_min(cb, channels - c);
                T *at = to + c * plane + line * wide;
                memset(at, 0, (size_t)(a * wide) * sizeof(T));
                memset(at + b * wide, 0, (size_t)((width - b) * wide) * sizeof(T));
            }
            if (merged && b > a)
                FD_CAT(fd_read, SFX)(x->type, row + (k->columns.first + a) * x->stride[3], x->itemsize,
                                     to + (line + a) * channels, (b - a) * channels);
            for (ptrdiff_t j = a; j < b && !merged; j++) {
                const char *from = row + direct_source(&k->columns, j) * x->stride[3];
                FD_CAT(direct_deal, SFX)(x->type, from, x->stride[1], whole, cb, to + (line + j) * cb, plane * cb);
                if (rest)
                    FD_CAT(fd_read, SFX)(x->type, from + whole * x->stride[1], x->stride[1],
                                         to + whole * plane + (line + j) * rest, rest);
            }
        }
    }
}

/* ---- forward and backward_input ---------------------------------------------------------------------------------- */

/* Finishes and writes `count` neighbours of an output row, n channels each; inlined with n and the rest constant. */
static inline __attribute__((always_inline)) void FD_CAT(direct_emit, SFX)(T *c, ptrdiff_t count, ptrdiff_t nr, ptrdiff_t n,
                                                                           const T *bias, int relu, char *to, ptrdiff_t step) {
    for (ptrdiff_t j = 0; j < count; j++, c += nr, to += step) {
        FD_CAT(fd_epilogue, SFX)(c, bias, relu, n);
        FD_CAT(fd_copy, SFX)((T *)to, c, n);
    }
}

/* Positions q of one class of rows, p0..p1-1 of one class of columns, n channels from channel k0 on. */
static void FD_CAT(direct_store, SFX)(const direct_call *g, const direct_axis *row, const direct_axis *column, ptrdiff_t image,
                                      ptrdiff_t q, ptrdiff_t p0, ptrdiff_t p1, ptrdiff_t k0, ptrdiff_t n, T *c) {
    const fd_tensor *out = &g->out, *mask = g->mask;
    const ptrdiff_t y = row->start + q * row->step, x = column->start + p0 * column->step, lanes = FD_CAT(FD_LANES, SFX);
    const T *bias = g->bias ? (const T *)g->bias + k0 : NULL;
    char *to = out->data + image * out->stride[0] + k0 * out->stride[1] + y * out->stride[2] + x * out->stride[3];
    const ptrdiff_t move = column->step * out->stride[3], nr = g->nr;
    if (!mask && n == nr && out->stride[1] == (ptrdiff_t)sizeof(T) && out->itemsize == sizeof(T)) {
        if (n == 2 * lanes) FD_CAT(direct_emit, SFX)(c, p1 - p0, 2 * lanes, 2 * lanes, bias, g->relu, to, move);
        else FD_CAT(direct_emit, SFX)(c, p1 - p0, lanes, lanes, bias, g->relu, to, move);
        return;
    }
    for (ptrdiff_t j = 0; j < p1 - p0; j++, c += nr, to += move) {
        FD_CAT(fd_epilogue, SFX)(c, bias, g->relu, n);
        if (mask)
            FD_CAT(fd_relu_mask, SFX)(c, mask->type,
                                      mask->data + image * mask->stride[0] + k0 * mask->stride[1] + y * mask->stride[2] +
                                          (x + j * column->step) * mask->stride[3],
                                      mask->stride[1], n);
        FD_CAT(fd_write, SFX)(out->type, c, to, out->stride[1], n);
    }
}

/* One panel of output channels at the chunk's positions of one pair of classes. */
static void FD_CAT(direct_tiles, SFX)(const direct_call *g, const direct_chunk *k, const direct_axis *row,
                                      const direct_axis *column, const T *a, const T *weights, T *c) {
    const ptrdiff_t width = k->columns.count, plane = k->images * k->rows.count * width, nr = g->nr;
    const ptrdiff_t q1 = fd_min(k->q1, row->count), p1 = fd_min(k->p1, column->count), m = p1 - k->p0;
    const int nv = FD_CAT(fd_panel_vectors, SFX)(g->produce);
    for (ptrdiff_t c0 = 0; c0 < fd_max(g->reduce, 1); c0 += g->cb) {
        const ptrdiff_t wide = fd_min(g->cb, g->reduce - c0), inner = column->taps * wide;
        const T *b = weights + row->taps * column->taps * c0 * nr;
        T *sums = c;
        for (ptrdiff_t n = 0; n < k->images; n++)
            for (ptrdiff_t q = k->q0; q < q1; q++, sums += m * nr) {
                const ptrdiff_t y = q * row->scale + row->offset; /* filter rows in the padding are skipped */
                const ptrdiff_t first = fd_min(fd_max(-y, 0), row->taps);
                const ptrdiff_t last = fd_max(first, fd_min(g->source.shape[2] - y, row->taps));
                const ptrdiff_t line = (q - k->q0) * k->rows.step + row->offset - k->rows.low + first;
                const T *at = a + c0 * plane + ((n * k->rows.count + line) * width + column->offset - k->columns.low) * wide;
                FD_CAT(fd_panel_runs, SFX)(nv, m, last - first, width * wide, inner, at, k->columns.step * wide, 1,
                                           b + first * inner * nr, nr, sums, nr, c0 > 0);
            }
    }
}

static int FD_CAT(direct_gather_task, SFX)(void *context, ptrdiff_t index) {
    const direct_call *g = (const direct_call *)context;
    const ptrdiff_t steps = fd_ceil_div(g->panels, g->panel_step), nr = g->nr;
    const ptrdiff_t panel0 = index % steps * g->panel_step, panel1 = fd_min(panel0 + g->panel_step, g->panels);
    const ptrdiff_t group = index / steps % g->groups;
    const direct_chunk k = direct_chunk_of(g, index / steps / g->groups);
    T *a = (T *)rt->push((size_t)(k.images * k.rows.count * k.columns.count * g->reduce) * sizeof(T));
    T *c = (T *)rt->push((size_t)(k.images * (k.q1 - k.q0) * (k.p1 - k.p0) * nr) * sizeof(T));
    const T *class_at = (const T *)g->packed;
    if (!a || !c) return FD_NO_MEMORY;
    FD_CAT(direct_fill, SFX)(&g->source, &k, group * g->reduce, g->reduce, g->cb, a);
    for (int rc = 0; rc < g->row_classes; rc++)
        for (int cc = 0; cc < g->column_classes; cc++) {
            const direct_axis *row = &g->rows[rc], *column = &g->columns[cc];
            const ptrdiff_t q1 = fd_min(k.q1, row->count), p1 = fd_min(k.p1, column->count);
            const ptrdiff_t inner = row->taps * column->taps * g->reduce;
            for (ptrdiff_t panel = panel0; panel < panel1 && p1 > k.p0; panel++) {
                const ptrdiff_t k0 = panel * nr, n = fd_min(nr, g->produce - k0);
                T *sums = c;
                FD_CAT(direct_tiles, SFX)(g, &k, row, column, a, class_at + (group * g->panels + panel) * inner * nr, c);
                for (ptrdiff_t image = k.n0; image < k.n0 + k.images; image++)
                    for (ptrdiff_t q = k.q0; q < q1; q++, sums += (p1 - k.p0) * nr)
                        FD_CAT(direct_store, SFX)(g, row, column, image, q, k.p0, p1, group * g->produce + k0, n, sums);
            }
            class_at += FD_CAT(direct_weights, SFX)(g, rc, cc);
        }
    return FD_OK;
}

static int FD_CAT(direct_gather_run, SFX)(direct_call *g, const fd_tensor *bias, int threads) {
    const size_t mark = rt->mark();
    int status = FD_OK;
    double weights = 0;
    if (g->out.size == 0) return FD_OK;
    g->nr = FD_CAT(fd_panel_vectors, SFX)(g->produce) * FD_CAT(FD_LANES, SFX);
    g->panels = fd_ceil_div(g->produce, g->nr);
    for (int rc = 0; rc < g->row_classes; rc++)
        for (int cc = 0; cc < g->column_classes; cc++) weights += (double)FD_CAT(direct_weights, SFX)(g, rc, cc);
    g->bias = FD_CAT(fd_load_bias, SFX)(bias, g->groups * g->produce, &status);
    g->packed = rt->push((size_t)weights * sizeof(T));
    if (!g->packed) status = FD_NO_MEMORY;
    if (!status) status = rt->parallel_for(FD_CAT(direct_pack_task, SFX), g, g->groups * g->panels, threads, weights / 2);
    if (!status) /* about 50 multiply-adds a nanosecond on one thread */
        status = rt->parallel_for(FD_CAT(direct_gather_task, SFX), g,
                                  direct_chunks(g) * g->groups * fd_ceil_div(g->panels, g->panel_step), threads,
                                  (double)g->out.size / (g->row_classes * g->column_classes) * weights /
                                      ((double)g->groups * g->panels * g->nr) / 50);
    rt->release(mark);
    return status;
}
