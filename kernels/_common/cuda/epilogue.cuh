// What follows a sum: a bias of any floating-point dtype, a ReLU.
#pragma once
#include "device.cuh"

enum Kind { NOTHING, FLOAT, DOUBLE, F16, BF16 };

// A vector whose dtype is known at run time only.
struct Vector {
    void *at;
    i64 stride; // elements
    int kind;   // of Kind
};

DEVICE S number(const Vector &v, i64 i) {
    i *= v.stride;
    switch (v.kind) {
    case FLOAT: return ((const float *)v.at)[i];
    case DOUBLE: return S(((const double *)v.at)[i]);
    case F16: return widen(((const f16 *)v.at)[i]);
    case BF16: return widen(((const bf16 *)v.at)[i]);
    }
    return 0;
}

DEVICE void put_number(const Vector &v, i64 i, S value) {
    i *= v.stride;
    switch (v.kind) {
    case FLOAT: ((float *)v.at)[i] = narrow<float>(value); break;
    case DOUBLE: ((double *)v.at)[i] = value; break;
    case F16: ((f16 *)v.at)[i] = narrow<f16>(value); break;
    case BF16: ((bf16 *)v.at)[i] = narrow<bf16>(value); break;
    }
}

struct Epilogue {
    Vector bias;
    int relu;
};

DEVICE S finished(const Epilogue &e, S v, i64 n) {
    if (e.bias.kind) v += number(e.bias, n);
    return e.relu && v <= 0 ? S(0) : v;
}

// Two neighbours at once where they are `paired` (aligned, and both or none there).
DEVICE void store_pair(T *to, S v0, S v1) {
    struct alignas(2 * sizeof(T)) Pair {
        T at[2];
    };
    store(to, Pair{{narrow<T>(v0), narrow<T>(v1)}});
}
