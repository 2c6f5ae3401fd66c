/* The formulas of the optimizers and the tiles that they run over, for T (SFX, ROOT). */

/* ---- one element: g the gradient, p the parameter, then the states; s the scalars, rounded to T ----------------- */

/* s: lr */
static inline void FD_CAT(sgd, SFX)(T g, T *p, const T *s) { *p -= s[0] * g; }

/* s: lr, momentum */
static inline void FD_CAT(momentum, SFX)(T g, T *v, T *p, const T *s) {
    *v = s[1] * *v - s[0] * g;
    *p += *v;
}

/* s: lr, momentum, momentum**2, (1 + momentum) * lr */
static inline void FD_CAT(nesterov, SFX)(T g, T *v, T *p, const T *s) {
    *p = *p + s[2] * *v - s[3] * g;
    *v = s[1] * *v - s[0] * g;
}

/* s: lr, eps */
static inline void FD_CAT(adagrad, SFX)(T g, T *h, T *p, const T *s) {
    *h += g * g;
    *p -= s[0] * g / (ROOT(*h) + s[1]);
}

/* s: lr, eps, decay_rate, 1 - decay_rate */
static inline void FD_CAT(rmsprop, SFX)(T g, T *h, T *p, const T *s) {
    *h = s[2] * *h + s[3] * g * g;
    *p -= s[0] * g / (ROOT(*h) + s[1]);
}

/* s: rate, eps, 1 - beta1, 1 - beta2 */
static inline void FD_CAT(adam, SFX)(T g, T *m, T *v, T *p, const T *s) {
    *m += s[2] * (g - *m);
    *v += s[3] * (g * g - *v);
    *p -= s[0] * *m / (ROOT(*v) + s[1]);
}

/* ---- n elements in a row ---------------------------------------------------------------------------------------- */

#define OPTIM_ROW(formula)                                                                    \
    static void FD_CAT(formula##_row, SFX)(T *const *at, ptrdiff_t n, const T *s) {           \
        const T *restrict g = at[0];                                                          \
        T *restrict v = at[1], *restrict p = at[2];                                           \
        for (ptrdiff_t i = 0; i < n; i++) FD_CAT(formula, SFX)(g[i], &v[i], &p[i], s);        \
    }
OPTIM_ROW(momentum)
OPTIM_ROW(nesterov)
OPTIM_ROW(adagrad)
OPTIM_ROW(rmsprop)
#undef OPTIM_ROW

static void FD_CAT(sgd_row, SFX)(T *const *at, ptrdiff_t n, const T *s) {
    const T *restrict g = at[0];
    T *restrict p = at[1];
    for (ptrdiff_t i = 0; i < n; i++) FD_CAT(sgd, SFX)(g[i], &p[i], s);
}

static void FD_CAT(adam_row, SFX)(T *const *at, ptrdiff_t n, const T *s) {
    const T *restrict g = at[0];
    T *restrict m = at[1], *restrict v = at[2], *restrict p = at[3];
    for (ptrdiff_t i = 0; i < n; i++) FD_CAT(adam, SFX)(g[i], &m[i], &v[i], &p[i], s);
}

static void FD_CAT(optim_row, SFX)(int kind, T *const *at, ptrdiff_t n, const T *s) {
    switch (kind) {
    case OPTIM_SGD: FD_CAT(sgd_row, SFX)(at, n, s); break;
    case OPTIM_MOMENTUM: FD_CAT(momentum_row, SFX)(at, n, s); break;
    case OPTIM_NESTEROV: FD_CAT(nesterov_row, SFX)(at, n, s); break;
    case OPTIM_ADAGRAD: FD_CAT(adagrad_row, SFX)(at, n, s); break;
    case OPTIM_RMSPROP: FD_CAT(rmsprop_row, SFX)(at, n, s); break;
    case OPTIM_ADAM: FD_CAT(adam_row, SFX)(at, n, s); break;
    }
}

/* ---- a tile ----------------------------------------------------------------------------------------------------- */

/* Between memory and a buffer of `rows` rows; the inner loop runs along the axis with the smaller step. */
#define OPTIM_TRANSFER(assignment)                                                             \
    if (fd_abs(across) <= fd_abs(down))                                                        \
        for (ptrdiff_t r = 0; r < rows; r++)                                                   \
            for (ptrdiff_t c = 0; c < columns; c++) assignment;                                \
    else                                                                                       \
        for (ptrdiff_t c = 0; c < columns; c++)                                                \
            for (ptrdiff_t r = 0; r < rows; r++) assignment

static void FD_CAT(optim_load, SFX)(const char *restrict from, ptrdiff_t down, ptrdiff_t across, T *restrict to,
                                    ptrdiff_t rows, ptrdiff_t columns) {
    OPTIM_TRANSFER(to[r * columns + c] = *(const T *)(from + r * down + c * across));
}

static void FD_CAT(optim_store, SFX)(const T *restrict from, char *restrict to, ptrdiff_t down, ptrdiff_t across,
                                     ptrdiff_t rows, ptrdiff_t columns) {
    OPTIM_TRANSFER(*(T *)(to + r * down + c * across) = from[r * columns + c]);
}
#undef OPTIM_TRANSFER

static void FD_CAT(optim_tile, SFX)(const optim_call *call, const fd_elementwise *e, char *const *at, ptrdiff_t rows,
                                    ptrdiff_t columns) {
    const int inner = e->ndim - 1;
    const ptrdiff_t packed = columns * (ptrdiff_t)sizeof(T);
    T buffer[OPTIM_OPERANDS][OPTIM_BUFFER], *row[OPTIM_OPERANDS] = {0}, scalar[4];
    ptrdiff_t across[OPTIM_OPERANDS], down[OPTIM_OPERANDS], step[OPTIM_OPERANDS];
    int one = 1; /* are the rows of every operand, in memory or in its buffer, adjacent? */
    for (int i = 0; i < 4; i++) scalar[i] = (T)call->scalar[i];
    for (int i = 0; i < call->operands; i++) {
        across[i] = e->stride[i][inner];
        down[i] = inner ? e->stride[i][inner - 1] : 0;
        if (across[i] == (ptrdiff_t)sizeof(T)) {
            row[i] = (T *)at[i];
            step[i] = down[i];
            one = one && (rows == 1 || down[i] == packed);
        } else {
            row[i] = buffer[i];
            step[i] = packed;
            FD_CAT(optim_load, SFX)(at[i], down[i], across[i], buffer[i], rows, columns);
        }
    }
    if (one) {
        FD_CAT(optim_row, SFX)(call->kind, row, rows * columns, scalar);
    } else {
        for (ptrdiff_t r = 0; r < rows; r++) {
            FD_CAT(optim_row, SFX)(call->kind, row, columns, scalar);
            for (int i = 0; i < call->operands; i++) row[i] = (T *)((char *)row[i] + step[i]);
        }
    }
    for (int i = 1; i < call->operands; i++) /* the gradient stays as it is */
        if (across[i] != (ptrdiff_t)sizeof(T))
            FD_CAT(optim_store, SFX)(buffer[i], at[i], down[i], across[i], rows, columns);
}
