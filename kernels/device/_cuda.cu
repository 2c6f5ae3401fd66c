// Small things that happen to arrays on a device: see __init__.py.
#include "elementwise.cuh"

constexpr int BLOCK = 256;

// ---- numbers of any dtype -------------------------------------------------------------------------------------------

// As _cuda.py counts them.
DEVICE double number(const u8 *p, int kind) {
    switch (kind) {
    case 0: return *(const i8 *)p;
    case 1: return *(const u8 *)p;
    case 2: return *(const short *)p;
    case 3: return *(const u16 *)p;
    case 4: return *(const int *)p;
    case 5: return *(const u32 *)p;
    case 6: return double(*(const i64 *)p);
    case 7: return double(*(const u64 *)p);
    case 8: return *(const float *)p;
    case 9: return *(const double *)p;
    case 10: return widen(*(const f16 *)p);
    default: return widen(*(const bf16 *)p);
    }
}

// ---- copies ---------------------------------------------------------------------------------------------------------

struct Copy {
    Extent extent;
    View views[2];
    int itemsize;
};

KERNEL(copy, 256, 4, Copy) {
    i64 i = i64(BLOCK_X) * BLOCK + THREAD, at[2];
    if (i >= a.extent.n) return;
    offsets<2>(a.extent, a.views, i, at);
    const u8 *from = a.views[0].at + at[0];
    u8 *to = a.views[1].at + at[1];
    switch (a.itemsize) {
    case 1: *to = *from; break;
    case 2: *(u16 *)to = *(const u16 *)from; break;
    case 4: *(u32 *)to = *(const u32 *)from; break;
    default: *(u64 *)to = *(const u64 *)from;
    }
}

struct Numbers {
    Extent extent;
    View views[2];
    int kind;
};

KERNEL(numbers, 256, 4, Numbers) {
    i64 i = i64(BLOCK_X) * BLOCK + THREAD, at[2];
    if (i >= a.extent.n) return;
    offsets<2>(a.extent, a.views, i, at);
    const u8 *from = a.views[0].at + at[0];
    T *to = (T *)(a.views[1].at + at[1]);
    // 64-bit integers go to float in one rounding too.
    if (a.kind == 6)
        *to = sizeof(T) == 4 ? narrow<T>(float(*(const i64 *)from)) : narrow<T>(double(*(const i64 *)from));
    else if (a.kind == 7)
        *to = sizeof(T) == 4 ? narrow<T>(float(*(const u64 *)from)) : narrow<T>(double(*(const u64 *)from));
    else
        *to = narrow<T>(number(from, a.kind));
}

struct Take {
    const u8 *source;
    const i64 *rows;
    u8 *out;
    i64 n, units; // of `width` bytes in a row
    int width;
};

KERNEL(take, 256, 4, Take) {
    i64 i = i64(BLOCK_X) * BLOCK + THREAD;
    if (i >= a.n * a.units) return;
    i64 row = i / a.units, from = a.rows[row] * a.units + (i - row * a.units);
    switch (a.width) {
    case 16: store((Wide *)a.out + i, load<Wide>((const Wide *)a.source + from)); break;
    case 4: ((u32 *)a.out)[i] = ((const u32 *)a.source)[from]; break;
    default: a.out[i] = a.source[from];
    }
}

// ---- labels ---------------------------------------------------------------------------------------------------------

struct Labels {
    const u8 *t;
    i64 *out;
    i64 n;
    int kind, itemsize;
};

KERNEL(labels, 256, 4, Labels) {
    i64 i = i64(BLOCK_X) * BLOCK + THREAD;
    if (i >= a.n) return;
    const u8 *p = a.t + i * a.itemsize;
    a.out[i] = a.kind >= 6 ? *(const i64 *)p : i64(number(p, a.kind));
}

struct Argmax {
    const u8 *t;
    i64 *out;
    i64 rows, classes, row_stride, class_stride;
    int kind;
};

KERNEL(argmax, 256, 4, Argmax) {
    i64 row = i64(BLOCK_X) * BLOCK + THREAD;
    if (row >= a.rows) return;
    const u8 *p = a.t + row * a.row_stride;
    double best = number(p, a.kind);
    i64 at = 0;
    ROLLED for (i64 j = 1; j < a.classes && best == best; j++) {
        double v = number(p + j * a.class_stride, a.kind);
        if (!(v <= best)) best = v, at = j;
    }
    a.out[row] = at;
}

// The sum over a block, in thread 0.
template <class V> DEVICE V block_sum(V v) {
    SHARED(V, sums, BLOCK);
    sums[THREAD] = v;
    ROLLED for (u32 half = BLOCK / 2; half; half /= 2) {
        BARRIER();
        if (THREAD < half) sums[THREAD] += sums[THREAD + half];
    }
    return sums[0];
}

struct Equal {
    const i64 *a, *b;
    i64 *total;
    i64 n;
};

KERNEL(count_equal, 256, 4, Equal) {
    i64 found = 0;
    ROLLED for (i64 i = THREAD; i < a.n; i += BLOCK) found += a.a[i] == a.b[i];
    found = block_sum(found);
    if (THREAD == 0) *a.total += found;
}

struct Counter {
    i64 *counter;
};

KERNEL(advance, 256, 4, Counter) {
    if (THREAD == 0) ++*a.counter;
}

// ---- losses ---------------------------------------------------------------------------------------------------------

struct Mean {
    const S *values;
    S *out;
    i64 n;
};

KERNEL(mean, 256, 4, Mean) {
    double sum = 0;
    ROLLED for (i64 i = THREAD; i < a.n; i += BLOCK) sum += a.values[i];
    sum = block_sum(sum);
    if (THREAD == 0) *a.out = S(sum / double(a.n));
}

struct BookLoss {
    const u8 *y;
    const i64 *labels;
    double *out;
    i64 rows, classes, row_stride, class_stride;
};

KERNEL(book_loss, 256, 4, BookLoss) {
    double sum = 0;
    ROLLED for (i64 i = THREAD; i < a.rows; i += BLOCK) {
        i64 label = a.labels[i];
        bool known = 0 <= label && label < a.classes;
        double p = known ? double(*(const S *)(a.y + i * a.row_stride + label * a.class_stride)) : -1.0;
        sum += log_of(p + 1e-7); // NaN of a negative number
    }
    sum = block_sum(sum);
    if (THREAD == 0) *a.out = -sum / double(a.rows);
}

struct BookGradient {
    Extent extent;
    View views[3]; // y, t, dx
    S rows;
};

KERNEL(book_gradient, 256, 4, BookGradient) {
    i64 i = i64(BLOCK_X) * BLOCK + THREAD, at[3];
    if (i >= a.extent.n) return;
    offsets<3>(a.extent, a.views, i, at);
    S y = *(const S *)(a.views[0].at + at[0]), t = *(const S *)(a.views[1].at + at[1]);
    *(T *)(a.views[2].at + at[2]) = narrow<T>((y - t) / a.rows);
}

struct Scaled {
    const S *from;
    S *to;
    double by;
};

KERNEL(scaled, 256, 4, Scaled) {
    if (THREAD == 0) *a.to = S(double(*a.from) * a.by);
}

// ---- training -------------------------------------------------------------------------------------------------------

struct Decayed {
    Extent extent;
    View views[3]; // grad, param, out
    S by;
};

KERNEL(decayed, 256, 4, Decayed) {
    S by = a.by;
    map<2>(a.extent, a.views, [by](const S (&v)[2]) { return v[0] + times(by, v[1]); });
}

struct Running {
    double *mean;
    const S *batch;
    i64 n;
    double momentum;
};

KERNEL(running, 256, 4, Running) {
    i64 i = i64(BLOCK_X) * BLOCK + THREAD;
    if (i < a.n) a.mean[i] = times(a.momentum, a.mean[i]) + times(1 - a.momentum, double(a.batch[i]));
}
