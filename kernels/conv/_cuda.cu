// conv2d: see __init__.py. Implicit GEMM over channels-last memory: no matrix of windows is ever made, the loaders find
// its elements in the image.
//
// `conv_gather` is forward and backward_input:
//
//     out[pixel][n] = sum over taps, c of image[pixel moved by the tap][c] * filters[n][tap][c]
//
// with pixel (u, v) at row u * scale_h + start_h + tap * move_h of the image. Forward: scale is the stride, move the
// dilation, start -top. Backward_input by stride (sh, sw) is sh * sw such products, one for each phase (y % sh, x % sw) of
// dx, of those taps alone that meet dout there; its scale is 1 (_cuda.py has the arithmetic).
//
// `conv_weight` is backward_weight: dw[k][tap][c] = sum over pixels of dout[pixel][k] * x[pixel moved by the tap][c].
#include "matmul.cuh"
#include "epilogue.cuh"
#include "bias.cuh"
#include "window.cuh"

// ---- forward, backward_input ----------------------------------------------------------------------------------------

struct Gather {
    Window window;
    const T *filters; // (groups, filters, taps_h, taps_w, channels)
    const T *mask;    // out is 0 where it is <= 0, or null
    T *out;
    i64 mask_stride[4], out_stride[4]; // n, c, h, w
    int pixels, columns, depth;        // columns: filters of a group; depth: taps * channels
    int first_h, first_w, step_h, step_w; // where pixel (u, v) is in out
    int paired;
    Epilogue epilogue;
};

#ifdef TILE_M // the products, a module for each tile

// Rows of the image, one for each pixel: a tap after the other, the channels of each.
struct PixelRows {
    typedef Operand<false, TILE_M> Tile;
    const Window &w;
    const T *base[Tile::EACH]; // of the pixel's image
    int y[Tile::EACH], x[Tile::EACH];
    int r, s, c; // the next piece

    DEVICE PixelRows(const Window &window, const T *image, int first, int pixels) : w(window) {
        UNROLL for (int j = 0; j < Tile::EACH; j++) {
            u32 m = first + Tile::line(j), line = m / w.grid_w, n = line / w.grid_h;
            base[j] = image + n * w.batch;
            y[j] = int(line - n * w.grid_h) * w.scale_h + w.start_h;
            x[j] = int(m - line * w.grid_w) * w.scale_w + w.start_w;
            if (int(m) >= pixels) { // never inside
                base[j] = image;
                y[j] = -(1 << 30);
            }
        }
        int piece = Tile::piece() * WIDTH, tap = piece / w.channels;
        c = piece - tap * w.channels;
        r = tap / w.taps_w;
        s = tap - r * w.taps_w;
    }

    DEVICE void fetch(u8 *tile) {
        int dy = r * w.move_h, dx = s * w.move_w;
        UNROLL for (int j = 0; j < Tile::EACH; j++) {
            int h = y[j] + dy, v = x[j] + dx;
            bool inside = u32(h) < u32(w.height) && u32(v) < u32(w.width) && r < w.taps_h;
            const T *from = inside ? base[j] + h * w.row + v * w.pixel + c : w.image;
            copy_async(Tile::at(tile, Tile::line(j), Tile::piece()), from, inside ? PIECE : 0);
        }
        c += w.next[2];
        s += w.next[1];
        r += w.next[0];
        if (c >= w.channels) {
            c -= w.channels;
            s++;
        }
        if (s >= w.taps_w) {
            s -= w.taps_w;
            r++;
        }
    }
};

KERNEL(conv_gather, MATMUL_THREADS, RESIDENT, Gather) {
    int m0 = BLOCK_X * TILE_M, n0 = BLOCK_Y * TILE_N, group = BLOCK_Z;
    PixelRows left(a.window, a.window.image + group * a.window.group, m0, a.pixels);
    MatrixLoader<false, TILE_N> right(a.filters + i64(group) * a.columns * a.depth, a.depth, a.columns, a.depth, n0, 0);
    Sums sums = {};
    accumulate<false, false>(sums, left, right, int(cut(a.depth, DEPTH)));
    struct Row {
        T *out;
        const T *mask;
    };
    struct Put {
        const Gather &a;
        int group;
        DEVICE S masked(const Row &row, int n, S v) const {
            v = finished(a.epilogue, v, n);
            return row.mask && widen(row.mask[n * a.mask_stride[1]]) <= 0 ? S(0) : v;
        }
        DEVICE void operator()(const Row &row, int n, S v) const {
            if (!row.out || n >= a.columns) return;
            n += group * a.columns;
            row.out[n * a.out_stride[1]] = narrow<T>(masked(row, n, v));
        }
        DEVICE void operator()(const Row &row, int n, S v0, S v1) const {
            if (a.paired) {
                if (!row.out || n >= a.columns) return;
                n += group * a.columns;
                store_pair(row.out + n, masked(row, n, v0), masked(row, n + 1, v1));
                return;
            }
            (*this)(row, n, v0);
            (*this)(row, n + 1, v1);
        }
    };
    Put put{a, group};
    for_results<false, false>(
        sums, m0, n0,
        [&](u32 m) {
            u32 line = m / a.window.grid_w, n = line / a.window.grid_h;
            i64 h = i64(line - n * a.window.grid_h) * a.step_h + a.first_h;
            i64 w = i64(m - line * a.window.grid_w) * a.step_w + a.first_w;
            const i64 *o = a.out_stride, *k = a.mask_stride;
            bool inside = int(m) < a.pixels;
            return Row{inside ? a.out + n * o[0] + h * o[2] + w * o[3] : nullptr,
                       a.mask && inside ? a.mask + n * k[0] + h * k[2] + w * k[3] : nullptr};
        },
        [&](auto... v) { put(v...); });
}

#endif

// ---- backward_weight ------------------------------------------------------------------------------------------------

struct Weight {
    Window window;
    const T *dout; // (pixels, pitch), at the group's first channel
    T *out;
    S *partial;        // (splits, groups, rows, columns) where the pixels are split, else null
    i64 pitch, dout_group;
    i64 out_stride[4]; // k, c, r, s
    int rows, columns, channels; // rows: filters of a group; columns: taps * window.channels; channels: those that are real
    int pixels, length;          // length: pixels of a split
    int groups;
};

// dw of row m and column n = (r, s, c).
DEVICE void put_weight(const Weight &a, int group, int m, int n, S v) {
    int tap = n / a.window.channels, c = n - tap * a.window.channels, r = tap / a.window.taps_w;
    if (c >= a.channels) return;
    const i64 *o = a.out_stride;
    a.out[(i64(group) * a.rows + m) * o[0] + c * o[1] + r * o[2] + (tap - r * a.window.taps_w) * o[3]] = narrow<T>(v);
}

#ifdef TILE_M

// Columns of (tap, channel), a line for each pixel.
struct PixelColumns {
    typedef Operand<true, TILE_N> Tile;
    const Window &w;
    const T *image;    // at this thread's channel
    int n[Tile::EACH], u[Tile::EACH], v[Tile::EACH];
    int dy, dx, at, end;

    DEVICE PixelColumns(const Window &window, const T *first_image, int first, int columns, int begin, int end_)
        : w(window) {
        int column = first + Tile::piece() * WIDTH, tap = column / w.channels, r = tap / w.taps_w;
        image = first_image + (column - tap * w.channels);
        dy = column < columns ? r * w.move_h + w.start_h : -(1 << 30);
        dx = (tap - r * w.taps_w) * w.move_w + w.start_w;
        at = begin + Tile::line(0);
        end = end_;
        UNROLL for (int j = 0; j < Tile::EACH; j++) {
            u32 m = begin + Tile::line(j), line = m / w.grid_w;
            n[j] = line / w.grid_h;
            u[j] = line - n[j] * w.grid_h;
            v[j] = m - line * w.grid_w;
        }
    }

    DEVICE void fetch(u8 *tile) {
        UNROLL for (int j = 0; j < Tile::EACH; j++) {
            int h = u[j] * w.scale_h + dy, x = v[j] * w.scale_w + dx;
            bool inside = u32(h) < u32(w.height) && u32(x) < u32(w.width) && at + Tile::line(j) - Tile::line(0) < end;
            const T *from = inside ? image + n[j] * w.batch + h * w.row + x * w.pixel : w.image;
            copy_async(Tile::at(tile, Tile::line(j), Tile::piece()), from, inside ? PIECE : 0);
            v[j] += w.next[2];
            u[j] += w.next[1];
            n[j] += w.next[0];
            if (v[j] >= w.grid_w) {
                v[j] -= w.grid_w;
                u[j]++;
            }
            if (u[j] >= w.grid_h) {
                u[j] -= w.grid_h;
                n[j]++;
            }
        }
        at += DEPTH;
    }
};

KERNEL(conv_weight, MATMUL_THREADS, RESIDENT, Weight) {
    int m0 = BLOCK_X * TILE_M, n0 = BLOCK_Y * TILE_N, group = BLOCK_Z % a.groups, split = BLOCK_Z / a.groups;
    int begin = split * a.length, end = least(a.pixels, begin + a.length);
    MatrixLoader<true, TILE_M> left(a.dout + group * a.dout_group, a.pitch, a.rows, end, m0, begin);
    PixelColumns right(a.window, a.window.image + group * a.window.group, n0, a.columns, begin, end);
    Sums sums = {};
    accumulate<true, true>(sums, left, right, int(cut(end - begin, DEPTH)));
    struct Put {
        const Weight &a;
        int group;
        S *partial;
        DEVICE void operator()(int m, int n, S v) const {
            if (m >= a.rows || n >= a.columns) return;
            if (partial)
                partial[i64(m) * a.columns + n] = v;
            else
                put_weight(a, group, m, n, v);
        }
        DEVICE void operator()(int m, int n, S v0, S v1) const {
            (*this)(m, n, v0);
            (*this)(m, n + 1, v1);
        }
    };
    Put put{a, group, a.partial ? a.partial + i64(BLOCK_Z) * a.rows * a.columns : nullptr};
    for_results<true, true>(sums, m0, n0, [](int m) { return m; }, [&](auto... v) { put(v...); });
}

#endif

// The sums of the splits, in their order.
struct WeightJoin {
    Weight weight;
    int splits;
};

#ifndef TILE_M

KERNEL(conv_weight_join, 256, 4, WeightJoin) {
    const Weight &w = a.weight;
    i64 i = i64(BLOCK_X) * 256 + THREAD, group_size = i64(w.rows) * w.columns, size = group_size * w.groups;
    if (i >= size) return;
    S sum = w.partial[i];
    ROLLED for (int z = 1; z < a.splits; z++) sum += w.partial[z * size + i];
    i64 group = i / group_size, rest = i - group * group_size, m = rest / w.columns;
    put_weight(w, int(group), int(m), int(rest - m * w.columns), sum);
}

#endif
