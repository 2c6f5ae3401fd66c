/* Pooling along the width: for any strides and dtypes, and for fewer channels than a register holds. Included once for
 * each compute dtype, with T, SFX and I (the integer of T's size) defined.
 *
 *          |<-- pitch -->|
 *          +----------+--+    A block of lines lies in small buffers in L1: the state of windows first..last (forward)
 *   c0     | windows  |  |    or the sums of pixels first..last (backward) of one row, for as many channels as fit. One
 *   c0 + 1 | windows  |  |    tap after the other passes over the block. Lines are handled in whole registers, so each
 *   ...    +----------+--+    is padded to a multiple of one; in the last register of a run only some lanes live. */
#define V FD_CAT(fd_v, SFX)
#define VI FD_CAT(pool_i, SFX)
#define LANES FD_CAT(FD_LANES, SFX)
#define BUFFER (POOL_LINES + LANES) /* a run may begin anywhere in the last line, and ends with a whole register */

typedef struct {
    ptrdiff_t first, last; /* windows or pixels */
    ptrdiff_t c0, c1, pitch;
} FD_CAT(line_block, SFX);

/* Cuts `channels` lines of `length` windows or pixels into blocks; begins with {0}, returns 0 after the last block. */
static inline int FD_CAT(line_next, SFX)(FD_CAT(line_block, SFX) *b, ptrdiff_t channels, ptrdiff_t length) {
    if (b->pitch) {
        b->c0 = b->c1;
        if (b->c0 == channels) {
            b->c0 = 0;
            b->first = b->last;
        }
    }
    if (b->first == length) return 0;
    b->last = fd_min(b->first + POOL_LINES, length);
    b->pitch = fd_round_up(b->last - b->first, LANES);
    b->c1 = fd_min(b->c0 + POOL_LINES / b->pitch, channels);
    return 1;
}

/* All ones in the first `many` lanes. */
static inline VI FD_CAT(line_live, SFX)(ptrdiff_t many) {
    VI lane = {0};
    for (int i = 1; i < LANES; i++) lane[i] = i;
    return lane < (I)fd_min(many, LANES);
}

static inline void FD_CAT(line_max, SFX)(T *best, I *index, const T *values, I tap, ptrdiff_t many) {
    for (ptrdiff_t i = 0; i < many; i += LANES) {
        const V v = FD_CAT(pool_load, SFX)(values + i), b = FD_CAT(pool_load, SFX)(best + i);
        VI old;
        memcpy(&old, index + i, sizeof old);
        /* the first tap, larger, or NaN after numbers */
        const VI take = FD_CAT(line_live, SFX)(many - i) & ((old < 0) | (~(VI)(v <= b) & (VI)(b == b)));
        FD_CAT(pool_store, SFX)(best + i, (V)POOL_SELECT(take, (VI)v, (VI)b));
        old = POOL_SELECT(take, tap, old);
        memcpy(index + i, &old, sizeof old);
    }
}

/* Zeroes the values where `out` is <= 0. */
static inline void FD_CAT(line_mask, SFX)(T *values, const T *out, ptrdiff_t many) {
    for (ptrdiff_t i = 0; i < many; i += LANES) {
        const VI not_positive = (VI)(FD_CAT(pool_load, SFX)(out + i) <= (V){0});
        FD_CAT(pool_store, SFX)(values + i, (V)((VI)FD_CAT(pool_load, SFX)(values + i) & ~not_positive));
    }
}

/* Zeroes the values whose index is not `tap`. */
static inline void FD_CAT(line_choose, SFX)(T *values, const I *index, I tap, ptrdiff_t many) {
    for (ptrdiff_t i = 0; i < many; i += LANES) {
        VI chosen;
        memcpy(&chosen, index + i, sizeof chosen);
        FD_CAT(pool_store, SFX)(values + i, (V)((VI)FD_CAT(pool_load, SFX)(values + i) & (chosen == tap)));
    }
}

/* Adds `values` to every `stride`-th sum. */
static inline void FD_CAT(line_add, SFX)(T *sum, ptrdiff_t stride, const T *values, ptrdiff_t many) {
    if (stride > 1) {
        for (ptrdiff_t i = 0; i < many; i++) sum[i * stride] += values[i];
        return;
    }
    for (ptrdiff_t i = 0; i < many; i += LANES) {
        const VI v = (VI)FD_CAT(pool_load, SFX)(values + i) & FD_CAT(line_live, SFX)(many - i);
        FD_CAT(pool_store, SFX)(sum + i, FD_CAT(pool_load, SFX)(sum + i) + (V)v);
    }
}

static inline void FD_CAT(line_load_index, SFX)(int type, const char *from, ptrdiff_t step, I *index, ptrdiff_t many) {
    if (type == FD_U8)
        for (ptrdiff_t i = 0; i < many; i++) index[i] = *(const uint8_t *)(from + i * step);
    else
        for (ptrdiff_t i = 0; i < many; i++) index[i] = *(const int32_t *)(from + i * step);
}

static inline void FD_CAT(line_store_index, SFX)(int type, char *to, ptrdiff_t step, const I *index, ptrdiff_t many) {
    if (type == FD_U8)
        for (ptrdiff_t i = 0; i < many; i++) *(uint8_t *)(to + i * step) = (uint8_t)index[i];
    else
        for (ptrdiff_t i = 0; i < many; i++) *(int32_t *)(to + i * step) = index[i] < 0 ? INT32_MAX : (int32_t)index[i];
}

/* Writes the block's lines to row h of t. */
static void FD_CAT(line_store, SFX)(const fd_tensor *t, ptrdiff_t n, ptrdiff_t h, const FD_CAT(line_block, SFX) *b,
                                    const T *lines) {
    for (ptrdiff_t c = b->c0; c < b->c1; c++)
        FD_CAT(fd_store, SFX)(t->type, lines + (c - b->c0) * b->pitch, fd_at(t, n, c, h, b->first), t->stride[3],
                              b->last - b->first);
}

static void FD_CAT(max_forward_lines, SFX)(const pool_call *p, ptrdiff_t n, ptrdiff_t oh) {
    T best[BUFFER], values[BUFFER];
    I index[BUFFER];
    const fd_axis *w = &p->w;
    const fd_tensor *x = &p->image, *to = &p->indices;
    ptrdiff_t kh0, rows = fd_taps(&p->h, oh, &kh0);
    FD_CAT(line_block, SFX) b = {0};
    while (FD_CAT(line_next, SFX)(&b, x->shape[1], w->windows)) {
        for (ptrdiff_t i = 0; i < (b.c1 - b.c0) * b.pitch; i++) {
            best[i] = -(T)INFINITY;
            index[i] = -1;
        }
        for (ptrdiff_t kh = kh0; kh < kh0 + rows; kh++)
            for (ptrdiff_t kw = 0; kw < w->kernel; kw++) {
                ptrdiff_t ow;
                const ptrdiff_t many = pool_standing(w, kw, 0, w->size, b.first, b.last, &ow);
                const char *from = fd_at(x, n, b.c0, oh * p->h.stride - p->h.before + kh * p->h.dilation,
                                           ow * w->stride - w->before + kw * w->dilation);
                for (ptrdiff_t c = 0; many > 0 && c < b.c1 - b.c0; c++) {
                    const ptrdiff_t at = c * b.pitch + ow - b.first;
                    FD_CAT(fd_load, SFX)(x->type, from + c * x->stride[1], w->stride * x->stride[3], values, many);
                    FD_CAT(line_max, SFX)(best + at, index + at, values, (I)(kh * w->kernel + kw), many);
                }
            }
        FD_CAT(line_store, SFX)(&p->pooled, n, oh, &b, best);
        for (ptrdiff_t c = b.c0; to->data && c < b.c1; c++)
            FD_CAT(line_store_index, SFX)(to->type, fd_at(to, n, c, oh, b.first), to->stride[3],
                                          index + (c - b.c0) * b.pitch, b.last - b.first);
    }
}

static void FD_CAT(max_backward_lines, SFX)(const pool_call *p, ptrdiff_t n, ptrdiff_t h) {
    T sum[BUFFER], values[BUFFER], results[BUFFER];
    I index[BUFFER];
    const fd_axis *w = &p->w;
    const fd_tensor *dout = &p->pooled, *indices = &p->indices, *out = &p->out;
    const pool_cover over = pool_cover_at(&p->h, h);
    FD_CAT(line_block, SFX) b = {0};
    while (FD_CAT(line_next, SFX)(&b, p->image.shape[1], w->size)) {
        for (ptrdiff_t i = 0; i < (b.c1 - b.c0) * b.pitch; i++) sum[i] = 0;
        for (ptrdiff_t r = 0; r < over.count; r++) {
            const ptrdiff_t oh = over.window + r * p->h.window_step, kh = over.tap - r * p->h.tap_step;
            /* For one pixel, later taps belong to earlier windows. */
            for (ptrdiff_t kw = w->kernel - 1; kw >= 0; kw--) {
                ptrdiff_t ow;
                const ptrdiff_t many = pool_standing(w, kw, b.first, b.last, 0, w->windows, &ow);
                const ptrdiff_t pixel = ow * w->stride - w->before + kw * w->dilation - b.first;
                const I tap = (I)(kh * w->kernel + kw);
                for (ptrdiff_t c = b.c0; many > 0 && c < b.c1; c++) {
                    FD_CAT(fd_load, SFX)(dout->type, fd_at(dout, n, c, oh, ow), dout->stride[3], values, many);
                    FD_CAT(line_load_index, SFX)(indices->type, fd_at(indices, n, c, oh, ow), indices->stride[3],
                                                 index, many);
                    FD_CAT(line_choose, SFX)(values, index, tap, many);
                    if (out->data) {
                        FD_CAT(fd_load, SFX)(out->type, fd_at(out, n, c, oh, ow), out->stride[3], results, many);
                        FD_CAT(line_mask, SFX)(values, results, many);
                    }
                    FD_CAT(line_add, SFX)(sum + (c - b.c0) * b.pitch + pixel, w->stride, values, many);
                }
            }
        }
        FD_CAT(line_store, SFX)(&p->image, n, h, &b, sum);
    }
}

static void FD_CAT(avg_forward_lines, SFX)(const pool_call *p, ptrdiff_t n, ptrdiff_t oh) {
    T sum[BUFFER], values[BUFFER], divisor[POOL_LINES];
    const fd_axis *w = &p->w;
    const fd_tensor *x = &p->image;
    const ptrdiff_t counted = pool_counted(&p->h, oh, p->include_pad);
    ptrdiff_t kh0, rows = fd_taps(&p->h, oh, &kh0);
    FD_CAT(line_block, SFX) b = {0};
    while (FD_CAT(line_next, SFX)(&b, x->shape[1], w->windows)) {
        for (ptrdiff_t i = 0; i < (b.c1 - b.c0) * b.pitch; i++) sum[i] = 0;
        for (ptrdiff_t i = 0; i < b.last - b.first; i++) divisor[i] = (T)pool_divisor(p, counted, b.first + i);
        for (ptrdiff_t kh = kh0; kh < kh0 + rows; kh++)
            for (ptrdiff_t kw = 0; kw < w->kernel; kw++) {
                ptrdiff_t ow;
                const ptrdiff_t many = pool_standing(w, kw, 0, w->size, b.first, b.last, &ow);
                const char *from = fd_at(x, n, b.c0, oh * p->h.stride - p->h.before + kh,
                                           ow * w->stride - w->before + kw);
                for (ptrdiff_t c = 0; many > 0 && c < b.c1 - b.c0; c++) {
                    FD_CAT(fd_load, SFX)(x->type, from + c * x->stride[1], w->stride * x->stride[3], values, many);
                    FD_CAT(line_add, SFX)(sum + c * b.pitch + ow - b.first, 1, values, many);
                }
            }
        for (ptrdiff_t c = 0; c < b.c1 - b.c0; c++)
            for (ptrdiff_t i = 0; i < b.last - b.first; i++) sum[c * b.pitch + i] /= divisor[i];
        FD_CAT(line_store, SFX)(&p->pooled, n, oh, &b, sum);
    }
}

static void FD_CAT(avg_backward_lines, SFX)(const pool_call *p, ptrdiff_t n, ptrdiff_t h) {
    T sum[BUFFER], values[BUFFER], divisor[POOL_LINES];
    const fd_axis *w = &p->w;
    const fd_tensor *dout = &p->pooled;
    const pool_cover over = pool_cover_at(&p->h, h);
    FD_CAT(line_block, SFX) b = {0};
    while (FD_CAT(line_next, SFX)(&b, p->image.shape[1], w->size)) {
        for (ptrdiff_t i = 0; i < (b.c1 - b.c0) * b.pitch; i++) sum[i] = 0;
        for (ptrdiff_t oh = over.window; oh < over.window + over.count; oh++) {
            const ptrdiff_t counted = pool_counted(&p->h, oh, p->include_pad);
            /* For one pixel, later taps belong to earlier windows. */
            for (ptrdiff_t kw = w->kernel - 1; kw >= 0; kw--) {
                ptrdiff_t ow;
                const ptrdiff_t many = pool_standing(w, kw, b.first, b.last, 0, w->windows, &ow);
                const ptrdiff_t pixel = ow * w->stride - w->before + kw - b.first;
                for (ptrdiff_t i = 0; i < many; i++) divisor[i] = (T)pool_divisor(p, counted, ow + i);
                for (ptrdiff_t c = b.c0; many > 0 && c < b.c1; c++) {
                    FD_CAT(fd_load, SFX)(dout->type, fd_at(dout, n, c, oh, ow), dout->stride[3], values, many);
                    for (ptrdiff_t i = 0; i < many; i++) values[i] /= divisor[i];
                    FD_CAT(line_add, SFX)(sum + (c - b.c0) * b.pitch + pixel, w->stride, values, many);
                }
            }
        }
        FD_CAT(line_store, SFX)(&p->image, n, h, &b, sum);
    }
}

/* The mean of one channel; the same sums in the same order as global_sum in avg_pool.h. */
static void FD_CAT(global_forward_line, SFX)(const pool_call *p, ptrdiff_t n, ptrdiff_t c) {
    typedef T part_of_8 __attribute__((vector_size(8 * sizeof(T)), aligned(sizeof(T)), may_alias));
    const ptrdiff_t pixels = p->h.size * p->w.size, right = p->image.stride[3];
    const ptrdiff_t width = p->image.stride[2] == p->w.size * right ? pixels : p->w.size; /* rows end to end are one */
    T buffer[POOL_BLOCK], total = 0;
    for (ptrdiff_t first = 0; first < pixels; first += POOL_BLOCK) {
        const ptrdiff_t many = fd_min(POOL_BLOCK, pixels - first);
        part_of_8 part = {0};
        for (ptrdiff_t i = 0; i < many;) {
            const ptrdiff_t h = (first + i) / width, w = (first + i) % width, run = fd_min(width - w, many - i);
            FD_CAT(fd_load, SFX)(p->image.type, fd_at(&p->image, n, c, h, w), right, buffer + i, run);
            i += run;
        }
        for (ptrdiff_t i = many; i % 8; i++) buffer[i] = 0;
        for (ptrdiff_t i = 0; i < many; i += 8) part += *(const part_of_8 *)(buffer + i);
        total += ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
    }
    total /= (T)pixels;
    FD_CAT(fd_store, SFX)(p->pooled.type, &total, fd_at(&p->pooled, n, c, 0, 0), 0, 1);
}

/* Row h of dx of image n: the shares of up to POOL_LINES channels, copied to each pixel. */
static void FD_CAT(global_backward, SFX)(const pool_call *p, ptrdiff_t n, ptrdiff_t h) {
    const fd_tensor *dx = &p->image;
    const ptrdiff_t channels = dx->shape[1], width = p->w.size;
    const T pixels = (T)(p->h.size * width);
    T share[POOL_LINES], line[POOL_LINES];
    for (ptrdiff_t c0 = 0; c0 < channels; c0 += POOL_LINES) {
        const ptrdiff_t many = fd_min(POOL_LINES, channels - c0);
        FD_CAT(fd_load, SFX)(p->pooled.type, fd_at(&p->pooled, n, c0, 0, 0), p->pooled.stride[1], share, many);
        for (ptrdiff_t c = 0; c < many; c++) share[c] /= pixels;
        if (dx->stride[1] == dx->itemsize) {
            for (ptrdiff_t w = 0; w < width; w++)
                FD_CAT(fd_store, SFX)(dx->type, share, fd_at(dx, n, c0, h, w), dx->stride[1], many);
            continue;
        }
        for (ptrdiff_t c = 0; c < many; c++) {
            for (ptrdiff_t w = 0; w < fd_min(width, POOL_LINES); w++) line[w] = share[c];
            for (ptrdiff_t w = 0; w < width; w += POOL_LINES)
                FD_CAT(fd_store, SFX)(dx->type, line, fd_at(dx, n, c0 + c, h, w), dx->stride[3],
                                      fd_min(POOL_LINES, width - w));
        }
    }
}
#undef V
#undef VI
#undef LANES
#undef BUFFER
