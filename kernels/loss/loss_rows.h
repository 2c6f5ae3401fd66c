/* Blocks of rows, for T (SFX, TYPE). A block is contiguous, row after row: it lies in a buffer, or in the matrix itself
 * where that looks the same. With few classes a row is shorter than a vector; what treats elements alone runs over the
 * whole block. */

/* ---- one row ---------------------------------------------------------------------------------------------------- */

/* NaN is passed over unless all is NaN: it comes back in exp(x - max). The order makes no difference here, so the vectors
 * are those of the level; GCC 12 leaves a conditional expression over LANES values scalar. */
static inline T FD_CAT(row_max, SFX)(const T *restrict x, ptrdiff_t n) {
    typedef FD_CAT(fd_v, SFX) vector;
    typedef FD_CAT(loss_i, SFX) mask;
    const ptrdiff_t lanes = (ptrdiff_t)(sizeof(vector) / sizeof(T));
    T most = -(T)INFINITY;
    ptrdiff_t i = 0;
    if (n >= lanes) {
#define LARGER(best, v)                                               \
    do {                                                              \
        const mask above = (v) > best;                                \
        best = (vector)((above & (mask)(v)) | (~above & (mask)best)); \
    } while (0)
        /* Four chains: a comparison waits for the one before, and in one chain a row of 1000 for half its time. */
        vector best = most - (vector){0}, best1 = best, best2 = best, best3 = best;
        for (; i + 4 * lanes <= n; i += 4 * lanes) {
            LARGER(best, *(const vector *)(x + i));
            LARGER(best1, *(const vector *)(x + i + lanes));
            LARGER(best2, *(const vector *)(x + i + 2 * lanes));
            LARGER(best3, *(const vector *)(x + i + 3 * lanes));
        }
        for (; i + lanes <= n; i += lanes) LARGER(best, *(const vector *)(x + i));
        LARGER(best, best1);
        LARGER(best2, best3);
        LARGER(best, best2);
#undef LARGER
        for (ptrdiff_t l = 0; l < lanes; l++) most = best[l] > most ? best[l] : most;
    }
    for (; i < n; i++) most = x[i] > most ? x[i] : most;
    return most;
}

static inline T FD_CAT(add_lanes, SFX)(T *lane) {
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int l = 0; l < width; l++) lane[l] += lane[l + width];
    return lane[0];
}

static inline T FD_CAT(row_sum, SFX)(const T *restrict x, ptrdiff_t n) {
    T sum = 0, lane[LANES] = {0};
    ptrdiff_t i = 0;
    if (n < LANES) {
        for (; i < n; i++) sum += x[i];
        return sum;
    }
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) lane[l] += x[i + l];
    for (int l = 0; i + l < n; l++) lane[l] += x[i + l];
    return FD_CAT(add_lanes, SFX)(lane);
}

static inline T FD_CAT(row_dot, SFX)(const T *restrict x, const T *restrict y, ptrdiff_t n) {
    T sum = 0, lane[LANES] = {0};
    ptrdiff_t i = 0;
    if (n < LANES) {
        for (; i < n; i++) sum += x[i] * y[i];
        return sum;
    }
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) lane[l] += x[i + l] * y[i + l];
    for (int l = 0; i + l < n; l++) lane[l] += x[i + l] * y[i + l];
    return FD_CAT(add_lanes, SFX)(lane);
}

/* ---- blocks ----------------------------------------------------------------------------------------------------- */

/* Whether rows of T follow each other without gaps. */
static inline int FD_CAT(is_block, SFX)(const fd_tensor *t) {
    return t->type == TYPE && (t->stride[1] == (ptrdiff_t)sizeof(T) || t->shape[1] == 1)
        && (t->stride[0] == t->shape[1] * (ptrdiff_t)sizeof(T) || t->shape[0] == 1);
}

/* n rows from `row` on, contiguous in `to`. */
static void FD_CAT(block_load, SFX)(const fd_tensor *t, ptrdiff_t row, ptrdiff_t n, T *restrict to) {
    const ptrdiff_t classes = t->shape[1], step = t->stride[1];
    const char *from = t->data + row * t->stride[0];
    if (t->stride[0] == classes * step) {
        FD_CAT(fd_load, SFX)(t->type, from, step, to, n * classes);
        return;
    }
    for (ptrdiff_t i = 0; i < n; i++, from += t->stride[0], to += classes)
        FD_CAT(fd_load, SFX)(t->type, from, step, to, classes);
}

static void FD_CAT(block_store, SFX)(const T *restrict from, const fd_tensor *t, ptrdiff_t row, ptrdiff_t n) {
    const ptrdiff_t classes = t->shape[1], step = t->stride[1];
    char *to = t->data + row * t->stride[0];
    if (t->stride[0] == classes * step) {
        FD_CAT(fd_store, SFX)(t->type, from, to, step, n * classes);
        return;
    }
    for (ptrdiff_t i = 0; i < n; i++, from += classes, to += t->stride[0])
        FD_CAT(fd_store, SFX)(t->type, from, to, step, classes);
}

/* The block to read, itself or loaded into a buffer; NULL without memory. */
static const T *FD_CAT(block_in, SFX)(const fd_tensor *t, ptrdiff_t row, ptrdiff_t n) {
    if (FD_CAT(is_block, SFX)(t)) return (const T *)(t->data + row * t->stride[0]);
    T *buffer = (T *)rt->push((size_t)(n * t->shape[1]) * sizeof(T));
    if (buffer) FD_CAT(block_load, SFX)(t, row, n, buffer);
    return buffer;
}

/* The block to write, or a buffer for it; block_done then stores that. */
static T *FD_CAT(block_out, SFX)(const fd_tensor *t, ptrdiff_t row, ptrdiff_t n) {
    if (FD_CAT(is_block, SFX)(t)) return (T *)(t->data + row * t->stride[0]);
    return (T *)rt->push((size_t)(n * t->shape[1]) * sizeof(T));
}

static void FD_CAT(block_done, SFX)(const T *from, const fd_tensor *t, ptrdiff_t row, ptrdiff_t n) {
    if (!FD_CAT(is_block, SFX)(t)) FD_CAT(block_store, SFX)(from, t, row, n);
}

/* ---- tasks ------------------------------------------------------------------------------------------------------ */

/* Probabilities, and losses where there are labels. */
static int FD_CAT(loss_forward_task, SFX)(void *context, ptrdiff_t task) {
    const loss_call *c = (const loss_call *)context;
    const ptrdiff_t first = task * c->block, rows = fd_min(c->block, c->rows - first), classes = c->classes;
    const int separate = classes < 4 * LANES; /* rows too short for a loop of their own over exp */
    const T *restrict x = FD_CAT(block_in, SFX)(&c->a, first, rows);
    T *restrict e = FD_CAT(block_out, SFX)(&c->to, first, rows);
    T *own = (T *)rt->push((size_t)rows * sizeof(T)), *sum = (T *)rt->push((size_t)rows * sizeof(T));
    if (!x || !e || !own || !sum) return FD_NO_MEMORY;
    for (ptrdiff_t i = 0; i < rows; i++) {
        const T *restrict from = x + i * classes;
        T *restrict row = e + i * classes;
        const T most = FD_CAT(row_max, SFX)(from, classes);
        const ptrdiff_t label = c->labelled ? loss_label(c, first + i) : -1;
        own[i] = label < 0 ? (T)NAN : from[label] - most;
        if (separate) for (ptrdiff_t j = 0; j < classes; j++) row[j] = from[j] - most;
        else for (ptrdiff_t j = 0; j < classes; j++) row[j] = FD_CAT(fd_exp, SFX)(from[j] - most);
    }
    for (ptrdiff_t j = 0; separate && j < rows * classes; j++) e[j] = FD_CAT(fd_exp, SFX)(e[j]);
    for (ptrdiff_t i = 0; i < rows; i++) {
        T *row = e + i * classes;
        const T total = sum[i] = FD_CAT(row_sum, SFX)(row, classes);
        for (ptrdiff_t j = 0; j < classes; j++) row[j] /= total;
    }
    if (c->labelled) {
        const ptrdiff_t step = c->losses.stride[0];
        for (ptrdiff_t i = 0; i < rows; i++) own[i] = FD_CAT(fd_log, SFX)(sum[i]) - own[i];
        FD_CAT(fd_store, SFX)(c->losses.type, own, c->losses.data + first * step, step, rows);
    }
    FD_CAT(block_done, SFX)(e, &c->to, first, rows);
    return FD_OK;
}

/* y * (dout - sum(dout * y)) */
static int FD_CAT(loss_backward_task, SFX)(void *context, ptrdiff_t task) {
    const loss_call *c = (const loss_call *)context;
    const ptrdiff_t first = task * c->block, rows = fd_min(c->block, c->rows - first), classes = c->classes;
    const T *dout = FD_CAT(block_in, SFX)(&c->a, first, rows), *y = FD_CAT(block_in, SFX)(&c->b, first, rows);
    T *dx = FD_CAT(block_out, SFX)(&c->to, first, rows);
    if (!dout || !y || !dx) return FD_NO_MEMORY;
    for (ptrdiff_t i = 0; i < rows; i++) {
        const T *restrict d = dout + i * classes, *restrict p = y + i * classes;
        T *restrict row = dx + i * classes;
        const T dot = FD_CAT(row_dot, SFX)(d, p, classes);
        for (ptrdiff_t j = 0; j < classes; j++) row[j] = p[j] * (d[j] - dot);
    }
    FD_CAT(block_done, SFX)(dx, &c->to, first, rows);
    return FD_OK;
}

/* (probabilities - one_hot(labels)) * scale */
static int FD_CAT(loss_entropy_task, SFX)(void *context, ptrdiff_t task) {
    const loss_call *c = (const loss_call *)context;
    const ptrdiff_t first = task * c->block, rows = fd_min(c->block, c->rows - first), classes = c->classes;
    const T scale = *(const T *)c->scale.data;
    const T *restrict p = FD_CAT(block_in, SFX)(&c->a, first, rows);
    T *restrict dx = FD_CAT(block_out, SFX)(&c->to, first, rows);
    if (!p || !dx) return FD_NO_MEMORY;
    for (ptrdiff_t j = 0; j < rows * classes; j++) dx[j] = p[j] * scale;
    for (ptrdiff_t i = 0; i < rows; i++) {
        const ptrdiff_t label = loss_label(c, first + i);
        if (label >= 0) dx[i * classes + label] = (p[i * classes + label] - 1) * scale;
    }
    FD_CAT(block_done, SFX)(dx, &c->to, first, rows);
    return FD_OK;
}
