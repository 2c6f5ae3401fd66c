/* 1x1 convolution as a matrix product that reads the pixels where they are. Included for each compute dtype, with T and
 * SFX defined.
 *
 *   pixel | c c c c |  x  packed weights  =  | k k k |     A task owns a block of pixels: rows of the tile, C apart.
 *   pixel | c c c c |     [panel][c][nr]     | k k k |     Full panels are written to channels-last memory in place. */

/* Vectors of a panel: the last one is one vector wide where that holds its channels (112 = 3 * 32 + 16). */
static inline int FD_CAT(pointwise_vectors, SFX)(const pointwise_call *g, ptrdiff_t panel) {
    return FD_CAT(fd_panel_vectors, SFX)(g->produce - panel * g->nr);
}

static int FD_CAT(pointwise_pack_task, SFX)(void *context, ptrdiff_t panel) {
    const pointwise_call *g = (const pointwise_call *)context;
    FD_CAT(fd_pack_panel, SFX)((T *)g->packed + panel * g->reduce * g->nr,
                               FD_CAT(pointwise_vectors, SFX)(g, panel) * FD_CAT(FD_LANES, SFX), g->weight.type,
                               g->weight.data + panel * g->nr * g->w_produce, g->reduce, g->w_reduce,
                               fd_min(g->nr, g->produce - panel * g->nr), g->w_produce);
    return FD_OK;
}

/* Finishes `m` pixels of one panel, ld apart, and writes them unless they are in place already. */
static void FD_CAT(pointwise_store, SFX)(const pointwise_call *g, ptrdiff_t p0, ptrdiff_t m, ptrdiff_t k0, ptrdiff_t n,
                                         T *c, ptrdiff_t ld, int in_place) {
    const T *bias = g->bias ? (const T *)g->bias + k0 : NULL;
    if (in_place && !bias && !g->relu && !g->mask) return;
    for (ptrdiff_t i = 0; i < m; i++, c += ld) {
        FD_CAT(fd_epilogue, SFX)(c, bias, g->relu, n);
        if (g->mask)
            FD_CAT(fd_relu_mask, SFX)(c, g->mask->type, pointwise_at(g->mask, p0 + i) + k0 * g->mask->stride[1],
                                      g->mask->stride[1], n);
        if (!in_place)
            FD_CAT(fd_write, SFX)(g->out.type, c, pointwise_at(&g->out, p0 + i) + k0 * g->out.stride[1],
                                  g->out.stride[1], n);
    }
}

/* A share of `bytes` bytes, part `part` of `parts`, on the way into L2. */
static inline void FD_CAT(pointwise_fetch, SFX)(const char *from, ptrdiff_t bytes, ptrdiff_t part, ptrdiff_t parts) {
    for (ptrdiff_t line = bytes / 64 * part / parts; line < bytes / 64 * (part + 1) / parts; line++)
        __builtin_prefetch(from + line * 64, 0, 2);
}

static int FD_CAT(pointwise_task, SFX)(void *context, ptrdiff_t index) {
    const pointwise_call *g = (const pointwise_call *)context;
    const ptrdiff_t p0 = index * g->block, m = fd_min(g->block, g->pixels - p0), nr = g->nr;
    const ptrdiff_t line = 64 / (ptrdiff_t)sizeof(T), pitch = g->aliased ? g->reduce + line : g->reduce;
    const int flat = pointwise_flat(&g->out);
    const T *x = (const T *)g->source.data + p0 * g->reduce, *rows = x;
    T *sums = (T *)rt->push((size_t)(g->block * nr) * sizeof(T));
    if (!sums) return FD_NO_MEMORY;
    if (g->aliased) {
        T *copy = (T *)rt->push((size_t)(g->block * pitch) * sizeof(T));
        if (!copy) return FD_NO_MEMORY;
        for (ptrdiff_t i = 0; i < m; i++) FD_CAT(fd_copy, SFX)(copy + i * pitch, x + i * g->reduce, g->reduce);
        rows = copy;
    }
    /* the pixels of the task that this thread probably runs next are fetched meanwhile, a share with each tile */
    const ptrdiff_t next = p0 + g->ahead * g->block, parts = fd_ceil_div(m, 28), calls = parts * g->panels;
    const char *ahead = (const char *)(x + g->ahead * g->block * g->reduce);
    const ptrdiff_t bytes = fd_max(0, fd_min(g->block, g->pixels - next)) * g->reduce * (ptrdiff_t)sizeof(T);
    ptrdiff_t call = 0;
    for (ptrdiff_t panel = 0; panel < g->panels; panel++) {
        const int nv = FD_CAT(pointwise_vectors, SFX)(g, panel);
        const ptrdiff_t k0 = panel * nr, n = fd_min(nr, g->produce - k0), width = nv * FD_CAT(FD_LANES, SFX);
        const int in_place = flat && n == width;
        T *c = in_place ? (T *)g->out.data + p0 * g->produce + k0 : sums;
        const ptrdiff_t ld = in_place ? g->produce : width;
        for (ptrdiff_t part = 0; part < parts; part++) {
            const ptrdiff_t i = m * part / parts, many = m * (part + 1) / parts - i;
            FD_CAT(fd_panel, SFX)(nv, many, g->reduce, rows + i * pitch, pitch, 1,
                                  (const T *)g->packed + k0 * g->reduce, width, c + i * ld, ld, 0);
            FD_CAT(pointwise_fetch, SFX)(ahead, bytes, call++, calls);
        }
        FD_CAT(pointwise_store, SFX)(g, p0, m, k0, n, c, ld, in_place);
    }
    return FD_OK;
}

static int FD_CAT(pointwise_run, SFX)(pointwise_call *g, const fd_tensor *bias, int threads) {
    const size_t mark = rt->mark();
    int status = FD_OK;
    if (g->out.size == 0) return FD_OK;
    g->nr = FD_CAT(fd_panel_vectors, SFX)(g->produce) * FD_CAT(FD_LANES, SFX);
    g->panels = fd_ceil_div(g->produce, g->nr);
    g->aliased = g->reduce > 0 && g->reduce * (ptrdiff_t)sizeof(T) % POINTWISE_ALIAS == 0;
    const double weights = (double)g->panels * g->nr * g->reduce;
    g->bias = FD_CAT(fd_load_bias, SFX)(bias, g->produce, &status);
    g->packed = rt->push((size_t)weights * sizeof(T));
    if (!g->packed) status = FD_NO_MEMORY;
    if (!status) status = rt->parallel_for(FD_CAT(pointwise_pack_task, SFX), g, g->panels, threads, weights / 2);
    if (!status) /* about 50 multiply-adds a nanosecond on one thread */
        status = rt->parallel_for(FD_CAT(pointwise_task, SFX), g, fd_ceil_div(g->pixels, g->block), threads,
                                  (double)g->out.size * (0.2 + g->reduce / 50.0));
    rt->release(mark);
    return status;
}

/* ---- backward_weight ----------------------------------------------------------------------------------------------
 *
 * dw[c][k] = sum over pixels of x[pixel][c] * dout[pixel][k]: channels are the rows of the tile, its inner loop goes
 * over the pixels of a block. The blocks are cut into `slices` runs; a task adds up panel_step panels over one of them,
 * [slice][panel][c][nr], and the slices are added in their order. */

/* Pixels p0..p0+m-1 of dout, panels panel0..panel1-1: [panel][pixel][nr]. */
static void FD_CAT(pointwise_panels, SFX)(const pointwise_call *g, ptrdiff_t p0, ptrdiff_t m, ptrdiff_t panel0,
                                          ptrdiff_t panel1, T *to) {
    const fd_tensor *d = &g->out;
    const ptrdiff_t nr = g->nr, plane = g->block * nr, lanes = FD_CAT(FD_LANES, SFX);
    const ptrdiff_t whole = fd_min(panel1, g->produce / nr);
    const int native = d->stride[1] == (ptrdiff_t)sizeof(T);
    for (ptrdiff_t p = 0; p < m; p++) {
        const char *from = pointwise_at(d, p0 + p);
        ptrdiff_t panel = panel0;
        if (native && nr == 2 * lanes)
            for (; panel < whole; panel++)
                FD_CAT(fd_copy, SFX)(to + (panel - panel0) * plane + p * nr, (const T *)from + panel * nr, 2 * lanes);
        for (; panel < panel1; panel++)
            FD_CAT(fd_read, SFX)(d->type, from + panel * nr * d->stride[1], d->stride[1],
                                 to + (panel - panel0) * plane + p * FD_CAT(pointwise_vectors, SFX)(g, panel) * lanes,
                                 fd_min(nr, g->produce - panel * nr));
    }
}

static int FD_CAT(pointwise_weight_task, SFX)(void *context, ptrdiff_t index) {
    const pointwise_call *g = (const pointwise_call *)context;
    const ptrdiff_t steps = fd_ceil_div(g->panels, g->panel_step), slice = index / steps, nr = g->nr, c = g->reduce;
    const ptrdiff_t panel0 = index % steps * g->panel_step, panel1 = fd_min(panel0 + g->panel_step, g->panels);
    const ptrdiff_t blocks = fd_ceil_div(g->pixels, g->block), parts = fd_ceil_div(c, 56), plane = g->block * nr;
    const ptrdiff_t first = blocks * slice / g->slices, last = blocks * (slice + 1) / g->slices;
    const int flat = pointwise_flat(&g->out);
    const T *x = (const T *)g->source.data, *dout = (const T *)g->out.data;
    T *sums = (T *)g->partial + (slice * g->panels + panel0) * c * nr;
    T *b = (T *)rt->push((size_t)(g->panel_step * plane) * sizeof(T));
    if (!b) return FD_NO_MEMORY;
    memset(b, 0, (size_t)(g->panel_step * plane) * sizeof(T)); /* channels that fill up the last panel */
    for (ptrdiff_t block = first; block < last; block++) {
        const ptrdiff_t p0 = block * g->block, m = fd_min(g->block, g->pixels - p0), next = p0 + g->block;
        const ptrdiff_t after = block + 1 < last ? fd_min(g->block, g->pixels - next) : 0; /* pixels of the next one */
        const ptrdiff_t calls = parts * (panel1 - panel0), size = (ptrdiff_t)sizeof(T);
        const int in_place = flat && g->produce == nr;
        if (!in_place) FD_CAT(pointwise_panels, SFX)(g, p0, m, panel0, panel1, b);
        for (ptrdiff_t panel = 0; panel < panel1 - panel0; panel++) {
            const int nv = FD_CAT(pointwise_vectors, SFX)(g, panel0 + panel);
            const ptrdiff_t width = nv * FD_CAT(FD_LANES, SFX);
            for (ptrdiff_t part = 0; part < parts; part++) {
                const ptrdiff_t i = c * part / parts, rows = c * (part + 1) / parts - i, call = panel * parts + part;
                FD_CAT(fd_panel, SFX)(nv, rows, m, x + p0 * c + i, 1, c, in_place ? dout + p0 * nr : b + panel * plane,
                                      width, sums + panel * c * nr + i * width, width, block > first);
                FD_CAT(pointwise_fetch, SFX)((const char *)(x + next * c), after * c * size, call, calls);
                if (flat && g->panel_step == g->panels)
                    FD_CAT(pointwise_fetch, SFX)((const char *)(dout + next * g->produce), after * g->produce * size,
                                                 call, calls);
            }
        }
    }
    return FD_OK;
}

/* Adds up the slices of 64 channels of one panel and writes them to dw, across: the sums have neighbouring k. */
static int FD_CAT(pointwise_weight_sum, SFX)(void *context, ptrdiff_t index) {
    const pointwise_call *g = (const pointwise_call *)context;
    const ptrdiff_t nr = g->nr, size = g->panels * g->reduce * nr, blocks = fd_ceil_div(g->reduce, 64);
    const ptrdiff_t c0 = index % blocks * 64, channels = fd_min(64, g->reduce - c0), panel = index / blocks;
    const ptrdiff_t n = fd_min(nr, g->produce - panel * nr);
    const ptrdiff_t width = FD_CAT(pointwise_vectors, SFX)(g, panel) * FD_CAT(FD_LANES, SFX);
    T *sums = (T *)g->partial + panel * g->reduce * nr + c0 * width, run[64];
    char *to = g->weight.data + panel * nr * g->w_produce + c0 * g->w_reduce;
    for (ptrdiff_t slice = 1; slice < g->slices; slice++)
        for (ptrdiff_t i = 0; i < channels * width; i++) sums[i] += sums[slice * size + i];
    for (ptrdiff_t j = 0; j < n; j++, to += g->w_produce) {
        for (ptrdiff_t c = 0; c < channels; c++) run[c] = sums[c * width + j];
        FD_CAT(fd_store, SFX)(g->weight.type, run, to, g->w_reduce, channels);
    }
    return FD_OK;
}

static int FD_CAT(pointwise_weight_run, SFX)(pointwise_call *g, int threads) {
    const size_t mark = rt->mark();
    int status = FD_OK;
    if (g->weight.size == 0) return FD_OK;
    g->nr = FD_CAT(fd_panel_vectors, SFX)(g->produce) * FD_CAT(FD_LANES, SFX);
    g->panels = fd_ceil_div(g->produce, g->nr);
    const double sums = (double)g->slices * g->panels * g->nr * g->reduce;
    g->partial = rt->push((size_t)sums * sizeof(T));
    if (!g->partial) return FD_NO_MEMORY;
    if (g->pixels == 0) memset(g->partial, 0, (size_t)sums * sizeof(T));
    else
        status = rt->parallel_for(FD_CAT(pointwise_weight_task, SFX), g,
                                  g->slices * fd_ceil_div(g->panels, g->panel_step), threads,
                                  (double)g->pixels * g->reduce * (0.2 + g->produce / 50.0));
    if (!status)
        status = rt->parallel_for(FD_CAT(pointwise_weight_sum, SFX), g, g->panels * fd_ceil_div(g->reduce, 64), threads,
                                  sums / 4);
    rt->release(mark);
    return status;
}
