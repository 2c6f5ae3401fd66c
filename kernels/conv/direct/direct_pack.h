/* Packed weights of the direct convolution. Included for each compute dtype, with T and SFX defined.
 *
 *   [class of rows, class of columns][group][panel][block of channels][r][s][channel][nr] */
static inline ptrdiff_t FD_CAT(direct_weights, SFX)(const direct_call *g, int rc, int cc) {
    return g->groups * g->panels * g->rows[rc].taps * g->columns[cc].taps * g->reduce * g->nr;
}

/* One panel of one group in all classes. Of a weight in (K, C, R, S) order each tap takes one value in R * S: 16 channels
 * at a time stay in L1 until all taps are picked out. */
static int FD_CAT(direct_pack_task, SFX)(void *context, ptrdiff_t index) {
    const direct_call *g = (const direct_call *)context;
    const ptrdiff_t panel = index % g->panels, group = index / g->panels, nr = g->nr;
    const ptrdiff_t n0 = panel * nr, n = fd_min(nr, g->produce - n0);
    const char *from = g->weight.data + group * g->w_group + n0 * g->w_produce;
    for (ptrdiff_t c0 = 0; c0 < g->reduce; c0 += g->cb)
        for (ptrdiff_t c = 0, wide = fd_min(g->cb, g->reduce - c0); c < wide; c += 16) {
            T *class_at = (T *)g->packed;
            for (int rc = 0; rc < g->row_classes; rc++)
                for (int cc = 0; cc < g->column_classes; cc++) {
                    const direct_axis *row = &g->rows[rc], *column = &g->columns[cc];
                    const ptrdiff_t taps = row->taps * column->taps;
                    T *to = class_at + (index * g->reduce + c0) * taps * nr;
                    for (ptrdiff_t t = 0; t < taps; t++)
                        FD_CAT(fd_pack_panel, SFX)(
                            to + (t * wide + c) * nr, nr, g->weight.type,
                            from + (c0 + c) * g->w_reduce +
                                (row->tap + t / column->taps * row->tap_step) * g->weight.stride[2] +
                                (column->tap + t % column->taps * column->tap_step) * g->weight.stride[3],
                            fd_min(16, wide - c), g->w_reduce, n, g->w_produce);
                    class_at += FD_CAT(direct_weights, SFX)(g, rc, cc);
                }
        }
    return FD_OK;
}
