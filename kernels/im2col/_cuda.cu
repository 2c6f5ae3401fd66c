// im2col, col2im: see __init__.py.
#include "device.cuh"

constexpr int THREADS = 256;

struct Columns {
    u8 *image;
    i64 by_n, by_c, by_h, by_w; // bytes from one to the next
    u8 *col;
    i64 by_window, by_tap; // bytes: rows and columns
    i64 n, c;
    int h, w, oh, ow, kernel_h, kernel_w;
    int stride_h, stride_w, top, left, dilation_h, dilation_w;
    i64 chunks; // blocks beside each other: a block of threads goes through rows or pixels of one of them
    int across; // threads of a block beside each other: along columns in im2col, along channels in col2im
    int steps;  // rows, one after the other, of an im2col thread
};

// A thread has W neighbouring columns, whose taps it finds once, in one row after the other.
template <int W> DEVICE void im2col(const Columns &a) {
    int down = THREADS / a.across, x = THREAD % a.across, y = THREAD / a.across;
    i64 columns = a.c * a.kernel_h * a.kernel_w, windows = a.n * a.oh * a.ow, block = BLOCK_X / a.chunks;
    i64 column = ((BLOCK_X - block * a.chunks) * a.across + x) * W, row = block * down * a.steps + y;
    if (y >= down || column >= columns || row >= windows) return;

    // Of each tap: where it is from the first tap of the first channel, in elements and in bytes.
    i64 offset[W], c = column / (a.kernel_h * a.kernel_w);
    int tap_h[W], tap_w[W], tap = int(column - c * a.kernel_h * a.kernel_w);
    int kh = tap / a.kernel_w, kw = tap - kh * a.kernel_w;
    UNROLL for (int i = 0; i < W; i++) {
        tap_h[i] = kh * a.dilation_h - a.top, tap_w[i] = kw * a.dilation_w - a.left;
        offset[i] = c * a.by_c + tap_h[i] * a.by_h + tap_w[i] * a.by_w;
        if (++kw == a.kernel_w) {
            kw = 0;
            if (++kh == a.kernel_h) kh = 0, c++;
        }
    }

    i64 rest = row / a.ow, n = rest / a.oh;
    int ow = int(row - rest * a.ow), oh = int(rest - n * a.oh);
    u8 *to = a.col + row * a.by_window + column * a.by_tap;
    ROLLED for (int step = 0; step < a.steps && row < windows; step++) {
        int h = oh * a.stride_h, w = ow * a.stride_w;
        const u8 *from = a.image + n * a.by_n + h * a.by_h + w * a.by_w;
        Pack<T, W> out;
        UNROLL for (int i = 0; i < W; i++) {
            out.at[i] = T();
            if (u32(h + tap_h[i]) < u32(a.h) && u32(w + tap_w[i]) < u32(a.w)) out.at[i] = *(const T *)(from + offset[i]);
        }
        store(to, out);
        row += down, ow += down, to += down * a.by_window;
        if (ow >= a.ow) {
            int lines = ow / a.ow;
            ow -= lines * a.ow, oh += lines;
            if (oh >= a.oh) {
                int images = oh / a.oh;
                oh -= images * a.oh, n += images;
            }
        }
    }
}

KERNEL(im2col_packed, 256, 3, Columns) { im2col<Pack<T>::N>(a); }
KERNEL(im2col_forward, 256, 4, Columns) { im2col<1>(a); }

constexpr int CHANNELS = 4; // of a thread: it finds the windows of its pixel once for them all

// The window whose tap stands on this element of an axis; -1 for none.
DEVICE int window_on(int at, int stride, int windows) {
    if (at < 0) return -1;
    int window = stride == 1 ? at : at / stride;
    return window * stride == at && window < windows ? window : -1;
}

KERNEL(col2im_forward, 256, 4, Columns) {
    int down = THREADS / a.across, lane = THREAD % a.across, y = THREAD / a.across;
    i64 block = BLOCK_X / a.chunks, pixel = block * down + y;
    i64 first = (BLOCK_X - block * a.chunks) * (a.across * CHANNELS) + lane;
    if (y >= down || pixel >= a.n * a.h * a.w) return;
    i64 rest = pixel / a.w, n = rest / a.h, by_c = a.kernel_h * a.kernel_w * a.by_tap;
    int w = int(pixel - rest * a.w), h = int(rest - n * a.h);
    S sum[CHANNELS];
    UNROLL for (int k = 0; k < CHANNELS; k++) sum[k] = 0;
    ROLLED for (int kh = 0; kh < a.kernel_h; kh++) {
        int oh = window_on(h + a.top - kh * a.dilation_h, a.stride_h, a.oh);
        if (oh < 0) continue;
        ROLLED for (int kw = 0; kw < a.kernel_w; kw++) {
            int ow = window_on(w + a.left - kw * a.dilation_w, a.stride_w, a.ow);
            if (ow < 0) continue;
            i64 window = (n * a.oh + oh) * a.ow + ow;
            const u8 *from = a.col + window * a.by_window + (kh * a.kernel_w + kw) * a.by_tap + first * by_c;
            T v[CHANNELS];
            UNROLL for (int k = 0; k < CHANNELS; k++) {
                v[k] = T();
                if (first + k * a.across < a.c) v[k] = *(const T *)(from + k * a.across * by_c);
            }
            UNROLL for (int k = 0; k < CHANNELS; k++) sum[k] += widen(v[k]);
        }
    }
    u8 *to = a.image + n * a.by_n + h * a.by_h + w * a.by_w + first * a.by_c;
    UNROLL for (int k = 0; k < CHANNELS; k++)
        if (first + k * a.across < a.c) *(T *)(to + k * a.across * a.by_c) = narrow<T>(sum[k]);
}
