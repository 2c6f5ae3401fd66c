/* A block of an image with its zero padding, copied into scratch memory. Included for each compute dtype, with T and
 * SFX defined.
 *
 * to[row][column][wide] holds the rows from y0 and the columns from x0 of `channels` channels from c0; what lies beside
 * the image is zero, and so are the channels up to `wide`. Padding, storage dtype and memory order end here. */

/* to[x][channel] = run[channel][x]; with a constant number of channels the compiler makes shuffles of it. */
#define CONV_RUN 256
static inline __attribute__((always_inline)) void FD_CAT(conv_weave, SFX)(const T *restrict run, ptrdiff_t n,
                                                                         int channels, T *restrict to) {
    for (ptrdiff_t x = 0; x < n; x++)
        for (int c = 0; c < channels; c++) to[x * channels + c] = run[c * CONV_RUN + x];
}

static void FD_CAT(conv_pad_line, SFX)(const fd_tensor *t, const char *from, ptrdiff_t columns, ptrdiff_t channels,
                                       T *to, ptrdiff_t wide) {
    const ptrdiff_t sc = t->stride[1], sw = t->stride[3];
    if (channels == wide && (sc == t->itemsize || wide == 1) && (sw == wide * t->itemsize || columns == 1)) {
        FD_CAT(fd_read, SFX)(t->type, from, t->itemsize, to, columns * wide);
    } else if (sc == t->itemsize && channels > 4) {
        for (ptrdiff_t x = 0; x < columns; x++)
            FD_CAT(fd_read, SFX)(t->type, from + x * sw, sc, to + x * wide, channels);
    } else if (channels == wide && (channels == 3 || channels == 2 || channels == 4)) { /* a picture */
        T run[4 * CONV_RUN];
        for (ptrdiff_t x = 0; x < columns; x += CONV_RUN, to += CONV_RUN * wide) {
            const ptrdiff_t many = fd_min(CONV_RUN, columns - x);
            for (ptrdiff_t c = 0; c < channels; c++)
                FD_CAT(fd_load, SFX)(t->type, from + x * sw + c * sc, sw, run + c * CONV_RUN, many);
            if (channels == 3) FD_CAT(conv_weave, SFX)(run, many, 3, to);
            else if (channels == 2) FD_CAT(conv_weave, SFX)(run, many, 2, to);
            else FD_CAT(conv_weave, SFX)(run, many, 4, to);
        }
    } else { /* runs of pixels, written across */
        T run[CONV_RUN];
        for (ptrdiff_t x0 = 0; x0 < columns; x0 += CONV_RUN)
            for (ptrdiff_t c = 0; c < channels; c++) {
                const ptrdiff_t many = fd_min(CONV_RUN, columns - x0);
                T *restrict at = to + x0 * wide + c;
                FD_CAT(fd_load, SFX)(t->type, from + x0 * sw + c * sc, sw, run, many);
                for (ptrdiff_t x = 0; x < many; x++) at[x * wide] = run[x];
            }
    }
}

static void FD_CAT(conv_pad, SFX)(const fd_tensor *t, ptrdiff_t n, ptrdiff_t c0, ptrdiff_t channels, ptrdiff_t y0,
                                  ptrdiff_t rows, ptrdiff_t x0, ptrdiff_t columns, T *to, ptrdiff_t wide) {
    const ptrdiff_t left = fd_max(0, fd_min(-x0, columns)), right = fd_max(left, fd_min(t->shape[3] - x0, columns));
    for (ptrdiff_t y = y0; y < y0 + rows; y++, to += columns * wide) {
        const int inside = y >= 0 && y < t->shape[2] && right > left;
        if (!inside || channels < wide) memset(to, 0, (size_t)(columns * wide) * sizeof(T));
        if (!inside) continue;
        memset(to, 0, (size_t)(left * wide) * sizeof(T));
        memset(to + right * wide, 0, (size_t)((columns - right) * wide) * sizeof(T));
        FD_CAT(conv_pad_line, SFX)(t, fd_at(t, n, c0, y, x0 + left), right - left, channels, to + left * wide, wide);
    }
}
#undef CONV_RUN
