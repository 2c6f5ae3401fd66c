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

// A number that is divided by: n / by is (n + (n * factor >> bits)) >> shift, with 2^bits * (2^shift / by - 1) rounded up
// as the factor (Granlund and Montgomery 1994). A 64-bit division is a call of some 70 instructions.
struct Divisor {
    i64 by;
    u64 factor64;
    u32 factor;
    int shift;
};

#ifdef __CUDACC__
DEVICE u64 high_product(u64 a, u64 b) { return __umul64hi(a, b); }
#else
DEVICE u64 high_product(u64 a, u64 b) { return u64((unsigned __int128)a * b >> 64); }
#endif

DEVICE int divide(int n, const Divisor &d) { // n >= 0
    return int((u64(u32(n)) + (u64(u32(n)) * d.factor >> 32)) >> d.shift);
}
DEVICE i64 divide_long(i64 n, const Divisor &d) { return i64((u64(n) + high_product(u64(n), d.factor64)) >> d.shift); }
DEVICE i64 divide(i64 n, const Divisor &d) { return n >> 31 ? divide_long(n, d) : divide(int(n), d); }

// The quotient; the rest is left in n.
DEVICE i64 split(i64 &n, const Divisor &d) {
    i64 quotient = divide(n, d);
    n -= quotient * d.by;
    return quotient;
}
DEVICE i64 split_long(i64 &n, const Divisor &d) { // without a branch, which would part loads from each other
    i64 quotient = divide_long(n, d);
    n -= quotient * d.by;
    return quotient;
}

// N neighbours that are read and written at once.
template <class Element, int n> struct alignas(n * sizeof(Element)) Lanes {
    static constexpr int N = n;
    Element at[n];
};

// The same for holding many of them: halves stay in pairs, where a compiler would give each a register of its own.
template <class Element, int n, bool paired = sizeof(Element) == 2 && n % 2 == 0>
struct alignas(n * sizeof(Element)) Held {
    Element at[n];
    DEVICE Element get(int i) const { return at[i]; }
    DEVICE void set(int i, Element v) { at[i] = v; } // in order, from the first
};
template <class Element, int n> struct alignas(n * sizeof(Element)) Held<Element, n, true> {
    u32 pairs[n / 2];
    DEVICE Element get(int i) const { return Element{u16(pairs[i / 2] >> 16 * (i & 1))}; }
    DEVICE void set(int i, Element v) { pairs[i / 2] = i & 1 ? pairs[i / 2] | u32(v.bits) << 16 : v.bits; }
};
