/* Average pooling of channels-last memory, and the global mean. Included once for each storage dtype, as max_pool.h. */
#define V FD_CAT(fd_v, SFX)
#define LANES FD_CAT(FD_LANES, SFX)
#define LOAD(at) FD_CAT(pool_load, STO)((const S *)(at))

static void FD_CAT(avg_forward, STO)(const pool_call *p, ptrdiff_t n, ptrdiff_t oh) {
    const ptrdiff_t channels = p->image.shape[1], down = p->image.stride[2], right = p->image.stride[3];
    const ptrdiff_t counted = pool_counted(&p->h, oh, p->include_pad);
    ptrdiff_t kh, rows = fd_taps(&p->h, oh, &kh);
    for (ptrdiff_t ow = 0; ow < p->w.windows; ow++) {
        ptrdiff_t kw, columns = fd_taps(&p->w, ow, &kw);
        const char *from = fd_at(&p->image, n, 0, oh * p->h.stride - p->h.before + kh,
                                   ow * p->w.stride - p->w.before + kw);
        const T divisor = (T)pool_divisor(p, counted, ow);
        S *to = (S *)fd_at(&p->pooled, n, 0, oh, ow);
        for (ptrdiff_t block = 0; block < channels; block += LANES) {
            const ptrdiff_t c = fd_min(block, channels - LANES);
            V sum = {0};
            for (ptrdiff_t i = 0; i < rows; i++)
                for (ptrdiff_t j = 0; j < columns; j++)
                    sum += LOAD(from + i * down + j * right + c * (ptrdiff_t)sizeof(S));
            FD_CAT(pool_store, STO)(to + c, sum / divisor);
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

static void FD_CAT(avg_backward, STO)(const pool_call *p, ptrdiff_t n, ptrdiff_t h) {
    const ptrdiff_t channels = p->image.shape[1];
    const pool_cover over = pool_cover_at(&p->h, h);
    const char *from = fd_at(&p->pooled, n, 0, over.window, 0);
    char *to = fd_at(&p->image, n, 0, h, 0);
    pool_cover across = pool_cover_at(&p->w, 0);
    for (ptrdiff_t w = 0; w < p->w.size; w++) {
        pool_cover_next(&p->w, &across, w);
        const char *at = from + across.window * p->pooled.stride[3];
        S *pixel = (S *)(to + w * p->image.stride[3]);
        /* Windows side by side, the usual case: one over each pixel. */
        if (over.count == 1 && across.count == 1)
            FD_CAT(avg_pixel, STO)(p, at, 1, 1, &over, &across, channels, pixel);
        else
            FD_CAT(avg_pixel, STO)(p, at, over.count, across.count, &over, &across, channels, pixel);
    }
}

/* The sums of registers c.. of image n over all pixels; block after block, in a block pixel i goes to partial sum i % 8
 * (so that eight additions are under way at once), and these are added pairwise. */
static void FD_CAT(global_sum, STO)(const pool_call *p, ptrdiff_t n, ptrdiff_t c) {
    const ptrdiff_t pixels = p->h.size * p->w.size, width = p->w.size, right = p->image.stride[3];
    const ptrdiff_t wrap = p->image.stride[2] - width * right; /* from the end of a row to the next one */
    const char *at = fd_at(&p->image, n, c, 0, 0);
    ptrdiff_t w = 0;
    V total = {0};
    for (ptrdiff_t first = 0; first < pixels; first += POOL_BLOCK) {
        const ptrdiff_t many = fd_min(POOL_BLOCK, pixels - first);
        V part[8] = {{0}};
        for (ptrdiff_t i = 0; i < many; i += 8) {
            const ptrdiff_t rest = many - i;
#pragma GCC unroll 8
            for (int j = 0; j < 8; j++) {
                if (j >= rest) break;
                part[j] += LOAD(at);
                at += right;
                if (++w == width) {
                    w = 0;
                    at += wrap;
                }
            }
        }
        total += ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
    }
    FD_CAT(pool_store, STO)((S *)fd_at(&p->pooled, n, c, 0, 0), total / (T)pixels);
}

/* "Row" r is the group of POOL_GROUP registers of channels that starts at channel r * POOL_GROUP * LANES. */
static void FD_CAT(global_forward, STO)(const pool_call *p, ptrdiff_t n, ptrdiff_t r) {
    const ptrdiff_t channels = p->image.shape[1], first = r * POOL_GROUP * LANES;
    for (ptrdiff_t block = first; block < fd_min(first + POOL_GROUP * LANES, channels); block += LANES)
        FD_CAT(global_sum, STO)(p, n, fd_min(block, channels - LANES));
}
#undef V
#undef LANES
#undef LOAD
