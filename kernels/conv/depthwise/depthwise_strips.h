/* Strips of 3 x 3 windows. Included for each compute dtype, with T and SFX defined. */

/* A block of 3 x 3 windows in strips of a few columns, from top to bottom.
 *
 * Channels are often a power of two: pixels then lie so far apart that the same vector of all of them falls into a few
 * sets of L1, and every store waits for L2 (512 channels, 14 x 14, gradient of stride 2: 0.50 ms; 0.08 ms with 528).
 * So some vectors of channels of a strip are written to a tile beside each other, and then to the pixels. */
static int FD_CAT(depthwise_strips, SFX)(const depthwise_call *g, const depthwise_block *b) {
    const fd_tensor *x = &g->x, *out = &g->out, *mask = g->mask;
    const depthwise_axis *row = &g->axis[0], *column = &g->axis[1];
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX), step = row->step, scale = row->scale;
    const ptrdiff_t below = fd_min(b->i + g->rows, row->most), end = fd_min(b->j + g->columns, column->most);
    const ptrdiff_t height = x->shape[2], width = x->shape[3];
    const int crowded = out->stride[3] % DEPTHWISE_CROWDED == 0;
    const ptrdiff_t group = fd_min(DEPTHWISE_GROUP / FD_VECTOR_BYTES * lanes, b->channels);
    const ptrdiff_t pixel = group * (ptrdiff_t)sizeof(T);
    const ptrdiff_t rows = crowded ? DEPTHWISE_TILE / (DEPTHWISE_STRIP * step * step * pixel) : g->rows;
    char *tile = crowded ? (char *)rt->push(DEPTHWISE_TILE) : NULL;
    if (crowded && !tile) return FD_NO_MEMORY;
    depthwise_strip s = {0};
    s.pixel = x->stride[3];
    s.line = x->stride[2];
    s.ld = crowded ? pixel : out->stride[3];
    s.y_ld = mask ? mask->stride[3] : 0;
    s.y_line = mask ? mask->stride[2] : 0;
    s.relu = g->relu;
    for (ptrdiff_t i = b->i; i < below; i += s.rows) {
        const ptrdiff_t top = i * scale + row->at->offset;
        s.rows = fd_min(rows, below - i);
        s.out_rows = out->shape[2] - i * step;
        s.first = top < 0 ? 0 : -1;
        s.last = g->strip == 3 ? height - top : height - top - 1;
        for (ptrdiff_t parts = fd_ceil_div(end - b->j, DEPTHWISE_STRIP), j = b->j, many; parts; parts--, j += many) {
            many = fd_ceil_div(end - j, parts);
            const ptrdiff_t left = j * scale + column->at->offset;
            const ptrdiff_t right = g->strip == 3 ? left + many : left + (many - 1) * scale + 2;
            const ptrdiff_t wide = fd_min(many * step, out->shape[3] - j * step);
            s.edges = (left < 0) | (right >= width) << 1;
            s.odd = wide == many * step;
            s.to_line = crowded ? many * step * pixel : out->stride[2];
            for (ptrdiff_t c = b->c; c < b->c + b->channels; c += group) {
                const ptrdiff_t bytes = fd_min(group, b->c + b->channels - c) * (ptrdiff_t)sizeof(T);
                for (ptrdiff_t k = 0; k < bytes; k += FD_VECTOR_BYTES) {
                    const ptrdiff_t at = c + k / (ptrdiff_t)sizeof(T);
                    FD_CAT(depthwise_strip, SFX)[g->strip][many](
                        &s, fd_at(x, b->n, at, top, left), (const T *)g->packed + at * g->taps,
                        crowded ? tile + k : fd_at(out, b->n, at, i * step, j * step),
                        g->bias ? (const T *)g->bias + at : NULL,
                        mask ? fd_at(mask, b->n, at, i * step, j * step) : NULL);
                }
                for (ptrdiff_t r = 0; crowded && r < fd_min(s.rows * step, s.out_rows); r++)
                    for (ptrdiff_t v = 0; v < wide; v++) {
                        const char *from = tile + r * s.to_line + v * pixel;
                        char *to = fd_at(out, b->n, c, i * step + r, j * step + v);
                        for (ptrdiff_t k = 0; k < bytes; k += FD_VECTOR_BYTES)
                            *(FD_CAT(fd_v, SFX) *)(to + k) = *(const FD_CAT(fd_v, SFX) *)(from + k);
                    }
            }
        }
    }
    return FD_OK;
}

/* Some rows of a block of 3 x 3 windows, all channels of one strip of columns before the next. */
static void FD_CAT(depthwise_weight_strips, SFX)(const depthwise_call *g, const depthwise_block *b,
                                                 const depthwise_source *x, ptrdiff_t i, ptrdiff_t rows,
                                                 ptrdiff_t columns, const char *d, ptrdiff_t d_line, ptrdiff_t d_step,
                                                 ptrdiff_t d_plane, T *sums) {
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX), most = g->strip == 1 ? DEPTHWISE_SUMS : DEPTHWISE_STRIP;
    const ptrdiff_t end = b->j + columns, top = i * g->stride[0] - g->pad[0];
    depthwise_strip s = {0};
    s.rows = rows;
    s.first = top < 0 ? 0 : -1;
    s.last = g->x.shape[2] - top - 1;
    s.pixel = x->pixel;
    s.line = x->line;
    s.ld = d_step;
    s.to_line = d_line;
    for (ptrdiff_t parts = fd_ceil_div(columns, most), j = b->j, many; parts; parts--, j += many) {
        many = fd_ceil_div(end - j, parts);
        const ptrdiff_t left = j * g->stride[1] - g->pad[1];
        s.edges = (left < 0) | (left + (many - 1) * g->stride[1] + 2 >= g->x.shape[3]) << 1;
        for (ptrdiff_t plane = 0; plane * lanes < b->channels; plane++)
            FD_CAT(depthwise_weight_strip, SFX)[g->strip][many](
                &s, x->data + (top - x->top) * x->line + (left - x->left) * x->pixel + plane * x->plane,
                d + (j - b->j) * d_step + plane * d_plane, sums + plane * g->taps * lanes);
    }
}
