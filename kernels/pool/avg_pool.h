/* Average pooling of channels-last memory, and the global mean. Included once for each storage dtype, as max_pool.h. */
#define V FD_CAT(fd_v, SFX)
#define LANES FD_CAT(FD_LANES, SFX)
#define LOAD(at) FD_CAT(pool_load, STO)((const S *)(at))

/* The means of one window: of one register of channels, or of eight at once, whose sums do not wait for each other
 * (7x7, 1024 channels, batch 16: 0.22 -> 0.04 ms on one thread). What the next eight will read is fetched meanwhile. */
POOL_INLINE void FD_CAT(avg_window_1, STO)(const char *from, ptrdiff_t rows, ptrdiff_t down, ptrdiff_t columns,
                                           ptrdiff_t right, T divisor, S *to) {
    V sum = {0};
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < columns; j++) sum += LOAD(from + i * down + j * right);
    FD_CAT(pool_store, STO)(to, sum / divisor);
}

POOL_INLINE void FD_CAT(avg_window_8, STO)(const char *from, ptrdiff_t rows, ptrdiff_t down, ptrdiff_t columns,
                                           ptrdiff_t right, T divisor, S *to) {
    const ptrdiff_t bytes = LANES * (ptrdiff_t)sizeof(S);
    V a = {0}, b = {0}, c = {0}, d = {0}, e = {0}, f = {0}, g = {0}, h = {0};
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < columns; j++) {
            const char *at = from + i * down + j * right;
            for (ptrdiff_t ahead = 8 * bytes; ahead < 16 * bytes; ahead += 64) __builtin_prefetch(at + ahead, 0, 2);
            a += LOAD(at);
            b += LOAD(at + bytes);
            c += LOAD(at + 2 * bytes);
            d += LOAD(at + 3 * bytes);
            e += LOAD(at + 4 * bytes);
            f += LOAD(at + 5 * bytes);
            g += LOAD(at + 6 * bytes);
            h += LOAD(at + 7 * bytes);
        }
    FD_CAT(pool_store, STO)(to, a / divisor);
    FD_CAT(pool_store, STO)(to + LANES, b / divisor);
    FD_CAT(pool_store, STO)(to + 2 * LANES, c / divisor);
    FD_CAT(pool_store, STO)(to + 3 * LANES, d / divisor);
    FD_CAT(pool_store, STO)(to + 4 * LANES, e / divisor);
    FD_CAT(pool_store, STO)(to + 5 * LANES, f / divisor);
    FD_CAT(pool_store, STO)(to + 6 * LANES, g / divisor);
    FD_CAT(pool_store, STO)(to + 7 * LANES, h / divisor);
}

static void FD_CAT(avg_forward, STO)(const pool_call *p, ptrdiff_t n, ptrdiff_t oh) {
    const ptrdiff_t channels = p->image.shape[1], down = p->image.stride[2], right = p->image.stride[3];
    const ptrdiff_t counted = pool_counted(&p->h, oh, p->include_pad), size = (ptrdiff_t)sizeof(S);
    ptrdiff_t kh, rows = fd_taps(&p->h, oh, &kh);
    for (ptrdiff_t ow = 0; ow < p->w.windows; ow++) {
        ptrdiff_t kw, columns = fd_taps(&p->w, ow, &kw), block = 0;
        const char *from = fd_at(&p->image, n, 0, oh * p->h.stride - p->h.before + kh,
                                   ow * p->w.stride - p->w.before + kw);
        const T divisor = (T)pool_divisor(p, counted, ow);
        S *to = (S *)fd_at(&p->pooled, n, 0, oh, ow);
        for (; block + 8 * LANES <= channels; block += 8 * LANES)
            FD_CAT(avg_window_8, STO)(from + block * size, rows, down, columns, right, divisor, to + block);
        for (; block < channels; block += LANES) {
            const ptrdiff_t c = fd_min(block, channels - LANES);
            FD_CAT(avg_window_1, STO)(from + c * size, rows, down, columns, right, divisor, to + c);
        }
    }
}

/* One pixel of dx: the windows over it are rows x columns; `from` is the first of them. */
POOL_INLINE void FD_CAT(avg_pixel, STO)(const pool_call *p, const char *from, ptrdiff_t rows, ptrdiff_t columns,
                                        const pool_cover *over, const pool_cover *across, ptrdiff_t channels, S *to) {
    for (ptrdiff_t block = 0; block < channels; block += LANES) {
        const ptrdiff_t c = fd_min(block, channels - LANES);
        V sum = {0};
        for (ptrdiff_t i = 0; i < rows; i++) {
            const char *at = from + i * p->pooled.stride[2] + c * (ptrdiff_t)sizeof(S);
            const ptrdiff_t counted = pool_counted(&p->h, over->window + i, p->include_pad);
            for (ptrdiff_t j = 0; j < columns; j++)
                sum += LOAD(at + j * p->pooled.stride[3]) / (T)pool_divisor(p, counted, across->window + j);
        }
        FD_CAT(pool_store, STO)(to + c, sum);
    }
}

/* A pixel under the same windows as the one before: a copy. With windows side by side that is most of them. */
static void FD_CAT(avg_copy, STO)(const S *from, ptrdiff_t channels, S *to) {
    const ptrdiff_t lanes = FD_VECTOR_BYTES / (ptrdiff_t)sizeof(S);
    ptrdiff_t c = 0;
    for (; c + lanes <= channels; c += lanes) memcpy(to + c, from + c, FD_VECTOR_BYTES);
    for (; c < channels; c++) to[c] = from[c];
}

static void FD_CAT(avg_backward, STO)(const pool_call *p, ptrdiff_t n, ptrdiff_t h) {
    const ptrdiff_t channels = p->image.shape[1];
    const pool_cover over = pool_cover_at(&p->h, h);
    const char *from = fd_at(&p->pooled, n, 0, over.window, 0);
    char *to = fd_at(&p->image, n, 0, h, 0);
    pool_cover across = pool_cover_at(&p->w, 0);
    for (ptrdiff_t w = 0; w < p->w.size; w++, to += p->image.stride[3]) {
        const pool_cover before = across;
        pool_cover_next(&p->w, &across, w);
        const char *at = from + across.window * p->pooled.stride[3];
        if (w > 0 && across.window == before.window && across.count == before.count)
            FD_CAT(avg_copy, STO)((const S *)(to - p->image.stride[3]), channels, (S *)to);
        else if (over.count == 1 && across.count == 1) /* windows side by side, the usual case */
            FD_CAT(avg_pixel, STO)(p, at, 1, 1, &over, &across, channels, (S *)to);
        else FD_CAT(avg_pixel, STO)(p, at, over.count, across.count, &over, &across, channels, (S *)to);
    }
}

/* The means of the `many` registers of channels from `first` on (the last one ends with the last channel), over all
 * pixels of image n: block after block, in a block pixel i goes to partial sum i % 8, and these are added pairwise. The
 * pixels are read in the order of memory; one register at a time, 8 KB from pixel to pixel, took twice as long. */
static void FD_CAT(global_sums, STO)(const pool_call *p, ptrdiff_t n, ptrdiff_t first, ptrdiff_t many) {
    const ptrdiff_t width = p->w.size, pixels = p->h.size * width, right = p->image.stride[3];
    const ptrdiff_t wrap = p->image.stride[2] - width * right; /* from the end of a row to the next one */
    const ptrdiff_t channels = p->image.shape[1], size = (ptrdiff_t)sizeof(S);
    const char *at = fd_at(&p->image, n, 0, 0, 0);
    S *to = (S *)fd_at(&p->pooled, n, 0, 0, 0);
    ptrdiff_t w = 0;
    V total[POOL_GROUP] = {{0}};
    for (ptrdiff_t start = 0; start < pixels; start += POOL_BLOCK) {
        const ptrdiff_t stop = fd_min(POOL_BLOCK, pixels - start);
        V part[8][POOL_GROUP] = {{{0}}};
        for (ptrdiff_t i = 0; i < stop; i++) {
            V *sum = part[i % 8];
            for (ptrdiff_t r = 0; r < many; r++) {
                const char *from = at + fd_min(first + r * LANES, channels - LANES) * size;
                __builtin_prefetch(from + 2 * right);
                sum[r] += LOAD(from);
            }
            at += right;
            if (++w == width) {
                w = 0;
                at += wrap;
            }
        }
        for (ptrdiff_t r = 0; r < many; r++)
            total[r] += ((part[0][r] + part[4][r]) + (part[2][r] + part[6][r])) +
                        ((part[1][r] + part[5][r]) + (part[3][r] + part[7][r]));
    }
    for (ptrdiff_t r = 0; r < many; r++)
        FD_CAT(pool_store, STO)(to + fd_min(first + r * LANES, channels - LANES), total[r] / (T)pixels);
}

/* "Row" r is the group of POOL_GROUP registers of channels that starts at channel r * POOL_GROUP * LANES. */
static void FD_CAT(global_forward, STO)(const pool_call *p, ptrdiff_t n, ptrdiff_t r) {
    const ptrdiff_t first = r * POOL_GROUP * LANES, rest = p->image.shape[1] - first;
    FD_CAT(global_sums, STO)(p, n, first, fd_min(POOL_GROUP, fd_ceil_div(rest, LANES)));
}
#undef V
#undef LANES
#undef LOAD
