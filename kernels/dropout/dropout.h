/* The mask of dropout, and its product with an array. */
#ifndef FASTDL_DROPOUT_H
#define FASTDL_DROPOUT_H
#include "elementwise.h"
#include "philox.h"

#define MASK_TASK 4096 /* blocks in one task: 16 KiB of mask, 10 microseconds */

typedef struct {
    uint64_t seed, step, first, threshold; /* first: number of the first block; threshold <= 2**32 */
    uint64_t keys[10][2];
    uint8_t *out;
    ptrdiff_t size;
} mask_call;

/* One mask byte for each word, a block's four in one 32-bit lane: 1 where the word is not below the threshold. */
static inline void mask_blocks(const mask_call *m, ptrdiff_t block, uint32_t bytes[PHILOX_BLOCKS]) {
    typedef uint32_t narrow __attribute__((vector_size(FD_VECTOR_BYTES / 2)));
    philox_words c[4], below = {0};
    philox(m->keys, m->step, m->first + (uint64_t)block, c);
    for (int word = 0; word < 4; word++)
        below |= (((c[word] & 0xffffffffu) - m->threshold) >> 63) << (8 * word);
    const narrow keep = __builtin_convertvector(below ^ 0x01010101u, narrow);
    memcpy(bytes, &keep, sizeof keep);
}

static int mask_task(void *context, ptrdiff_t task) {
    const mask_call *m = (const mask_call *)context;
    const ptrdiff_t whole = m->size / 4, last = fd_min((task + 1) * MASK_TASK, fd_ceil_div(m->size, 4));
    ptrdiff_t block = task * MASK_TASK;
    uint32_t bytes[PHILOX_BLOCKS];
    for (; block + PHILOX_BLOCKS <= fd_min(last, whole); block += PHILOX_BLOCKS) {
        mask_blocks(m, block, bytes);
        memcpy(m->out + 4 * block, bytes, sizeof bytes);
    }
    if (block < last) {
        mask_blocks(m, block, bytes);
        memcpy(m->out + 4 * block, bytes, (size_t)(fd_min(4 * last, m->size) - 4 * block));
    }
    return FD_OK;
}

static int mask_run(mask_call *m, int threads) {
    philox_keys(m->seed, m->keys);
    return rt->parallel_for(mask_task, m, fd_ceil_div(m->size, 4 * MASK_TASK), threads, 0.5 * (double)m->size);
}

typedef struct {
    double scale;
} dropout_parameters;

static void dropout_row_f32(const float *const *in, float *out, ptrdiff_t n, const void *parameters) {
    const float *x = in[0], *mask = in[1], scale = (float)((const dropout_parameters *)parameters)->scale;
    FD_EW_LOOP
    for (ptrdiff_t i = 0; i < n; i++) out[i] = x[i] * (mask[i] * scale);
}

static void dropout_row_f64(const double *const *in, double *out, ptrdiff_t n, const void *parameters) {
    const double *x = in[0], *mask = in[1], scale = ((const dropout_parameters *)parameters)->scale;
    FD_EW_LOOP
    for (ptrdiff_t i = 0; i < n; i++) out[i] = x[i] * (mask[i] * scale);
}

static int dropout_run(const fd_tensor *x, const fd_tensor *mask, const fd_tensor *out, double scale, int threads) {
    fd_elementwise e;
    const fd_tensor *operands[3] = {x, mask, out};
    const dropout_parameters parameters = {scale};
    fd_elementwise_init(&e, operands, 3);
    e.row32 = dropout_row_f32;
    e.row64 = dropout_row_f64;
    e.parameters = &parameters;
    return fd_elementwise_run(&e, threads, 0.4);
}
#endif
