// What every kernel is written over, in two bodies: CUDA C++ for NVRTC, which needs no header of CUDA's, and C++ that
// runs on a CPU (emulator.h). A kernel:
//
//     struct Shift { const T *x; T *out; i64 n; S by; };
//
//     KERNEL(shift_forward, 256, 4, Shift) {       // name, threads of a block, blocks that a multiprocessor holds
//         i64 i = i64(BLOCK_X) * 256 + THREAD;     // (registers: 65536 / (256 * 4) at most), arguments
//         if (i < a.n) a.out[i] = narrow<T>(widen(a.x[i]) + a.by);
//     }
//
// T is the storage dtype and S the one of sums, from the macro FD_STORAGE (f16, bf16, float or double). The arguments
// are one plain struct, called `a`, that Python fills in (cuda/source.py reads its fields here).
#pragma once

typedef signed char i8;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

#ifdef __CUDACC__

#define DEVICE __device__ __forceinline__
#if __CUDA_ARCH__ >= 800
#define RESIDENT_HERE(blocks) (blocks)
#else // Turing holds half as many threads
#define RESIDENT_HERE(blocks) ((blocks + 1) / 2)
#endif
#define KERNEL(name, threads, blocks, Arguments)                                                                       \
    extern "C" __global__ void __launch_bounds__(threads, RESIDENT_HERE(blocks)) name(const __grid_constant__ Arguments a)
#define SHARED(Type, name, n) __shared__ __align__(128) Type name[n]
#define DYNAMIC_SHARED(Type, name)                                                                                     \
    extern __shared__ __align__(128) u8 fd_dynamic_shared[];                                                           \
    Type *name = (Type *)fd_dynamic_shared
#define THREAD threadIdx.x
#define BLOCK_X blockIdx.x
#define BLOCK_Y blockIdx.y
#define BLOCK_Z blockIdx.z
#define GRID_X gridDim.x
#define GRID_Y gridDim.y
#define GRID_Z gridDim.z
#define BARRIER() __syncthreads()
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")
#define ARCH (__CUDA_ARCH__ / 10)

#else

#include "emulator.h"
#define DEVICE inline
#define KERNEL(name, threads, blocks, Arguments)                                                                       \
    static void name##_thread(const Arguments &a);                                                                     \
    extern "C" const char *name(const emulator::Launch *launch, const void *arguments) {                               \
        return emulator::run(launch, threads, arguments, [](const void *p) { name##_thread(*(const Arguments *)p); }); \
    }                                                                                                                  \
    static void name##_thread(const Arguments &a)
#define SHARED(Type, name, n)                                                                                          \
    static emulator::Site fd_site_##name;                                                                              \
    Type *const name = (Type *)emulator::shared_array(fd_site_##name, sizeof(Type) * (n))
#define DYNAMIC_SHARED(Type, name) Type *const name = (Type *)emulator::machine.shared
#define THREAD (emulator::machine.thread)
#define BLOCK_X (emulator::machine.block[0])
#define BLOCK_Y (emulator::machine.block[1])
#define BLOCK_Z (emulator::machine.block[2])
#define GRID_X (emulator::machine.launch->grid[0])
#define GRID_Y (emulator::machine.launch->grid[1])
#define GRID_Z (emulator::machine.launch->grid[2])
#define FD_TEXT_(line) #line
#define FD_TEXT(line) FD_TEXT_(line)
#define BARRIER() emulator::wait(emulator::AT_BLOCK, "the barrier in line " FD_TEXT(__LINE__))
#define UNROLL
#define ROLLED
#define ARCH 90 // every path but those for older chips
#define __restrict__ __restrict

#endif

#define LANE (THREAD & 31)

template <class V> DEVICE V least(V a, V b) { return b < a ? b : a; }
template <class V> DEVICE V most(V a, V b) { return a < b ? b : a; }
DEVICE i64 cut(i64 a, i64 b) { return (a + b - 1) / b; } // a / b, rounded up
// A number of the caller's that is on the device, or (null) came with the arguments.
template <class V> DEVICE V given(const V *at, V value) { return at ? *at : value; }

// ---- bits and halves ------------------------------------------------------------------------------------------------

#ifdef __CUDACC__
DEVICE u32 bits_of(float v) { return __float_as_uint(v); }
DEVICE float float_of(u32 v) { return __uint_as_float(v); }
DEVICE u64 bits_of(double v) { return __double_as_longlong(v); }
DEVICE double double_of(u64 v) { return __longlong_as_double(v); }
#else
DEVICE u32 bits_of(float v) {
    u32 b;
    memcpy(&b, &v, 4);
    return b;
}
DEVICE float float_of(u32 b) {
    float v;
    memcpy(&v, &b, 4);
    return v;
}
DEVICE u64 bits_of(double v) {
    u64 b;
    memcpy(&b, &v, 8);
    return b;
}
DEVICE double double_of(u64 b) {
    double v;
    memcpy(&v, &b, 8);
    return v;
}
#endif
// A NaN has a sign too; a GPU's conversions make one positive NaN of all.
DEVICE bool negative(float v) { return bits_of(v) >> 31; }
DEVICE bool negative(double v) { return bits_of(v) >> 63; }
DEVICE float with_sign(float v, bool minus) { return float_of((bits_of(v) & 0x7FFFFFFF) | u32(minus) << 31); }
DEVICE double with_sign(double v, bool minus) {
    return double_of((bits_of(v) & 0x7FFFFFFFFFFFFFFF) | u64(minus) << 63);
}

struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};
DEVICE bool negative(f16 v) { return v.bits >> 15; }
DEVICE bool negative(bf16 v) { return v.bits >> 15; }

template <class Storage> struct Compute {
    typedef float type;
};
template <> struct Compute<double> {
    typedef double type;
};

DEVICE double widen(double v) { return v; }
DEVICE float widen(float v) { return v; }
DEVICE float widen(u8 v) { return v; }
DEVICE float widen(bf16 v) { return float_of(u32(v.bits) << 16); }
DEVICE float widen(f16 v) {
#ifdef __CUDACC__
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
    return f;
#else
    u32 sign = u32(v.bits & 0x8000) << 16, rest = v.bits & 0x7FFF;
    if (rest >= 0x7C00) return float_of(sign | 0x7F800000 | (rest & 0x3FF) << 13 | (rest > 0x7C00 ? 0x400000 : 0));
    // As an exponent of float's the half is too small by 2^112: a product with that also normalises subnormals.
    return float_of(sign | bits_of(float_of(rest << 13) * 0x1p112f));
#endif
}

// Rounded to nearest, ties to even. A NaN keeps its sign.
template <class To> DEVICE To narrow(float v);
template <> DEVICE float narrow<float>(float v) { return v; }
template <> DEVICE double narrow<double>(float v) { return v; }
template <> DEVICE bf16 narrow<bf16>(float v) {
    u32 b = bits_of(v);
    if ((b & 0x7FFFFFFF) > 0x7F800000) return bf16{u16(b >> 16 | 0x40)};
    return bf16{u16((b + 0x7FFF + (b >> 16 & 1)) >> 16)};
}
template <> DEVICE f16 narrow<f16>(float v) {
#ifdef __CUDACC__
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(v));
    // cvt makes one positive NaN of all.
    return f16{v != v ? u16(h | (bits_of(v) >> 16 & 0x8000)) : h};
#else
    u32 b = bits_of(v), sign = b >> 16 & 0x8000, rest = b & 0x7FFFFFFF;
    if (rest > 0x7F800000) return f16{u16(sign | 0x7E00)};
    if (rest >= 0x477FF000) return f16{u16(sign | 0x7C00)}; // rounds to 65536 and more
    if (rest < 0x38800000) {                                // subnormal: the sum's last bit is 2^-24
        float shifted = float_of(rest) + 0.5f;
        return f16{u16(sign | (bits_of(shifted) - 0x3F000000))};
    }
    return f16{u16(sign | ((rest + 0xFFF + (rest >> 13 & 1) - 0x38000000) >> 13))};
#endif
}

// A double loses its bits in one rounding: the way through float rounds to odd.
DEVICE float to_odd(double v) {
#ifdef __CUDACC__
    float down = __double2float_rz(v);
#else
    float near = float(v), down = near;
    if (std::isfinite(v) && std::fabs(double(near)) > std::fabs(v)) down = float_of(bits_of(near) - 1);
#endif
    return with_sign(v == v && double(down) != v ? float_of(bits_of(down) | 1) : down, negative(v));
}
template <class To> DEVICE To narrow(double v) { return narrow<To>(to_odd(v)); }
template <> DEVICE float narrow<float>(double v) { return with_sign(float(v), negative(v)); }
template <> DEVICE double narrow<double>(double v) { return v; }

#ifndef FD_STORAGE
#define FD_STORAGE float
#endif
typedef FD_STORAGE T;
typedef Compute<T>::type S;

// ---- arithmetic -----------------------------------------------------------------------------------------------------

#define FD_FUNCTION(name)                                                                                              \
    DEVICE float name##_of(float v) { return name##f(v); }                                                             \
    DEVICE double name##_of(double v) { return name(v); }
#ifndef __CUDACC__
using std::exp, std::log, std::sqrt, std::tanh, std::fabs;
#endif
FD_FUNCTION(exp)
FD_FUNCTION(log)
FD_FUNCTION(sqrt)
FD_FUNCTION(tanh)
FD_FUNCTION(fabs)
#undef FD_FUNCTION
DEVICE float pow_of(float v, float by) { return powf(v, by); }
DEVICE double pow_of(double v, double by) { return pow(v, by); }
// a * b + c in one rounding.
DEVICE float fma_of(float a, float b, float c) { return fmaf(a, b, c); }
DEVICE double fma_of(double a, double b, double c) { return fma(a, b, c); }
// Products and sums that no FMA swallows.
#ifdef __CUDACC__
DEVICE float times(float a, float b) { return __fmul_rn(a, b); }
DEVICE double times(double a, double b) { return __dmul_rn(a, b); }
#else
DEVICE float times(float a, float b) { return a * b; }
DEVICE double times(double a, double b) { return a * b; }
#endif
// A product that becomes a half, of a number that was one: rounded to odd, so that narrow's rounding is the only one.
DEVICE float times_to_odd(float half, float b) {
#ifdef __CUDACC__
    float down = __fmul_rd(half, b), up = __fmul_ru(half, b); // the same, or neighbours
    return bits_of(down) & 1 ? down : up;
#else
    return to_odd(double(half) * b);
#endif
}

// ---- wide accesses --------------------------------------------------------------------------------------------------

struct alignas(16) Wide {
    u32 words[4];
};

template <class Element, int n = 16 / int(sizeof(Element))> struct alignas(n * sizeof(Element)) Pack {
    static constexpr int N = n;
    Element at[N];
};

#ifdef __CUDACC__
template <class V> DEVICE V load(const void *p) { return *(const V *)p; }
template <class V> DEVICE void store(void *p, const V &v) { *(V *)p = v; }
#else
template <class V> DEVICE V load(const void *p) {
    emulator::aligned(p, sizeof(V));
    return *(const V *)p;
}
template <class V> DEVICE void store(void *p, const V &v) {
    emulator::aligned(p, sizeof(V));
    *(V *)p = v;
}
#endif

// ---- warps ----------------------------------------------------------------------------------------------------------

// All 32 lanes take part in each of these.

#ifdef __CUDACC__
DEVICE void warp_barrier() { __syncwarp(); }
template <class V> DEVICE V shuffle_xor(V v, int mask) { return __shfl_xor_sync(0xFFFFFFFFu, v, mask); }
template <class V> DEVICE V shuffle_down(V v, int by) { return __shfl_down_sync(0xFFFFFFFFu, v, by); }
template <class V> DEVICE V shuffle(V v, int lane) { return __shfl_sync(0xFFFFFFFFu, v, lane); }
#else
DEVICE void warp_barrier() { emulator::meet("warp_barrier"); }
template <class V> static V fd_shuffled(V v, int lane, const char *what) {
    u64 word = 0;
    memcpy(&word, &v, sizeof v);
    emulator::exchange().words[LANE] = word;
    emulator::meet(what);
    word = emulator::met().words[lane < 32 ? lane : LANE];
    memcpy(&v, &word, sizeof v);
    return v;
}
template <class V> DEVICE V shuffle_xor(V v, int mask) { return fd_shuffled(v, LANE ^ mask, "shuffle_xor"); }
template <class V> DEVICE V shuffle_down(V v, int by) { return fd_shuffled(v, LANE + by, "shuffle_down"); }
template <class V> DEVICE V shuffle(V v, int lane) { return fd_shuffled(v, lane & 31, "shuffle"); }
#endif

// The sum over a warp, in every lane: the same order whatever the values.
template <class V> DEVICE V warp_sum(V v) {
    for (int mask = 16; mask; mask >>= 1) v += shuffle_xor(v, mask);
    return v;
}

// ---- asynchronous copies into shared memory (sm_80; before that they are ordinary ones) -----------------------------

#ifdef __CUDACC__
DEVICE u32 shared_address(const void *p) { return u32(__cvta_generic_to_shared(p)); }
// 16 bytes; those from `valid` (0 to 16) on become 0, and with 0 nothing is read.
DEVICE void copy_async(void *to, const void *from, u32 valid) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid));
#else
    Wide v = {};
    if (valid == 16)
        v = *(const Wide *)from;
    else // elements have two bytes at least
        UNROLL for (u32 i = 0; i < 8; i++)
            if (2 * i < valid) v.words[i / 2] |= u32(((const u16 *)from)[i]) << 16 * (i & 1);
    *(Wide *)to = v;
#endif
}
DEVICE void copy_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;");
#endif
}
// Waits for this thread's copies but those of the last `open` groups.
template <int open> DEVICE void copy_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(open) : "memory");
#endif
}
#else
DEVICE void copy_async(void *to, const void *from, u32 valid) { emulator::copy_async(to, from, 16, valid); }
DEVICE void copy_commit() { emulator::machine.fibres[THREAD].group++; }
template <int open> DEVICE void copy_wait() { emulator::copy_wait(open); }
#endif

// ---- tensor cores ---------------------------------------------------------------------------------------------------

// Four 8x8 matrices of 16-bit elements from shared memory, 16 bytes a row; lane l names row l % 8 of matrix l / 8. Lane l
// gets the pair of elements at (l / 4, 2 * (l % 4)) of each matrix; with `turned` those of the transposed matrices. A row
// may as well hold four 32-bit elements: lane l gets the one at (l / 4, l % 4).
//
// multiply<T>(d, a, b) adds a (16 rows) times b (8 columns) to d, over 32 bytes of depth: 16 halves or 8 floats, which
// are rounded to TF32 (10 bits behind the point, ties away from zero). g = lane / 4, t = lane % 4:
//     a[0] row g, depth 2t, 2t + 1     a[1] row g + 8     a[2], a[3] the same with depth + 8       (floats: depth t, + 4)
//     b[0] column g, depth 2t, 2t + 1  b[1] depth + 8
//     d[0], d[1] row g, columns 2t, 2t + 1                d[2], d[3] row g + 8
#ifdef __CUDACC__
DEVICE void load_matrices(u32 (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}
DEVICE void load_matrices_turned(u32 (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}
DEVICE u32 to_tf32(u32 v) {
#if __CUDA_ARCH__ >= 800
    u32 r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(__uint_as_float(v)));
    return r;
#else
    return v;
#endif
}
template <class Element> DEVICE void multiply(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]);
template <> DEVICE void multiply<f16>(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    for (int half = 0; half < 2; half++)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
                     "{%0, %1, %2, %3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
#endif
}
#if __CUDA_ARCH__ >= 800
template <> DEVICE void multiply<bf16>(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <> DEVICE void multiply<float>(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(to_tf32(a[0])), "r"(to_tf32(a[1])), "r"(to_tf32(a[2])), "r"(to_tf32(a[3])),
                   "r"(to_tf32(b[0])), "r"(to_tf32(b[1])));
}
#endif
#else
static void fd_load_matrices(u32 (&r)[4], const void *row, bool turned, const char *what) {
    emulator::aligned(row, 16);
    emulator::exchange().rows[LANE] = row;
    emulator::meet(what);
    auto &rows = emulator::met().rows;
    for (int m = 0; m < 4; m++) {
        if (turned) {
            u16 pair[2];
            for (int i = 0; i < 2; i++) pair[i] = ((const u16 *)rows[m * 8 + 2 * (LANE & 3) + i])[LANE >> 2];
            memcpy(&r[m], pair, 4);
        } else
            memcpy(&r[m], (const u32 *)rows[m * 8 + (LANE >> 2)] + (LANE & 3), 4);
    }
}
DEVICE void load_matrices(u32 (&r)[4], const void *row) { fd_load_matrices(r, row, false, "load_matrices"); }
DEVICE void load_matrices_turned(u32 (&r)[4], const void *row) { fd_load_matrices(r, row, true, "load_matrices_turned"); }
DEVICE float to_tf32(u32 v) {
    if ((v & 0x7F800000) == 0x7F800000) return float_of(v);
    return float_of((v + 0x1000) & ~0x1FFFu);
}
template <class Element> static inline void fd_unpack(float *to, u32 word) {
    for (int i = 0; i < 2; i++) to[i] = widen(Element{u16(word >> 16 * i)});
}
template <> inline void fd_unpack<float>(float *to, u32 word) { to[0] = to_tf32(word); }
template <class Element> static void multiply(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    constexpr int N = sizeof(Element) == 2 ? 2 : 1; // elements of a word
    float *own = emulator::exchange().numbers[LANE];
    for (int i = 0; i < 4; i++) fd_unpack<Element>(own + N * i, a[i]);
    for (int i = 0; i < 2; i++) fd_unpack<Element>(own + N * (4 + i), b[i]);
    emulator::meet("multiply");
    auto &all = emulator::met().numbers;
    int g = LANE >> 2, t = LANE & 3;
    for (int e = 0; e < 4; e++) {
        int high = e >> 1, column = 2 * t + (e & 1);
        for (int half = 0; half < 2; half++)
            for (int k = 0; k < 4; k++)
                for (int i = 0; i < N; i++)
                    d[e] += all[g * 4 + k][N * (2 * half + high) + i] * all[column * 4 + k][N * (4 + half) + i];
    }
}
#endif
