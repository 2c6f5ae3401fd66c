/* col2im: one row of pixels, each the sum of the taps that stand on it, in row-major order. Included once for each
 * compute dtype, with T and SFX defined. */

/* sum[i * stride] += the i-th of `many` elements that are `step` bytes apart. */
static inline void FD_CAT(col2im_add, SFX)(int type, const char *from, ptrdiff_t step, T *sum, ptrdiff_t stride,
                                           ptrdiff_t many) {
    T buffer[COL2IM_RUN];
    if (type == FD_F32 || type == FD_F64) { /* T itself */
        if (step == (ptrdiff_t)sizeof(T) && stride == 1) /* a loop of its own, which the compiler makes vector code */
            for (ptrdiff_t i = 0; i < many; i++) sum[i] += ((const T *)from)[i];
        else
            for (ptrdiff_t i = 0; i < many; i++) sum[i * stride] += *(const T *)(from + i * step);
    } else {
        FD_CAT(fd_load, SFX)(type, from, step, buffer, many);
        for (ptrdiff_t i = 0; i < many; i++) sum[i * stride] += buffer[i];
    }
}

/* A pixel at a time, all of its channels side by side. */
static void FD_CAT(col2im_channels, SFX)(const im2col_call *p, ptrdiff_t n, ptrdiff_t h) {
    T sum[COL2IM_RUN];
    const int type = p->col.type;
    const ptrdiff_t channels = p->image.shape[1], taps = p->h.kernel * p->w.kernel, step = p->col.stride[1];
    for (ptrdiff_t w = 0; w < p->w.size; w++)
        for (ptrdiff_t c = 0; c < channels; c += COL2IM_RUN) {
            const ptrdiff_t many = fd_min(COL2IM_RUN, channels - c);
            for (ptrdiff_t i = 0; i < many; i++) sum[i] = 0;
            for (ptrdiff_t kh = 0; kh < p->h.kernel; kh++) {
                const ptrdiff_t oh = im2col_window(&p->h, kh, h);
                if (oh < 0) continue;
                for (ptrdiff_t kw = 0; kw < p->w.kernel; kw++) {
                    const ptrdiff_t ow = im2col_window(&p->w, kw, w);
                    if (ow < 0) continue;
                    const char *from = im2col_window_row(p, n, oh, ow) + (c * taps + kh * p->w.kernel + kw) * step;
                    FD_CAT(col2im_add, SFX)(type, from, taps * step, sum, 1, many);
                }
            }
            FD_CAT(fd_store, SFX)(type, sum, fd_at(&p->image, n, c, h, w), p->image.stride[1], many);
        }
}

/* For few channels: one of them at a time, its pixels side by side. */
static void FD_CAT(col2im_lines, SFX)(const im2col_call *p, ptrdiff_t n, ptrdiff_t h) {
    T sum[COL2IM_RUN];
    const fd_axis *a = &p->w;
    const int type = p->col.type;
    const ptrdiff_t channels = p->image.shape[1], taps = p->h.kernel * a->kernel, step = p->col.stride[1];
    for (ptrdiff_t c = 0; c < channels; c++)
        for (ptrdiff_t w0 = 0; w0 < a->size; w0 += COL2IM_RUN) {
            const ptrdiff_t many = fd_min(COL2IM_RUN, a->size - w0);
            for (ptrdiff_t i = 0; i < many; i++) sum[i] = 0;
            for (ptrdiff_t kh = 0; kh < p->h.kernel; kh++) {
                const ptrdiff_t oh = im2col_window(&p->h, kh, h);
                if (oh < 0) continue;
                for (ptrdiff_t kw = 0; kw < a->kernel; kw++) {
                    /* windows first .. last - 1 have their tap on pixels w0 .. w0 + many - 1 */
                    const ptrdiff_t shift = a->before - kw * a->dilation + w0;
                    const ptrdiff_t first = shift <= 0 ? 0 : fd_ceil_div(shift, a->stride);
                    const ptrdiff_t last = fd_min(a->windows, fd_ceil_div(fd_max(0, many + shift), a->stride));
                    if (last <= first) continue;
                    const char *from = im2col_window_row(p, n, oh, first) + (c * taps + kh * a->kernel + kw) * step;
                    FD_CAT(col2im_add, SFX)(type, from, p->col.stride[0], sum + first * a->stride - shift, a->stride,
                                            last - first);
                }
            }
            FD_CAT(fd_store, SFX)(type, sum, fd_at(&p->image, n, c, h, w0), p->image.stride[3], many);
        }
}
