// Pooling: see __init__.py. A thread has the 16 bytes of channels of one window (forward) or pixel (backward), or of one
// 2x2 patch of pixels; in arrays that allow no wide accesses, one element of each.
#include "image.cuh"
#include "windows.cuh"
#include "means.cuh"

constexpr int WIDE = Pack<T>::N;

// ---- the largest element --------------------------------------------------------------------------------------------

struct MaxForward {
    Windows windows;
    Image x, out, indices;
    int none;  // the index of a window without a tap on the image
    int large; // indices are int, not u8
};

// Taps of a window of a known size are all fetched before the first is looked at.
template <int WIDTH, int HIGH, int BROAD> DEVICE void max_forward(const MaxForward &a) {
    const Windows &w = a.windows;
    Place p;
    if (!find<WIDTH>(w, p)) return;
    const int h0 = p.line * w.rows.stride - w.rows.before, w0 = p.pixel * w.columns.stride - w.columns.before;
    const u8 *from = at(a.x, p.image, p.channel, h0, w0);
    const i64 down = a.x.line * w.rows.dilation, right = a.x.pixel * w.columns.dilation;
    const int first_row = first_tap(w.rows, h0), first_column = first_tap(w.columns, w0);
    const bool empty = !on_image(w.rows, h0, first_row) || !on_image(w.columns, w0, first_column);
    const S lowest = -float_of(0x7F800000);
    S best[WIDTH];
    int tap[WIDTH];
    UNROLL for (int c = 0; c < WIDTH; c++) {
        best[c] = lowest; // the padding, which is never larger
        tap[c] = empty ? a.none : first_row * w.columns.taps + first_column;
    }
    auto compare = [&](const Lanes<T, WIDTH> &v, int number) {
        UNROLL for (int c = 0; c < WIDTH; c++) {
            S value = widen(v.at[c]);
            bool larger = !(value <= best[c]) && best[c] == best[c]; // or a NaN after a number
            best[c] = larger ? value : best[c];
            tap[c] = larger ? number : tap[c];
        }
    };
    if constexpr (HIGH > 0) {
        Lanes<T, WIDTH> v[HIGH][BROAD];
        UNROLL for (int i = 0; i < HIGH; i++) UNROLL for (int j = 0; j < BROAD; j++) {
            UNROLL for (int c = 0; c < WIDTH; c++) v[i][j].at[c] = narrow<T>(lowest);
            if (on_image(w.rows, h0, i) && on_image(w.columns, w0, j))
                v[i][j] = load<Lanes<T, WIDTH>>(from + i * down + j * right);
        }
        UNROLL for (int i = 0; i < HIGH; i++) UNROLL for (int j = 0; j < BROAD; j++) compare(v[i][j], i * BROAD + j);
    } else {
        ROLLED for (int i = first_row; on_image(w.rows, h0, i); i++)
            ROLLED for (int j = first_column; on_image(w.columns, w0, j); j++)
                compare(load<Lanes<T, WIDTH>>(from + i * down + j * right), i * w.columns.taps + j);
    }
    Lanes<T, WIDTH> out;
    UNROLL for (int c = 0; c < WIDTH; c++) out.at[c] = narrow<T>(best[c]);
    store(at(a.out, p.image, p.channel, p.line, p.pixel), out);
    if (!a.indices.at) return;
    u8 *to = at(a.indices, p.image, p.channel, p.line, p.pixel);
    if (WIDTH == 1 && a.large) {
        *(int *)to = tap[0];
        return;
    }
    Lanes<u8, WIDTH> indices;
    UNROLL for (int c = 0; c < WIDTH; c++) indices.at[c] = u8(tap[c]);
    store(to, indices);
}

KERNEL(max_forward_2x2, 256, 4, MaxForward) { max_forward<WIDE, 2, 2>(a); }
KERNEL(max_forward_3x3, 256, 2, MaxForward) { max_forward<WIDE, 3, 3>(a); }
KERNEL(max_forward_any, 256, 4, MaxForward) { max_forward<WIDE, 0, 0>(a); }
KERNEL(max_forward_2x2_plain, 256, 4, MaxForward) { max_forward<1, 2, 2>(a); }
KERNEL(max_forward_3x3_plain, 256, 4, MaxForward) { max_forward<1, 3, 3>(a); }
KERNEL(max_forward_any_plain, 256, 4, MaxForward) { max_forward<1, 0, 0>(a); }

struct MaxBackward {
    Windows windows; // of pixels, or of patches of 2x2 pixels, which begin where windows do
    Image dout, indices, out, dx;
    int top, left; // windows that lie before the first patch
    int large;     // indices are int, not u8
};

// What a window hands on: its index, and its gradient where its result is not masked.
template <int WIDTH> struct Window {
    Lanes<u8, WIDTH> index;
    Lanes<T, WIDTH> dout, out;
};

template <int WIDTH> DEVICE void fetch(const MaxBackward &a, const Place &p, int oh, int ow, Window<WIDTH> &v) {
    v.index = load<Lanes<u8, WIDTH>>(at(a.indices, p.image, p.channel, oh, ow));
    v.dout = load<Lanes<T, WIDTH>>(at(a.dout, p.image, p.channel, oh, ow));
    if (a.out.at) v.out = load<Lanes<T, WIDTH>>(at(a.out, p.image, p.channel, oh, ow));
}

template <int WIDTH> DEVICE void add(const MaxBackward &a, const Window<WIDTH> &v, int c, bool chosen, S &sum) {
    if (a.out.at) chosen = chosen && !(widen(v.out.at[c]) <= 0);
    sum += chosen ? widen(v.dout.at[c]) : S(0);
}

template <int WIDTH> DEVICE void max_backward(const MaxBackward &a) {
    const Windows &w = a.windows;
    Place p;
    if (!find<WIDTH>(w, p)) return;
    const Reach rows = reach(w.rows, p.line), columns = reach(w.columns, p.pixel);
    S sum[WIDTH] = {};
    ROLLED for (int oh = rows.first; oh <= rows.last; oh++) {
        const int kh = tap_at(w.rows, p.line, oh);
        if (kh < 0) continue;
        ROLLED for (int ow = columns.first; ow <= columns.last; ow++) {
            const int kw = tap_at(w.columns, p.pixel, ow), tap = kh * w.columns.taps + kw;
            if (kw < 0) continue;
            Window<WIDTH> v;
            if (WIDTH == 1 && a.large) {
                v.dout = load<Lanes<T, WIDTH>>(at(a.dout, p.image, p.channel, oh, ow));
                if (a.out.at) v.out = load<Lanes<T, WIDTH>>(at(a.out, p.image, p.channel, oh, ow));
                add<WIDTH>(a, v, 0, *(const int *)at(a.indices, p.image, p.channel, oh, ow) == tap, sum[0]);
                continue;
            }
            fetch<WIDTH>(a, p, oh, ow, v);
            UNROLL for (int c = 0; c < WIDTH; c++) add<WIDTH>(a, v, c, v.index.at[c] == tap, sum[c]);
        }
    }
    Lanes<T, WIDTH> dx;
    UNROLL for (int c = 0; c < WIDTH; c++) dx.at[c] = narrow<T>(sum[c]);
    store(at(a.dx, p.image, p.channel, p.line, p.pixel), dx);
}

// Windows of SIZE x SIZE taps, 2 or 3, that move by 2: those of a patch are read once for its four pixels.
//
//     window i - 1   0 1 2          pixels of patch i:  a b
//     window i           0 1 2                          c d        (size 2 has window i alone)
template <int WIDTH, int SIZE> DEVICE void max_backward_patch(const MaxBackward &a) {
    constexpr int BEFORE = SIZE - 2; // windows that begin before the patch
    const Windows &w = a.windows;
    Place p;
    if (!find<WIDTH>(w, p)) return;
    const int oh0 = p.line + a.top - BEFORE, ow0 = p.pixel + a.left - BEFORE;
    Window<WIDTH> v[BEFORE + 1][BEFORE + 1];
    UNROLL for (int i = 0; i <= BEFORE; i++) UNROLL for (int j = 0; j <= BEFORE; j++) {
        UNROLL for (int c = 0; c < WIDTH; c++) v[i][j].index.at[c] = 255;
        if (u32(oh0 + i) < u32(w.rows.windows) && u32(ow0 + j) < u32(w.columns.windows))
            fetch<WIDTH>(a, p, oh0 + i, ow0 + j, v[i][j]);
    }
    const int h0 = 2 * (p.line + a.top) - w.rows.before, w0 = 2 * (p.pixel + a.left) - w.columns.before;
    UNROLL for (int y = 0; y < 2; y++) UNROLL for (int x = 0; x < 2; x++) {
        Lanes<T, WIDTH> dx;
        UNROLL for (int c = 0; c < WIDTH; c++) {
            S sum = 0;
            UNROLL for (int i = 0; i <= BEFORE; i++) UNROLL for (int j = 0; j <= BEFORE; j++) {
                const int kh = y + 2 * (BEFORE - i), kw = x + 2 * (BEFORE - j);
                if (kh < SIZE && kw < SIZE) add<WIDTH>(a, v[i][j], c, v[i][j].index.at[c] == kh * SIZE + kw, sum);
            }
            dx.at[c] = narrow<T>(sum);
        }
        if (u32(h0 + y) < u32(w.rows.size) && u32(w0 + x) < u32(w.columns.size))
            store(at(a.dx, p.image, p.channel, h0 + y, w0 + x), dx);
    }
}

KERNEL(max_backward_2x2, 256, 4, MaxBackward) { max_backward_patch<WIDE, 2>(a); }
KERNEL(max_backward_3x3, 256, 2, MaxBackward) { max_backward_patch<WIDE, 3>(a); }
KERNEL(max_backward_any, 256, 4, MaxBackward) { max_backward<WIDE>(a); }
KERNEL(max_backward_2x2_plain, 256, 4, MaxBackward) { max_backward_patch<1, 2>(a); }
KERNEL(max_backward_3x3_plain, 256, 4, MaxBackward) { max_backward_patch<1, 3>(a); }
KERNEL(max_backward_any_plain, 256, 4, MaxBackward) { max_backward<1>(a); }

// ---- the mean -------------------------------------------------------------------------------------------------------

struct Mean {
    Windows windows;
    Image from, to;   // x and out, or dout and dx
    int below, beyond; // where the elements end that a divisor counts: the image, or the padding too
    int include;       // the padding counts
};

// 1 / (elements of a window that its divisor counts); rounded, and the mean is a product with it.
DEVICE S share(const Mean &a, int h0, int w0) {
    const Windows &w = a.windows;
    const int high = least(h0 + w.rows.taps, a.below) - (a.include ? h0 : most(h0, 0));
    const int broad = least(w0 + w.columns.taps, a.beyond) - (a.include ? w0 : most(w0, 0));
    return 1 / most(S(high) * S(broad), S(1)); // a window wholly in the padding has a sum of 0
}

template <int WIDTH, int HIGH, int BROAD> DEVICE void mean_forward(const Mean &a) {
    const Windows &w = a.windows;
    Place p;
    if (!find<WIDTH>(w, p)) return;
    const int h0 = p.line * w.rows.stride - w.rows.before, w0 = p.pixel * w.columns.stride - w.columns.before;
    const u8 *from = at(a.from, p.image, p.channel, h0, w0);
    S sum[WIDTH] = {};
    if constexpr (HIGH > 0) {
        Lanes<T, WIDTH> v[HIGH][BROAD];
        UNROLL for (int i = 0; i < HIGH; i++) UNROLL for (int j = 0; j < BROAD; j++) {
            UNROLL for (int c = 0; c < WIDTH; c++) v[i][j].at[c] = narrow<T>(S(0));
            if (on_image(w.rows, h0, i) && on_image(w.columns, w0, j))
                v[i][j] = load<Lanes<T, WIDTH>>(from + i * a.from.line + j * a.from.pixel);
        }
        UNROLL for (int i = 0; i < HIGH; i++) UNROLL for (int j = 0; j < BROAD; j++)
            UNROLL for (int c = 0; c < WIDTH; c++) sum[c] += widen(v[i][j].at[c]);
    } else {
        const int first_column = most(-w0, 0);
        ROLLED for (int i = most(-h0, 0); on_image(w.rows, h0, i); i++)
            ROLLED for (int j = first_column; on_image(w.columns, w0, j); j++) {
                auto v = load<Lanes<T, WIDTH>>(from + i * a.from.line + j * a.from.pixel);
                UNROLL for (int c = 0; c < WIDTH; c++) sum[c] += widen(v.at[c]);
            }
    }
    const S by = share(a, h0, w0);
    Lanes<T, WIDTH> out;
    UNROLL for (int c = 0; c < WIDTH; c++) out.at[c] = narrow<T>(sum[c] * by);
    store(at(a.to, p.image, p.channel, p.line, p.pixel), out);
}

template <int WIDTH> DEVICE void mean_backward(const Mean &a) {
    const Windows &w = a.windows;
    Place p;
    if (!find<WIDTH>(w, p)) return;
    const Reach rows = reach(w.rows, p.line), columns = reach(w.columns, p.pixel);
    S sum[WIDTH] = {};
    ROLLED for (int oh = rows.first; oh <= rows.last; oh++)
        ROLLED for (int ow = columns.first; ow <= columns.last; ow++) {
            auto v = load<Lanes<T, WIDTH>>(at(a.from, p.image, p.channel, oh, ow));
            const S by = share(a, oh * w.rows.stride - w.rows.before, ow * w.columns.stride - w.columns.before);
            UNROLL for (int c = 0; c < WIDTH; c++) sum[c] += times(widen(v.at[c]), by);
        }
    Lanes<T, WIDTH> dx;
    UNROLL for (int c = 0; c < WIDTH; c++) dx.at[c] = narrow<T>(sum[c]);
    store(at(a.to, p.image, p.channel, p.line, p.pixel), dx);
}

KERNEL(mean_forward_2x2, 256, 4, Mean) { mean_forward<WIDE, 2, 2>(a); }
KERNEL(mean_forward_3x3, 256, 2, Mean) { mean_forward<WIDE, 3, 3>(a); }
KERNEL(mean_forward_any, 256, 4, Mean) { mean_forward<WIDE, 0, 0>(a); }
KERNEL(mean_forward_any_plain, 256, 4, Mean) { mean_forward<1, 0, 0>(a); }
KERNEL(mean_backward_any, 256, 4, Mean) { mean_backward<WIDE>(a); }
KERNEL(mean_backward_any_plain, 256, 4, Mean) { mean_backward<1>(a); }
