/* Max pooling of channels-last memory. Included once for each storage dtype: S is its C type, STO its suffix, T and SFX
 * those of the compute dtype, I the integer of its size.
 *
 * One window and one register of channels at a time: the largest value so far and its tap stay in registers while the
 * taps pass. The last register of a pixel overlaps the one before it, so that any channel count of at least one
 * register is done in whole registers; fewer channels go through lines.h. */
#define V FD_CAT(fd_v, SFX)
#define VI FD_CAT(pool_i, SFX)
#define M FD_CAT(pool_mask, SFX)
#define LANES FD_CAT(FD_LANES, SFX)

/* The window's first tap on the image stands at `from` and has number `tap`; rows x columns taps follow, `down` and
 * `right` bytes apart, their numbers kernel_w and 1 apart. */
POOL_INLINE void FD_CAT(max_window, STO)(const char *from, ptrdiff_t down, ptrdiff_t right, ptrdiff_t rows,
                                         ptrdiff_t columns, ptrdiff_t tap, ptrdiff_t kernel_w, ptrdiff_t channels,
                                         S *to, int with_index, int index_type, char *index_to) {
    const ptrdiff_t index_size = index_type == FD_U8 ? 1 : 4;
    const VI first = (VI){0} + (I)tap;
    for (ptrdiff_t block = 0; block < channels; block += LANES) {
        const ptrdiff_t c = fd_min(block, channels - LANES);
        const char *at = from + c * (ptrdiff_t)sizeof(S);
        V best = FD_CAT(pool_load, STO)((const S *)at);
        VI index = first;
        for (ptrdiff_t i = 0; i < rows; i++) {
            for (ptrdiff_t j = i == 0; j < columns; j++) {
                const V v = FD_CAT(pool_load, STO)((const S *)(at + i * down + j * right));
                /* larger, or NaN after numbers */
                const M take = ~(M)(v <= best) & (M)(best == best);
                best = (V)POOL_SELECT(take, (M)v, (M)best);
                if (with_index) index = (VI)POOL_SELECT(take, (M)(first + (I)(i * kernel_w + j)), (M)index);
            }
        }
        FD_CAT(pool_store, STO)(to + c, best);
        if (with_index) FD_CAT(pool_store_index, SFX)(index_type, index_to + c * index_size, index);
    }
}

/* A window wholly in the padding. */
static void FD_CAT(max_nothing, STO)(ptrdiff_t channels, S *to, int index_type, char *index_to) {
    const V lowest = (V){0} - (T)INFINITY;
    const VI none = (VI){0} + (I)(index_type == FD_U8 ? 255 : INT32_MAX);
    for (ptrdiff_t block = 0; block < channels; block += LANES) {
        const ptrdiff_t c = fd_min(block, channels - LANES);
        FD_CAT(pool_store, STO)(to + c, lowest);
        if (index_to) FD_CAT(pool_store_index, SFX)(index_type, index_to + c * (index_type == FD_U8 ? 1 : 4), none);
    }
}

/* `windows` windows side by side, all with the taps rows x columns from tap on: `next` and those after it are the steps
 * from one to the next in bytes. Inlined with constants, a window of 2x2 in one register costs its loads and stores. */
POOL_INLINE void FD_CAT(max_windows, STO)(ptrdiff_t windows, const char *from, ptrdiff_t next, ptrdiff_t down,
                                          ptrdiff_t right, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t tap,
                                          ptrdiff_t kernel_w, ptrdiff_t channels, char *to, ptrdiff_t to_next,
                                          int with_index, int index_type, char *index_to, ptrdiff_t index_next) {
    for (ptrdiff_t i = 0; i < windows; i++)
        FD_CAT(max_window, STO)(from + i * next, down, right, rows, columns, tap, kernel_w, channels,
                                (S *)(to + i * to_next), with_index, index_type, with_index ? index_to + i * index_next : NULL);
}

static void FD_CAT(max_forward, STO)(const pool_call *p, ptrdiff_t n, ptrdiff_t oh) {
    const ptrdiff_t channels = p->image.shape[1], down = p->image.stride[2] * p->h.dilation;
    const ptrdiff_t right = p->image.stride[3] * p->w.dilation, kernel_w = p->w.kernel;
    const ptrdiff_t next = p->w.stride * p->image.stride[3], to_next = p->pooled.stride[3];
    const ptrdiff_t index_next = p->indices.data ? p->indices.stride[3] : 0;
    const int type = p->indices.type;
    ptrdiff_t kh, rows = fd_taps(&p->h, oh, &kh);
    for (ptrdiff_t ow = 0, many; ow < p->w.windows; ow += many) {
        ptrdiff_t kw, columns = fd_taps(&p->w, ow, &kw);
        char *to = fd_at(&p->pooled, n, 0, oh, ow);
        char *index_to = p->indices.data ? fd_at(&p->indices, n, 0, oh, ow) : NULL;
        many = columns == kernel_w ? pool_whole(&p->w, ow) : 1;
        if (rows == 0 || columns == 0) {
            for (ptrdiff_t i = 0; i < many; i++)
                FD_CAT(max_nothing, STO)(channels, (S *)(to + i * to_next), type,
                                         index_to ? index_to + i * index_next : NULL);
            continue;
        }
        const char *from = fd_at(&p->image, n, 0, oh * p->h.stride - p->h.before + kh * p->h.dilation,
                                 ow * p->w.stride - p->w.before + kw * p->w.dilation);
        const ptrdiff_t tap = kh * kernel_w + kw;
        const int small = rows == 2 && columns == 2;
#define WINDOWS(rows, columns, with_index, type)                                                                   \
    FD_CAT(max_windows, STO)(many, from, next, down, right, rows, columns, tap, kernel_w, channels, to, to_next,   \
                             with_index, type, index_to, index_next)
        if (small && index_to && type == FD_U8) WINDOWS(2, 2, 1, FD_U8);
        else if (small && !index_to) WINDOWS(2, 2, 0, FD_U8);
        else if (index_to) WINDOWS(rows, columns, 1, type);
        else WINDOWS(rows, columns, 0, FD_U8);
#undef WINDOWS
    }
}

/* Lanes of dout whose index is `tap` and whose result is not <= 0, the others 0; `out` may be NULL. */
POOL_INLINE V FD_CAT(max_chosen, STO)(const char *dout, VI index, I tap, const char *out) {
    const V v = (V)((VI)FD_CAT(pool_load, STO)((const S *)dout) & (index == tap));
    if (!out) return v;
    return (V)(~(M)(FD_CAT(pool_load, STO)((const S *)out) <= (V){0}) & (M)v);
}

/* One pixel of dx: the windows over it are rows x columns; `from`, `index_from` and `out_from` (or NULL) are the first
 * of them, `tap` is its tap on the pixel, those of the next ones are tap_down and tap_right before. */
POOL_INLINE void FD_CAT(max_pixel, STO)(const pool_call *p, const char *from, const char *index_from,
                                        const char *out_from, ptrdiff_t rows, ptrdiff_t columns, I tap,
                                        ptrdiff_t channels, int index_type, S *to) {
    const ptrdiff_t index_size = index_type == FD_U8 ? 1 : 4, over = p->h.window_step, across = p->w.window_step;
    const I tap_down = (I)(p->h.tap_step * p->w.kernel), tap_right = (I)p->w.tap_step;
    for (ptrdiff_t block = 0; block < channels; block += LANES) {
        const ptrdiff_t c = fd_min(block, channels - LANES);
        V sum = {0};
        for (ptrdiff_t i = 0; i < rows; i++) {
            const char *at = from + i * over * p->pooled.stride[2] + c * (ptrdiff_t)sizeof(S);
            const char *index_at = index_from + i * over * p->indices.stride[2] + c * index_size;
            const char *out_at =
                out_from ? out_from + i * over * p->out.stride[2] + c * (ptrdiff_t)sizeof(S) : NULL;
            for (ptrdiff_t j = 0; j < columns; j++)
                sum += FD_CAT(max_chosen, STO)(
                    at + j * across * p->pooled.stride[3],
                    FD_CAT(pool_load_index, SFX)(index_type, index_at + j * across * p->indices.stride[3]),
                    tap - (I)i * tap_down - (I)j * tap_right,
                    out_at ? out_at + j * across * p->out.stride[3] : NULL);
        }
        FD_CAT(pool_store, STO)(to + c, sum);
    }
}

static void FD_CAT(max_backward, STO)(const pool_call *p, ptrdiff_t n, ptrdiff_t h) {
    const ptrdiff_t channels = p->image.shape[1], kernel_w = p->w.kernel;
    const int type = p->indices.type;
    const pool_cover over = pool_cover_at(&p->h, h);
    const char *from = fd_at(&p->pooled, n, 0, over.window, 0);
    const char *index_from = fd_at(&p->indices, n, 0, over.window, 0);
    const char *out_from = p->out.data ? fd_at(&p->out, n, 0, over.window, 0) : NULL;
    char *to = fd_at(&p->image, n, 0, h, 0);
    pool_cover across = pool_cover_at(&p->w, 0);
    for (ptrdiff_t w = 0; w < p->w.size; w++) {
        pool_cover_next(&p->w, &across, w);
        FD_CAT(max_pixel, STO)(p, from + across.window * p->pooled.stride[3],
                               index_from + across.window * p->indices.stride[3],
                               out_from ? out_from + across.window * p->out.stride[3] : NULL, over.count, across.count,
                               (I)(over.tap * kernel_w + across.tap), channels, type,
                               (S *)(to + w * p->image.stride[3]));
    }
}

/* Windows that do not overlap are spread instead, which reads dout once: window (oh, ow) writes the pixels under its
 * taps, and nobody else does. The sum of a pixel has one term or none; + 0 makes it what the gather makes of -0.0.
 *
 *     +-----+-----+--+      Pixels behind the last windows belong to these: `columns` of them on the right of a row of
 *     |  0  |  1  |//|      windows, and the rows below the last row of windows, are zeroed by whoever does that row.
 *     +-----+-----+//|
 *     |/////////////|
 */
POOL_INLINE void FD_CAT(max_spread, STO)(ptrdiff_t windows, const char *from, ptrdiff_t from_next,
                                         const char *index_from, ptrdiff_t index_next, const char *out_from,
                                         ptrdiff_t out_next, char *to, ptrdiff_t next, ptrdiff_t down, ptrdiff_t right,
                                         ptrdiff_t rows, ptrdiff_t columns, I tap, I kernel_w, ptrdiff_t channels,
                                         int index_type) {
    const ptrdiff_t index_size = index_type == FD_U8 ? 1 : 4;
    for (ptrdiff_t window = 0; window < windows; window++)
        for (ptrdiff_t block = 0; block < channels; block += LANES) {
            const ptrdiff_t c = fd_min(block, channels - LANES), bytes = c * (ptrdiff_t)sizeof(S);
            const VI index = FD_CAT(pool_load_index, SFX)(index_type, index_from + window * index_next + c * index_size);
            V v = FD_CAT(pool_load, STO)((const S *)(from + window * from_next + bytes)) + (V){0};
            if (out_from) {
                const V out = FD_CAT(pool_load, STO)((const S *)(out_from + window * out_next + bytes));
                v = (V)(~(M)(out <= (V){0}) & (M)v);
            }
            for (ptrdiff_t i = 0; i < rows; i++)
                for (ptrdiff_t j = 0; j < columns; j++)
                    FD_CAT(pool_store, STO)((S *)(to + window * next + i * down + j * right + bytes),
                                            (V)((VI)v & (index == tap + (I)i * kernel_w + (I)j)));
        }
}

/* Zeroes `columns` pixels in a row. */
static void FD_CAT(max_clear, STO)(char *to, ptrdiff_t columns, ptrdiff_t right, ptrdiff_t channels) {
    for (ptrdiff_t j = 0; j < columns; j++) memset(to + j * right, 0, (size_t)channels * sizeof(S));
}

static void FD_CAT(max_backward_apart, STO)(const pool_call *p, ptrdiff_t n, ptrdiff_t oh) {
    const ptrdiff_t channels = p->image.shape[1], kernel_w = p->w.kernel, down = p->image.stride[2];
    const ptrdiff_t right = p->image.stride[3], next = p->w.stride * right, out_next = p->out.data ? p->out.stride[3] : 0;
    const int type = p->indices.type;
    ptrdiff_t kh, rows = fd_taps(&p->h, oh, &kh);
    const ptrdiff_t h0 = oh * p->h.stride - p->h.before + kh, behind = fd_max(0, p->w.windows * p->w.stride - p->w.before);
    for (ptrdiff_t ow = 0, many; rows > 0 && ow < p->w.windows; ow += many) {
        ptrdiff_t kw, columns = fd_taps(&p->w, ow, &kw);
        many = columns == kernel_w ? pool_whole(&p->w, ow) : 1;
        if (columns == 0) continue;
        const char *from = fd_at(&p->pooled, n, 0, oh, ow), *index_from = fd_at(&p->indices, n, 0, oh, ow);
        const char *out_from = p->out.data ? fd_at(&p->out, n, 0, oh, ow) : NULL;
        char *to = fd_at(&p->image, n, 0, h0, ow * p->w.stride - p->w.before + kw);
        const I tap = (I)(kh * kernel_w + kw);
        const int small = rows == 2 && columns == 2 && type == FD_U8;
#define SPREAD(out_from, rows, columns, type)                                                                      \
    FD_CAT(max_spread, STO)(many, from, p->pooled.stride[3], index_from, p->indices.stride[3], out_from, out_next, \
                            to, next, down, right, rows, columns, tap, (I)kernel_w, channels, type)
        if (small && out_from) SPREAD(out_from, 2, 2, FD_U8);
        else if (small) SPREAD(NULL, 2, 2, FD_U8);
        else SPREAD(out_from, rows, columns, type);
#undef SPREAD
    }
    if (rows > 0 && behind < p->w.size)
        for (ptrdiff_t i = 0; i < rows; i++)
            FD_CAT(max_clear, STO)(fd_at(&p->image, n, 0, h0 + i, behind), p->w.size - behind, right, channels);
    if (oh == p->h.windows - 1)
        for (ptrdiff_t h = fd_max(0, p->h.windows * p->h.stride - p->h.before); h < p->h.size; h++)
            FD_CAT(max_clear, STO)(fd_at(&p->image, n, 0, h, 0), p->w.size, right, channels);
}
#undef V
#undef VI
#undef M
#undef LANES
