/* The functions of vmath.h for one type; included by it twice, and undefines what it was given. */

static inline U FD_CAT(fd_bits_of, SFX)(T value) {
    union { T value; U bits; } pun = {.value = value};
    return pun.bits;
}

static inline T FD_CAT(fd_from_bits, SFX)(U bits) {
    union { U bits; T value; } pun = {.bits = bits};
    return pun.value;
}

/* x = n ln(2) + r with the integer n nearest to x / ln(2); *biased is n + 2 BIAS. Adding 1.5 * 2**MANTISSA puts an
 * integer at the bottom of the mantissa; an integer conversion of doubles is missing below AVX-512. */
static inline T FD_CAT(fd_exp_reduce, SFX)(T x, U *biased) {
    const T shifted = x * LOG2_E + (MAGIC + 2 * BIAS), n = shifted - (MAGIC + 2 * BIAS);
    *biased = FD_CAT(fd_bits_of, SFX)(shifted) & (4 * BIAS + 3);
    return (x - n * LN2_HIGH) - n * LN2_LOW;
}

/* e**r - 1, its relative error small near 0. */
static inline T FD_CAT(fd_exp_minus_one, SFX)(T r) { return r + r * r * FD_CAT(fd_exp_poly, SFX)(r); }

/* 2**n may be out of range where 2**n (1 + m) is not, so it is multiplied in two halves. The first product is exact,
 * the second rounds once where the result is subnormal. */
static inline T FD_CAT(fd_exp, SFX)(T x) {
    U biased;
    x = x < EXP_LEAST ? EXP_LEAST : x; /* NaN stays */
    x = x > EXP_MOST ? EXP_MOST : x;
    const T m = FD_CAT(fd_exp_minus_one, SFX)(FD_CAT(fd_exp_reduce, SFX)(x, &biased));
    const U first = biased >> 1, second = biased - first;
    return (1 + m) * FD_CAT(fd_from_bits, SFX)(first << MANTISSA) * FD_CAT(fd_from_bits, SFX)(second << MANTISSA);
}

/* x = 2**e (1 + f) with 1 + f from sqrt(1/2) to sqrt(2), s = f / (2 + f), z = s**2:
 * log(1 + f) = 2 s + s z q(z) = f - s (f - z q(z)); with f**2 / 2 = s (f + f**2 / 2) the large terms are exact. */
static inline T FD_CAT(fd_log, SFX)(T x) {
    const U one = (U)BIAS << MANTISSA, fraction = ((U)1 << MANTISSA) - 1;
    const T integer = (T)((U)1 << MANTISSA); /* an integer or'ed into its bits is added to it */
    const T up = x < SMALLEST_NORMAL ? 2 * integer : 1, down = x < SMALLEST_NORMAL ? MANTISSA + 1 : 0;
    const U bits = FD_CAT(fd_bits_of, SFX)(x * up) + (one - SQRT_HALF);
    const T exponent = FD_CAT(fd_from_bits, SFX)(FD_CAT(fd_bits_of, SFX)(integer) | bits >> MANTISSA);
    const T e = exponent - (integer + BIAS) - down;
    const T f = FD_CAT(fd_from_bits, SFX)((bits & fraction) + SQRT_HALF) - 1;
    const T s = f / (2 + f), z = s * s, square = (T)0.5 * f * f;
    const T tail = s * (square + z * FD_CAT(fd_log_poly, SFX)(z)) + e * LN2_LOW;
    const T special = x == 0 ? -(T)INFINITY : x < 0 ? (T)NAN : x;
    return ((x > 0) & (x <= LARGEST)) ? e * LN2_HIGH - ((square - tail) - f) : special;
}

/* With m = e**(2 |x|) - 1: m / (m + 2). m is worked out from e**r - 1 and not from e**(2 |x|), so that nothing cancels
 * near 0. */
static inline T FD_CAT(fd_tanh, SFX)(T x) {
    const U sign = FD_CAT(fd_bits_of, SFX)(x) & ~(~(U)0 >> 1);
    T a = FD_CAT(fd_from_bits, SFX)(FD_CAT(fd_bits_of, SFX)(x) ^ sign);
    U biased;
    a = a > TANH_IS_ONE ? TANH_IS_ONE : a;
    const T r = FD_CAT(fd_exp_minus_one, SFX)(FD_CAT(fd_exp_reduce, SFX)(2 * a, &biased));
    const T power = FD_CAT(fd_from_bits, SFX)((biased - BIAS) << MANTISSA), m = power * r + (power - 1);
    return FD_CAT(fd_from_bits, SFX)(FD_CAT(fd_bits_of, SFX)(m / (m + 2)) | sign);
}

/* 1 / (1 + e**-x) for x >= 0, e**x / (1 + e**x) for x < 0: e**-|x| does not overflow. */
static inline T FD_CAT(fd_sigmoid, SFX)(T x) {
    const U sign = ~(~(U)0 >> 1);
    const T e = FD_CAT(fd_exp, SFX)(FD_CAT(fd_from_bits, SFX)(FD_CAT(fd_bits_of, SFX)(x) | sign));
    return (x < 0 ? e : 1) / (1 + e);
}

#undef T
#undef U
#undef SFX
#undef MANTISSA
#undef BIAS
#undef MAGIC
#undef LOG2_E
#undef LN2_HIGH
#undef LN2_LOW
#undef EXP_LEAST
#undef EXP_MOST
#undef SMALLEST_NORMAL
#undef LARGEST
#undef TANH_IS_ONE
#undef SQRT_HALF
