// Copies into the order that matmul.cuh reads: lines of whole pieces of 16 bytes, what is missing filled with zeros.
#include "device.cuh"

// out[i][j][k][l][m] = x at i, j, k, l, m times its strides where m < last; 0 behind, up to whole pieces. Strides in
// elements. `narrow_first`: neighbouring threads take neighbouring k (and not pieces of m), as the input's memory lies.
struct Arrange {
    const T *x;
    T *out;
    i64 n; // pieces
    i64 size[4];
    i64 stride[5];
    int last, pieces; // elements of a line, and its pieces
    int narrow_first;
};

KERNEL(arrange, 256, 8, Arrange) {
    constexpr int WIDE = 16 / sizeof(T);
    i64 t = i64(BLOCK_X) * 256 + THREAD;
    if (t >= a.n) return;
    i64 line;
    int piece;
    if (a.narrow_first) {
        i64 lines = a.n / a.pieces;
        piece = int(t / lines);
        line = t - piece * lines;
    } else {
        line = t / a.pieces;
        piece = int(t - line * a.pieces);
    }
    i64 rest = line, from = 0;
    ROLLED for (int axis = 3; axis >= 0; axis--) {
        i64 next = rest / a.size[axis];
        from += (rest - next * a.size[axis]) * a.stride[axis];
        rest = next;
    }
    Pack<T> p = {};
    UNROLL for (int c = 0; c < WIDE; c++) {
        int m = piece * WIDE + c;
        if (m < a.last) p.at[c] = a.x[from + m * a.stride[4]];
    }
    store(a.out + (line * a.pieces + piece) * WIDE, p);
}
