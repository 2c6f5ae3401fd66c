// Forward with one to four input channels: memory-bound in its output, so that a thread makes many filters of its pixels
// from elements that it reads once. Filters wait in shared memory, where all threads of a warp read the same ones.
#include "epilogue.cuh"
#include "../window.cuh"

constexpr int FILTERS = 16, PIXELS = 2, MOST_TAPS = 384; // MOST_TAPS: times channels. Doubles of 384 x 16 fill the 48 KB
constexpr int WIDTH = 16 / sizeof(T);

struct Small {
    Window window;    // channels: as they are
    i64 channel;      // elements from channel to channel
    const T *filters;
    i64 filter_stride[4]; // k, c, r, s
    T *out;
    i64 out_stride[4]; // n, c, h, w
    int pixels, columns;
    int wide; // FILTERS of a pixel are whole pieces of 16 bytes
    Epilogue epilogue;
};

KERNEL(small_forward, 256, 2, Small) {
    const Window &w = a.window;
    SHARED(S, filters, MOST_TAPS * FILTERS);
    int k0 = BLOCK_Y * FILTERS, depth = w.taps_h * w.taps_w * w.channels;
    ROLLED for (int i = THREAD; i < depth * FILTERS; i += 256) {
        int k = i % FILTERS, rest = i / FILTERS, c = rest % w.channels, tap = rest / w.channels, r = tap / w.taps_w;
        const i64 *f = a.filter_stride;
        filters[i] = k0 + k < a.columns
                         ? widen(a.filters[(k0 + k) * f[0] + c * f[1] + r * f[2] + (tap - r * w.taps_w) * f[3]])
                         : S(0);
    }
    BARRIER();
    u32 first = BLOCK_X * (256 * PIXELS) + THREAD;
    const T *image[PIXELS];
    int y[PIXELS], x[PIXELS];
    UNROLL for (int j = 0; j < PIXELS; j++) {
        Pixel p(w, first + j * 256);
        bool there = int(first + j * 256) < a.pixels;
        image[j] = w.image + (there ? p.n : 0) * w.batch;
        y[j] = there ? p.y : -(1 << 30);
        x[j] = p.x;
    }
    S sum[PIXELS][FILTERS] = {};
    const S *f = filters;
    ROLLED for (int r = 0; r < w.taps_h; r++)
        ROLLED for (int s = 0; s < w.taps_w; s++)
            ROLLED for (int c = 0; c < w.channels; c++) {
                UNROLL for (int j = 0; j < PIXELS; j++) {
                    int h = y[j] + r * w.move_h, v = x[j] + s * w.move_w;
                    bool inside = u32(h) < u32(w.height) && u32(v) < u32(w.width);
                    S value = inside ? widen(image[j][h * w.row + v * w.pixel + c * a.channel]) : S(0);
                    UNROLL for (int k = 0; k < FILTERS; k++) sum[j][k] += value * f[k];
                }
                f += FILTERS;
            }
    UNROLL for (int j = 0; j < PIXELS; j++) {
        if (y[j] == -(1 << 30)) continue;
        Pixel p(w, first + j * 256);
        T *out = a.out + p.n * a.out_stride[0] + k0 * a.out_stride[1] + p.h * a.out_stride[2] + p.w * a.out_stride[3];
        UNROLL for (int k = 0; k < FILTERS; k += WIDTH) {
            Pack<T> made;
            UNROLL for (int i = 0; i < WIDTH; i++) {
                S v = k0 + k + i < a.columns ? finished(a.epilogue, sum[j][k + i], k0 + k + i) : S(0);
                made.at[i] = narrow<T>(v);
                if (!a.wide && k0 + k + i < a.columns) out[(k + i) * a.out_stride[1]] = made.at[i];
            }
            if (a.wide && k0 + k < a.columns) store(out + k, made);
        }
    }
}
