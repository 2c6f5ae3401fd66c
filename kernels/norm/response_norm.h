/* Local response normalisation. Included once for each compute dtype, with T, SFX and TYPE defined.
 *
 * A slab is `channels` x `step` values, the pixels of one channel beside each other: one pixel where memory has the
 * channels beside each other, else as many as the plan says. Window sums are then the same for both,
 *
 *     padded   0 0 | v v v v v v v v v | 0 0        margins of `before` and `after` channels, `step` zeros each
 *              [---window---]                       sum[i] = padded[i] + padded[i + step] + padded[i + 2 step] + ...
 *                ^ channel of sum[i]
 *
 * each from its first channel to its last: a running sum would keep the rounding errors of what has left the window. */

static inline T FD_CAT(lrn_root, SFX)(T v) { return sizeof(T) == 8 ? (T)sqrt((double)v) : (T)sqrtf((float)v); }

/* s ** -3/4: the roundings of the roots, the product and the quotient add up to 4.5 at most; nothing overflows. */
static inline T FD_CAT(lrn_three_quarters, SFX)(T s) {
    const T root = FD_CAT(lrn_root, SFX)(s);
    return 1 / (root * FD_CAT(lrn_root, SFX)(root));
}

/* sum[i] = v[i] + ... + v[i + (taps - 1) step], left to right; four taps a pass, since sum is read and written. */
static void FD_CAT(lrn_window, SFX)(const T *restrict v, ptrdiff_t step, ptrdiff_t taps, T *restrict sum, ptrdiff_t n) {
    const T *restrict b = v + step, *restrict c = b + step, *restrict d = c + step;
    ptrdiff_t done = (taps - 1) % 4 + 1;
    if (done == 1) memcpy(sum, v, (size_t)n * sizeof(T));
    else if (done == 2)
        for (ptrdiff_t i = 0; i < n; i++) sum[i] = v[i] + b[i];
    else if (done == 3)
        for (ptrdiff_t i = 0; i < n; i++) sum[i] = v[i] + b[i] + c[i];
    else
        for (ptrdiff_t i = 0; i < n; i++) sum[i] = v[i] + b[i] + c[i] + d[i];
    for (; done < taps; done += 4) {
        const T *restrict w = v + done * step;
        b = w + step, c = b + step, d = c + step;
        for (ptrdiff_t i = 0; i < n; i++) sum[i] = sum[i] + w[i] + b[i] + c[i] + d[i];
    }
}

/* s = k + factor * s and power = s ** -beta. */
static void FD_CAT(lrn_power, SFX)(const lrn_call *l, T *restrict s, T *restrict power, ptrdiff_t n) {
    const T k = (T)l->k, factor = (T)l->factor, beta = (T)l->beta;
    for (ptrdiff_t i = 0; i < n; i++) s[i] = k + factor * s[i];
    if (l->beta == 0.75)
        for (ptrdiff_t i = 0; i < n; i++) power[i] = FD_CAT(lrn_three_quarters, SFX)(s[i]);
    else
        for (ptrdiff_t i = 0; i < n; i++) power[i] = FD_CAT(fd_exp, SFX)(-beta * FD_CAT(fd_log, SFX)(s[i]));
}

/* The slab of `step` pixels from `row` on, in place where that is possible. */
static const T *FD_CAT(lrn_slab, SFX)(const lrn_call *l, const norm_operand *o, ptrdiff_t row, ptrdiff_t step,
                                      T *buffer) {
    const norm_grid *g = &l->grid;
    ptrdiff_t pitch;
    if (l->together) return FD_CAT(norm_block, SFX)(g, o, row, 1, 0, g->channels, buffer, &pitch);
    for (ptrdiff_t c = 0; c < g->channels; c++) FD_CAT(norm_copy_run, SFX)(g, o, row, step, c, buffer + c * step, 0);
    return buffer;
}

static void FD_CAT(lrn_store, SFX)(const lrn_call *l, ptrdiff_t row, ptrdiff_t step, T *slab) {
    const norm_grid *g = &l->grid;
    if (l->together) {
        FD_CAT(norm_copy_block, SFX)(g, &l->to, row, 1, 0, g->channels, slab, 1);
        return;
    }
    for (ptrdiff_t c = 0; c < g->channels; c++) FD_CAT(norm_copy_run, SFX)(g, &l->to, row, step, c, slab + c * step, 1);
}

/* Zeros on either side of the n values at `padded` + before; the loops are a few elements long. */
static T *FD_CAT(lrn_margins, SFX)(T *padded, ptrdiff_t before, ptrdiff_t n, ptrdiff_t after) {
    T *end = padded + before + n;
    for (ptrdiff_t i = 0; i < before; i++) padded[i] = 0;
    for (ptrdiff_t i = 0; i < after; i++) end[i] = 0;
    return padded + before;
}

static int FD_CAT(lrn_task, SFX)(void *context, ptrdiff_t index) {
    const lrn_call *l = (const lrn_call *)context;
    const norm_grid *g = &l->grid;
    const ptrdiff_t taps = l->before + l->after + 1, last = fd_min((index + 1) * l->task, g->rows);
    const ptrdiff_t most = l->pixels * g->channels, padded_most = l->pixels * (g->channels + taps - 1);
    const ptrdiff_t sums_most = padded_most - (taps - 1) * (l->together ? 1 : l->pixels);
    T *x_buffer = (T *)rt->push((size_t)most * sizeof(T)), *dout_buffer = (T *)rt->push((size_t)most * sizeof(T));
    T *out_buffer = (T *)rt->push((size_t)most * sizeof(T)), *padded = (T *)rt->push((size_t)padded_most * sizeof(T));
    T *sum = (T *)rt->push((size_t)sums_most * sizeof(T)), *power = (T *)rt->push((size_t)sums_most * sizeof(T));
    if (!x_buffer || !dout_buffer || !out_buffer || !padded || !sum || !power) return FD_NO_MEMORY;
    for (ptrdiff_t row = index * l->task; row < last; row += l->pixels) {
        /* One slab of many pixels, or many of one. What lies between slabs is computed too and not used. */
        const ptrdiff_t pixels = fd_min(l->pixels, last - row), slabs = l->together ? pixels : 1;
        const ptrdiff_t step = l->together ? 1 : pixels, n = g->channels * step, before = l->before * step;
        const ptrdiff_t after = l->after * step, pitch = before + n + after, total = slabs * pitch - before - after;
        const T *x_of[LRN_PIXELS], *dout_of[LRN_PIXELS];
        for (ptrdiff_t q = 0; q < slabs; q++) {
            const T *restrict x = x_of[q] = FD_CAT(lrn_slab, SFX)(l, &l->from, row + q, step, x_buffer + q * n);
            T *restrict square = FD_CAT(lrn_margins, SFX)(padded + q * pitch, before, n, after);
            for (ptrdiff_t i = 0; i < n; i++) square[i] = x[i] * x[i];
        }
        FD_CAT(lrn_window, SFX)(padded, step, taps, sum, total);
        FD_CAT(lrn_power, SFX)(l, sum, power, total);
        if (l->backward) {
            /* Channel c is in the windows of c - after .. c + before. */
            for (ptrdiff_t q = 0; q < slabs; q++) {
                const T *restrict x = x_of[q], *restrict p = power + q * pitch, *restrict s = sum + q * pitch;
                const T *restrict dout = FD_CAT(lrn_slab, SFX)(l, &l->gradient, row + q, step, dout_buffer + q * n);
                T *restrict seen = FD_CAT(lrn_margins, SFX)(padded + q * pitch, after, n, before);
                dout_of[q] = dout;
                for (ptrdiff_t i = 0; i < n; i++) seen[i] = dout[i] * x[i] * p[i] / s[i];
            }
            FD_CAT(lrn_window, SFX)(padded, step, taps, sum, total);
        }
        for (ptrdiff_t q = 0; q < slabs; q++) {
            const T *restrict x = x_of[q], *restrict p = power + q * pitch, *restrict s = sum + q * pitch;
            const int direct = l->together && FD_CAT(norm_is_block, SFX)(g, &l->to, row + q, 1);
            T *restrict out = direct ? (T *)norm_at(g, &l->to, row + q, 0) : out_buffer;
            if (l->backward) {
                const T *restrict dout = dout_of[q];
                const T slope = (T)l->slope;
                for (ptrdiff_t i = 0; i < n; i++) out[i] = dout[i] * p[i] - slope * x[i] * s[i];
            } else {
                for (ptrdiff_t i = 0; i < n; i++) out[i] = x[i] * p[i];
            }
            if (!direct) FD_CAT(lrn_store, SFX)(l, row + q, step, out);
        }
    }
    return FD_OK;
}
