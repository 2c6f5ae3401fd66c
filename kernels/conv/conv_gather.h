/* Implicit GEMM: gathered rows of the source times packed weights. Included for each compute dtype, with T and SFX.
 *
 *   inner: row tap, column tap, channel             Each task owns mc output positions of one phase, in the order
 *          +-----------------+                      (n, row, column). A block of kc inner positions is gathered for
 *   pixel  | r0s0cccc r0s1.. |  x  packed weights   all of them (padding becomes zeros, halves become floats), then
 *          +-----------------+     [inner][nr]      multiplied with every panel of weights. Only this copy knows about
 *                                                   strides, padding, dilation, dtype and memory order. */

/* `count` runs of n elements, `from_step` bytes apart, to rows ld apart. */
static inline void FD_CAT(conv_read, SFX)(const conv_source *s, T *to, ptrdiff_t ld, const char *from, ptrdiff_t from_step,
                                          ptrdiff_t count, ptrdiff_t n) {
    if (s->type == (sizeof(T) == 8 ? FD_F64 : FD_F32) && s->sc == (ptrdiff_t)sizeof(T))
        for (; count > 0; count--, to += ld, from += from_step) FD_CAT(fd_copy, SFX)(to, (const T *)from, n);
    else
        for (; count > 0; count--, to += ld, from += from_step) FD_CAT(fd_load, SFX)(s->type, from, s->sc, to, n);
}

/* Inner positions a..b-1 of one row tap, for `count` neighbours on an output row, the first at source column x0. The
 * neighbours whose taps all lie inside the image, nearly all of them, are copied without looking further. */
static void FD_CAT(conv_gather_line, SFX)(const conv_source *s, const char *row, ptrdiff_t x0, ptrdiff_t count, ptrdiff_t a,
                                          ptrdiff_t b, T *to, ptrdiff_t ld) {
    const ptrdiff_t c = s->channels, scale = s->column->scale, move = scale * s->sw;
    const ptrdiff_t *offset = s->column->offset;
    while (a < b) {
        const ptrdiff_t u = a / c, end = s->merged ? b : fd_min(b, (u + 1) * c), last = (end - 1) / c;
        const ptrdiff_t before = -(x0 + offset[u]), after = s->width - (x0 + offset[last]);
        const ptrdiff_t first = fd_min(before > 0 ? fd_ceil_div(before, scale) : 0, count);
        const ptrdiff_t stop = fd_max(first, fd_min(after > 0 ? fd_ceil_div(after, scale) : 0, count));
        FD_CAT(conv_read, SFX)(s, to + first * ld, ld,
                               row + (x0 + first * scale + offset[u]) * s->sw + (a - u * c) * s->sc, move, stop - first, end - a);
        for (ptrdiff_t q = 0; q < count; q++) {
            if (q == first && stop > first) q = stop;
            if (q == count) break;
            T *d = to + q * ld;
            for (ptrdiff_t v = u; v <= last; v++) { /* at the border: tap by tap */
                const ptrdiff_t ca = v == u ? a - u * c : 0, cb = v == last ? end - last * c : c;
                const ptrdiff_t x = x0 + q * scale + offset[v];
                if (x < 0 || x >= s->width) FD_CAT(fd_zero, SFX)(d, cb - ca);
                else FD_CAT(conv_read, SFX)(s, d, 0, row + x * s->sw + ca * s->sc, 0, 1, cb - ca);
                d += cb - ca;
            }
        }
        to += end - a;
        a = end;
    }
}

/* Inner positions k0..k1-1 of `count` output positions from `first` on, one row of `to` each. */
static void FD_CAT(conv_gather, SFX)(const conv_source *s, ptrdiff_t first, ptrdiff_t count, ptrdiff_t k0, ptrdiff_t k1,
                                     T *to, ptrdiff_t ld) {
    const ptrdiff_t columns = s->column->count, plane = s->row->count * columns;
    const ptrdiff_t line = s->column->taps * s->channels; /* inner positions of one row tap */
    ptrdiff_t n = first / plane, i = first % plane / columns, j = first % columns;
    while (count > 0) {
        const ptrdiff_t run = fd_min(count, columns - j); /* on one output row */
        ptrdiff_t r = k0 / line, a = k0 - r * line;
        for (ptrdiff_t k = k0; k < k1; r++, a = 0) {
            const ptrdiff_t b = fd_min(line, a + k1 - k), y = i * s->row->scale + s->row->offset[r];
            T *d = to + (k - k0);
            if (y < 0 || y >= s->height)
                for (ptrdiff_t q = 0; q < run; q++) FD_CAT(fd_zero, SFX)(d + q * ld, b - a);
            else
                FD_CAT(conv_gather_line, SFX)(s, s->data + n * s->sn + y * s->sh, j * s->column->scale, run, a, b, d, ld);
            k += b - a;
        }
        to += run * ld;
        count -= run;
        j = 0;
        if (++i == s->row->count) i = 0, n++;
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
        if (inner == 0) FD_CAT(fd_zero, SFX)(c, m * wide);
        for (ptrdiff_t k0 = 0; k0 < inner; k0 += g->kc) {
            const ptrdiff_t k = fd_min(g->kc, inner - k0);
            FD_CAT(conv_gather, SFX)(&source, first, m, k0, k0 + k, a, ld);
            for (ptrdiff_t p = 0; p < g->panels; p++) {
                const T *b = weights + ((group * g->panels + p) * inner + k0) * nr;
                if (sizeof(T) == 4 && g->half_sums)
                    fd_half_panel(nv, m, k, (float *)a, ld, 1, (const float *)b, nr, (float *)(c + p * nr), wide, k0 > 0);
                else FD_CAT(fd_panel, SFX)(nv, m, k, a, ld, 1, b, nr, c + p * nr, wide, k0 > 0);
            }
        }
        const ptrdiff_t k0 = group * g->produce;
        const T *bias = g->bias ? (const T *)g->bias + k0 : NULL;
        const fd_tensor *out = &g->out;
        for (ptrdiff_t p = 0, many; p < m; p += many) { /* the positions of one row of the output */
            const ptrdiff_t n = (first + p) / plane, i = (first + p) % plane / column->count;
            const ptrdiff_t j = (first + p) % column->count;
            char *to = conv_place(out, row, column, n, k0, i, j);
            const char *y = g->mask ? conv_place(g->mask, row, column, n, k0, i, j) : NULL;
            many = fd_min(m - p, column->count - j);
            for (ptrdiff_t q = 0; q < many; q++) {
                T *sums = c + (p + q) * wide;
                FD_CAT(fd_epilogue, SFX)(sums, bias, g->relu, g->produce);
                char *at = to + q * column->step * out->stride[3];
                if (y)
                    FD_CAT(fd_write_masked, SFX)(out->type, sums, at, out->stride[1],
                                                 y + q * column->step * g->mask->stride[3], g->mask->stride[1], g->produce);
                else FD_CAT(fd_write, SFX)(out->type, sums, at, out->stride[1], g->produce);
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
