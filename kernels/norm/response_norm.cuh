// local_response_norm. A thread has W channels of a pixel: the 16 bytes of a pack, or one. Backward goes through memory
// between its two window sums, since the second one needs what neighbours computed from the first.
#pragma once
#include "image.cuh"

struct Response {
    i64 items; // threads
    Divisor inner, middle, outer;
    int planes; // threads go through the pixels of a channel, and not through the channels of a pixel
    int channels, before, after;
    int roots; // beta is 0.75
    S k, factor, beta, slope;
    Image x, dout, out;
    S *seen; // dout x s^(-beta - 1) of each element, in the order of the threads
    i64 seen_channel; // elements from channel to channel
};

constexpr int RESPONSE_THREADS = 256;

struct Pixel {
    int image, channel, line, pixel;
    i64 element;
};

template <int W> DEVICE bool find_pixel(const Response &a, Pixel &p) {
    i64 i = i64(BLOCK_X) * RESPONSE_THREADS + THREAD;
    if (i >= a.items) return false;
    p.element = i * W;
    i64 middle = split(i, a.inner), outer = split(middle, a.middle), image = split(outer, a.outer);
    const bool planes = W == 1 && a.planes;
    p.image = int(image), p.channel = int(planes ? outer : i) * W;
    p.line = int(planes ? middle : outer), p.pixel = int(planes ? i : middle);
    return true;
}

template <int W> DEVICE void fetch_channels(const Image &x, const Pixel &p, int channel, S (&v)[W]) {
    const auto held = load<Lanes<T, W>>(at(x, p.image, channel, p.line, p.pixel));
    UNROLL for (int i = 0; i < W; i++) v[i] = widen(held.at[i]);
}

// sum[i] = the sum of channel - before ... channel + after around the i-th channel from p.channel on, from the first to
// the last; get(channel, v) gives W of the terms.
template <int W, class F> DEVICE void window_sums(const Response &a, int c, int before, int after, F get, S (&sum)[W]) {
    UNROLL for (int i = 0; i < W; i++) sum[i] = 0;
    S v[W];
    if constexpr (W == 1) {
        const int last = least(c + after, a.channels - 1);
        for (int j = most(c - before, 0); j <= last; j++) get(j, v), sum[0] += v[0];
    } else { // the window reaches no further than the packs on either side
        S all[3 * W];
        UNROLL for (int pack = 0; pack < 3; pack++) {
            UNROLL for (int i = 0; i < W; i++) v[i] = 0;
            if (u32(c + (pack - 1) * W) < u32(a.channels)) get(c + (pack - 1) * W, v);
            UNROLL for (int i = 0; i < W; i++) all[pack * W + i] = v[i];
        }
        UNROLL for (int away = -W; away <= W; away++)
            if (-before <= away && away <= after) UNROLL for (int i = 0; i < W; i++) sum[i] += all[W + away + i];
    }
}

// s, and s to the power of -beta.
template <int W> DEVICE void response(const Response &a, const Pixel &p, S (&s)[W], S (&power)[W]) {
    auto squares = [&](int channel, S(&v)[W]) {
        fetch_channels<W>(a.x, p, channel, v);
        UNROLL for (int i = 0; i < W; i++) v[i] = times(v[i], v[i]);
    };
    window_sums<W>(a, p.channel, a.before, a.after, squares, s);
    UNROLL for (int i = 0; i < W; i++) s[i] = fma_of(a.factor, s[i], a.k);
    if (a.roots) UNROLL for (int i = 0; i < W; i++) {
        const S root = sqrt_of(s[i]);
        power[i] = 1 / (root * sqrt_of(root));
    } else
        UNROLL for (int i = 0; i < W; i++) power[i] = exp_of(-a.beta * log_of(s[i]));
}

template <int W> DEVICE void respond(const Response &a) {
    Pixel p;
    if (!find_pixel<W>(a, p)) return;
    S s[W], power[W], x[W];
    response<W>(a, p, s, power);
    fetch_channels<W>(a.x, p, p.channel, x);
    Lanes<T, W> out;
    UNROLL for (int i = 0; i < W; i++) out.at[i] = narrow<T>(x[i] * power[i]);
    store(at(a.out, p.image, p.channel, p.line, p.pixel), out);
}

template <int W> DEVICE void respond_seen(const Response &a) {
    Pixel p;
    if (!find_pixel<W>(a, p)) return;
    S s[W], power[W], x[W], dout[W];
    response<W>(a, p, s, power);
    fetch_channels<W>(a.x, p, p.channel, x);
    fetch_channels<W>(a.dout, p, p.channel, dout);
    UNROLL for (int i = 0; i < W; i++) a.seen[p.element + i] = dout[i] * x[i] * power[i] / s[i];
}

template <int W> DEVICE void respond_back(const Response &a) {
    Pixel p;
    if (!find_pixel<W>(a, p)) return;
    S s[W], power[W], x[W], dout[W], seen[W];
    response<W>(a, p, s, power);
    auto terms = [&](int channel, S(&v)[W]) {
        const S *from = a.seen + p.element + (channel - p.channel) * a.seen_channel;
        UNROLL for (int i = 0; i < W; i++) v[i] = from[i];
    };
    window_sums<W>(a, p.channel, a.after, a.before, terms, seen); // channel c is in the windows c - after ... c + before
    fetch_channels<W>(a.x, p, p.channel, x);
    fetch_channels<W>(a.dout, p, p.channel, dout);
    Lanes<T, W> out;
    UNROLL for (int i = 0; i < W; i++) out.at[i] = narrow<T>(dout[i] * power[i] - a.slope * x[i] * seen[i]);
    store(at(a.out, p.image, p.channel, p.line, p.pixel), out);
}

KERNEL(response_forward, 256, 3, Response) { respond<Pack<T>::N>(a); }
KERNEL(response_seen, 256, 3, Response) { respond_seen<Pack<T>::N>(a); }
KERNEL(response_backward, 256, 3, Response) { respond_back<Pack<T>::N>(a); }
KERNEL(response_forward_plain, 256, 3, Response) { respond<1>(a); }
KERNEL(response_seen_plain, 256, 3, Response) { respond_seen<1>(a); }
KERNEL(response_backward_plain, 256, 3, Response) { respond_back<1>(a); }
