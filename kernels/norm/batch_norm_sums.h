/* Sums of batch normalisation over one block of rows. Included once for each compute dtype, with T and SFX defined.
 *
 *     row  0 1 2 3 4 5 6 7 | 8 9 ... 15 | ... | 120 ... 127        8 rows are a panel, 16 panels are a block
 *          \------+------/   \----+---/           \---+---/
 *               panel   +       panel   +  ...  +   panel          added to an accumulator one after the other
 *
 * Where channels are beside each other, the 8 rows of a panel are read side by side: whole rows, in the order of
 * memory, with the next panel fetched ahead and one accumulator for each channel in the nearest cache. (A tile of 256 channels
 * with 16 accumulators for each read the same memory at half the rate: it leaps from row to row.) Where rows are
 * beside each other, a vector holds the 16 panels. The order of the additions is the same, so memory order and ISA level do not
 * change it. A product is always added to a running sum: with two products in an addition a compiler could contract
 * either, and would not choose alike in both forms. */

#define LANES FD_CAT(FD_LANES, SFX)
typedef FD_CAT(fd_v, SFX) FD_CAT(bn_v, SFX);
#define V FD_CAT(bn_v, SFX)
#define BN_TREE(v) (((v##0 + v##1) + (v##2 + v##3)) + ((v##4 + v##5) + (v##6 + v##7)))
#define BN_CHAIN(a, b, i, j, k, l) zero + a##i * b##i + a##j * b##j + a##k * b##k + a##l * b##l
#define BN_DOT(a, b) ((BN_CHAIN(a, b, 0, 1, 2, 3)) + (BN_CHAIN(a, b, 4, 5, 6, 7)))
#define BN_EACH(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7)

/* ---- blocks: the channels beside each other ------------------------------------------------------------------- */

/* A panel of `rows` rows, `*pitch` elements apart; a last panel with fewer than 8 is completed in a buffer with rows of
 * `missing`, which add nothing. */
static inline const T *FD_CAT(bn_panel, SFX)(const T *x, ptrdiff_t *pitch, ptrdiff_t rows, ptrdiff_t n,
                                             const T *missing, T *buffer) {
    if (rows >= BN_PANEL) return x;
    for (ptrdiff_t i = 0; i < BN_PANEL; i++)
        memcpy(buffer + i * n, i < rows ? x + i * *pitch : missing, (size_t)n * sizeof(T));
    *pitch = n;
    return buffer;
}

/* Mean of the first panel: near enough to the block's that squares about it lose nothing (see bn_merge_block). Where it
 * is not finite, the sums are taken about 0, and come out as IEEE 754 has it. */
static void FD_CAT(bn_panel_centre, SFX)(const T *x, ptrdiff_t pitch, T count, T *restrict centre, ptrdiff_t n) {
    const T *y = x + 4 * pitch;
    for (ptrdiff_t c = 0; c < n; c++) {
#define ROW(i) const T x##i = (i < 4 ? x : y)[i % 4 * pitch + c];
        BN_EACH(ROW)
#undef ROW
        const T mean = BN_TREE(x) / count;
        centre[c] = mean - mean == 0 ? mean : 0;
    }
}

/* Element c of row i: two pointers and two distances serve eight rows, and leave the loop enough registers. */
#define BN_ROW(x, i) ((i < 4 ? x : x##4) + i % 4 * x##_pitch + c)
#define BN_VECTOR(p) (*(const V *)(p))
/* The next panel, a line for each that is read of this one; in the order of memory. */
#define BN_FETCH(x, i) __builtin_prefetch((const char *)(x + BN_PANEL * (x##_pitch + c)) + i * FD_VECTOR_BYTES)

/* Adds the sums of x - centre and of its square. */
static void FD_CAT(bn_panel_moments, SFX)(const T *x, ptrdiff_t x_pitch, const T *centre, T *sum, T *square,
                                          ptrdiff_t n) {
    const T *x4 = x + 4 * x_pitch;
    ptrdiff_t c = 0;
    for (; c + LANES <= n; c += LANES) {
        const V k = BN_VECTOR(centre + c), zero = {0};
#define ROW(i)                                  \
    const V d##i = BN_VECTOR(BN_ROW(x, i)) - k; \
    BN_FETCH(x, i);
        BN_EACH(ROW)
#undef ROW
        *(V *)(sum + c) += BN_TREE(d);
        *(V *)(square + c) += BN_DOT(d, d);
    }
    for (; c < n; c++) {
        const T k = centre[c], zero = 0;
#define ROW(i) const T d##i = *BN_ROW(x, i) - k;
        BN_EACH(ROW)
#undef ROW
        sum[c] += BN_TREE(d);
        square[c] += BN_DOT(d, d);
    }
}

/* Adds the sums of dout and of dout * (x - centre). */
static void FD_CAT(bn_panel_gradients, SFX)(const T *dout, ptrdiff_t dout_pitch, const T *x, ptrdiff_t x_pitch,
                                            const T *centre, T *sum, T *product, ptrdiff_t n) {
    const T *x4 = x + 4 * x_pitch, *dout4 = dout + 4 * dout_pitch;
    ptrdiff_t c = 0;
    for (; c + LANES <= n; c += LANES) {
        const V k = BN_VECTOR(centre + c), zero = {0};
#define ROW(i)                                                                             \
    const V g##i = BN_VECTOR(BN_ROW(dout, i)), d##i = BN_VECTOR(BN_ROW(x, i)) - k; \
    BN_FETCH(dout, i);                                                                     \
    BN_FETCH(x, i);
        BN_EACH(ROW)
#undef ROW
        *(V *)(sum + c) += BN_TREE(g);
        *(V *)(product + c) += BN_DOT(g, d);
    }
    for (; c < n; c++) {
        const T k = centre[c], zero = 0;
#define ROW(i) const T g##i = *BN_ROW(dout, i), d##i = *BN_ROW(x, i) - k;
        BN_EACH(ROW)
#undef ROW
        sum[c] += BN_TREE(g);
        product[c] += BN_DOT(g, d);
    }
}
#undef BN_ROW
#undef BN_VECTOR
#undef BN_FETCH

/* ---- runs: the rows of a channel beside each other ------------------------------------------------------------ */

/* The n values of a run, with `missing` up to a whole block. */
static inline const T *FD_CAT(bn_whole, SFX)(const T *run, ptrdiff_t n, T missing, T *padded) {
    if (n == BN_BLOCK) return run;
    for (ptrdiff_t r = 0; r < BN_BLOCK; r++) padded[r] = r < n ? run[r] : missing;
    return padded;
}

static inline T FD_CAT(bn_panels, SFX)(const T *panel) {
    T sum = 0;
    for (int p = 0; p < BN_PANELS; p++) sum += panel[p];
    return sum;
}

/* Returns the centre. */
static T FD_CAT(bn_run_moments, SFX)(const T *run, ptrdiff_t n, T *d, T *dd) {
    T padded[BN_BLOCK], sum[BN_PANELS], square[BN_PANELS];
    const T *x = FD_CAT(bn_whole, SFX)(run, n, 0, padded), zero = 0;
    const T mean = (((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]))) / (T)fd_min(n, BN_PANEL);
    const T k = mean - mean == 0 ? mean : 0;
    x = FD_CAT(bn_whole, SFX)(run, n, k, padded);
    for (int p = 0; p < BN_PANELS; p++) {
#define ROW(i) const T d##i = x[p * BN_PANEL + i] - k;
        BN_EACH(ROW)
#undef ROW
        sum[p] = BN_TREE(d);
        square[p] = BN_DOT(d, d);
    }
    *d = FD_CAT(bn_panels, SFX)(sum);
    *dd = FD_CAT(bn_panels, SFX)(square);
    return k;
}

static void FD_CAT(bn_run_gradients, SFX)(const T *dout_run, const T *run, ptrdiff_t n, T k, T *d, T *dd) {
    T dout_padded[BN_BLOCK], padded[BN_BLOCK], sum[BN_PANELS], product[BN_PANELS];
    const T *dout = FD_CAT(bn_whole, SFX)(dout_run, n, 0, dout_padded), zero = 0;
    const T *x = FD_CAT(bn_whole, SFX)(run, n, k, padded);
    for (int p = 0; p < BN_PANELS; p++) {
#define ROW(i) const T g##i = dout[p * BN_PANEL + i], d##i = x[p * BN_PANEL + i] - k;
        BN_EACH(ROW)
#undef ROW
        sum[p] = BN_TREE(g);
        product[p] = BN_DOT(g, d);
    }
    *d = FD_CAT(bn_panels, SFX)(sum);
    *dd = FD_CAT(bn_panels, SFX)(product);
}
#undef LANES
#undef V
#undef BN_TREE
#undef BN_CHAIN
#undef BN_DOT
#undef BN_EACH
