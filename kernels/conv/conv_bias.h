/* Gradient of the bias: dout summed over its pixels. Included for each compute dtype, with T and SFX defined.
 *
 *      C channels ->
 *     +-----------+            The pixels are cut into `slices` runs, one for each task, and these into groups of 32. A
 *     |  group 0  | \          group is summed in the compute dtype, a register of channels at a time; the sums of the
 *     +-----------+  slice     groups are added up in float64, and those of the slices after all tasks.
 *     |  group 1  | /
 *     +-----------+            Where the memory is that of an (N, H, W, C) array in the compute dtype a group is read
 *     |    ...    |            where it lies, at the speed of the cache; any other is copied into such a block first.
 */
#define CONV_BIAS_GROUP 32

typedef struct {
    const fd_tensor *dout;
    ptrdiff_t slices;
    double *partial;
    int direct;
} FD_CAT(conv_bias_call, SFX);

/* total[j] += the sum over `pixels` rows v[.][j] of c channels. */
static inline void FD_CAT(conv_bias_group, SFX)(const T *v, ptrdiff_t pixels, ptrdiff_t c, double *total) {
    enum { LANES = FD_CAT(FD_LANES, SFX) };
    ptrdiff_t j = 0;
    for (; j + LANES <= c; j += LANES) {
        FD_CAT(fd_v, SFX) sum = {0};
        for (ptrdiff_t p = 0; p < pixels; p++) sum += *(const FD_CAT(fd_v, SFX) *)(v + p * c + j);
        for (int i = 0; i < LANES; i++) total[j + i] += (double)sum[i];
    }
    for (; j < c; j++) {
        T sum = 0;
        for (ptrdiff_t p = 0; p < pixels; p++) sum += v[p * c + j];
        total[j] += (double)sum;
    }
}

static int FD_CAT(conv_bias_task, SFX)(void *context, ptrdiff_t slice) {
    const FD_CAT(conv_bias_call, SFX) *g = (const FD_CAT(conv_bias_call, SFX) *)context;
    const fd_tensor *d = g->dout;
    const ptrdiff_t c = d->shape[1], w = d->shape[3], plane = d->shape[2] * w, pixels = d->shape[0] * plane;
    const ptrdiff_t first = pixels * slice / g->slices, last = pixels * (slice + 1) / g->slices;
    double *total = g->partial + slice * c;
    T *group = g->direct ? NULL : (T *)rt->push((size_t)(CONV_BIAS_GROUP * c) * sizeof(T));
    if (!g->direct && !group) return FD_NO_MEMORY;
    for (ptrdiff_t j = 0; j < c; j++) total[j] = 0;
    for (ptrdiff_t p = first; p < last; p += CONV_BIAS_GROUP) {
        const ptrdiff_t many = fd_min(CONV_BIAS_GROUP, last - p);
        for (ptrdiff_t i = 0; !g->direct && i < many; i++)
            FD_CAT(fd_read, SFX)(d->type, d->data + (p + i) / plane * d->stride[0] + (p + i) % plane / w * d->stride[2] +
                                 (p + i) % w * d->stride[3], d->stride[1], group + i * c, c);
        FD_CAT(conv_bias_group, SFX)(g->direct ? (const T *)d->data + p * c : group, many, c, total);
    }
    return FD_OK;
}

static int FD_CAT(conv_bias_run, SFX)(const fd_tensor *dout, const fd_tensor *db, ptrdiff_t slices, int threads) {
    const size_t mark = rt->mark();
    const ptrdiff_t c = dout->shape[1], pixel = c * (ptrdiff_t)sizeof(T);
    const int direct = dout->type == (sizeof(T) == 8 ? FD_F64 : FD_F32) && dout->stride[1] == (ptrdiff_t)sizeof(T) &&
                       (dout->shape[3] == 1 || dout->stride[3] == pixel) &&
                       (dout->shape[2] == 1 || dout->stride[2] == dout->shape[3] * pixel) &&
                       (dout->shape[0] == 1 || dout->stride[0] == dout->shape[2] * dout->shape[3] * pixel);
    FD_CAT(conv_bias_call, SFX) g = {dout, slices, NULL, direct};
    T *out;
    int status;
    if (c == 0) return FD_OK;
    g.partial = (double *)rt->push((size_t)(slices * c) * sizeof(double));
    out = (T *)rt->push((size_t)c * sizeof(T));
    if (!g.partial || !out) return FD_NO_MEMORY;
    /* 0.06 ns an element where it lies, 0.3 where it is copied */
    status = rt->parallel_for(FD_CAT(conv_bias_task, SFX), &g, slices, threads, (double)dout->size * (direct ? 0.06 : 0.3));
    if (!status) {
        for (ptrdiff_t slice = 1; slice < slices; slice++)
            for (ptrdiff_t j = 0; j < c; j++) g.partial[j] += g.partial[slice * c + j];
        for (ptrdiff_t j = 0; j < c; j++) out[j] = (T)g.partial[j];
        FD_CAT(fd_store, SFX)(db->type, out, db->data, db->stride[0], c);
    }
    rt->release(mark);
    return status;
}
#undef CONV_BIAS_GROUP
