/* forward and backward_input. Included for each compute dtype, with T and SFX defined.
 *
 *   strip of source rows -> columns, rows -> V[n*n][tile][channel] x U[n*n][channel][nr] = M[n*n][tile][nr] -> tiles
 *
 * Only the strip knows about strides, padding, dtype and memory order. Planes of V, U and M are an odd number of cache
 * lines apart: at powers of two their 36 lines fall into the same cache set. */

#define LANES FD_CAT(FD_LANES, SFX)
#define LINE (64 / (ptrdiff_t)sizeof(T))

/* n rounded up to an odd number of cache lines. */
static inline ptrdiff_t FD_CAT(winograd_odd, SFX)(ptrdiff_t n) { return (n + LINE - 1) / LINE / 2 * 2 * LINE + LINE; }

/* Elements between neighbouring tiles of V. */
static inline ptrdiff_t FD_CAT(winograd_row, SFX)(ptrdiff_t channels) {
    const ptrdiff_t whole = fd_round_up(channels, LANES);
    return whole < 8 * LINE ? whole : FD_CAT(winograd_odd, SFX)(whole);
}

/* Where a strip of tiles comes from and which transform it gets. */
typedef struct {
    const fd_tensor *from;
    const char *data;                         /* first channel of the group */
    ptrdiff_t channels, size, move, top, left; /* a tile reads size x size positions, `move` further than the last */
    FD_CAT(winograd_columns, SFX) columns;
    FD_CAT(winograd_rows, SFX) rows;
} FD_CAT(winograd_input, SFX);

static FD_CAT(winograd_input, SFX) FD_CAT(winograd_source, SFX)(const winograd_call *g, ptrdiff_t group) {
    const FD_CAT(winograd_functions, SFX) *f = &FD_CAT(winograd_variants, SFX)[g->variant];
    FD_CAT(winograd_input, SFX) s = {&g->source, g->source.data + group * g->reduce * g->source.stride[1], g->reduce,
                                     g->n, g->m, g->top, g->left, f->input_columns, f->input_rows};
    return s;
}

/* LANES channels from c on of columns a..b-1 (source columns x0 + a ...) of one source row, as raw[column][LANES]. */
static void FD_CAT(winograd_read, SFX)(const FD_CAT(winograd_input, SFX) *s, const char *row, ptrdiff_t x0, ptrdiff_t a,
                                       ptrdiff_t b, ptrdiff_t c, T *raw) {
    const ptrdiff_t sc = s->from->stride[1], sw = s->from->stride[3], n = fd_max(0, fd_min(LANES, s->channels - c));
    const char *from = row + c * sc + x0 * sw;
    T line[WINOGRAD_STRIP * 4 + 8];
    if (n < LANES) FD_CAT(fd_zero, SFX)(raw + a * LANES, (b - a) * LANES);
    if (sw == s->from->itemsize && sc != s->from->itemsize) { /* NCHW: along the row, then across */
        for (ptrdiff_t i = 0; i < n; i++) {
            FD_CAT(fd_load, SFX)(s->from->type, from + i * sc + a * sw, sw, line, b - a);
            for (ptrdiff_t q = a; q < b; q++) raw[q * LANES + i] = line[q - a];
        }
        return;
    }
    if (n == LANES && sc == s->from->itemsize)
        for (ptrdiff_t q = a; q < b; q++) FD_CAT(fd_read_vector, SFX)(s->from->type, from + q * sw, raw + q * LANES);
    else
        for (ptrdiff_t q = a; q < b && n; q++) FD_CAT(fd_load, SFX)(s->from->type, from + q * sw, sc, raw + q * LANES, n);
}

/* Transforms tiles i, j..j+count-1 of image `image`; vector v of their channels goes to to + v * vector, its n * n
 * values `point` apart, its tiles ld. `vectors` may exceed the channels: zeros. `strip` and `raw` are scratch. */
static void FD_CAT(winograd_strip, SFX)(const FD_CAT(winograd_input, SFX) *s, int n, ptrdiff_t image, ptrdiff_t i, ptrdiff_t j,
                                        ptrdiff_t count, ptrdiff_t vectors, T *strip, T *raw, T *to, ptrdiff_t vector,
                                        ptrdiff_t point, ptrdiff_t ld) {
    static const T zeros[LANES];
    const fd_tensor *t = s->from;
    const ptrdiff_t columns = (count - 1) * s->move + s->size, plane = columns * LANES;
    const ptrdiff_t y0 = i * s->move - s->top, x0 = j * s->move - s->left;
    const ptrdiff_t a = fd_min(fd_max(0, -x0), columns), b = fd_max(a, fd_min(columns, t->shape[3] - x0));
    const int direct = t->type == (sizeof(T) == 8 ? FD_F64 : FD_F32) && t->stride[1] == (ptrdiff_t)sizeof(T);
    const char *row[8];
    ptrdiff_t step[8];
    for (int r = 0; r < n; r++) {
        FD_CAT(fd_zero, SFX)(strip + r * plane, a * LANES);
        FD_CAT(fd_zero, SFX)(strip + r * plane + b * LANES, (columns - b) * LANES);
    }
    /* The rows that the next strip adds. With few channels reading is what takes time: 1.5 -> 1.1 ms for the weight gradient
     * of 16 x 28 x 28 (batch 100); with many the products hide it. */
    if (s->channels * t->itemsize <= 256)
        for (ptrdiff_t r = s->size; r < s->size + s->move && y0 + r < t->shape[2]; r++) {
            if (y0 + r < 0) continue;
            const char *from = s->data + image * t->stride[0] + (y0 + r) * t->stride[2] + (x0 + a) * t->stride[3];
            for (ptrdiff_t q = 0; q < (b - a) * t->stride[3]; q += 64) __builtin_prefetch(from + q);
        }
    for (ptrdiff_t v = 0; v < vectors; v++) {
        const int whole = direct && (v + 1) * LANES <= s->channels;
        for (ptrdiff_t r = 0; r < s->size; r++) {
            const ptrdiff_t y = y0 + r;
            const char *from = s->data + image * t->stride[0] + y * t->stride[2];
            if (y < 0 || y >= t->shape[2]) {
                row[r] = (const char *)zeros, step[r] = 0;
            } else if (whole) {
                row[r] = from + v * LANES * (ptrdiff_t)sizeof(T) + (x0 + a) * t->stride[3], step[r] = t->stride[3];
            } else {
                FD_CAT(winograd_read, SFX)(s, from, x0, a, b, v * LANES, raw + r * plane);
                row[r] = (const char *)(raw + r * plane + a * LANES), step[r] = LANES * (ptrdiff_t)sizeof(T);
            }
        }
        s->columns(row, step, b - a, strip + a * LANES, plane);
        s->rows(strip, plane, s->move, count, to + v * vector, point, ld);
    }
}

/* Elements of scratch that winograd_strip wants, twice. */
static inline ptrdiff_t FD_CAT(winograd_strip_size, SFX)(const winograd_call *g) {
    return g->n * ((WINOGRAD_STRIP - 1) * g->m + g->n) * LANES;
}

/* U of one panel of a group: [n*n][channel][nr], u_point apart. */
static int FD_CAT(winograd_filter_task, SFX)(void *context, ptrdiff_t index) {
    const winograd_call *g = (const winograd_call *)context;
    const FD_CAT(winograd_functions, SFX) *f = &FD_CAT(winograd_variants, SFX)[g->variant];
    const fd_tensor *w = &g->weight;
    const ptrdiff_t taps = g->r * g->r, panel = index % g->panels, group = index / g->panels;
    const ptrdiff_t n0 = panel * g->nr, n = fd_min(g->nr, g->produce - n0), many = 16;
    const char *from = w->data + group * g->w_group + n0 * g->w_produce;
    const int together = w->stride[3] == w->itemsize && w->stride[2] == g->r * w->itemsize; /* taps lie in a row */
    T *u = (T *)g->packed + index * g->n * g->n * g->u_point;
    T *raw = (T *)rt->push((size_t)(many * taps * g->nr) * sizeof(T));
    if (!raw) return FD_NO_MEMORY;
    for (ptrdiff_t c0 = 0; c0 < g->reduce; c0 += many) {
        const ptrdiff_t cs = fd_min(many, g->reduce - c0);
        if (together && g->w_reduce == taps * w->itemsize)
            FD_CAT(fd_pack_panel, SFX)(raw, g->nr, w->type, from + c0 * g->w_reduce, cs * taps, w->itemsize, n, g->w_produce);
        else
            for (ptrdiff_t c = 0; c < cs; c++) {
                const char *at = from + (c0 + c) * g->w_reduce;
                for (ptrdiff_t r = 0; r < (together ? 1 : g->r); r++)
                    for (ptrdiff_t s = 0; s < (together ? 1 : g->r); s++)
                        FD_CAT(fd_pack_panel, SFX)(raw + (c * taps + r * g->r + s) * g->nr, g->nr, w->type,
                                                   at + r * w->stride[2] + s * w->stride[3], together ? taps : 1,
                                                   w->itemsize, n, g->w_produce);
            }
        for (ptrdiff_t c = 0; c < cs; c++)
            for (ptrdiff_t v = 0; v < g->nr; v += LANES)
                f->filter(raw + (c * taps + (g->flip ? taps - 1 : 0)) * g->nr + v, g->flip ? -g->nr : g->nr,
                          u + (c0 + c) * g->nr + v, g->u_point);
    }
    return FD_OK;
}

/* Where window (oh, ow) of channel k of an image lies. */
static inline char *FD_CAT(winograd_window, SFX)(const fd_tensor *t, ptrdiff_t image, ptrdiff_t k, ptrdiff_t oh,
                                                 ptrdiff_t ow) {
    return t->data + image * t->stride[0] + k * t->stride[1] + oh * t->stride[2] + ow * t->stride[3];
}

/* The 2x2 windows of a finished tile of `high` rows and `wide` columns at (i, j). */
static void FD_CAT(winograd_pool, SFX)(const winograd_call *g, const T *tile, ptrdiff_t image, ptrdiff_t k, ptrdiff_t n,
                                       ptrdiff_t i, ptrdiff_t j, ptrdiff_t high, ptrdiff_t wide) {
    for (ptrdiff_t r = 0; r + 1 < high; r += 2)
        for (ptrdiff_t s = 0; s + 1 < wide; s += 2) {
            const FD_CAT(fd_v, SFX) *at = (const FD_CAT(fd_v, SFX) *)(tile + (r * g->m + s) * LANES);
            FD_CAT(fd_v, SFX) best = at[0];
            FD_CAT(fd_i, SFX) index = {0};
            for (int tap = 1; tap < 4; tap++) WINOGRAD_LARGER(SFX, best, index, at[tap / 2 * g->m + tap % 2], tap)
            FD_CAT(fd_write, SFX)(g->pooled->type, (const T *)&best,
                                  FD_CAT(winograd_window, SFX)(g->pooled, image, k, (i + r) / 2, (j + s) / 2),
                                  g->pooled->stride[1], n);
            if (!g->indices) continue;
            char *to = FD_CAT(winograd_window, SFX)(g->indices, image, k, (i + r) / 2, (j + s) / 2);
            for (ptrdiff_t l = 0; l < n; l++) to[l * g->indices->stride[1]] = (char)index[l];
        }
}

/* Result tile t, output channels k0..k0+LANES-1 of a group, from M. */
static void FD_CAT(winograd_store, SFX)(const winograd_call *g, ptrdiff_t t, ptrdiff_t group, ptrdiff_t k0, const T *from,
                                        ptrdiff_t point) {
    const FD_CAT(winograd_functions, SFX) *f = &FD_CAT(winograd_variants, SFX)[g->variant];
    const fd_tensor *out = &g->out, *mask = g->mask;
    const ptrdiff_t image = t / (g->down * g->across), i = t / g->across % g->down * g->m, j = t % g->across * g->m;
    const ptrdiff_t high = fd_min(g->m, out->shape[2] - i), wide = fd_min(g->m, out->shape[3] - j);
    const ptrdiff_t k = group * g->produce + k0, n = fd_min(LANES, g->produce - k0);
    const T *bias = g->bias ? (const T *)g->bias + k : NULL;
    const int mode = mask ? WINOGRAD_RELU_MASK : !bias ? WINOGRAD_NONE : g->relu ? WINOGRAD_BIAS_RELU : WINOGRAD_BIAS;
    const int type = sizeof(T) == 8 ? FD_F64 : FD_F32;
    char *to = out->data ? out->data + image * out->stride[0] + k * out->stride[1] + i * out->stride[2] +
                               j * out->stride[3] : NULL;
    const char *y = mask ? mask->data + image * mask->stride[0] + k * mask->stride[1] + i * mask->stride[2] +
                               j * mask->stride[3] : NULL;
    const int plain = n == LANES && out->type == type && (!to || out->stride[1] == (ptrdiff_t)sizeof(T));
    if (plain && g->pooled && g->pooled->stride[1] == (ptrdiff_t)sizeof(T) && (!g->indices || g->indices->stride[1] == 1)) {
        const fd_tensor *p = g->pooled, *x = g->indices;
        f->pooled(from, point, to, out->stride[2], out->stride[3], high, wide, bias,
                  FD_CAT(winograd_window, SFX)(p, image, k, i / 2, j / 2), p->stride[2], p->stride[3],
                  x ? FD_CAT(winograd_window, SFX)(x, image, k, i / 2, j / 2) : NULL, x ? x->stride[2] : 0,
                  x ? x->stride[3] : 0);
        return;
    }
    if (plain && !g->pooled && (!mask || (mask->type == type && mask->stride[1] == (ptrdiff_t)sizeof(T)))) {
        f->output[mode](from, point, to, out->stride[2], out->stride[3], high, wide, bias, y, mask ? mask->stride[2] : 0,
                        mask ? mask->stride[3] : 0);
        return;
    }
    T tile[4 * 4 * LANES];
    const int whole = n == LANES && !mask, rounds = g->pooled && out->type != type;
    f->output[whole ? mode : WINOGRAD_NONE](from, point, (char *)tile, g->m * LANES * (ptrdiff_t)sizeof(T),
                                            LANES * (ptrdiff_t)sizeof(T), g->m, g->m, whole ? bias : NULL, NULL, 0, 0);
    for (ptrdiff_t r = 0; r < high; r++)
        for (ptrdiff_t s = 0; s < wide; s++) {
            T *value = tile + (r * g->m + s) * LANES;
            if (!whole) FD_CAT(fd_epilogue, SFX)(value, bias, g->relu, n);
            if (y) FD_CAT(fd_relu_mask, SFX)(value, mask->type, y + r * mask->stride[2] + s * mask->stride[3],
                                             mask->stride[1], n);
            if (rounds) { /* the pooling compares what is stored */
                double stored[LANES]; /* of any dtype */
                FD_CAT(fd_write_vector, SFX)(out->type, value, (char *)stored);
                FD_CAT(fd_read_vector, SFX)(out->type, (const char *)stored, value);
            }
            if (!to) continue;
            char *at = to + r * out->stride[2] + s * out->stride[3];
            if (n == LANES && out->stride[1] == out->itemsize) FD_CAT(fd_write_vector, SFX)(out->type, value, at);
            else FD_CAT(fd_write, SFX)(out->type, value, at, out->stride[1], n);
        }
    if (g->pooled) FD_CAT(winograd_pool, SFX)(g, tile, image, k, n, i, j, high, wide);
}

/* One block of tiles of one group. */
static int FD_CAT(winograd_gather_task, SFX)(void *context, ptrdiff_t index) {
    const winograd_call *g = (const winograd_call *)context;
    const ptrdiff_t group = index / g->blocks, block = index % g->blocks, points = g->n * g->n;
    const ptrdiff_t t0 = block * g->tiles / g->blocks, t1 = (block + 1) * g->tiles / g->blocks, tiles = t1 - t0;
    const ptrdiff_t ld = FD_CAT(winograd_row, SFX)(g->reduce), v_point = FD_CAT(winograd_odd, SFX)(tiles * ld);
    const ptrdiff_t wide = g->panel_block * g->nr, m_point = FD_CAT(winograd_odd, SFX)(tiles * wide);
    const ptrdiff_t scratch = FD_CAT(winograd_strip_size, SFX)(g);
    const int nv = (int)(g->nr / LANES);
    const FD_CAT(winograd_input, SFX) source = FD_CAT(winograd_source, SFX)(g, group);
    T *strip = (T *)rt->push((size_t)scratch * 2 * sizeof(T)), *v = (T *)rt->push((size_t)(points * v_point) * sizeof(T));
    T *m = (T *)rt->push((size_t)(points * m_point) * sizeof(T));
    if (!strip || !v || !m) return FD_NO_MEMORY;
    for (ptrdiff_t t = t0, run; t < t1; t += run) {
        const ptrdiff_t j = t % g->across;
        run = fd_min(fd_min(t1 - t, g->across - j), WINOGRAD_STRIP);
        FD_CAT(winograd_strip, SFX)(&source, (int)g->n, t / (g->down * g->across), t / g->across % g->down, j, run,
                                    fd_ceil_div(g->reduce, LANES), strip, strip + scratch, v + (t - t0) * ld, LANES, v_point, ld);
    }
    for (ptrdiff_t p0 = 0; p0 < g->panels; p0 += g->panel_block) {
        const ptrdiff_t p1 = fd_min(g->panels, p0 + g->panel_block);
        for (ptrdiff_t x = 0; x < points; x++)
            for (ptrdiff_t p = p0; p < p1; p++) {
                const T *u = (const T *)g->packed + ((group * g->panels + p) * points + x) * g->u_point;
                for (ptrdiff_t k0 = 0; k0 < g->reduce; k0 += g->kc)
                    FD_CAT(fd_panel, SFX)(nv, tiles, fd_min(g->kc, g->reduce - k0), v + x * v_point + k0, ld, 1,
                                          u + k0 * g->nr, g->nr, m + x * m_point + (p - p0) * g->nr, wide, k0 > 0);
            }
        for (ptrdiff_t t = t0; t < t1; t++)
            for (ptrdiff_t k = p0 * g->nr; k < fd_min(g->produce, p1 * g->nr); k += LANES)
                FD_CAT(winograd_store, SFX)(g, t, group, k, m + (t - t0) * wide + k - p0 * g->nr, m_point);
    }
    return FD_OK;
}

static void FD_CAT(winograd_set_up, SFX)(winograd_call *g) {
    g->nr = FD_CAT(fd_panel_vectors, SFX)(g->produce) * LANES;
    g->panels = fd_ceil_div(g->produce, g->nr);
    g->tiles = g->batch * g->down * g->across;
    g->blocks = fd_ceil_div(g->tiles, g->block);
    g->panel_block = fd_min(g->panel_block, g->panels);
}

static int FD_CAT(winograd_gather_run, SFX)(winograd_call *g, const fd_tensor *bias, int threads) {
    const size_t mark = rt->mark();
    const double points = (double)(g->n * g->n);
    int status = FD_OK;
    if (g->out.size == 0) return FD_OK;
    FD_CAT(winograd_set_up, SFX)(g);
    /* No sum crosses a block, so their number may suit the threads: two blocks of 150 tiles, not 200 and 100. */
    g->blocks = fd_min(fd_round_up(g->blocks, threads), g->tiles);
    g->u_point = FD_CAT(winograd_odd, SFX)(g->reduce * g->nr);
    const double u = (double)g->groups * g->panels * points * g->u_point;
    g->bias = FD_CAT(fd_load_bias, SFX)(bias, g->groups * g->produce, &status);
    g->packed = rt->push((size_t)u * sizeof(T));
    if (!g->packed) status = FD_NO_MEMORY;
    if (!status) status = rt->parallel_for(FD_CAT(winograd_filter_task, SFX), g, g->groups * g->panels, threads, u / 8);
    if (!status) /* 25 multiply-adds or 4 transformed values a nanosecond */
        status = rt->parallel_for(FD_CAT(winograd_gather_task, SFX), g, g->groups * g->blocks, threads,
                                  points * g->tiles * g->groups *
                                      ((double)g->reduce * g->produce / 25 + (double)(g->reduce + g->produce) / 4));
    rt->release(mark);
    return status;
}
#undef LINE
#undef LANES
