// Depthwise convolutions: memory-bound, so each thread takes 16 bytes of channels of a few pixels, and finds what it shares
// with its neighbours in the L1 cache.
#include "epilogue.cuh"
#include "../window.cuh"

constexpr int WIDTH = 16 / sizeof(T);
constexpr int STRIP = 4; // pixels of a line that a thread makes: a tap's weights are read once for all

// Forward, and a phase of backward_input: see ../_cuda.cu.
struct Gather {
    Window window;    // channels: all, in whole pieces
    const T *filters; // (taps_h, taps_w, channels)
    const T *mask;
    T *out;
    i64 mask_stride[4], out_stride[4]; // n, c, h, w
    i64 strips;                        // in all lines
    int channels;                      // that are real
    int first_h, first_w, step_h, step_w;
    int wide; // out has its channels beside each other, and mask too
    Epilogue epilogue;
};

KERNEL(depthwise_gather, 256, 2, Gather) {
    const Window &w = a.window;
    int pieces = w.channels / WIDTH, across = int(cut(w.grid_w, STRIP));
    i64 t = i64(BLOCK_X) * 256 + THREAD, strip = t / pieces;
    if (strip >= a.strips) return;
    int c = int(t - strip * pieces) * WIDTH;
    i64 line = strip / across;
    int v0 = int(strip - line * across) * STRIP, n = int(line / w.grid_h), u = int(line - i64(n) * w.grid_h);
    const T *image = w.image + n * w.batch + c;
    S sum[STRIP][WIDTH] = {};
    ROLLED for (int r = 0; r < w.taps_h; r++) {
        int y = u * w.scale_h + w.start_h + r * w.move_h;
        if (u32(y) >= u32(w.height)) continue;
        const T *row = image + y * w.row;
        ROLLED for (int s = 0; s < w.taps_w; s++) {
            Pack<T> f = load<Pack<T>>(a.filters + i64(r * w.taps_w + s) * w.channels + c);
            int x = v0 * w.scale_w + w.start_w + s * w.move_w;
            Pack<T> in[STRIP];
            UNROLL for (int j = 0; j < STRIP; j++) {
                int at = x + j * w.scale_w;
                in[j] = u32(at) < u32(w.width) ? load<Pack<T>>(row + at * w.pixel) : Pack<T>{};
            }
            UNROLL for (int j = 0; j < STRIP; j++)
                UNROLL for (int i = 0; i < WIDTH; i++) sum[j][i] += widen(in[j].at[i]) * widen(f.at[i]);
        }
    }
    UNROLL for (int j = 0; j < STRIP; j++) {
        if (v0 + j >= w.grid_w) break;
        i64 h = i64(u) * a.step_h + a.first_h, x = i64(v0 + j) * a.step_w + a.first_w;
        T *out = a.out + n * a.out_stride[0] + c * a.out_stride[1] + h * a.out_stride[2] + x * a.out_stride[3];
        const T *mask = a.mask + n * a.mask_stride[0] + c * a.mask_stride[1] + h * a.mask_stride[2] + x * a.mask_stride[3];
        Pack<T> made, kept;
        if (a.mask && a.wide) kept = load<Pack<T>>(mask);
        UNROLL for (int i = 0; i < WIDTH; i++) {
            if (c + i >= a.channels) break;
            S value = finished(a.epilogue, sum[j][i], c + i);
            if (a.mask && widen(a.wide ? kept.at[i] : mask[i * a.mask_stride[1]]) <= 0) value = 0;
            made.at[i] = narrow<T>(value);
            if (!a.wide) out[i * a.out_stride[1]] = made.at[i];
        }
        if (a.wide) store(out, made);
    }
}

// ---- backward_weight ------------------------------------------------------------------------------------------------

// Partial sums over chunks of pixels. A block has 8 pieces of channels and 32 pixels at a time; TAPS taps of a row at
// once, so that dout is read again for every TAPS of them only.
struct Weight {
    Window window;
    const T *dout;
    i64 dout_batch, dout_row, dout_pixel; // elements
    S *partial;                           // (chunks, taps_h, taps_w, channels)
    int pixels, chunk;
};

constexpr int TAPS = 4, SIDE_BY_SIDE = 8, ROWS = 32;

KERNEL(depthwise_weight, 256, 2, Weight) {
    const Window &w = a.window;
    SHARED(S, sums, 256 * WIDTH);
    int x = THREAD % SIDE_BY_SIDE, y = THREAD / SIDE_BY_SIDE, c = (BLOCK_Y * SIDE_BY_SIDE + x) * WIDTH;
    int parts = int(cut(w.taps_w, TAPS)), r = BLOCK_Z / parts, s0 = BLOCK_Z % parts * TAPS;
    int begin = BLOCK_X * a.chunk, end = least(a.pixels, begin + a.chunk);
    S sum[TAPS][WIDTH] = {};
    if (c < w.channels) {
        ROLLED for (int m = begin + y; m < end; m += ROWS) {
            Pixel p(w, m);
            int row = p.y + r * w.move_h;
            if (u32(row) >= u32(w.height)) continue;
            Pack<T> d = load<Pack<T>>(a.dout + p.n * a.dout_batch + p.h * a.dout_row + p.w * a.dout_pixel + c);
            const T *image = w.image + p.n * w.batch + row * w.row + c;
            UNROLL for (int k = 0; k < TAPS; k++) {
                int at = p.x + (s0 + k) * w.move_w;
                if (u32(at) >= u32(w.width)) continue;
                Pack<T> v = load<Pack<T>>(image + at * w.pixel);
                UNROLL for (int i = 0; i < WIDTH; i++) sum[k][i] += widen(v.at[i]) * widen(d.at[i]);
            }
        }
    }
    UNROLL for (int k = 0; k < TAPS; k++) {
        BARRIER();
        UNROLL for (int i = 0; i < WIDTH; i++) sums[THREAD * WIDTH + i] = sum[k][i];
        ROLLED for (int half = ROWS / 2; half; half /= 2) {
            BARRIER();
            if (y < half)
                UNROLL for (int i = 0; i < WIDTH; i++)
                    sums[THREAD * WIDTH + i] += sums[(THREAD + half * SIDE_BY_SIDE) * WIDTH + i];
        }
        if (y == 0 && c < w.channels && s0 + k < w.taps_w)
            UNROLL for (int i = 0; i < WIDTH; i++)
                a.partial[((i64(BLOCK_X) * w.taps_h + r) * w.taps_w + s0 + k) * w.channels + c + i] =
                    sums[THREAD * WIDTH + i];
    }
}

struct Join {
    const S *partial;
    T *out;
    i64 stride[3]; // k, r, s
    i64 size;      // taps * padded
    int padded, channels, taps_w, chunks;
};

KERNEL(depthwise_join, 256, 4, Join) {
    i64 i = i64(BLOCK_X) * 256 + THREAD;
    if (i >= a.size) return;
    int tap = int(i / a.padded), c = int(i - i64(tap) * a.padded), r = tap / a.taps_w;
    if (c >= a.channels) return;
    S sum = 0;
    ROLLED for (int z = 0; z < a.chunks; z++) sum += a.partial[z * a.size + i];
    a.out[c * a.stride[0] + r * a.stride[1] + (tap - r * a.taps_w) * a.stride[2]] = narrow<T>(sum);
}
