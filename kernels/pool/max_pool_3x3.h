/* Max pooling with windows of 3x3, in whole registers of channels. Included once for each storage dtype, after
 * max_pool.h.
 *
 * The same results as the loops over any window, whose one chain of comparisons took 60-75 cycles a register and which
 * waited for memory besides: here the rows of a window are compared independently of each other, nothing is counted,
 * several registers are under way at once (25 cycles), and what the next row of windows will read is fetched
 * (480 channels, 28 x 28, stride 2, batch 16, one thread: 4.6 -> 1.3 ms). Windows on the border have no code of their
 * own: a tap in the padding becomes the nearest tap on the image, with that tap's number. Met a second time a tap is
 * never larger than the largest so far, so it changes nothing. */
#define V FD_CAT(fd_v, SFX)
#define VI FD_CAT(pool_i, SFX)
#define M FD_CAT(pool_mask, SFX)
#define LANES FD_CAT(FD_LANES, SFX)
#define LOAD(at) FD_CAT(pool_load, STO)((const S *)(at))
#define LOAD_INDEX(at) FD_CAT(pool_load_index, SFX)(FD_U8, at)

/* The larger of the largest so far and of later taps: theirs where it is larger, or NaN after numbers. */
POOL_INLINE void FD_CAT(max_later, STO)(V *best, VI *index, V v, VI tap, int with_index) {
    const M take = ~(M)(v <= *best) & (M)(*best == *best);
    *best = (V)POOL_SELECT(take, (M)v, (M)*best);
    if (with_index) *index = (VI)POOL_SELECT(take, (M)tap, (M)*index);
}

/* `windows` windows side by side, `next` bytes apart; the rows of taps of the first one begin at row[], column[] are
 * the distances in a row, row_tap[] and column_tap[] add up to the tap's number. Meanwhile fetch_rows x fetch_columns
 * pixels of each, which the windows below will need, are on their way from `fetch` on. */
POOL_INLINE void FD_CAT(max_windows_3x3, STO)(ptrdiff_t windows, const char *const row[3], ptrdiff_t next,
                                              const ptrdiff_t column[3], const I row_tap[3], const I column_tap[3],
                                              const char *fetch, ptrdiff_t fetch_rows, ptrdiff_t down,
                                              ptrdiff_t fetch_columns, ptrdiff_t right, ptrdiff_t channels, char *to,
                                              ptrdiff_t to_next, int with_index, char *index_to, ptrdiff_t index_next) {
    const VI left = (VI){0} + column_tap[0], middle = (VI){0} + column_tap[1], last = (VI){0} + column_tap[2];
    const VI tap0 = (VI){0} + row_tap[0], tap1 = (VI){0} + row_tap[1], tap2 = (VI){0} + row_tap[2];
    const char *r0 = row[0] + column[0], *r1 = row[1] + column[0], *r2 = row[2] + column[0];
    const ptrdiff_t c1 = column[1] - column[0], c2 = column[2] - column[0];
    for (ptrdiff_t window = 0; window < windows; window++) {
        for (ptrdiff_t block = 0; block < channels; block += LANES) {
            const ptrdiff_t c = fd_min(block, channels - LANES), bytes = c * (ptrdiff_t)sizeof(S);
            V best0 = LOAD(r0 + bytes), best1 = LOAD(r1 + bytes), best2 = LOAD(r2 + bytes);
            VI index0 = left, index1 = left, index2 = left;
            FD_CAT(max_later, STO)(&best0, &index0, LOAD(r0 + c1 + bytes), middle, with_index);
            FD_CAT(max_later, STO)(&best1, &index1, LOAD(r1 + c1 + bytes), middle, with_index);
            FD_CAT(max_later, STO)(&best2, &index2, LOAD(r2 + c1 + bytes), middle, with_index);
            FD_CAT(max_later, STO)(&best0, &index0, LOAD(r0 + c2 + bytes), last, with_index);
            FD_CAT(max_later, STO)(&best1, &index1, LOAD(r1 + c2 + bytes), last, with_index);
            FD_CAT(max_later, STO)(&best2, &index2, LOAD(r2 + c2 + bytes), last, with_index);
            index0 += tap0;
            FD_CAT(max_later, STO)(&best0, &index0, best1, index1 + tap1, with_index);
            FD_CAT(max_later, STO)(&best0, &index0, best2, index2 + tap2, with_index);
            FD_CAT(pool_store, STO)((S *)(to + bytes), best0);
            if (with_index) FD_CAT(pool_store_index, SFX)(FD_U8, index_to + c, index0);
            for (ptrdiff_t i = 0; i < fetch_rows; i++)
                for (ptrdiff_t j = 0; j < fetch_columns; j++)
                    __builtin_prefetch(fetch + i * down + j * right + bytes, 0, 2);
        }
        r0 += next, r1 += next, r2 += next, fetch += next;
        to += to_next;
        if (with_index) index_to += index_next;
    }
}

/* The taps of window o that stand for its three, as distances from where the window begins; 0 where it has none. */
static inline ptrdiff_t FD_CAT(max_clamped, STO)(const fd_axis *a, ptrdiff_t o, ptrdiff_t tap[3]) {
    ptrdiff_t first, many = fd_taps(a, o, &first);
    for (ptrdiff_t i = 0; i < 3; i++) tap[i] = fd_max(first, fd_min(i, first + many - 1));
    return many;
}

static void FD_CAT(max_forward_3x3, STO)(const pool_call *p, ptrdiff_t n, ptrdiff_t oh) {
    const ptrdiff_t channels = p->image.shape[1], down = p->image.stride[2], right = p->image.stride[3];
    const ptrdiff_t next = p->w.stride * right, to_next = p->pooled.stride[3];
    const ptrdiff_t index_next = p->indices.data ? p->indices.stride[3] : 0;
    const ptrdiff_t top = oh * p->h.stride - p->h.before, below = top + 2 * p->h.dilation + 1;
    ptrdiff_t tap[3], column[3];
    I row_tap[3], column_tap[3];
    const char *row[3];
    const ptrdiff_t rows = FD_CAT(max_clamped, STO)(&p->h, oh, tap);
    /* the rows that the windows below reach and these do not */
    const ptrdiff_t fetch_rows = below < 0 ? 0 : fd_max(0, fd_min(p->h.stride, p->h.size - below));
    const ptrdiff_t fetch_columns = fd_min(p->w.stride, 3);
    for (ptrdiff_t ow = 0, many; ow < p->w.windows; ow += many) {
        ptrdiff_t kw[3];
        const ptrdiff_t columns = FD_CAT(max_clamped, STO)(&p->w, ow, kw), start = ow * p->w.stride - p->w.before;
        char *to = fd_at(&p->pooled, n, 0, oh, ow);
        char *index_to = p->indices.data ? fd_at(&p->indices, n, 0, oh, ow) : NULL;
        many = columns == 3 ? pool_whole(&p->w, ow) : 1;
        if (rows == 0 || columns == 0) {
            for (ptrdiff_t i = 0; i < many; i++)
                FD_CAT(max_nothing, STO)(channels, (S *)(to + i * to_next), FD_U8,
                                         index_to ? index_to + i * index_next : NULL);
            continue;
        }
        for (int i = 0; i < 3; i++) {
            row[i] = fd_at(&p->image, n, 0, top + tap[i] * p->h.dilation, start);
            row_tap[i] = (I)(3 * tap[i]);
            column[i] = kw[i] * p->w.dilation * right;
            column_tap[i] = (I)kw[i];
        }
        const char *fetch = fd_at(&p->image, n, 0, below, start + kw[0] * p->w.dilation);
        if (index_to)
            FD_CAT(max_windows_3x3, STO)(many, row, next, column, row_tap, column_tap, fetch, fetch_rows, down,
                                         fetch_columns, right, channels, to, to_next, 1, index_to, index_next);
        else
            FD_CAT(max_windows_3x3, STO)(many, row, next, column, row_tap, column_tap, fetch, fetch_rows, down,
                                         fetch_columns, right, channels, to, to_next, 0, NULL, 0);
    }
}

/* ---- backward, stride 1 or 2, no dilation ---------------------------------------------------------------------------
 *
 * dx is done in blocks of stride x stride pixels, which all lie under the same windows: pixel a of block b is tap
 * a + stride * j of window b - j. Each of the nine taps belongs to one pixel and one window of a block:
 *
 *     stride 1        stride 2                   windows b - 1, b
 *     +-------+       +-----------+-----------+
 *     | 8 7 6 |       | 8 6 / 2 0 | 7 / 1     |  The taps on each pixel, in the order of their windows; a / where the
 *     | 5 4 3 |       +-----------+-----------+  next row of windows begins. Window b has the largest taps last.
 *     | 2 1 0 |       | 5 3       | 4         |
 *     +-------+       +-----------+-----------+
 *
 * A window that does not exist takes the place of its nearest neighbour, and a tap number that no index has. */
typedef struct {
    const char *dout[3][3], *index[3][3], *out[3][3]; /* [rows][columns] of windows before the block's own */
    I tap[9];
    const char *dout_below, *index_below; /* of a window of the next row */
} FD_CAT(max_block, STO);

/* v where the index is the tap. */
#define CHOSEN(v, i, number) ((V)((VI)(v) & ((i) == at->tap[number])))

/* dout of one window, 0 where its result is <= 0. */
POOL_INLINE V FD_CAT(max_block_value, STO)(const FD_CAT(max_block, STO) *at, int i, int j, ptrdiff_t bytes,
                                           int masked) {
    const V v = LOAD(at->dout[i][j] + bytes);
    if (!masked) return v;
    return (V)(~(M)(LOAD(at->out[i][j] + bytes) <= (V){0}) & (M)v);
}

/* Each row of blocks reads one row of windows that the one before has not read. */
POOL_INLINE void FD_CAT(max_block_fetch, STO)(const FD_CAT(max_block, STO) *at, ptrdiff_t c) {
    __builtin_prefetch(at->dout_below + c * (ptrdiff_t)sizeof(S), 0, 2);
    if (c % 64 == 0) __builtin_prefetch(at->index_below + c, 0, 2);
}

#define WINDOW(up, left)                                                                  \
    const V v##up##left = FD_CAT(max_block_value, STO)(at, up, left, bytes, masked);      \
    const VI i##up##left = LOAD_INDEX(at->index[up][left] + c)

POOL_INLINE void FD_CAT(max_block_1, STO)(const FD_CAT(max_block, STO) *at, ptrdiff_t channels, char *to, int masked) {
    for (ptrdiff_t block = 0; block < channels; block += LANES) {
        const ptrdiff_t c = fd_min(block, channels - LANES), bytes = c * (ptrdiff_t)sizeof(S);
        FD_CAT(max_block_fetch, STO)(at, c);
        WINDOW(2, 2); WINDOW(2, 1); WINDOW(2, 0);
        WINDOW(1, 2); WINDOW(1, 1); WINDOW(1, 0);
        WINDOW(0, 2); WINDOW(0, 1); WINDOW(0, 0);
        V sum = (V){0} + CHOSEN(v22, i22, 8);
        sum += CHOSEN(v21, i21, 7);
        sum += CHOSEN(v20, i20, 6);
        sum += CHOSEN(v12, i12, 5);
        sum += CHOSEN(v11, i11, 4);
        sum += CHOSEN(v10, i10, 3);
        sum += CHOSEN(v02, i02, 2);
        sum += CHOSEN(v01, i01, 1);
        sum += CHOSEN(v00, i00, 0);
        FD_CAT(pool_store, STO)((S *)(to + bytes), sum);
    }
}

/* Of the four pixels, those in [h0, h1) x [w0, w1) are on the image. */
POOL_INLINE void FD_CAT(max_block_2, STO)(const FD_CAT(max_block, STO) *at, ptrdiff_t channels, char *to,
                                          ptrdiff_t down, ptrdiff_t right, int h0, int h1, int w0, int w1, int masked) {
    for (ptrdiff_t block = 0; block < channels; block += LANES) {
        const ptrdiff_t c = fd_min(block, channels - LANES), bytes = c * (ptrdiff_t)sizeof(S);
        FD_CAT(max_block_fetch, STO)(at, c);
        WINDOW(1, 1); WINDOW(1, 0);
        WINDOW(0, 1); WINDOW(0, 0);
        const V a = (V){0} + CHOSEN(v11, i11, 8) + CHOSEN(v10, i10, 6) + CHOSEN(v01, i01, 2) + CHOSEN(v00, i00, 0);
        const V b = (V){0} + CHOSEN(v10, i10, 7) + CHOSEN(v00, i00, 1);
        const V d = (V){0} + CHOSEN(v01, i01, 5) + CHOSEN(v00, i00, 3), e = (V){0} + CHOSEN(v00, i00, 4);
        if (h0 == 0 && w0 == 0) FD_CAT(pool_store, STO)((S *)(to + bytes), a);
        if (h0 == 0 && w1 == 2) FD_CAT(pool_store, STO)((S *)(to + right + bytes), b);
        if (h1 == 2 && w0 == 0) FD_CAT(pool_store, STO)((S *)(to + down + bytes), d);
        if (h1 == 2 && w1 == 2) FD_CAT(pool_store, STO)((S *)(to + down + right + bytes), e);
    }
}

/* "Row" b: the pixels of row b of blocks. */
static void FD_CAT(max_backward_3x3, STO)(const pool_call *p, ptrdiff_t n, ptrdiff_t b) {
    const ptrdiff_t channels = p->image.shape[1], stride = p->h.stride, reach = stride == 1 ? 3 : 2;
    const ptrdiff_t down = p->image.stride[2], right = p->image.stride[3], h = b * stride - p->h.before;
    const int h0 = (int)fd_max(0, -h), h1 = (int)fd_min(stride, p->h.size - h);
    if (h0 >= h1) return;
    for (ptrdiff_t column = p->w.before / stride; column * stride - p->w.before < p->w.size; column++) {
        const ptrdiff_t w = column * stride - p->w.before;
        const int w0 = (int)fd_max(0, -w), w1 = (int)fd_min(stride, p->w.size - w);
        FD_CAT(max_block, STO) at;
        for (ptrdiff_t i = 0; i < reach; i++)
            for (ptrdiff_t j = 0; j < reach; j++) {
                const ptrdiff_t oh = fd_max(0, fd_min(b - i, p->h.windows - 1));
                const ptrdiff_t ow = fd_max(0, fd_min(column - j, p->w.windows - 1));
                const int exists = oh == b - i && ow == column - j;
                at.dout[i][j] = fd_at(&p->pooled, n, 0, oh, ow);
                at.index[i][j] = fd_at(&p->indices, n, 0, oh, ow);
                at.out[i][j] = p->out.data ? fd_at(&p->out, n, 0, oh, ow) : NULL;
                for (ptrdiff_t kh = i * stride; kh < fd_min(3, (i + 1) * stride); kh++)
                    for (ptrdiff_t kw = j * stride; kw < fd_min(3, (j + 1) * stride); kw++)
                        at.tap[3 * kh + kw] = exists ? (I)(3 * kh + kw) : -1;
            }
        const ptrdiff_t below = fd_min(b + 1, p->h.windows - 1), beside = fd_min(column, p->w.windows - 1);
        at.dout_below = fd_at(&p->pooled, n, 0, below, beside);
        at.index_below = fd_at(&p->indices, n, 0, below, beside);
        char *to = fd_at(&p->image, n, 0, h, w);
        if (stride == 1 && p->out.data) FD_CAT(max_block_1, STO)(&at, channels, to, 1);
        else if (stride == 1) FD_CAT(max_block_1, STO)(&at, channels, to, 0);
        else if (p->out.data) FD_CAT(max_block_2, STO)(&at, channels, to, down, right, h0, h1, w0, w1, 1);
        else FD_CAT(max_block_2, STO)(&at, channels, to, down, right, h0, h1, w0, w1, 0);
    }
}
#undef V
#undef VI
#undef M
#undef LANES
#undef LOAD
#undef LOAD_INDEX
#undef CHOSEN
#undef WINDOW
