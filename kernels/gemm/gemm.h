/* The blocked matrix product. Two ways lead to the same sums in the same order; gemm_thin is for few rows of a. Included once for each compute dtype, with T and SFX defined.
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
        for (ptrdiff_t p = 0; p < panels; p++) {
            if (sizeof(T) == 4 && g->half_sums)
                fd_half_panel(nv, m, k, (float *)a, row, step, (float *)(b + p * nr * k), nr, (float *)(c + p * nr), wide,
                              k0 > 0);
            else FD_CAT(fd_panel, SFX)(nv, m, k, a, row, step, b + p * nr * k, nr, c + p * nr, wide, k0 > 0);
        }
    }
    for (ptrdiff_t i = 0; i < m; i++) {
        const T *bias = (const T *)g->bias;
        FD_CAT(fd_epilogue, SFX)(c + i * wide, bias ? bias + n0 : NULL, g->relu, n);
        FD_CAT(fd_store, SFX)(g->out.type, c + i * wide, g->out.data + (m0 + i) * g->out.stride[0] + n0 * g->out.stride[1],
                              g->out.stride[1], n);
    }
    return FD_OK;
}

/* A few rows of a, such as a batch of 16 in front of 4096 x 4096 weights: reading b is all the work, and a copy of it would
 * double that. Each task owns nc columns. Where the rows of b are contiguous the register tiles read them in place; where
 * the columns are (b is the transpose of a weight), the product is turned around: b gives the rows of the tile and a, packed,
 * the columns, and the tile of sums is turned back at the end.
 *
 *      out^T[nc x m] = b^T[nc x kc] * a^T[kc x m]                                                                       */
static int FD_CAT(gemm_thin_task, SFX)(void *context, ptrdiff_t index) {
    const gemm_call *g = (const gemm_call *)context;
    const ptrdiff_t n0 = index * g->nc, n = fd_min(g->nc, g->n - n0), size = sizeof(T);
    const int turned = g->b_row == size;
    const int nv = FD_CAT(fd_panel_vectors, SFX)(turned ? g->m : g->n);
    const ptrdiff_t nr = nv * FD_CAT(FD_LANES, SFX), row = g->kc + 16;
    const ptrdiff_t panels = fd_ceil_div(turned ? g->m : n, nr), wide = panels * nr, whole = n / nr;
    T *a = (T *)rt->push((size_t)(turned ? g->kc * wide : g->m * row) * sizeof(T));
    T *b = (T *)rt->push((size_t)(g->kc * nr) * sizeof(T));
    T *c = (T *)rt->push((size_t)((turned ? n : g->m) * wide + n) * sizeof(T));
    if (!a || !b || !c) return FD_NO_MEMORY;
    for (ptrdiff_t k0 = 0; k0 < g->k; k0 += g->kc) {
        const ptrdiff_t k = fd_min(g->kc, g->k - k0);
        const char *from = g->a.data + k0 * g->a_col;
        const T *at = (const T *)(g->b.data + k0 * g->b_row + n0 * g->b_col);
        if (turned) {
            for (ptrdiff_t p = 0; p < panels; p++)
                FD_CAT(fd_pack_panel, SFX)(a + p * nr * k, nr, g->a.type, from + p * nr * g->a_row, k, g->a_col,
                                           fd_min(nr, g->m - p * nr), g->a_row);
            for (ptrdiff_t p = 0; p < panels; p++)
                FD_CAT(fd_panel, SFX)(nv, n, k, at, g->b_col / size, 1, a + p * nr * k, nr, c + p * nr, wide, k0 > 0);
            continue;
        }
        for (ptrdiff_t i = 0; i < g->m; i++) FD_CAT(fd_load, SFX)(g->a.type, from + i * g->a_row, g->a_col, a + i * row, k);
        for (ptrdiff_t p = 0; p < whole; p++)
            FD_CAT(fd_panel, SFX)(nv, g->m, k, a, row, 1, at + p * nr, g->b_row / size, c + p * nr, wide, k0 > 0);
        if (whole < panels) { /* the tiles read whole panels: the last one is copied */
            FD_CAT(fd_pack_panel, SFX)(b, nr, g->b.type, (const char *)(at + whole * nr), k, g->b_row, n - whole * nr, size);
            FD_CAT(fd_panel, SFX)(nv, g->m, k, a, row, 1, b, nr, c + whole * nr, wide, k0 > 0);
        }
    }
    for (ptrdiff_t i = 0; i < g->m; i++) {
        const T *bias = (const T *)g->bias;
        T *sums = c + i * wide;
        if (turned) {
            sums = c + n * wide;
            for (ptrdiff_t j = 0; j < n; j++) sums[j] = c[j * wide + i];
        }
        FD_CAT(fd_epilogue, SFX)(sums, bias ? bias + n0 : NULL, g->relu, n);
        FD_CAT(fd_store, SFX)(g->out.type, sums, g->out.data + i * g->out.stride[0] + n0 * g->out.stride[1],
                              g->out.stride[1], n);
    }
    return FD_OK;
}

/* Whether b can be read in place, and is read so few times that copying it is what takes time. */
static int FD_CAT(gemm_is_thin, SFX)(const gemm_call *g) {
    const ptrdiff_t size = sizeof(T);
    return g->b.type == (size == 8 ? FD_F64 : FD_F32) && g->m <= g->thin && g->k > 0 &&
           ((g->b_col == size && g->b_row % size == 0) || (g->b_row == size && g->b_col % size == 0));
}

static int FD_CAT(gemm_run, SFX)(gemm_call *g, const fd_tensor *bias, int threads) {
    const size_t mark = rt->mark();
    int status = FD_OK;
    g->bias = FD_CAT(fd_load_bias, SFX)(bias, g->n, &status);
    if (!status) {
        g->n_blocks = fd_ceil_div(g->n, g->nc);
        /* about 25 multiply-adds a nanosecond on one thread */
        const double work = (double)g->m * g->n * (g->k + 8) / 25;
        if (FD_CAT(gemm_is_thin, SFX)(g))
            status = rt->parallel_for(FD_CAT(gemm_thin_task, SFX), g, g->n_blocks, threads, work);
        else
            status = rt->parallel_for(FD_CAT(gemm_task, SFX), g, g->n_blocks * fd_ceil_div(g->m, g->mc), threads, work);
    }
    rt->release(mark);
    return status;
}
