/* Where a block reads its source: the array itself, or a padded copy of a part of it. Included for each compute dtype,
 * with T and SFX defined. */

/* Whether whole vectors of the compute dtype can be read from the array itself, or written to it. */
static int FD_CAT(depthwise_direct, SFX)(const fd_tensor *t) {
    return t->type == (sizeof(T) == 8 ? FD_F64 : FD_F32) && t->stride[1] == (ptrdiff_t)sizeof(T);
}

/* Columns from x0 on of one row of one image, as vectors of channels: to[plane][column][lanes], planes `size` elements
 * apart. What lies beside the image is zero, and so are the lanes beyond the last channel. */
static void FD_CAT(depthwise_copy, SFX)(const fd_tensor *t, ptrdiff_t n, ptrdiff_t c, ptrdiff_t channels, ptrdiff_t y,
                                        ptrdiff_t x0, ptrdiff_t columns, T *to, ptrdiff_t size) {
    typedef FD_CAT(fd_v, SFX) vector;
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX), sw = t->stride[3], sc = t->stride[1];
    const ptrdiff_t left = fd_max(0, fd_min(-x0, columns)), right = fd_max(left, fd_min(t->shape[3] - x0, columns));
    const int inside = y >= 0 && y < t->shape[2] && right > left;
    for (ptrdiff_t k = 0; k < channels; k += lanes, to += size) {
        const ptrdiff_t many = fd_min(lanes, channels - k);
        if (!inside || many < lanes) memset(to, 0, (size_t)(columns * lanes) * sizeof(T));
        if (!inside) continue;
        const char *from = fd_at(t, n, c + k, y, x0 + left);
        vector *at = (vector *)to, *const end = at + right;
        for (ptrdiff_t x = 0; x < left; x++) at[x] = (vector){0};
        for (ptrdiff_t x = right; x < columns; x++) at[x] = (vector){0};
        at += left;
        if (FD_CAT(depthwise_direct, SFX)(t) && many == lanes) {
            for (; at < end; at++, from += sw) *at = *(const vector *)from;
        } else if (sc == t->itemsize || many == 1) { /* pixel by pixel */
            for (; at < end; at++, from += sw) FD_CAT(fd_load, SFX)(t->type, from, sc, (T *)at, many);
        } else { /* channel by channel */
            T run[64];
            for (; at < end; at += 64, from += 64 * sw)
                for (ptrdiff_t i = 0; i < many; i++) {
                    const ptrdiff_t count = fd_min(64, end - at);
                    FD_CAT(fd_load, SFX)(t->type, from + i * sc, sw, run, count);
                    for (ptrdiff_t x = 0; x < count; x++) ((T *)(at + x))[i] = run[x];
                }
        }
    }
}

/* The array itself where that can be; otherwise the buffer, in which no position is outside. */
static depthwise_source FD_CAT(depthwise_source_of, SFX)(const depthwise_call *g, const depthwise_block *b, T *buffer) {
    const depthwise_axis *row = &g->axis[0], *column = &g->axis[1];
    const fd_tensor *x = &g->x;
    if (g->direct && b->whole)
        return (depthwise_source){fd_at(x, b->n, b->c, 0, 0), 0, PTRDIFF_MAX, x->stride[2], 0, x->stride[3],
                                  FD_VECTOR_BYTES, {0, 0}, {x->shape[2], x->shape[3]}, PTRDIFF_MAX};
    const ptrdiff_t top = b->i * row->scale + row->first, left = b->j * column->scale + column->first;
    const ptrdiff_t line = g->buffer_columns * FD_VECTOR_BYTES;
    return (depthwise_source){(char *)buffer, top, g->buffer_rows, line, left, FD_VECTOR_BYTES, g->buffer_rows * line,
                              {top, left}, {PTRDIFF_MAX / 2, PTRDIFF_MAX / 2}, top};
}

/* Fills the buffer up to row `last`, but not with rows before `first`. Just before they are used: so they are still in
 * L1 then, and the loads from memory alternate with work. */
static void FD_CAT(depthwise_fill, SFX)(const depthwise_call *g, const depthwise_block *b, ptrdiff_t first,
                                        ptrdiff_t last, depthwise_source *s) {
    for (s->filled = fd_max(s->filled, first); s->filled <= last; s->filled++)
        FD_CAT(depthwise_copy, SFX)(&g->x, b->n, b->c, b->channels, s->filled, s->left, g->buffer_columns,
                                    (T *)(s->data + (s->filled - s->top) % s->ring * s->line),
                                    s->plane / (ptrdiff_t)sizeof(T));
}
