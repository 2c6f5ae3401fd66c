/* The activations for T (SFX): formulas of one element, and the loops that bring them to n. */

static inline T FD_CAT(relu_value, SFX)(T x) { return x <= 0 ? 0 : x; }
static inline T FD_CAT(relu_gradient, SFX)(T dout, T y) { return y <= 0 ? 0 : dout; }

static inline T FD_CAT(relu6_value, SFX)(T x) { return x <= 0 ? 0 : x >= 6 ? 6 : x; }
static inline T FD_CAT(relu6_gradient, SFX)(T dout, T y) { return y <= 0 || y >= 6 ? 0 : dout; }

static inline T FD_CAT(sigmoid_value, SFX)(T x) { return FD_CAT(fd_sigmoid, SFX)(x); }
static inline T FD_CAT(sigmoid_gradient, SFX)(T dout, T y) { return dout * y * (1 - y); }

static inline T FD_CAT(tanh_value, SFX)(T x) { return FD_CAT(fd_tanh, SFX)(x); }
static inline T FD_CAT(tanh_gradient, SFX)(T dout, T y) { return dout * (1 - y * y); }

/* No activations: there so that a test can measure their errors. */
static inline T FD_CAT(exp_value, SFX)(T x) { return FD_CAT(fd_exp, SFX)(x); }
static inline T FD_CAT(log_value, SFX)(T x) { return FD_CAT(fd_log, SFX)(x); }

#define FORWARD(op)                                                                                               \
    static void FD_CAT(op##_forward, SFX)(const T *const *in, T *out, ptrdiff_t n, const void *parameters) {      \
        const T *x = in[0];                                                                                       \
        (void)parameters;                                                                                         \
        FD_EW_LOOP                                                                                                \
        for (ptrdiff_t i = 0; i < n; i++) out[i] = FD_CAT(op##_value, SFX)(x[i]);                                 \
    }
FORWARD(relu)
FORWARD(relu6)
FORWARD(sigmoid)
FORWARD(tanh)
FORWARD(exp)
FORWARD(log)
#undef FORWARD

#define BACKWARD(op)                                                                                              \
    static void FD_CAT(op##_backward, SFX)(const T *const *in, T *dx, ptrdiff_t n, const void *parameters) {      \
        const T *dout = in[0], *y = in[1];                                                                        \
        (void)parameters;                                                                                         \
        FD_EW_LOOP                                                                                                \
        for (ptrdiff_t i = 0; i < n; i++) dx[i] = FD_CAT(op##_gradient, SFX)(dout[i], y[i]);                      \
    }
BACKWARD(relu)
BACKWARD(relu6)
BACKWARD(sigmoid)
BACKWARD(tanh)
#undef BACKWARD
