/* The blocked matrix product. Included once for each compute dtype, with T and SFX defined.
 *
 *              nc                      Each task owns one mc x nc block of the output: it walks along K in blocks of
 *           +------+                   kc, copies a block of b into panels of nr columns and a block of a beside it,
 *        kc |  b   |                   and lets the register tiles accumulate into its own block of sums. Strides,
 *           +------+                   dtypes and the epilogue live in the copies.
 *    +----+ +------+
 * mc | a  | | out  |
 *    +----+ +------+
 *      kc
 */
static int FD_CAT(gemm_task, SFX)(void *context, ptrdiff_t index) {
    const gemm_call *g = (const gemm_call *)context;
    const ptrdiff_t m0 = index / g->n_blocks * g->mc, m = fd_min(g->mc, g->m - m0);
    const ptrdiff_t n0 = index % g->n_blocks * g->nc, n = fd_min(g->nc, g->n - n0);
    const int nv = FD_CAT(fd_panel_vectors, SFX)(g->n);
    const ptrdiff_t nr = nv * FD_CAT(FD_LANES, SFX), panels = fd_ceil_div(n, nr), wide = panels * nr;
    /* a is copied in the direction in which it is contiguous; the tile takes either. 16 more elements a row keep the
     * rows of a power-of-two block off the same cache sets. */
    const int across = g->a_row == g->a_size;
    const ptrdiff_t row = across ? 1 : g->kc + 16, step = across ? m + 16 : 1;
    T *a = (T *)rt->push((size_t)(across ? g->kc * step : m * row) * sizeof(T));
    T *b = (T *)rt->push((size_t)(g->kc * wide) * sizeof(T));
    T *c = (T *)rt->push((size_t)(m * wide) * sizeof(T));
    if (!a || !b || !c) return FD_NO_MEMORY;
    if (g->k == 0) memset(c, 0, (size_t)(m * wide) * sizeof(T));
    for (ptrdiff_t k0 = 0; k0 < g->k; k0 += g->kc) {
        const ptrdiff_t k = fd_min(g->kc, g->k - k0);
        const char *from = g->a.data + m0 * g->a_row + k0 * g->a_col;
        if (across)
            for (ptrdiff_t p = 0; p < k; p++)
                FD_CAT(fd_load, SFX)(g->a.type, from + p * g->a_col, g->a_row, a + p * step, m);
        else
            for (ptrdiff_t i = 0; i < m; i++)
                FD_CAT(fd_load, SFX)(g->a.type, from + i * g->a_row, g->a_col, a + i * row, k);
        for (ptrdiff_t p = 0; p < panels; p++)
            FD_CAT(fd_pack_panel, SFX)(b + p * nr * k, nr, g->b.type, g->b.data + k0 * g->b_row + (n0 + p * nr) * g->b_col,
                                       k, g->b_row, fd_min(nr, n - p * nr), g->b_col);
        for (ptrdiff_t p = 0; p < panels; p++)
            FD_CAT(fd_panel, SFX)(nv, m, k, a, row, step, b + p * nr * k, nr, c + p * nr, wide, k0 > 0);
    }
    for (ptrdiff_t i = 0; i < m; i++) {
        const T *bias = (const T *)g->bias;
        FD_CAT(fd_epilogue, SFX)(c + i * wide, bias ? bias + n0 : NULL, g->relu, n);
        FD_CAT(fd_store, SFX)(g->out.type, c + i * wide, g->out.data + (m0 + i) * g->out.stride[0] + n0 * g->out.stride[1],
                              g->out.stride[1], n);
    }
    return FD_OK;
}

static int FD_CAT(gemm_run, SFX)(gemm_call *g, const fd_tensor *bias, int threads) {
    const size_t mark = rt->mark();
    int status = FD_OK;
    g->bias = FD_CAT(fd_load_bias, SFX)(bias, g->n, &status);
    if (!status) {
        g->n_blocks = fd_ceil_div(g->n, g->nc);
        /* about 25 multiply-adds a nanosecond on one thread */
        status = rt->parallel_for(FD_CAT(gemm_task, SFX), g, g->n_blocks * fd_ceil_div(g->m, g->mc), threads,
                                  (double)g->m * g->n * (g->k + 8) / 25);
    }
    rt->release(mark);
    return status;
}
