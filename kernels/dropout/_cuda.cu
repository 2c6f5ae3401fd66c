// dropout: see __init__.py.
#include "elementwise.cuh"

struct Mask {
    u8 *out;
    i64 n;
    u64 least; // word that keeps its element
    const u64 *seed, *step; // see given
    u64 seed_value, step_value;
    int aligned; // to 4 bytes
};

// Philox4x32-10 with the block and the step as its counter and the seed as its key.
DEVICE void philox(u64 block, u64 step, u64 seed, u32 (&c)[4]) {
    c[0] = u32(block), c[1] = u32(block >> 32), c[2] = u32(step), c[3] = u32(step >> 32);
    u32 k0 = u32(seed), k1 = u32(seed >> 32);
    UNROLL for (int round = 0; round < 10; round++) {
        u64 p0 = u64(c[0]) * 0xD2511F53u, p1 = u64(c[2]) * 0xCD9E8D57u;
        c[0] = u32(p1 >> 32) ^ c[1] ^ k0, c[1] = u32(p1);
        c[2] = u32(p0 >> 32) ^ c[3] ^ k1, c[3] = u32(p0);
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
}

// A thread makes the four bytes of a block: the words cost more than the stores.
KERNEL(dropout_mask, 256, 4, Mask) {
    i64 block = i64(BLOCK_X) * 256 + THREAD, left = a.n - 4 * block;
    if (left <= 0) return;
    u32 word[4], bytes = 0;
    philox(block, given(a.step, a.step_value), given(a.seed, a.seed_value), word);
    UNROLL for (int i = 0; i < 4; i++) bytes |= u32(word[i] >= a.least) << 8 * i;
    if (a.aligned && left >= 4) {
        store(a.out + 4 * block, bytes);
        return;
    }
    ROLLED for (int i = 0; i < 4 && i < left; i++) a.out[4 * block + i] = u8(bytes >> 8 * i);
}

struct Dropout {
    Extent extent;
    View views[3]; // x, mask, out
    S scale;
};

KERNEL(dropout_forward, 256, 4, Dropout) {
    S scale = a.scale;
    map<2, u8>(a.extent, a.views, [scale](const S (&v)[2]) { return v[0] * (v[1] * scale); });
}
