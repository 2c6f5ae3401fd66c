/* Forward. Included for each compute dtype, with T and SFX defined. */

/* The padded part of x that a block of output pixels reads. */
static T *FD_CAT(small_buffer, SFX)(const small_call *g) {
    return (T *)rt->push((size_t)(g->buffer_rows * g->buffer_columns * g->c) * sizeof(T));
}
static void FD_CAT(small_fill, SFX)(const small_call *g, const small_block *b, T *buffer) {
    FD_CAT(conv_pad, SFX)(&g->x, b->n, 0, g->c, b->i * g->stride_h - g->top,
                          g->buffer_rows - (g->rows - b->rows) * g->stride_h, b->j * g->stride_w - g->left,
                          g->buffer_columns, buffer, g->c);
}

static int FD_CAT(small_forward_task, SFX)(void *context, ptrdiff_t index) {
    const small_call *g = (const small_call *)context;
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX);
    const small_block b = small_block_of(g, index);
    const ptrdiff_t line = g->stride_h * g->buffer_columns * g->c, step = g->stride_w * g->c;
    const int direct = g->out.type == (sizeof(T) == 8 ? FD_F64 : FD_F32) && g->out.stride[1] == (ptrdiff_t)sizeof(T);
    T *buffer = FD_CAT(small_buffer, SFX)(g), *tile = (T *)rt->push((size_t)(g->columns * 2 * lanes) * sizeof(T));
    if (!buffer || !tile) return FD_NO_MEMORY;
    FD_CAT(small_fill, SFX)(g, &b, buffer);
    for (ptrdiff_t k = 0; k < g->wide; k += 2 * lanes) { /* a panel of weights, which stays in L1 or L2 */
        const int nv = g->wide - k > lanes ? 2 : 1, whole = direct && k + nv * lanes <= g->k;
        const ptrdiff_t most = nv == 1 ? SMALL_LIMIT_1 : SMALL_LIMIT_2, tiles = fd_ceil_div(b.columns, most);
        const ptrdiff_t n = fd_min(nv * lanes, g->k - k);
        const ptrdiff_t ld = whole ? g->out.stride[3] / (ptrdiff_t)sizeof(T) : nv * lanes;
        const T *w = (const T *)g->packed + k * g->taps, *bias = g->bias ? (const T *)g->bias + k : NULL;
        for (ptrdiff_t i = 0; i < b.rows; i++) {
            char *out = fd_at(&g->out, b.n, k, b.i + i, b.j);
            T *to = whole ? (T *)out : tile;
            const T *x = buffer + i * line;
            for (ptrdiff_t t = 0; t < tiles; t++) { /* of even size: 14 + 1 pixels take longer than 8 + 7 */
                const ptrdiff_t m = b.columns / tiles + (t < b.columns % tiles);
                FD_CAT(small_forward, SFX)[nv - 1][m](g->taps, g->offset, (const char *)x,
                                                      step * (ptrdiff_t)sizeof(T), w, to, ld, bias, g->relu);
                x += m * step;
                to += m * ld;
            }
            if (!whole)
                for (ptrdiff_t j = 0; j < b.columns; j++)
                    FD_CAT(fd_write, SFX)(g->out.type, tile + j * ld, out + j * g->out.stride[3], g->out.stride[1], n);
        }
    }
    return FD_OK;
}

/* [panel of two vectors, the last one perhaps of one][tap][vectors] */
static void FD_CAT(small_pack, SFX)(const small_call *g, T *to) {
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX);
    for (ptrdiff_t k = 0; k < g->wide; k += 2 * lanes) {
        const ptrdiff_t nr = fd_min(2 * lanes, g->wide - k);
        for (ptrdiff_t r = 0; r < g->w.shape[2]; r++)
            for (ptrdiff_t s = 0; s < g->w.shape[3]; s++, to += g->c * nr)
                FD_CAT(fd_pack_panel, SFX)(to, nr, g->w.type, fd_at(&g->w, k, 0, r, s), g->c, g->w.stride[1],
                                           fd_min(nr, g->k - k), g->w.stride[0]);
    }
}

static int FD_CAT(small_forward_run, SFX)(small_call *g, const fd_tensor *bias, int threads) {
    const size_t mark = rt->mark();
    int status = small_begin(g, sizeof(T), FD_CAT(FD_LANES, SFX));
    T *padded = NULL, *packed = (T *)rt->push((size_t)(g->taps * g->wide) * sizeof(T));
    if (!packed) status = FD_NO_MEMORY;
    if (bias && !status) {
        padded = (T *)rt->push((size_t)g->wide * sizeof(T));
        if (padded) {
            memset(padded, 0, (size_t)g->wide * sizeof(T));
            FD_CAT(fd_load, SFX)(bias->type, bias->data, bias->stride[0], padded, g->k);
        } else {
            status = FD_NO_MEMORY;
        }
    }
    if (!status) {
        FD_CAT(small_pack, SFX)(g, packed);
        g->packed = packed;
        g->bias = padded;
        status = rt->parallel_for(FD_CAT(small_forward_task, SFX), g, g->blocks, threads,
                                  (double)g->out.size * (double)(g->taps + 8) / 50);
    }
    rt->release(mark);
    return status;
}
