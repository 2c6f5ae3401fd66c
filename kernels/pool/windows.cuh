// Windows, their taps and the pixels under them, for kernels with a thread for each window or pixel.
#pragma once
#include "image.cuh"

// One axis. A window o begins at o * stride - before.
struct Axis {
    int size, windows, taps, before, stride, dilation;
    Divisor by_stride, by_dilation;
};

// Threads go through windows (or pixels, or patches) of all channels: `inner` of something next to each other, then
// `middle`, `outer` and images. That is channels, columns and rows, or with `planes` columns, rows and channels.
struct Windows {
    i64 items;
    Divisor inner, middle, outer;
    int planes;
    Axis rows, columns;
};

struct Place {
    int image, channel, line, pixel;
};

constexpr int WINDOW_THREADS = 256;

// What this thread is for. (Nothing in what uses this has a barrier.)
template <int WIDTH> DEVICE bool find(const Windows &w, Place &p) {
    i64 i = i64(BLOCK_X) * WINDOW_THREADS + THREAD;
    if (i >= w.items) return false;
    i64 middle = split(i, w.inner), outer = split(middle, w.middle), image = split(outer, w.outer);
    p.image = int(image);
    if (WIDTH == 1 && w.planes) {
        p.channel = int(outer), p.line = int(middle), p.pixel = int(i);
    } else
        p.channel = int(i) * WIDTH, p.line = int(outer), p.pixel = int(middle);
    return true;
}

// Whether tap k of the window that begins at `start` stands on the image.
DEVICE bool on_image(const Axis &x, int start, int k) {
    return k < x.taps && u32(start + k * x.dilation) < u32(x.size);
}

// The first tap that does not stand before the image; perhaps one behind the window or the image.
DEVICE int first_tap(const Axis &x, int start) {
    return start < 0 ? divide(x.dilation - 1 - start, x.by_dilation) : 0;
}

// Windows that may cover a pixel, in order; none where first > last.
struct Reach {
    int first, last;
};

DEVICE Reach reach(const Axis &x, int pixel) {
    const int far = pixel + x.before, rest = far - (x.taps - 1) * x.dilation;
    return {rest > 0 ? divide(rest + x.stride - 1, x.by_stride) : 0, least(divide(far, x.by_stride), x.windows - 1)};
}

// The tap of a window in reach that stands on a pixel; -1 where the pixel lies between two.
DEVICE int tap_at(const Axis &x, int pixel, int window) {
    const int away = pixel + x.before - window * x.stride;
    if (x.dilation == 1) return away;
    const int k = divide(away, x.by_dilation);
    return k * x.dilation == away ? k : -1;
}
