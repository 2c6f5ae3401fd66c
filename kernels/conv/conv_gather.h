/* Implicit GEMM: gathered rows of the source times packed weights. Included for each compute dtype, with T and SFX.
 *
 *   inner: row tap, column tap, channel             Each task owns mc output positions of one phase, in the order
 *          +-----------------+                      (n, row, column). A block of kc inner positions is gathered for
 *   pixel  | r0s0cccc r0s1.. |  x  packed weights   all of them (padding becomes zeros, halves become floats), then
 *          +-----------------+     [inner][nr]      multiplied with every panel of weights. Only this copy knows about
 *                                                   strides, padding, dilation, dtype and memory order. */

/* n contiguous elements; a loop of vectors, because a call of memcpy costs more than the 3-16 vectors of a typical run. */
static inline void FD_CAT(conv_copy, SFX)(T *to, const T *from, ptrdiff_t n) {
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX);
    ptrdiff_t i = 0;
    for (; i + lanes <= n; i += lanes) {
        *(FD_CAT(fd_v, SFX) *)(to + i) = *(const FD_CAT(fd_v, SFX) *)(from + i);
        __asm__ volatile("" ::: "memory"); /* or GCC recognises the loop and calls memcpy after all */
    }
    for (; i < n; i++) to[i] = from[i];
}

static inline void FD_CAT(conv_zero, SFX)(T *to, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) to[i] = 0;
}

static inline void FD_CAT(conv_read, SFX)(const conv_source *s, T *to, const char *from, ptrdiff_t n) {
    if (s->type == (sizeof(T) == 8 ? FD_F64 : FD_F32) && s->sc == (ptrdiff_t)sizeof(T))
        FD_CAT(conv_copy, SFX)(to, (const T *)from, n);
    else
        FD_CAT(fd_load, SFX)(s->type, from, s->sc, to, n);
}

/* Inner positions k0..k1-1 of `count` output positions from `first` on, one row of `to` each. */
static void FD_CAT(conv_gather, SFX)(const conv_source *s, ptrdiff_t first, ptrdiff_t count, ptrdiff_t k0, ptrdiff_t k1,
                                     T *to, ptrdiff_t ld) {
    const ptrdiff_t columns = s->column->count, plane = s->row->count * columns, c = s->channels;
    const ptrdiff_t line = s->column->taps * c; /* inner positions of one row tap */
    ptrdiff_t n = first / plane, i = first % plane / columns, j = first % columns;
    for (ptrdiff_t p = 0; p < count; p++, to += ld) {
        const char *image = s->data + n * s->sn;
        const ptrdiff_t x0 = j * s->column->scale;
        T *d = to;
        for (ptrdiff_t k = k0; k < k1;) {
            const ptrdiff_t r = k / line, a = k - r * line, b = fd_min(line, a + k1 - k);
            const ptrdiff_t y = i * s->row->scale + s->row->offset[r];
            k += b - a;
            if (y < 0 || y >= s->height) {
                FD_CAT(conv_zero, SFX)(d, b - a);
                d += b - a;
                continue;
            }
            const char *row = image + y * s->sh;
            if (s->merged) {
                /* taps u with 0 <= x0 + offset[u] < width are one run of memory */
                const ptrdiff_t x = x0 + s->column->offset[0];
                const ptrdiff_t from = fd_min(fd_max(a, -x * c), b), to_end = fd_max(fd_min(b, (s->width - x) * c), from);
                FD_CAT(conv_zero, SFX)(d, from - a);
                FD_CAT(conv_read, SFX)(s, d + (from - a), row + x * s->sw + from * s->sc, to_end - from);
                FD_CAT(conv_zero, SFX)(d + (to_end - a), b - to_end);
                d += b - a;
                continue;
            }
            for (ptrdiff_t q = a; q < b;) {
                const ptrdiff_t u = q / c, ca = q - u * c, cb = fd_min(c, ca + b - q);
                const ptrdiff_t x = x0 + s->column->offset[u];
                if (x < 0 || x >= s->width) FD_CAT(conv_zero, SFX)(d, cb - ca);
                else FD_CAT(conv_read, SFX)(s, d, row + x * s->sw + ca * s->sc, cb - ca);
                d += cb - ca;
                q += cb - ca;
            }
        }
        if (++j == columns) {
            j = 0;
            if (++i == s->row->count) i = 0, n++;
        }
    }
}

/* ---- weights: [phase][group][panel][row tap, column tap, channel][nr] ------------------------------------------- */

static int FD_CAT(conv_pack_task, SFX)(void *context, ptrdiff_t index) {
    const conv_call *g = (const conv_call *)context;
    const ptrdiff_t panel = index % g->panels, group = index / g->panels;
    const ptrdiff_t n0 = panel * g->nr, n = fd_min(g->nr, g->produce - n0);
    T *phase_at = (T *)g->packed;
    for (ptrdiff_t phase = 0; phase < (ptrdiff_t)g->row_classes * g->column_classes; phase++) {
        const conv_axis *row = &g->rows[phase / g->column_classes], *column = &g->columns[phase % g->column_classes];
        const ptrdiff_t inner = conv_phase_inner(g, phase);
        T *to = phase_at + (group * g->panels + panel) * inner * g->nr;
        for (int r = 0; r < row->taps; r++)
            for (int s = 0; s < column->taps; s++, to += g->reduce * g->nr)
                FD_CAT(fd_pack_panel, SFX)(to, g->nr, g->weight.type,
                                           g->weight.data + group * g->w_group + n0 * g->w_produce +
                                               row->tap[r] * g->weight.stride[2] + column->tap[s] * g->weight.stride[3],
                                           g->reduce, g->w_reduce, n, g->w_produce);
        phase_at += (ptrdiff_t)g->groups * g->panels * inner * g->nr;
    }
    return FD_OK;
}

/* ---- forward and backward_input ---------------------------------------------------------------------------------- */

static int FD_CAT(conv_gather_task, SFX)(void *context, ptrdiff_t index) {
    const conv_call *g = (const conv_call *)context;
    const int nv = FD_CAT(fd_panel_vectors, SFX)(g->produce);
    const ptrdiff_t nr = g->nr, wide = g->panels * nr, ld = g->kc + 16;
    const T *weights = (const T *)g->packed;
    ptrdiff_t phase = 0;
    for (;; phase++) { /* which phase this task belongs to, and which of its blocks it is */
        const conv_axis *row = &g->rows[phase / g->column_classes], *column = &g->columns[phase % g->column_classes];
        const ptrdiff_t blocks = fd_ceil_div(g->batch * row->count * column->count, g->mc);
        if (index < blocks) break;
        index -= blocks;
        weights += (ptrdiff_t)g->groups * g->panels * conv_phase_inner(g, phase) * nr;
    }
    const conv_axis *row = &g->rows[phase / g->column_classes], *column = &g->columns[phase % g->column_classes];
    const ptrdiff_t inner = conv_phase_inner(g, phase), plane = row->count * column->count;
    const ptrdiff_t first = index * g->mc, m = fd_min(g->mc, g->batch * plane - first);
    T *a = (T *)rt->push((size_t)(m * ld) * sizeof(T)), *c = (T *)rt->push((size_t)(m * wide) * sizeof(T));
    if (!a || !c) return FD_NO_MEMORY;
    for (ptrdiff_t group = 0; group < g->groups; group++) {
        const conv_source source = conv_source_of(g, row, column, group);
        if (inner == 0) FD_CAT(conv_zero, SFX)(c, m * wide);
        for (ptrdiff_t k0 = 0; k0 < inner; k0 += g->kc) {
            const ptrdiff_t k = fd_min(g->kc, inner - k0);
            FD_CAT(conv_gather, SFX)(&source, first, m, k0, k0 + k, a, ld);
            for (ptrdiff_t p = 0; p < g->panels; p++)
                FD_CAT(fd_panel, SFX)(nv, m, k, a, ld, 1, weights + ((group * g->panels + p) * inner + k0) * nr, nr,
                                      c + p * nr, wide, k0 > 0);
        }
        const ptrdiff_t k0 = group * g->produce;
        const T *bias = g->bias ? (const T *)g->bias + k0 : NULL;
        const fd_tensor *out = &g->out;
        ptrdiff_t n = first / plane, i = first % plane / column->count, j = first % column->count;
        for (ptrdiff_t p = 0; p < m; p++) {
            char *to = out->data + n * out->stride[0] + k0 * out->stride[1] +
                       (row->start + i * row->step) * out->stride[2] + (column->start + j * column->step) * out->stride[3];
            FD_CAT(fd_epilogue, SFX)(c + p * wide, bias, g->relu, g->produce);
            FD_CAT(fd_store, SFX)(out->type, c + p * wide, to, out->stride[1], g->produce);
            if (++j == column->count) {
                j = 0;
                if (++i == row->count) i = 0, n++;
            }
        }
    }
    return FD_OK;
}

static int FD_CAT(conv_gather_run, SFX)(conv_call *g, const fd_tensor *bias, int threads) {
    const size_t mark = rt->mark();
    int status = FD_OK;
    ptrdiff_t tasks = 0, inner = 0;
    g->nr = FD_CAT(fd_panel_vectors, SFX)(g->produce) * FD_CAT(FD_LANES, SFX);
    g->panels = fd_ceil_div(g->produce, g->nr);
    for (ptrdiff_t phase = 0; phase < (ptrdiff_t)g->row_classes * g->column_classes; phase++) {
        inner += conv_phase_inner(g, phase);
        tasks += fd_ceil_div(g->batch * g->rows[phase / g->column_classes].count *
                                 g->columns[phase % g->column_classes].count, g->mc);
    }
    if (tasks == 0) return FD_OK;
    const double weights = (double)g->groups * g->panels * g->nr * inner;
    g->bias = FD_CAT(fd_load_bias, SFX)(bias, g->groups * g->produce, &status);
    g->packed = rt->push((size_t)weights * sizeof(T));
    if (!g->packed) status = FD_NO_MEMORY;
    if (!status)
        status = rt->parallel_for(FD_CAT(conv_pack_task, SFX), g, g->groups * g->panels, threads, weights / 2);
    if (!status) /* about 25 multiply-adds a nanosecond on one thread, 2 bytes gathered */
        status = rt->parallel_for(FD_CAT(conv_gather_task, SFX), g, tasks, threads,
                                  (double)g->out.size * inner * (1.0 / 25 + 1.0 / (double)(2 * g->produce)) /
                                      ((double)g->row_classes * g->column_classes));
    rt->release(mark);
    return status;
}
