/* Between arrays and register tiles: panels in, epilogue and rounding out. Included once for each compute dtype by
 * blocks.h, with T and SFX defined. */

/* n contiguous elements. A loop of vectors: a call of memcpy costs more than the 1-16 vectors of a typical run. */
static inline void FD_CAT(fd_copy, SFX)(T *restrict to, const T *restrict from, ptrdiff_t n) {
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX);
    ptrdiff_t i = 0;
    for (; i + lanes <= n; i += lanes) {
        *(FD_CAT(fd_v, SFX) *)(to + i) = *(const FD_CAT(fd_v, SFX) *)(from + i);
        __asm__ volatile(""); /* or GCC recognises the loop and calls memcpy after all */
    }
    for (; i < n; i++) {
        to[i] = from[i];
        __asm__ volatile("");
    }
}

static inline void FD_CAT(fd_zero, SFX)(T *to, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) to[i] = 0;
}

/* As fd_load and fd_store, for short runs that are mostly contiguous in the compute dtype. */
static inline void FD_CAT(fd_read, SFX)(int type, const char *from, ptrdiff_t stride, T *to, ptrdiff_t n) {
    if (type == (sizeof(T) == 8 ? FD_F64 : FD_F32) && stride == (ptrdiff_t)sizeof(T))
        FD_CAT(fd_copy, SFX)(to, (const T *)from, n);
    else FD_CAT(fd_load, SFX)(type, from, stride, to, n);
}
static inline void FD_CAT(fd_write, SFX)(int type, const T *from, char *to, ptrdiff_t stride, ptrdiff_t n) {
    if (type == (sizeof(T) == 8 ? FD_F64 : FD_F32) && stride == (ptrdiff_t)sizeof(T))
        FD_CAT(fd_copy, SFX)((T *)to, from, n);
    else FD_CAT(fd_store, SFX)(type, from, to, stride, n);
}

/* As fd_read and fd_write for exactly one vector of contiguous elements: with the length a constant, the conversion of a
 * half is one instruction or two instead of a loop (1.8 -> 1.2 ms for Winograd's 16 -> 16 channels in float16). */
static inline void FD_CAT(fd_read_vector, SFX)(int type, const char *from, T *to) {
    const ptrdiff_t n = FD_CAT(FD_LANES, SFX);
    if (sizeof(T) == 4 && type == FD_F16) fd_widen_f16((const uint16_t *)from, (float *)(void *)to, n);
    else if (sizeof(T) == 4 && type == FD_BF16) fd_widen_bf16((const uint16_t *)from, (float *)(void *)to, n);
    else FD_CAT(fd_read, SFX)(type, from, fd_itemsize(type), to, n);
}
static inline void FD_CAT(fd_write_vector, SFX)(int type, const T *from, char *to) {
    const ptrdiff_t n = FD_CAT(FD_LANES, SFX);
    if (sizeof(T) == 4 && type == FD_F16) fd_narrow_f16((const float *)(const void *)from, (uint16_t *)to, n);
    else if (sizeof(T) == 4 && type == FD_BF16) fd_narrow_bf16((const float *)(const void *)from, (uint16_t *)to, n);
    else FD_CAT(fd_write, SFX)(type, from, to, fd_itemsize(type), n);
}

/* Panel of a matrix b[rows][n] for the register tile: to[row][nr], n <= nr, the rest of each row zero. */
static void FD_CAT(fd_pack_panel, SFX)(T *to, ptrdiff_t nr, int type, const char *b, ptrdiff_t rows, ptrdiff_t row_stride,
                                       ptrdiff_t n, ptrdiff_t column_stride) {
    const ptrdiff_t size = fd_itemsize(type);
    if (n < nr)
        for (ptrdiff_t i = 0; i < rows; i++)
            for (ptrdiff_t j = n; j < nr; j++) to[i * nr + j] = 0;
    if (column_stride == size || row_stride != size) {
        for (ptrdiff_t i = 0; i < rows; i++)
            FD_CAT(fd_read, SFX)(type, b + i * row_stride, column_stride, to + i * nr, n);
        return;
    }
    /* Contiguous along the rows of the panel: read runs, write them across. */
    T run[64];
    for (ptrdiff_t i0 = 0; i0 < rows; i0 += 64) {
        const ptrdiff_t many = fd_min(64, rows - i0);
        for (ptrdiff_t j = 0; j < n; j++) {
            FD_CAT(fd_load, SFX)(type, b + i0 * row_stride + j * column_stride, row_stride, run, many);
            for (ptrdiff_t i = 0; i < many; i++) to[(i0 + i) * nr + j] = run[i];
        }
    }
}

/* The epilogue on n sums of one output row, in place: add `bias` where there is one, then ReLU (NaN passes). */
static inline void FD_CAT(fd_epilogue, SFX)(T *restrict c, const T *restrict bias, int relu, ptrdiff_t n) {
    if (bias)
        for (ptrdiff_t j = 0; j < n; j++) c[j] += bias[j];
    if (relu)
        for (ptrdiff_t j = 0; j < n; j++) c[j] = c[j] <= 0 ? 0 : c[j];
}

/* c[j] = 0 where the j-th of n values of y, `stride` bytes apart, is <= 0. */
static void FD_CAT(fd_relu_mask, SFX)(T *restrict c, int type, const char *y, ptrdiff_t stride, ptrdiff_t n) {
    if (type == (sizeof(T) == 8 ? FD_F64 : FD_F32) && stride == (ptrdiff_t)sizeof(T)) {
        const T *from = (const T *)y;
        for (ptrdiff_t j = 0; j < n; j++) c[j] = from[j] <= 0 ? 0 : c[j];
        return;
    }
    T run[64];
    for (ptrdiff_t j0 = 0; j0 < n; j0 += 64) {
        const ptrdiff_t many = fd_min(64, n - j0);
        FD_CAT(fd_load, SFX)(type, y + j0 * stride, stride, run, many);
        for (ptrdiff_t j = 0; j < many; j++) c[j0 + j] = run[j] <= 0 ? 0 : c[j0 + j];
    }
}

/* Both at once: fd_relu_mask with y of the dtype `type`, then fd_write. Where all is contiguous in the compute dtype the
 * mask costs only the reading of y; as a step of its own it took a tenth of a gradient by 16 channels. */
static inline void FD_CAT(fd_write_masked, SFX)(int type, T *restrict c, char *restrict to, ptrdiff_t stride,
                                                const char *restrict y, ptrdiff_t y_stride, ptrdiff_t n) {
    const ptrdiff_t lanes = FD_CAT(FD_LANES, SFX), size = (ptrdiff_t)sizeof(T);
    if (type == (sizeof(T) == 8 ? FD_F64 : FD_F32) && stride == size && y_stride == size) {
        ptrdiff_t j = 0;
        for (; j + lanes <= n; j += lanes) {
            const FD_CAT(fd_v, SFX) v = *(const FD_CAT(fd_v, SFX) *)(c + j);
            const __typeof__(v <= v) cleared = *(const FD_CAT(fd_v, SFX) *)(y + j * size) <= (FD_CAT(fd_v, SFX)){0};
            *(FD_CAT(fd_v, SFX) *)(to + j * size) = (FD_CAT(fd_v, SFX))((__typeof__(cleared))v & ~cleared);
            __asm__ volatile(""); /* as in fd_copy */
        }
        for (; j < n; j++) {
            ((T *)to)[j] = ((const T *)y)[j] <= 0 ? 0 : c[j];
            __asm__ volatile("");
        }
        return;
    }
    FD_CAT(fd_relu_mask, SFX)(c, type, y, y_stride, n);
    FD_CAT(fd_write, SFX)(type, c, to, stride, n);
}

/* Contiguous bias of n values in the compute dtype on the arena; NULL where there is none. *status says if memory ran
 * out. Padded with zeros to full vectors. */
static const T *FD_CAT(fd_load_bias, SFX)(const fd_tensor *bias, ptrdiff_t n, int *status) {
    T *to;
    if (!bias) return NULL;
    to = (T *)rt->push((size_t)n * sizeof(T));
    if (!to) *status = FD_NO_MEMORY;
    else FD_CAT(fd_load, SFX)(bias->type, bias->data, bias->stride[0], to, n);
    return to;
}
