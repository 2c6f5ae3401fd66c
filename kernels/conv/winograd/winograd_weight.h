/* backward_weight as F(r x r, m x m): the output tiles of dout are the filter, and dw is the output. Included for each
 * compute dtype, with T and SFX defined.
 *
 *   dU[n*n][c][k] = sum over tiles of V[n*n][tile][c] * D[n*n][tile][k]       dw = A^T dU A
 *
 * Two ways over the blocks of tiles, chosen by the plan. A small dU: `slices` runs of blocks, each summed by one task into
 * a dU of its own; the slices are added in their order. A large one (a copy for each slice would not fit the cache): block
 * after block, first the transforms of its tiles, then the products, each task summing its part of the only dU. */
#define LANES FD_CAT(FD_LANES, SFX)

typedef struct {
    ptrdiff_t ld, v_point, d_point; /* of a block of `block` tiles */
} FD_CAT(winograd_layout, SFX);

static FD_CAT(winograd_layout, SFX) FD_CAT(winograd_layout_of, SFX)(const winograd_call *g) {
    FD_CAT(winograd_layout, SFX) l = {FD_CAT(winograd_row, SFX)(g->reduce), 0, 0};
    l.v_point = FD_CAT(winograd_odd, SFX)(g->block * l.ld);
    l.d_point = FD_CAT(winograd_odd, SFX)(g->block * g->panels * g->nr);
    return l;
}

/* V and D of tiles t0..t1-1, written as tiles t0 - first ... of their block. */
static void FD_CAT(winograd_transform, SFX)(const winograd_call *g, ptrdiff_t group, ptrdiff_t first, ptrdiff_t t0, ptrdiff_t t1,
                                            T *v, T *d, T *strip) {
    const FD_CAT(winograd_functions, SFX) *f = &FD_CAT(winograd_variants, SFX)[g->variant];
    const FD_CAT(winograd_layout, SFX) l = FD_CAT(winograd_layout_of, SFX)(g);
    const FD_CAT(winograd_input, SFX) source = FD_CAT(winograd_source, SFX)(g, group);
    const FD_CAT(winograd_input, SFX) gradient = {&g->out, g->out.data + group * g->produce * g->out.stride[1], g->produce,
                                                  g->m, g->m, 0, 0, f->gradient_columns, f->gradient_rows};
    const ptrdiff_t scratch = FD_CAT(winograd_strip_size, SFX)(g), per_panel = g->nr / LANES;
    for (ptrdiff_t t = t0, run; t < t1; t += run) {
        const ptrdiff_t image = t / (g->down * g->across), i = t / g->across % g->down, j = t % g->across;
        run = fd_min(fd_min(t1 - t, g->across - j), WINOGRAD_STRIP);
        FD_CAT(winograd_strip, SFX)(&source, (int)g->n, image, i, j, run, fd_ceil_div(g->reduce, LANES), strip,
                                    strip + scratch, v + (t - first) * l.ld, LANES, l.v_point, l.ld);
        for (ptrdiff_t p = 0; p < g->panels; p++) { /* [panel][tile][nr]: what one register tile reads is contiguous */
            FD_CAT(winograd_input, SFX) part = gradient;
            part.data += p * g->nr * g->out.stride[1];
            part.channels = g->produce - p * g->nr;
            FD_CAT(winograd_strip, SFX)(&part, (int)g->n, image, i, j, run, per_panel, strip, strip + scratch,
                                        d + (p * g->block + t - first) * g->nr, LANES, l.d_point, g->nr);
        }
    }
}

/* Point x of dU, panels p0..p1-1: (+)= the products of the first `tiles` tiles of a block. */
static void FD_CAT(winograd_products, SFX)(const winograd_call *g, ptrdiff_t x, ptrdiff_t p0, ptrdiff_t p1, ptrdiff_t tiles,
                                           const T *v, const T *d, T *sum, int add) {
    const FD_CAT(winograd_layout, SFX) l = FD_CAT(winograd_layout_of, SFX)(g);
    for (ptrdiff_t p = p0; p < p1; p++)
        FD_CAT(fd_panel, SFX)((int)(g->nr / LANES), g->reduce, tiles, v + x * l.v_point, 1, l.ld,
                              d + x * l.d_point + p * g->block * g->nr, g->nr, sum + x * g->u_point + p * g->nr,
                              g->panels * g->nr, add);
}

/* A slice of one group. */
static int FD_CAT(winograd_slice_task, SFX)(void *context, ptrdiff_t index) {
    const winograd_call *g = (const winograd_call *)context;
    const FD_CAT(winograd_layout, SFX) l = FD_CAT(winograd_layout_of, SFX)(g);
    const ptrdiff_t slice = index / g->groups, group = index % g->groups, points = g->n * g->n;
    const ptrdiff_t b0 = g->blocks * slice / g->slices, b1 = g->blocks * (slice + 1) / g->slices;
    T *sum = (T *)g->packed + index * points * g->u_point;
    T *strip = (T *)rt->push((size_t)FD_CAT(winograd_strip_size, SFX)(g) * 2 * sizeof(T));
    T *v = (T *)rt->push((size_t)(points * l.v_point) * sizeof(T));
    T *d = (T *)rt->push((size_t)(points * l.d_point) * sizeof(T));
    if (!strip || !v || !d) return FD_NO_MEMORY;
    if (b0 == b1) FD_CAT(fd_zero, SFX)(sum, points * g->u_point);
    for (ptrdiff_t b = b0; b < b1; b++) {
        const ptrdiff_t t0 = b * g->tiles / g->blocks, t1 = (b + 1) * g->tiles / g->blocks;
        FD_CAT(winograd_transform, SFX)(g, group, t0, t0, t1, v, d, strip);
        for (ptrdiff_t x = 0; x < points; x++)
            FD_CAT(winograd_products, SFX)(g, x, 0, g->panels, t1 - t0, v, d, sum, b > b0);
    }
    return FD_OK;
}

/* Large dU: the transforms of WINOGRAD_STRIP tiles of the block that begins at tile g->first. */
static int FD_CAT(winograd_transform_task, SFX)(void *context, ptrdiff_t index) {
    const winograd_call *g = (const winograd_call *)context;
    const ptrdiff_t strips = fd_ceil_div(g->block, WINOGRAD_STRIP), group = index / strips;
    const ptrdiff_t t0 = g->first + index % strips * WINOGRAD_STRIP, last = fd_min(g->tiles, g->first + g->block);
    const FD_CAT(winograd_layout, SFX) l = FD_CAT(winograd_layout_of, SFX)(g);
    const ptrdiff_t points = g->n * g->n;
    T *strip = (T *)rt->push((size_t)FD_CAT(winograd_strip_size, SFX)(g) * 2 * sizeof(T));
    if (!strip) return FD_NO_MEMORY;
    FD_CAT(winograd_transform, SFX)(g, group, g->first, t0, fd_min(last, t0 + WINOGRAD_STRIP),
                                    (T *)g->v + group * points * l.v_point, (T *)g->d + group * points * l.d_point, strip);
    return FD_OK;
}

/* And the products of one point and panel_block panels. */
static int FD_CAT(winograd_products_task, SFX)(void *context, ptrdiff_t index) {
    const winograd_call *g = (const winograd_call *)context;
    const FD_CAT(winograd_layout, SFX) l = FD_CAT(winograd_layout_of, SFX)(g);
    const ptrdiff_t points = g->n * g->n, runs = fd_ceil_div(g->panels, g->panel_block);
    const ptrdiff_t x = index % points, p0 = index / points % runs * g->panel_block, group = index / points / runs;
    FD_CAT(winograd_products, SFX)(g, x, p0, fd_min(g->panels, p0 + g->panel_block), fd_min(g->block, g->tiles - g->first),
                                   (const T *)g->v + group * points * l.v_point, (const T *)g->d + group * points * l.d_point,
                                   (T *)g->packed + group * points * g->u_point, g->first > 0);
    return FD_OK;
}

/* dw of WINOGRAD_CHANNELS summed channels of one group: adds up the slices, transforms, and writes. In the memory order
 * of weights (k, c, r, s) what is worked out for a vector of k lies far apart: it is written in runs of all these c. */
#define WINOGRAD_CHANNELS 16
static int FD_CAT(winograd_finish_task, SFX)(void *context, ptrdiff_t index) {
    const winograd_call *g = (const winograd_call *)context;
    const FD_CAT(winograd_functions, SFX) *f = &FD_CAT(winograd_variants, SFX)[g->variant];
    const fd_tensor *w = &g->weight;
    const ptrdiff_t runs = fd_ceil_div(g->reduce, WINOGRAD_CHANNELS), group = index / runs;
    const ptrdiff_t c0 = index % runs * WINOGRAD_CHANNELS, channels = fd_min(WINOGRAD_CHANNELS, g->reduce - c0);
    const ptrdiff_t points = g->n * g->n, taps = g->r * g->r, size = sizeof(T);
    const ptrdiff_t slice = g->groups * points * g->u_point;
    const T *from = (const T *)g->packed + group * points * g->u_point + c0 * g->panels * g->nr;
    const int together = w->stride[3] == w->itemsize && w->stride[2] == g->r * w->itemsize &&
                         g->w_reduce == taps * w->itemsize;
    T sum[36 * LANES], run[WINOGRAD_CHANNELS * 25];
    T *tile = (T *)rt->push((size_t)(channels * taps * LANES) * sizeof(T));
    if (!tile) return FD_NO_MEMORY;
    for (ptrdiff_t k = 0; k < g->produce; k += LANES) {
        for (ptrdiff_t c = 0; c < channels; c++) {
            const T *at = from + c * g->panels * g->nr + k;
            for (ptrdiff_t x = 0; x < points; x++) {
                FD_CAT(fd_v, SFX) total = *(const FD_CAT(fd_v, SFX) *)(at + x * g->u_point);
                for (ptrdiff_t s = 1; s < g->slices; s++)
                    total += *(const FD_CAT(fd_v, SFX) *)(at + s * slice + x * g->u_point);
                *(FD_CAT(fd_v, SFX) *)(sum + x * LANES) = total;
            }
            f->filter_gradient(sum, LANES, (char *)(tile + c * taps * LANES), g->r * LANES * size, LANES * size, g->r, g->r,
                               NULL, NULL, 0, 0);
        }
        for (ptrdiff_t j = 0; j < fd_min(LANES, g->produce - k); j++) {
            char *to = w->data + group * g->w_group + c0 * g->w_reduce + (k + j) * g->w_produce;
            for (ptrdiff_t i = 0; i < channels * taps; i++) run[i] = tile[i * LANES + j];
            if (together) {
                FD_CAT(fd_store, SFX)(w->type, run, to, w->itemsize, channels * taps);
                continue;
            }
            for (ptrdiff_t i = 0; i < channels * taps; i++)
                FD_CAT(fd_store, SFX)(w->type, run + i, to + i / taps * g->w_reduce + i % taps / g->r * w->stride[2] +
                                      i % g->r * w->stride[3], 0, 1);
        }
    }
    return FD_OK;
}

static int FD_CAT(winograd_weight_run, SFX)(winograd_call *g, int threads) {
    const size_t mark = rt->mark();
    const ptrdiff_t points = g->n * g->n;
    int status = FD_OK;
    if (g->weight.size == 0) return FD_OK;
    FD_CAT(winograd_set_up, SFX)(g);
    g->u_point = FD_CAT(winograd_odd, SFX)(g->reduce * g->panels * g->nr);
    const ptrdiff_t copies = fd_max(1, g->slices) * g->groups;
    const double products = (double)points * g->tiles * g->groups * g->reduce * g->produce / 25;
    const double transforms = (double)points * g->tiles * g->groups * (g->reduce + g->produce) / 4;
    g->packed = rt->push((size_t)(copies * points * g->u_point) * sizeof(T));
    if (!g->packed) return FD_NO_MEMORY;
    if (g->slices) {
        status = rt->parallel_for(FD_CAT(winograd_slice_task, SFX), g, copies, threads, products + transforms);
    } else {
        const FD_CAT(winograd_layout, SFX) l = FD_CAT(winograd_layout_of, SFX)(g);
        const double share = (double)g->block / (double)g->tiles;
        g->v = rt->push((size_t)(g->groups * points * l.v_point) * sizeof(T));
        g->d = rt->push((size_t)(g->groups * points * l.d_point) * sizeof(T));
        if (!g->v || !g->d) status = FD_NO_MEMORY;
        for (g->first = 0; !status && g->first < g->tiles; g->first += g->block) {
            status = rt->parallel_for(FD_CAT(winograd_transform_task, SFX), g,
                                      g->groups * fd_ceil_div(g->block, WINOGRAD_STRIP), threads, transforms * share);
            if (!status)
                status = rt->parallel_for(FD_CAT(winograd_products_task, SFX), g,
                                          g->groups * points * fd_ceil_div(g->panels, g->panel_block), threads, products * share);
        }
    }
    if (!status)
        status = rt->parallel_for(FD_CAT(winograd_finish_task, SFX), g,
                                  g->groups * fd_ceil_div(g->reduce, WINOGRAD_CHANNELS), threads,
                                  (double)copies * points * g->reduce * g->produce / 8);
    rt->release(mark);
    return status;
}
#undef WINOGRAD_CHANNELS
#undef LANES
