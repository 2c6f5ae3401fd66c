// softmax, softmax_cross_entropy: see __init__.py. The kernels for few classes have 8 lanes to a row, those for more a
// warp, those for many a block. Values stay in registers where that is quick, else rows are read again from a cache.
#include "device.cuh"

struct Matrix {
    u8 *at;
    i64 row, column; // bytes from one to the next
};

struct Forward {
    Matrix x, out;    // out is of type S where there are labels
    const u8 *labels; // or null
    u8 *losses;
    i64 label_stride, loss_stride; // bytes
    i64 rows, classes;
    int packed; // rows are dense, aligned to 16 bytes and full packs long
};

struct Backward {
    Matrix dout, y, dx;
    i64 rows, classes;
    int packed;
};

struct Entropy {
    Matrix probabilities, dx;
    const u8 *labels;
    i64 label_stride;
    const S *scale; // see given
    S scale_value;
    i64 rows, classes;
    int packed;
};

constexpr int THREADS = 128, BLOCK = 256, WIDTH = Pack<T>::N; // elements that neighbour each other in a thread
// Packs of a thread: 32 bytes of numbers for few classes, 128 for more.
constexpr int FEW = 32 / (WIDTH * sizeof(S)), MORE = 128 / (WIDTH * sizeof(S));

// WIDTH elements of a row from `first` on, `pad` behind its end.
template <class E>
DEVICE void fetch(const Matrix &m, i64 row, i64 first, i64 classes, int packed, S pad, S (&v)[WIDTH]) {
    constexpr int N = Pack<E>::N;
    const u8 *at = m.at + row * m.row + first * m.column;
    UNROLL for (int c = 0; c < WIDTH; c++) v[c] = pad;
    if (packed) {
        if (first >= classes) return;
        UNROLL for (int c = 0; c < WIDTH; c += N) {
            Pack<E> pack = load<Pack<E>>((const E *)at + c);
            UNROLL for (int i = 0; i < N; i++) v[c + i] = widen(pack.at[i]);
        }
    } else
        UNROLL for (int c = 0; c < WIDTH; c++)
            if (first + c < classes) v[c] = widen(*(const E *)(at + c * m.column));
}

template <class E> DEVICE void put(const Matrix &m, i64 row, i64 first, i64 classes, int packed, const S (&v)[WIDTH]) {
    constexpr int N = Pack<E>::N;
    u8 *at = m.at + row * m.row + first * m.column;
    if (packed) {
        if (first >= classes) return;
        UNROLL for (int c = 0; c < WIDTH; c += N) {
            Pack<E> pack;
            UNROLL for (int i = 0; i < N; i++) pack.at[i] = narrow<E>(v[c + i]);
            store((E *)at + c, pack);
        }
    } else
        UNROLL for (int c = 0; c < WIDTH; c++)
            if (first + c < classes) *(E *)(at + c * m.column) = narrow<E>(v[c]);
}

// Over the G lanes of a row; every lane gets the result.
template <int G> DEVICE S row_most(S v) {
    UNROLL for (int mask = G / 2; mask; mask >>= 1) v = most(v, shuffle_xor(v, mask));
    return v;
}
template <int G> DEVICE S row_sum(S v) {
    UNROLL for (int mask = G / 2; mask; mask >>= 1) v += shuffle_xor(v, mask);
    return v;
}

// A NaN is never the largest here: it makes the sum of the exponentials NaN.
DEVICE S lowest() { return S(float_of(0xFF800000)); }

DEVICE void put_loss(const Forward &a, i64 row, S largest, S sum) {
    i64 label = *(const i64 *)(a.labels + row * a.label_stride);
    S loss = S(float_of(0x7FC00000));
    if (label >= 0 && label < a.classes)
        loss = log_of(sum) - (widen(*(const T *)(a.x.at + row * a.x.row + label * a.x.column)) - largest);
    *(S *)(a.losses + row * a.loss_stride) = loss;
}

DEVICE void put_out(const Forward &a, i64 row, i64 first, i64 classes, int packed, const S (&v)[WIDTH]) {
    if (sizeof(T) == sizeof(S) || !a.labels)
        put<T>(a.out, row, first, classes, packed, v);
    else
        put<S>(a.out, row, first, classes, packed, v);
}

template <int G, int PACKS> DEVICE void forward(const Forward &a, i64 row, i64 classes, int packed) {
    int lane = THREAD % G;
    S v[PACKS][WIDTH], largest = lowest(), sum = 0;
    UNROLL for (int j = 0; j < PACKS; j++)
        fetch<T>(a.x, row, (j * G + lane) * WIDTH, classes, packed, lowest(), v[j]);
    UNROLL for (int j = 0; j < PACKS; j++)
        UNROLL for (int c = 0; c < WIDTH; c++) largest = most(largest, v[j][c]);
    largest = row_most<G>(largest);
    UNROLL for (int j = 0; j < PACKS; j++)
        UNROLL for (int c = 0; c < WIDTH; c++) sum += v[j][c] = exp_of(v[j][c] - largest);
    sum = row_sum<G>(sum);
    UNROLL for (int j = 0; j < PACKS; j++) {
        UNROLL for (int c = 0; c < WIDTH; c++) v[j][c] = v[j][c] / sum;
        put_out(a, row, (j * G + lane) * WIDTH, classes, packed, v[j]);
    }
    if (a.labels && lane == 0 && row < a.rows) put_loss(a, row, largest, sum);
}

template <int G, int PACKS> DEVICE void backward(const Backward &a, i64 row, i64 classes, int packed) {
    int lane = THREAD % G;
    S d[PACKS][WIDTH], y[PACKS][WIDTH], sum = 0;
    UNROLL for (int j = 0; j < PACKS; j++) {
        fetch<T>(a.dout, row, (j * G + lane) * WIDTH, classes, packed, 0, d[j]);
        fetch<T>(a.y, row, (j * G + lane) * WIDTH, classes, packed, 0, y[j]);
    }
    UNROLL for (int j = 0; j < PACKS; j++)
        UNROLL for (int c = 0; c < WIDTH; c++) sum = fma_of(d[j][c], y[j][c], sum);
    sum = row_sum<G>(sum);
    UNROLL for (int j = 0; j < PACKS; j++) {
        UNROLL for (int c = 0; c < WIDTH; c++) d[j][c] = y[j][c] * (d[j][c] - sum);
        put<T>(a.dx, row, (j * G + lane) * WIDTH, classes, packed, d[j]);
    }
}

// Over the threads of a row, a warp or a block, in the same order in each of them.
template <int G> DEVICE S all_most(S v, S *shared) {
    v = row_most<32>(v);
    if (G == 32) return v;
    if (LANE == 0) shared[THREAD / 32] = v;
    BARRIER();
    UNROLL for (int i = 0; i < G / 32; i++) v = most(v, shared[i]);
    return v;
}
template <int G> DEVICE S all_sum(S v, S *shared) {
    v = row_sum<32>(v);
    if (G == 32) return v;
    if (LANE == 0) shared[THREAD / 32] = v;
    BARRIER();
    v = shared[0];
    UNROLL for (int i = 1; i < G / 32; i++) v += shared[i];
    return v;
}

// What the two above do, with the same bits, by G threads that read their row again.
template <int G> DEVICE void forward_again(const Forward &a, i64 row, i64 classes, int packed) {
    SHARED(S, of_most, G / 32);
    SHARED(S, of_sum, G / 32);
    int begin = THREAD % G * WIDTH;
    S v[WIDTH], largest = lowest(), sum = 0;
    ROLLED for (i64 first = begin; first < classes; first += G * WIDTH) {
        fetch<T>(a.x, row, first, classes, packed, lowest(), v);
        UNROLL for (int c = 0; c < WIDTH; c++) largest = most(largest, v[c]);
    }
    largest = all_most<G>(largest, of_most);
    ROLLED for (i64 first = begin; first < classes; first += G * WIDTH) {
        fetch<T>(a.x, row, first, classes, packed, lowest(), v);
        UNROLL for (int c = 0; c < WIDTH; c++) sum += exp_of(v[c] - largest);
    }
    sum = all_sum<G>(sum, of_sum);
    ROLLED for (i64 first = begin; first < classes; first += G * WIDTH) {
        fetch<T>(a.x, row, first, classes, packed, lowest(), v);
        UNROLL for (int c = 0; c < WIDTH; c++) v[c] = exp_of(v[c] - largest) / sum;
        put_out(a, row, first, classes, packed, v);
    }
    if (a.labels && begin == 0 && row < a.rows) put_loss(a, row, largest, sum);
}

template <int G> DEVICE void backward_again(const Backward &a, i64 row, i64 classes, int packed) {
    SHARED(S, of_sum, G / 32);
    S d[WIDTH], y[WIDTH], sum = 0;
    int begin = THREAD % G * WIDTH;
    ROLLED for (i64 first = begin; first < classes; first += G * WIDTH) {
        fetch<T>(a.dout, row, first, classes, packed, 0, d);
        fetch<T>(a.y, row, first, classes, packed, 0, y);
        UNROLL for (int c = 0; c < WIDTH; c++) sum = fma_of(d[c], y[c], sum);
    }
    sum = all_sum<G>(sum, of_sum);
    ROLLED for (i64 first = begin; first < classes; first += G * WIDTH) {
        fetch<T>(a.dout, row, first, classes, packed, 0, d);
        fetch<T>(a.y, row, first, classes, packed, 0, y);
        UNROLL for (int c = 0; c < WIDTH; c++) d[c] = y[c] * (d[c] - sum);
        put<T>(a.dx, row, first, classes, packed, d);
    }
}

template <int G, int PACKS> DEVICE void entropy(const Entropy &a) {
    i64 row = (i64(BLOCK_X) * THREADS + THREAD) / G, begin = i64(BLOCK_Y) * (G * PACKS * WIDTH);
    if (row >= a.rows) return;
    begin += THREAD % G * WIDTH;
    i64 label = *(const i64 *)(a.labels + row * a.label_stride);
    S v[PACKS][WIDTH], scale = given(a.scale, a.scale_value);
    UNROLL for (int j = 0; j < PACKS; j++)
        fetch<S>(a.probabilities, row, begin + j * G * WIDTH, a.classes, a.packed, 0, v[j]);
    UNROLL for (int j = 0; j < PACKS; j++) {
        i64 first = begin + j * G * WIDTH;
        UNROLL for (int c = 0; c < WIDTH; c++) v[j][c] = (v[j][c] - S(first + c == label)) * scale;
        put<T>(a.dx, row, first, a.classes, a.packed, v[j]);
    }
}

// Rows behind the last one have no classes: all lanes take part in the shuffles.
#define ROW(lanes)                                                                                                     \
    i64 row = (i64(BLOCK_X) * THREADS + THREAD) / lanes;                                                               \
    i64 classes = row < a.rows ? a.classes : 0

KERNEL(softmax_forward_few, 128, 4, Forward) {
    ROW(8);
    forward<8, FEW>(a, row, classes, a.packed);
}
KERNEL(softmax_forward_more, 128, 4, Forward) {
    ROW(32);
    if (a.packed)
        forward<32, MORE>(a, row, classes, 1);
    else
        forward_again<32>(a, row, classes, 0);
}
KERNEL(softmax_forward_many, 256, 3, Forward) { forward_again<BLOCK>(a, BLOCK_X, a.classes, a.packed); }

KERNEL(softmax_backward_few, 128, 4, Backward) {
    ROW(8);
    backward<8, FEW>(a, row, classes, a.packed);
}
KERNEL(softmax_backward_more, 128, 4, Backward) {
    ROW(32);
    if (a.packed)
        backward<32, MORE>(a, row, classes, 1);
    else
        backward_again<32>(a, row, classes, 0);
}
KERNEL(softmax_backward_many, 256, 2, Backward) { backward_again<BLOCK>(a, BLOCK_X, a.classes, a.packed); }

KERNEL(softmax_cross_entropy_backward_few, 128, 4, Entropy) { entropy<8, FEW>(a); }
KERNEL(softmax_cross_entropy_backward_more, 128, 4, Entropy) { entropy<32, MORE>(a); }
