/* Gradient of the input. Included for each compute dtype, with T and SFX defined.
 *
 * The input's pixels whose rows and columns leave the same remainders by the strides see the same taps: one class. A
 * block begins at multiples of the strides, so that the offsets of a class's taps in the padded copy of dout are the
 * same in every block. */

/* Of all classes, one after the other: offset[class][tap][vector], w[class][tap][vector][channel][lane]. */
static void FD_CAT(small_input_pack, SFX)(const small_call *g, small_input_call *p) {
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX), r_taps = g->w.shape[2], s_taps = g->w.shape[3];
    T *to = (T *)g->packed;
    ptrdiff_t *offset = g->offset, y, x;
    for (ptrdiff_t index = 0; index < g->stride_h * g->stride_w; index++) {
        p->first[index] = offset - g->offset;
        for (ptrdiff_t r = 0; r < r_taps; r++) {
            if (!small_reaches(index / g->stride_w, g->top, r * g->dilation_h, g->stride_h, &y)) continue;
            for (ptrdiff_t s = 0; s < s_taps; s++) {
                if (!small_reaches(index % g->stride_w, g->left, s * g->dilation_w, g->stride_w, &x)) continue;
                const ptrdiff_t pixel = ((y - p->low_y) * p->columns + x - p->low_x) * g->wide;
                for (ptrdiff_t k = 0; k < g->wide; k += lanes) {
                    *offset++ = (pixel + k) * (ptrdiff_t)sizeof(T);
                    for (ptrdiff_t c = 0; c < g->c; c++, to += lanes) {
                        const ptrdiff_t n = fd_min(lanes, g->k - k);
                        FD_CAT(fd_load, SFX)(g->w.type, fd_at(&g->w, k, c, r, s), g->w.stride[0], to, n);
                        memset(to + n, 0, (size_t)(lanes - n) * sizeof(T));
                    }
                }
            }
        }
    }
    p->first[g->stride_h * g->stride_w] = offset - g->offset;
}

/* `n` pixels of one class to dx; 0 where the mask is <= 0. */
static void FD_CAT(small_input_store, SFX)(const small_call *g, T *line, ptrdiff_t image, ptrdiff_t y, ptrdiff_t x,
                                           ptrdiff_t n) {
    const fd_tensor *dx = &g->x, *mask = g->mask;
    const ptrdiff_t step = g->stride_w * dx->stride[3];
    char *to = fd_at(dx, image, 0, y, x);
    if (g->c == 1 || (dx->stride[1] == dx->itemsize && step == g->c * dx->itemsize)) { /* one run */
        const ptrdiff_t stride = g->c == 1 ? step : dx->itemsize;
        if (!mask || g->c == 1 || (mask->stride[1] == mask->itemsize &&
                                   g->stride_w * mask->stride[3] == g->c * mask->itemsize)) {
            if (mask)
                FD_CAT(fd_relu_mask, SFX)(line, mask->type, fd_at(mask, image, 0, y, x),
                                          g->c == 1 ? g->stride_w * mask->stride[3] : mask->itemsize, n * g->c);
            FD_CAT(fd_store, SFX)(dx->type, line, to, stride, n * g->c);
            return;
        }
    }
    for (ptrdiff_t i = 0; i < n; i++, line += g->c, to += step) {
        if (mask)
            FD_CAT(fd_relu_mask, SFX)(line, mask->type, fd_at(mask, image, 0, y, x + i * g->stride_w), mask->stride[1],
                                      g->c);
        FD_CAT(fd_write, SFX)(dx->type, line, to, dx->stride[1], g->c);
    }
}

static int FD_CAT(small_input_task, SFX)(void *context, ptrdiff_t index) {
    const small_input_call *p = (const small_input_call *)context;
    const small_call *g = p->g;
    const ptrdiff_t x0 = index % p->column_blocks * g->columns;
    const ptrdiff_t y0 = index / p->column_blocks % p->row_blocks * g->rows;
    const ptrdiff_t n = index / p->column_blocks / p->row_blocks;
    const ptrdiff_t rows = fd_min(g->rows, g->x.shape[2] - y0), columns = fd_min(g->columns, g->x.shape[3] - x0);
    const ptrdiff_t most = small_pixels[g->c - 1], step = g->wide * (ptrdiff_t)sizeof(T);
    T *buffer = (T *)rt->push((size_t)(p->rows * p->columns * g->wide) * sizeof(T));
    T *line = (T *)rt->push((size_t)(g->columns * g->c) * sizeof(T));
    T sums[SMALL_SUMS * FD_CAT(FD_LANES, SFX)] __attribute__((aligned(FD_VECTOR_BYTES)));
    if (!buffer || !line) return FD_NO_MEMORY;
    FD_CAT(conv_pad, SFX)(&g->out, n, 0, g->k, y0 / g->stride_h + p->low_y,
                          fd_ceil_div(rows, g->stride_h) + p->rows - fd_ceil_div(g->rows, g->stride_h),
                          x0 / g->stride_w + p->low_x, p->columns, buffer, g->wide);
    for (ptrdiff_t y = 0; y < rows; y++)
        for (ptrdiff_t x = 0; x < fd_min(g->stride_w, columns); x++) {
            const ptrdiff_t of = y % g->stride_h * g->stride_w + x, first = p->first[of], count = p->first[of + 1] - first;
            const ptrdiff_t pixels = fd_ceil_div(columns - x, g->stride_w), tiles = fd_ceil_div(pixels, most);
            const T *w = (const T *)g->packed + first * FD_CAT(FD_LANES, SFX) * g->c;
            const char *from = (const char *)(buffer + y / g->stride_h * p->columns * g->wide);
            T *to = line;
            for (ptrdiff_t t = 0; t < tiles; t++) { /* of even size */
                const ptrdiff_t m = pixels / tiles + (t < pixels % tiles);
                FD_CAT(small_input, SFX)[g->c - 1][m](count, g->offset + first, from, step, w, sums);
                FD_CAT(small_sums, SFX)(sums, m * g->c, to);
                from += m * step;
                to += m * g->c;
            }
            FD_CAT(small_input_store, SFX)(g, line, n, y0 + y, x0 + x, pixels);
        }
    return FD_OK;
}

static int FD_CAT(small_input_run, SFX)(small_call *g, int threads) {
    const size_t mark = rt->mark();
    small_input_call p = {g};
    g->c = g->w.shape[1];
    g->k = g->w.shape[0];
    g->wide = fd_round_up(g->k, FD_CAT(FD_LANES, SFX));
    const ptrdiff_t taps = g->w.shape[2] * g->w.shape[3];
    small_input_axis(g->w.shape[2], g->dilation_h, g->top, g->stride_h, g->rows, &p.low_y, &p.rows);
    small_input_axis(g->w.shape[3], g->dilation_w, g->left, g->stride_w, g->columns, &p.low_x, &p.columns);
    p.row_blocks = fd_ceil_div(g->x.shape[2], g->rows);
    p.column_blocks = fd_ceil_div(g->x.shape[3], g->columns);
    g->offset = (ptrdiff_t *)rt->push((size_t)(taps * g->wide / FD_CAT(FD_LANES, SFX)) * sizeof(ptrdiff_t));
    p.first = (ptrdiff_t *)rt->push((size_t)(g->stride_h * g->stride_w + 1) * sizeof(ptrdiff_t));
    g->packed = rt->push((size_t)(taps * g->wide * g->c) * sizeof(T));
    int status = g->offset && p.first && g->packed ? FD_OK : FD_NO_MEMORY;
    if (!status) {
        FD_CAT(small_input_pack, SFX)(g, &p);
        status = rt->parallel_for(FD_CAT(small_input_task, SFX), &p, g->x.shape[0] * p.row_blocks * p.column_blocks,
                                  threads, (double)g->out.size * (double)(taps * g->c + 8) / 50);
    }
    rt->release(mark);
    return status;
}
