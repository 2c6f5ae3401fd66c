// Arrays (N, C, H, W) of any strides, and what finds an element of them (image.py makes the arguments).
#pragma once
#include "device.cuh"

// Where the first element is, and the bytes from one to the next along each axis.
struct Image {
    u8 *at;
    i64 image, channel, line, pixel;
};

DEVICE u8 *at(const Image &a, int image, int channel, int line, int pixel) {
    return a.at + image * a.image + channel * a.channel + line * a.line + pixel * a.pixel;
}

// A number that is divided by. Below 2^31, n / by is (n + (n * factor >> 32)) >> shift (Granlund and Montgomery 1994).
struct Divisor {
    i64 by;
    u32 factor;
    int shift;
};

DEVICE i64 divide(i64 n, const Divisor &d) { // n >= 0
    if (n >> 31) return n / d.by;
    return (u32(n) + u32(u64(u32(n)) * d.factor >> 32)) >> d.shift;
}
DEVICE int divide(int n, const Divisor &d) { return int((u32(n) + u32(u64(u32(n)) * d.factor >> 32)) >> d.shift); }

// The quotient; the rest is left in n.
DEVICE i64 split(i64 &n, const Divisor &d) {
    i64 quotient = divide(n, d);
    n -= quotient * d.by;
    return quotient;
}

// N neighbours that are read and written at once.
template <class Element, int n> struct alignas(n * sizeof(Element)) Lanes {
    static constexpr int N = n;
    Element at[n];
};
