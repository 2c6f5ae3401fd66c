/* Batch normalisation. Included once for each compute dtype, with T, SFX and TYPE defined.
 *
 * One sweep over x yields both moments: a block of 128 rows stays in the nearest caches while its mean is taken and
 * its centred squares are summed; blocks meet in float64 by Chan, Golub and LeVeque's update. (Two sweeps over the
 * whole tensor would read it from memory twice.) Within a block
 *
 *     row  0  1 ... 15 | 16 17 ... 31 | ...      row r is added to accumulator r % 16: eight additions in a chain;
 *          |  |      |     |  |      |           then 16 accumulators fold to 8, 4, 2, 1.
 *     acc  0  1 ... 15     0  1 ... 15
 *
 * That order is the same whether a vector holds 16 channels of one row or 16 rows of one channel, so memory order and
 * ISA level do not change it. */

/* ---- blocks: the channels beside each other ------------------------------------------------------------------- */

/* Rows that are treated as one, so that the inner loops do not stop after a few elements where channels are few. */
static inline ptrdiff_t FD_CAT(bn_span, SFX)(ptrdiff_t n) {
    ptrdiff_t span = 1;
    while (span < BN_LANES && span * n < BN_SPAN / 2) span *= 2;
    return span;
}

static void FD_CAT(bn_repeat, SFX)(T *restrict to, const T *restrict from, ptrdiff_t n, ptrdiff_t times) {
    for (ptrdiff_t k = 0; k < times; k++) memcpy(to + k * n, from, (size_t)n * sizeof(T));
}

/* The accumulators' sum, into the first of them. */
static void FD_CAT(bn_fold, SFX)(T *acc, ptrdiff_t n) {
    for (ptrdiff_t half = BN_LANES / 2 * n; half >= n; half /= 2) {
        const T *restrict upper = acc + half;
        T *restrict lower = acc;
        for (ptrdiff_t i = 0; i < half; i++) lower[i] += upper[i];
    }
}

static inline void FD_CAT(bn_add, SFX)(const T *restrict x, T *restrict sum, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) sum[i] += x[i];
}

static inline void FD_CAT(bn_add_centred, SFX)(const T *restrict x, const T *restrict centre, T *restrict sum,
                                               T *restrict square, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) {
        const T d = x[i] - centre[i];
        sum[i] += d;
        square[i] += d * d;
    }
}

static inline void FD_CAT(bn_add_gradient, SFX)(const T *restrict dout, const T *restrict x, const T *restrict centre,
                                                T *restrict sum, T *restrict product, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) {
        sum[i] += dout[i];
        product[i] += dout[i] * (x[i] - centre[i]);
    }
}

static inline void FD_CAT(bn_apply, SFX)(const T *restrict x, const T *restrict centre, const T *restrict scale,
                                         const T *restrict shift, T *restrict out, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) out[i] = (x[i] - centre[i]) * scale[i] + shift[i];
}

static inline void FD_CAT(bn_gradient, SFX)(const T *restrict dout, const T *restrict x, const T *restrict centre,
                                            const T *restrict scale, const T *restrict shift, const T *restrict slope,
                                            T *restrict dx, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) dx[i] = scale[i] * (dout[i] - shift[i] - (x[i] - centre[i]) * slope[i]);
}

/* ---- runs: the rows of a channel beside each other ------------------------------------------------------------ */

#define LANES FD_CAT(FD_LANES, SFX)
#define VECTORS (BN_LANES / LANES)
typedef FD_CAT(fd_v, SFX) FD_CAT(bn_v, SFX);
#define V FD_CAT(bn_v, SFX)

/* As bn_fold; written out, since a loop over the halves becomes a chain of short loops at run time. */
static inline T FD_CAT(bn_fold_run, SFX)(T *lane) {
    for (int l = 0; l < 8; l++) lane[l] += lane[l + 8];
    for (int l = 0; l < 4; l++) lane[l] += lane[l + 4];
    for (int l = 0; l < 2; l++) lane[l] += lane[l + 2];
    return lane[0] + lane[1];
}

static T FD_CAT(bn_run_sum, SFX)(const T *x, ptrdiff_t n) {
    union { V v[VECTORS]; T lane[BN_LANES]; } sum;
    V a[VECTORS];
    ptrdiff_t r = 0;
    for (int v = 0; v < VECTORS; v++) a[v] = (V){0};
    for (; r + BN_LANES <= n; r += BN_LANES)
        for (int v = 0; v < VECTORS; v++) a[v] += *(const V *)(x + r + v * LANES);
    for (int v = 0; v < VECTORS; v++) sum.v[v] = a[v];
    for (int l = 0; r < n; r++, l++) sum.lane[l] += x[r];
    return FD_CAT(bn_fold_run, SFX)(sum.lane);
}

static T FD_CAT(bn_run_centred, SFX)(const T *x, ptrdiff_t n, T centre, T *square_sum) {
    union { V v[VECTORS]; T lane[BN_LANES]; } sum, square;
    V a[VECTORS], b[VECTORS];
    ptrdiff_t r = 0;
    for (int v = 0; v < VECTORS; v++) a[v] = b[v] = (V){0};
    for (; r + BN_LANES <= n; r += BN_LANES)
        for (int v = 0; v < VECTORS; v++) {
            const V d = *(const V *)(x + r + v * LANES) - centre;
            a[v] += d;
            b[v] += d * d;
        }
    for (int v = 0; v < VECTORS; v++) sum.v[v] = a[v], square.v[v] = b[v];
    for (int l = 0; r < n; r++, l++) {
        const T d = x[r] - centre;
        sum.lane[l] += d;
        square.lane[l] += d * d;
    }
    *square_sum = FD_CAT(bn_fold_run, SFX)(square.lane);
    return FD_CAT(bn_fold_run, SFX)(sum.lane);
}

static T FD_CAT(bn_run_gradient, SFX)(const T *dout, const T *x, ptrdiff_t n, T centre, T *product_sum) {
    union { V v[VECTORS]; T lane[BN_LANES]; } sum, product;
    V a[VECTORS], b[VECTORS];
    ptrdiff_t r = 0;
    for (int v = 0; v < VECTORS; v++) a[v] = b[v] = (V){0};
    for (; r + BN_LANES <= n; r += BN_LANES)
        for (int v = 0; v < VECTORS; v++) {
            const V d = *(const V *)(dout + r + v * LANES);
            a[v] += d;
            b[v] += d * (*(const V *)(x + r + v * LANES) - centre);
        }
    for (int v = 0; v < VECTORS; v++) sum.v[v] = a[v], product.v[v] = b[v];
    for (int l = 0; r < n; r++, l++) {
        sum.lane[l] += dout[r];
        product.lane[l] += dout[r] * (x[r] - centre);
    }
    *product_sum = FD_CAT(bn_fold_run, SFX)(product.lane);
    return FD_CAT(bn_fold_run, SFX)(sum.lane);
}
#undef V
#undef VECTORS
#undef LANES

/* ---- tasks: one chunk of rows, one tile of channels ------------------------------------------------------------ */

/* Sums and centred squares of a chunk, into b->sums. */
static int FD_CAT(bn_moments_task, SFX)(void *context, ptrdiff_t index) {
    const bn_call *b = (const bn_call *)context;
    const norm_grid *g = &b->grid;
    const bn_part part = bn_part_of(b, index);
    const ptrdiff_t n = part.n;
    double *restrict sum = b->sums + part.chunk * 2 * g->channels + part.channel, *restrict square = sum + g->channels;
    T *buffer = (T *)rt->push((size_t)(BN_BLOCK * (b->runs ? 1 : n)) * sizeof(T));
    if (!buffer) return FD_NO_MEMORY;
    for (ptrdiff_t c = 0; c < n; c++) sum[c] = square[c] = 0;
    if (b->runs) {
        for (ptrdiff_t c = 0; c < n; c++)
            for (ptrdiff_t r = 0; r < part.rows; r += BN_BLOCK) {
                const bn_weights w = bn_weigh(r, fd_min(BN_BLOCK, part.rows - r));
                const ptrdiff_t rows = (ptrdiff_t)w.rows;
                const T *x = FD_CAT(norm_run, SFX)(g, &b->from, part.row + r, rows, part.channel + c, buffer);
                const T centre = FD_CAT(bn_run_sum, SFX)(x, rows) / (T)rows;
                T dd, d = FD_CAT(bn_run_centred, SFX)(x, rows, centre, &dd);
                bn_merge_block(&w, centre, d, dd, sum + c, square + c);
            }
        return FD_OK;
    }
    T *acc = (T *)rt->push((size_t)(2 * BN_LANES * n) * sizeof(T));
    T *centre = (T *)rt->push((size_t)fd_max(n, BN_SPAN) * sizeof(T));
    if (!acc || !centre) return FD_NO_MEMORY;
    T *acc2 = acc + BN_LANES * n;
    for (ptrdiff_t r = 0; r < part.rows; r += BN_BLOCK) {
        const bn_weights w = bn_weigh(r, fd_min(BN_BLOCK, part.rows - r));
        const ptrdiff_t rows = (ptrdiff_t)w.rows;
        ptrdiff_t pitch;
        const T *x = FD_CAT(norm_block, SFX)(g, &b->from, part.row + r, rows, part.channel, n, buffer, &pitch);
        const int flat = pitch == n;
        ptrdiff_t span = flat ? BN_LANES : 1;
        memset(acc, 0, (size_t)(BN_LANES * n) * sizeof(T));
        for (ptrdiff_t i = 0; i < rows; i += span)
            FD_CAT(bn_add, SFX)(x + i * pitch, acc + i % BN_LANES * n, fd_min(span, rows - i) * n);
        FD_CAT(bn_fold, SFX)(acc, n);
        for (ptrdiff_t c = 0; c < n; c++) centre[c] = acc[c] / (T)rows;
        span = flat ? FD_CAT(bn_span, SFX)(n) : 1;
        FD_CAT(bn_repeat, SFX)(centre + n, centre, n, span - 1);
        memset(acc, 0, (size_t)(2 * BN_LANES * n) * sizeof(T));
        for (ptrdiff_t i = 0; i < rows; i += span) {
            const ptrdiff_t lane = i % BN_LANES * n;
            FD_CAT(bn_add_centred, SFX)(x + i * pitch, centre, acc + lane, acc2 + lane, fd_min(span, rows - i) * n);
        }
        FD_CAT(bn_fold, SFX)(acc, n);
        FD_CAT(bn_fold, SFX)(acc2, n);
        for (ptrdiff_t c = 0; c < n; c++) bn_merge_block(&w, centre[c], acc[c], acc2[c], sum + c, square + c);
    }
    return FD_OK;
}

/* Sums of dout and of dout * (x - mean) of a chunk, into b->sums. */
static int FD_CAT(bn_gradients_task, SFX)(void *context, ptrdiff_t index) {
    const bn_call *b = (const bn_call *)context;
    const norm_grid *g = &b->grid;
    const bn_part part = bn_part_of(b, index);
    const ptrdiff_t n = part.n, width = b->runs ? 1 : n;
    const T *mean = (const T *)b->parameter[BN_CENTRE] + part.channel;
    double *restrict sum = b->sums + part.chunk * 2 * g->channels + part.channel, *restrict product = sum + g->channels;
    T *x_buffer = (T *)rt->push((size_t)(BN_BLOCK * width) * sizeof(T));
    T *dout_buffer = (T *)rt->push((size_t)(BN_BLOCK * width) * sizeof(T));
    if (!x_buffer || !dout_buffer) return FD_NO_MEMORY;
    for (ptrdiff_t c = 0; c < n; c++) sum[c] = product[c] = 0;
    if (b->runs) {
        for (ptrdiff_t c = 0; c < n; c++)
            for (ptrdiff_t r = 0; r < part.rows; r += BN_BLOCK) {
                const ptrdiff_t rows = fd_min(BN_BLOCK, part.rows - r), row = part.row + r, channel = part.channel + c;
                const T *x = FD_CAT(norm_run, SFX)(g, &b->from, row, rows, channel, x_buffer);
                const T *dout = FD_CAT(norm_run, SFX)(g, &b->gradient, row, rows, channel, dout_buffer);
                T dd, d = FD_CAT(bn_run_gradient, SFX)(dout, x, rows, mean[c], &dd);
                sum[c] += d;
                product[c] += dd;
            }
        return FD_OK;
    }
    T *acc = (T *)rt->push((size_t)(2 * BN_LANES * n) * sizeof(T));
    T *centre = (T *)rt->push((size_t)fd_max(n, BN_SPAN) * sizeof(T));
    if (!acc || !centre) return FD_NO_MEMORY;
    T *acc2 = acc + BN_LANES * n;
    FD_CAT(bn_repeat, SFX)(centre, mean, n, FD_CAT(bn_span, SFX)(n));
    for (ptrdiff_t r = 0; r < part.rows; r += BN_BLOCK) {
        const ptrdiff_t rows = fd_min(BN_BLOCK, part.rows - r), row = part.row + r;
        ptrdiff_t x_pitch, dout_pitch;
        const T *x = FD_CAT(norm_block, SFX)(g, &b->from, row, rows, part.channel, n, x_buffer, &x_pitch);
        const T *dout = FD_CAT(norm_block, SFX)(g, &b->gradient, row, rows, part.channel, n, dout_buffer, &dout_pitch);
        const ptrdiff_t span = x_pitch == n && dout_pitch == n ? FD_CAT(bn_span, SFX)(n) : 1;
        memset(acc, 0, (size_t)(2 * BN_LANES * n) * sizeof(T));
        for (ptrdiff_t i = 0; i < rows; i += span) {
            const ptrdiff_t lane = i % BN_LANES * n;
            FD_CAT(bn_add_gradient, SFX)(dout + i * dout_pitch, x + i * x_pitch, centre, acc + lane, acc2 + lane,
                                         fd_min(span, rows - i) * n);
        }
        FD_CAT(bn_fold, SFX)(acc, n);
        FD_CAT(bn_fold, SFX)(acc2, n);
        for (ptrdiff_t c = 0; c < n; c++) {
            sum[c] += acc[c];
            product[c] += acc2[c];
        }
    }
    return FD_OK;
}

/* out = (x - mean) * scale + shift, or dx = scale * (dout - shift - (x - mean) * slope). */
static int FD_CAT(bn_map_task, SFX)(void *context, ptrdiff_t index) {
    const bn_call *b = (const bn_call *)context;
    const norm_grid *g = &b->grid;
    const bn_part part = bn_part_of(b, index);
    const ptrdiff_t n = part.n, width = b->runs ? 1 : n;
    const T *parameter[BN_PARAMETERS];
    T *x_buffer = (T *)rt->push((size_t)(BN_BLOCK * width) * sizeof(T));
    T *dout_buffer = (T *)rt->push((size_t)(BN_BLOCK * width) * sizeof(T));
    T *out_buffer = (T *)rt->push((size_t)(BN_BLOCK * width) * sizeof(T));
    T *repeated = (T *)rt->push((size_t)(BN_PARAMETERS * fd_max(n, BN_SPAN)) * sizeof(T));
    if (!x_buffer || !dout_buffer || !out_buffer || !repeated) return FD_NO_MEMORY;
    for (int p = 0; p < BN_PARAMETERS; p++) parameter[p] = (const T *)b->parameter[p] + part.channel;
    if (b->runs) {
        for (ptrdiff_t c = 0; c < n; c++) {
            const T centre = parameter[BN_CENTRE][c], scale = parameter[BN_SCALE][c];
            const T shift = parameter[BN_SHIFT][c], slope = parameter[BN_SLOPE][c];
            for (ptrdiff_t r = 0, rows; r < part.rows; r += rows) {
                const ptrdiff_t row = part.row + r, channel = part.channel + c;
                rows = norm_reach(g, row, fd_min(BN_BLOCK, part.rows - r)); /* no sum: a run may end with its plane */
                const int direct = FD_CAT(norm_is_run, SFX)(g, &b->to, row, rows);
                const T *restrict x = FD_CAT(norm_run, SFX)(g, &b->from, row, rows, channel, x_buffer);
                T *restrict out = direct ? (T *)norm_at(g, &b->to, row, channel) : out_buffer;
                if (b->backward) {
                    const T *restrict dout = FD_CAT(norm_run, SFX)(g, &b->gradient, row, rows, channel, dout_buffer);
                    for (ptrdiff_t i = 0; i < rows; i++) out[i] = scale * (dout[i] - shift - (x[i] - centre) * slope);
                } else {
                    for (ptrdiff_t i = 0; i < rows; i++) out[i] = (x[i] - centre) * scale + shift;
                }
                if (!direct) FD_CAT(norm_copy_run, SFX)(g, &b->to, row, rows, channel, out, 1);
            }
        }
        return FD_OK;
    }
    const ptrdiff_t most = FD_CAT(bn_span, SFX)(n);
    for (int p = 0; p < BN_PARAMETERS; p++) {
        FD_CAT(bn_repeat, SFX)(repeated + p * most * n, parameter[p], n, most);
        parameter[p] = repeated + p * most * n;
    }
    for (ptrdiff_t r = 0; r < part.rows; r += BN_BLOCK) {
        const ptrdiff_t rows = fd_min(BN_BLOCK, part.rows - r), row = part.row + r;
        ptrdiff_t x_pitch, out_pitch = n, dout_pitch = n;
        const int direct = FD_CAT(norm_is_block, SFX)(g, &b->to, row, rows);
        const T *x = FD_CAT(norm_block, SFX)(g, &b->from, row, rows, part.channel, n, x_buffer, &x_pitch), *dout = NULL;
        if (b->backward)
            dout = FD_CAT(norm_block, SFX)(g, &b->gradient, row, rows, part.channel, n, dout_buffer, &dout_pitch);
        T *out = direct ? (T *)norm_at(g, &b->to, row, part.channel) : out_buffer;
        if (direct && rows > 1) out_pitch = b->to.stride[2] / (ptrdiff_t)sizeof(T);
        const ptrdiff_t span = x_pitch == n && out_pitch == n && dout_pitch == n ? most : 1;
        for (ptrdiff_t i = 0; i < rows; i += span) {
            const ptrdiff_t count = fd_min(span, rows - i) * n;
            if (b->backward)
                FD_CAT(bn_gradient, SFX)(dout + i * dout_pitch, x + i * x_pitch, parameter[0], parameter[1],
                                         parameter[2], parameter[3], out + i * out_pitch, count);
            else
                FD_CAT(bn_apply, SFX)(x + i * x_pitch, parameter[0], parameter[1], parameter[2], out + i * out_pitch,
                                      count);
        }
        if (!direct) FD_CAT(norm_copy_block, SFX)(g, &b->to, row, rows, part.channel, n, out, 1);
    }
    return FD_OK;
}
