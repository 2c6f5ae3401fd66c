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

static void FD_CAT(max_forward, STO)(const pool_call *p, ptrdiff_t n, ptrdiff_t oh) {
    const ptrdiff_t channels = p->image.shape[1], down = p->image.stride[2] * p->h.dilation;
    const ptrdiff_t right = p->image.stride[3] * p->w.dilation, kernel_w = p->w.kernel;
    const int type = p->indices.type;
    ptrdiff_t kh, rows = fd_taps(&p->h, oh, &kh);
    for (ptrdiff_t ow = 0; ow < p->w.windows; ow++) {
        ptrdiff_t kw, columns = fd_taps(&p->w, ow, &kw);
        S *to = (S *)fd_at(&p->pooled, n, 0, oh, ow);
        char *index_to = p->indices.data ? fd_at(&p->indices, n, 0, oh, ow) : NULL;
        if (rows == 0 || columns == 0) {
            FD_CAT(max_nothing, STO)(channels, to, type, index_to);
            continue;
        }
        const char *from = fd_at(&p->image, n, 0, oh * p->h.stride - p->h.before + kh * p->h.dilation,
                                   ow * p->w.stride - p->w.before + kw * p->w.dilation);
        const ptrdiff_t tap = kh * kernel_w + kw;
        const int small = rows == 2 && columns == 2;
        if (small && index_to)
            FD_CAT(max_window, STO)(from, down, right, 2, 2, tap, kernel_w, channels, to, 1, type, index_to);
        else if (index_to)
            FD_CAT(max_window, STO)(from, down, right, rows, columns, tap, kernel_w, channels, to, 1, type, index_to);
        else if (small)
            FD_CAT(max_window, STO)(from, down, right, 2, 2, tap, kernel_w, channels, to, 0, type, NULL);
        else
            FD_CAT(max_window, STO)(from, down, right, rows, columns, tap, kernel_w, channels, to, 0, type, NULL);
    }
}

/* One pixel of dx: the windows over it are rows x columns; `from` and `index_from` are the first of them, `tap` is its
 * tap on the pixel, those of the next ones are tap_down and tap_right before. */
POOL_INLINE void FD_CAT(max_pixel, STO)(const pool_call *p, const char *from, const char *index_from, ptrdiff_t rows,
                                        ptrdiff_t columns, I tap, ptrdiff_t channels, int index_type, S *to) {
    const ptrdiff_t index_size = index_type == FD_U8 ? 1 : 4, over = p->h.window_step, across = p->w.window_step;
    const I tap_down = (I)(p->h.tap_step * p->w.kernel), tap_right = (I)p->w.tap_step;
    for (ptrdiff_t block = 0; block < channels; block += LANES) {
        const ptrdiff_t c = fd_min(block, channels - LANES);
        V sum = {0};
        for (ptrdiff_t i = 0; i < rows; i++) {
            const char *at = from + i * over * p->pooled.stride[2] + c * (ptrdiff_t)sizeof(S);
            const char *index_at = index_from + i * over * p->indices.stride[2] + c * index_size;
            for (ptrdiff_t j = 0; j < columns; j++) {
                const VI index = FD_CAT(pool_load_index, SFX)(index_type, index_at + j * across * p->indices.stride[3]);
                const V v = FD_CAT(pool_load, STO)((const S *)(at + j * across * p->pooled.stride[3]));
                sum += (V)((VI)v & (index == tap - (I)i * tap_down - (I)j * tap_right));
            }
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
    char *to = fd_at(&p->image, n, 0, h, 0);
    pool_cover across = pool_cover_at(&p->w, 0);
    for (ptrdiff_t w = 0; w < p->w.size; w++) {
        pool_cover_next(&p->w, &across, w);
        const char *at = from + across.window * p->pooled.stride[3];
        const char *index_at = index_from + across.window * p->indices.stride[3];
        const I tap = (I)(over.tap * kernel_w + across.tap);
        S *pixel = (S *)(to + w * p->image.stride[3]);
        /* Windows side by side, the usual case: one over each pixel. */
        if (over.count == 1 && across.count == 1)
            FD_CAT(max_pixel, STO)(p, at, index_at, 1, 1, tap, channels, type, pixel);
        else
            FD_CAT(max_pixel, STO)(p, at, index_at, over.count, across.count, tap, channels, type, pixel);
    }
}
#undef V
#undef VI
#undef M
#undef LANES
