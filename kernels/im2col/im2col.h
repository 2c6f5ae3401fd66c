/* im2col: one row of windows. Included once for each element size, with E and SFX defined. */

/* n elements, `from_step` bytes apart, to places `to_step` bytes apart. */
static inline void FD_CAT(im2col_copy, SFX)(char *restrict to, ptrdiff_t to_step, const char *restrict from,
                                            ptrdiff_t from_step, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) *(E *)(to + i * to_step) = *(const E *)(from + i * from_step);
}

static void FD_CAT(im2col_row, SFX)(const im2col_call *p, ptrdiff_t n, ptrdiff_t oh) {
    const ptrdiff_t kernel_h = p->h.kernel, kernel_w = p->w.kernel, taps = kernel_h * kernel_w;
    const ptrdiff_t channels = p->image.shape[1];
    const ptrdiff_t x_c = p->image.stride[1], step = p->col.stride[1], size = (ptrdiff_t)sizeof(E);
    const ptrdiff_t down = p->image.stride[2] * p->h.dilation, right = p->image.stride[3] * p->w.dilation;
    /* Along the channels where they are closer together than the pixels, else along the taps. */
    const int by_channel = channels > 1 && (x_c < 0 ? -x_c : x_c) < (right < 0 ? -right : right);
    ptrdiff_t kh0, rows = fd_taps(&p->h, oh, &kh0);
    for (ptrdiff_t ow = 0; ow < p->w.windows; ow++) {
        ptrdiff_t kw0, columns = fd_taps(&p->w, ow, &kw0);
        char *row = im2col_window_row(p, n, oh, ow);
        if (rows < kernel_h || columns < kernel_w) {
            if (step == size) memset(row, 0, (size_t)(channels * taps * size));
            else
                for (ptrdiff_t i = 0; i < channels * taps; i++) *(E *)(row + i * step) = 0;
        }
        if (rows == 0 || columns == 0) continue;
        const char *from = fd_at(&p->image, n, 0, oh * p->h.stride - p->h.before + kh0 * p->h.dilation,
                                        ow * p->w.stride - p->w.before + kw0 * p->w.dilation);
        char *to = row + (kh0 * kernel_w + kw0) * step;
        if (by_channel && taps == 1 && step == size && x_c == size) {
            memcpy(to, from, (size_t)(channels * size));
        } else if (by_channel) {
            for (ptrdiff_t i = 0; i < rows; i++)
                for (ptrdiff_t j = 0; j < columns; j++)
                    FD_CAT(im2col_copy, SFX)(to + (i * kernel_w + j) * step, taps * step, from + i * down + j * right,
                                             x_c, channels);
        } else {
            for (ptrdiff_t c = 0; c < channels; c++)
                for (ptrdiff_t i = 0; i < rows; i++)
                    FD_CAT(im2col_copy, SFX)(to + (c * taps + i * kernel_w) * step, step, from + c * x_c + i * down,
                                             right, columns);
        }
    }
}
