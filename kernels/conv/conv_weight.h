/* Gradient of the weight. Included for each compute dtype, with T and SFX defined.
 *
 * dw[inner][k] = sum over pixels of gathered[pixel][inner] * dout[pixel][k]: the gathered rows of the forward pass, read
 * by the same register tiles along the other axis. The pixels are cut into `slices` runs, and the inner positions into
 * blocks of kc; each task adds up one block over one run into a sum of its own, mc pixels at a time in registers. The
 * partial sums are added in the order of the slices, so the result does not depend on who computed them. */
static int FD_CAT(conv_weight_task, SFX)(void *context, ptrdiff_t index) {
    const conv_call *g = (const conv_call *)context;
    const conv_axis *row = g->rows, *column = g->columns;
    const ptrdiff_t inner = g->inner_total, blocks_k = fd_ceil_div(inner, g->kc), ld = g->kc + 16, nr = g->nr;
    const ptrdiff_t k0 = index % blocks_k * g->kc, k = fd_min(g->kc, inner - k0);
    const ptrdiff_t group = index / blocks_k % g->groups, slice = index / blocks_k / g->groups;
    const ptrdiff_t plane = row->count * column->count, pixels = g->batch * plane, blocks = fd_ceil_div(pixels, g->mc);
    const ptrdiff_t first = blocks * slice / g->slices, last = blocks * (slice + 1) / g->slices;
    const int nv = FD_CAT(fd_panel_vectors, SFX)(g->produce);
    const conv_source source = conv_source_of(g, row, column, group);
    const fd_tensor *dout = &g->out;
    const ptrdiff_t wide = g->panels * nr;
    T *sum = (T *)g->partial + ((slice * g->groups + group) * inner + k0) * wide;
    T *a = (T *)rt->push((size_t)(g->mc * ld) * sizeof(T)), *b = (T *)rt->push((size_t)(g->mc * wide) * sizeof(T));
    if (!a || !b) return FD_NO_MEMORY;
    if (first == last) FD_CAT(fd_zero, SFX)(sum, k * wide);
    FD_CAT(fd_zero, SFX)(b, g->mc * wide);
    for (ptrdiff_t block = first; block < last; block++) {
        const ptrdiff_t p0 = block * g->mc, m = fd_min(g->mc, pixels - p0);
        ptrdiff_t n = p0 / plane, i = p0 % plane / column->count, j = p0 % column->count;
        FD_CAT(conv_gather, SFX)(&source, p0, m, k0, k0 + k, a, ld);
        for (ptrdiff_t p = 0; p < m; p++) {
            const char *from = dout->data + n * dout->stride[0] + group * g->produce * dout->stride[1] +
                               i * dout->stride[2] + j * dout->stride[3];
            FD_CAT(fd_read, SFX)(dout->type, from, dout->stride[1], b + p * wide, g->produce);
            if (++j == column->count) {
                j = 0;
                if (++i == row->count) i = 0, n++;
            }
        }
        for (ptrdiff_t p = 0; p < g->panels; p++)
            FD_CAT(fd_panel, SFX)(nv, k, m, a, 1, ld, b + p * nr, wide, sum + p * nr, wide, block > first);
    }
    return FD_OK;
}

/* Adds up the slices of one inner position of one group and writes them to dw. */
static int FD_CAT(conv_weight_sum, SFX)(void *context, ptrdiff_t index) {
    const conv_call *g = (const conv_call *)context;
    const ptrdiff_t inner = g->inner_total, group = index / inner, k = index % inner, wide = g->panels * g->nr;
    const ptrdiff_t c = k % g->reduce, s = k / g->reduce % g->columns->taps, r = k / g->reduce / g->columns->taps;
    T *sum = (T *)g->partial + (group * inner + k) * wide;
    for (ptrdiff_t slice = 1; slice < g->slices; slice++) {
        const T *more = sum + slice * g->groups * inner * wide;
        for (ptrdiff_t j = 0; j < wide; j++) sum[j] += more[j];
    }
    FD_CAT(fd_store, SFX)(g->weight.type, sum, g->weight.data + group * g->w_group + c * g->w_reduce +
                          r * g->weight.stride[2] + s * g->weight.stride[3], g->w_produce, g->produce);
    return FD_OK;
}

static int FD_CAT(conv_weight_run, SFX)(conv_call *g, int threads) {
    const size_t mark = rt->mark();
    const ptrdiff_t pixels = g->batch * g->rows->count * g->columns->count;
    int status;
    if (g->weight.size == 0) return FD_OK;
    g->inner_total = g->reduce * g->rows->taps * g->columns->taps;
    g->nr = FD_CAT(fd_panel_vectors, SFX)(g->produce) * FD_CAT(FD_LANES, SFX);
    g->panels = fd_ceil_div(g->produce, g->nr);
    const double sums = (double)g->slices * g->groups * g->inner_total * g->panels * g->nr;
    g->partial = rt->push((size_t)sums * sizeof(T));
    if (!g->partial) return FD_NO_MEMORY;
    status = rt->parallel_for(FD_CAT(conv_weight_task, SFX), g,
                              g->slices * g->groups * fd_ceil_div(g->inner_total, g->kc), threads,
                              (double)pixels * g->groups * g->inner_total * ((double)g->produce / 25 + 0.5) + sums / 8);
    if (!status) status = rt->parallel_for(FD_CAT(conv_weight_sum, SFX), g, g->groups * g->inner_total, threads, sums / 4);
    rt->release(mark);
    return status;
}
