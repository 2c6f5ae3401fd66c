/* exp, log, tanh and the logistic function (sigmoid) as inline functions without branches, table look-ups or integer
 * operations that some vector unit lacks: inlined into a loop they become vector code at every ISA level.
 *
 *     fd_exp_f32      1.05 ULP    fd_exp_f64      1.05 ULP
 *     fd_log_f32      0.9 ULP     fd_log_f64      0.9 ULP
 *     fd_tanh_f32     2.8 ULP     fd_tanh_f64     2.8 ULP
 *     fd_sigmoid_f32  2.5 ULP     fd_sigmoid_f64  2.5 ULP
 *
 * bound the errors, in units in the last place of the exact result. For float32 every argument was tried (the worst were
 * 1.014, 0.840, 2.669 and 2.402 ULP); a test that reads this table samples all exponents of both types. The last bits
 * differ between a level with FMA and one without. NaN gives NaN; zeros and their signs, infinities, overflow, and
 * subnormal arguments and results are those of IEEE 754's recommended functions.
 *
 * How the coefficients were made: Remez's exchange algorithm in 60-digit arithmetic, for the smallest relative error of
 * the result, on an interval 0.2 % wider than the reduced argument's; then each was rounded to the nearest T.
 *
 *     exp   q(r) = (e**r - 1 - r) / r**2                      |r| <= ln(2) / 2           error 2**-28.3, 2**-57.9
 *     log   q(z) = (log((1 + s) / (1 - s)) / s - 2) / z       z = s**2,                  error 2**-37.6, 2**-59.5
 *                                                             |s| <= 3 - 2 sqrt(2)
 *
 * ln(2) is the sum of two parts, the first of which has so few bits that its product with any exponent is exact. */
#ifndef FASTDL_VMATH_H
#define FASTDL_VMATH_H

#include "simd.h"

static inline float fd_exp_poly_f32(float r) {
    return (((0x1.6a2258p-10f * r + 0x1.123b02p-7f) * r + 0x1.5558f8p-5f) * r + 0x1.555490p-3f) * r + 0x1.fffffcp-2f;
}

static inline double fd_exp_poly_f64(double r) {
    double q = 0x1.ad7e88f31d30ap-26;
    q = q * r + 0x1.28ae346591867p-22;
    q = q * r + 0x1.71df271f76292p-19;
    q = q * r + 0x1.a01999445b0a1p-16;
    q = q * r + 0x1.a01a0128fe40dp-13;
    q = q * r + 0x1.6c16c1846fc86p-10;
    q = q * r + 0x1.111111112816fp-7;
    q = q * r + 0x1.5555555550754p-5;
    q = q * r + 0x1.55555555554f8p-3;
    return q * r + 0x1.000000000000ap-1;
}

static inline float fd_log_poly_f32(float z) {
    return ((0x1.e30548p-3f * z + 0x1.24387ap-2f) * z + 0x1.999a7cp-2f) * z + 0x1.555554p-1f;
}

static inline double fd_log_poly_f64(double z) {
    double q = 0x1.2f15ba42dc09cp-3;
    q = q * z + 0x1.39a02f07c0fa9p-3;
    q = q * z + 0x1.74664d75517bcp-3;
    q = q * z + 0x1.c71c51c672482p-3;
    q = q * z + 0x1.249249423e4e4p-2;
    q = q * z + 0x1.999999997f8a7p-2;
    return q * z + 0x1.5555555555593p-1;
}

#define T float
#define U uint32_t
#define SFX f32
#define MANTISSA 23
#define BIAS 127
#define MAGIC 0x1.8p23f
#define LOG2_E 0x1.715476p+0f
#define LN2_HIGH 0x1.62e4p-1f
#define LN2_LOW 0x1.7f7d1cp-20f
#define EXP_LEAST (-104.5f) /* e**x is less than half the smallest subnormal */
#define EXP_MOST 89.0f      /* e**x overflows */
#define SMALLEST_NORMAL 0x1p-126f
#define LARGEST 0x1.fffffep127f
#define TANH_IS_ONE 10.0f
#define SQRT_HALF 0x3f3504f3u /* bits of sqrt(1/2) */
#include "vmath_functions.h"

#define T double
#define U uint64_t
#define SFX f64
#define MANTISSA 52
#define BIAS 1023
#define MAGIC 0x1.8p52
#define LOG2_E 0x1.71547652b82fep+0
#define LN2_HIGH 0x1.62e42fefa3800p-1
#define LN2_LOW 0x1.ef35793c76730p-45
#define EXP_LEAST (-746.0)
#define EXP_MOST 710.0
#define SMALLEST_NORMAL 0x1p-1022
#define LARGEST 0x1.fffffffffffffp1023
#define TANH_IS_ONE 20.0
#define SQRT_HALF 0x3fe6a09e667f3bcdu
#include "vmath_functions.h"

#endif
