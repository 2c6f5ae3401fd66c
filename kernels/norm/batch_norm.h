/* Batch normalisation: its tasks. Included once for each compute dtype, with T, SFX and TYPE defined.
 *
 * One sweep over x yields both moments: a block of 128 rows is summed about a value near its mean, and blocks meet in
 * float64 by Chan, Golub and LeVeque's update. The second sweep maps x; it goes from the last rows to the first, since
 * the last are those that a cache still holds. */
#include "batch_norm_sums.h"

/* Rows that are treated as one, so that the inner loops do not stop after a few elements where channels are few. */
static inline ptrdiff_t FD_CAT(bn_span, SFX)(ptrdiff_t n) {
    ptrdiff_t span = 1;
    while (span < 16 && span * n < BN_SPAN / 2) span *= 2;
    return span;
}

static void FD_CAT(bn_repeat, SFX)(T *restrict to, const T *restrict from, ptrdiff_t n, ptrdiff_t times) {
    for (ptrdiff_t k = 0; k < times; k++) memcpy(to + k * n, from, (size_t)n * sizeof(T));
}

#define V FD_CAT(fd_v, SFX)
#define BN_AT(p) (*(const V *)((p) + i))
/* out[i] = scalar for i < n, around the caches if `streams`; `vector` is the same of FD_VECTOR_BYTES from out[i] on. */
#define BN_STORE(scalar, vector, ...)                                                          \
    ptrdiff_t i = 0;                                                                         \
    if (streams) {                                                                           \
        for (; i < n && (uintptr_t)(out + i) % FD_VECTOR_BYTES; i++) out[i] = scalar;        \
        for (; i + FD_CAT(FD_LANES, SFX) <= n; i += FD_CAT(FD_LANES, SFX)) {                 \
            __VA_ARGS__;                                                                     \
            const V v = vector;                                                              \
            fd_stream_store(out + i, v);                                                     \
        }                                                                                    \
    }                                                                                        \
    for (; i < n; i++) out[i] = scalar

static inline void FD_CAT(bn_apply, SFX)(const T *restrict x, const T *restrict centre, const T *restrict scale,
                                         const T *restrict shift, T *restrict out, ptrdiff_t n, int streams) {
    BN_STORE((x[i] - centre[i]) * scale[i] + shift[i], (BN_AT(x) - BN_AT(centre)) * BN_AT(scale) + BN_AT(shift),
           fd_stream_fetch(x + i));
}

static inline void FD_CAT(bn_gradient, SFX)(const T *restrict dout, const T *restrict x, const T *restrict centre,
                                            const T *restrict scale, const T *restrict shift, const T *restrict slope,
                                            T *restrict out, ptrdiff_t n, int streams) {
    BN_STORE(scale[i] * (dout[i] - shift[i] - (x[i] - centre[i]) * slope[i]),
           BN_AT(scale) * (BN_AT(dout) - BN_AT(shift) - (BN_AT(x) - BN_AT(centre)) * BN_AT(slope)),
           fd_stream_fetch(dout + i), fd_stream_fetch(x + i));
}
#undef V
#undef BN_AT
#undef BN_STORE

/* What the sums of a task need: a block of each operand that is not used where it lies; a row each of the centre, two
 * accumulators and zeros; a panel of each operand. */
typedef struct {
    T *x, *dout, *centre, *sum, *other, *zero, *panel, *dout_panel;
} FD_CAT(bn_scratch, SFX);

static int FD_CAT(bn_push, SFX)(const bn_call *b, const bn_part *part, FD_CAT(bn_scratch, SFX) * s) {
    const size_t block = (size_t)(BN_BLOCK * (b->runs ? 1 : fd_min(part->n, BN_WIDTH))) * sizeof(T);
    memset(s, 0, sizeof(*s));
    if (!(s->x = (T *)rt->push(block)) || (b->backward && !(s->dout = (T *)rt->push(block)))) return FD_NO_MEMORY;
    if (b->runs) return FD_OK;
    T *rows = (T *)rt->push((size_t)((4 + BN_PANEL * (b->backward ? 2 : 1)) * part->n) * sizeof(T));
    if (!rows) return FD_NO_MEMORY;
    s->centre = rows;
    s->sum = rows + part->n;
    s->other = rows + 2 * part->n;
    s->zero = rows + 3 * part->n;
    s->panel = rows + 4 * part->n;
    s->dout_panel = s->panel + BN_PANEL * part->n;
    memset(s->zero, 0, (size_t)part->n * sizeof(T));
    return FD_OK;
}

/* Sums and centred squares of a chunk, into b->sums. */
static int FD_CAT(bn_moments_task, SFX)(void *context, ptrdiff_t index) {
    const bn_call *b = (const bn_call *)context;
    const norm_grid *g = &b->grid;
    const bn_part part = bn_part_of(b, index, b->chunk);
    double *restrict sum = b->sums + part.chunk * 2 * g->channels + part.channel, *restrict square = sum + g->channels;
    FD_CAT(bn_scratch, SFX) s;
    if (FD_CAT(bn_push, SFX)(b, &part, &s)) return FD_NO_MEMORY;
    for (ptrdiff_t c = 0; c < part.n; c++) sum[c] = square[c] = 0;
    if (b->runs) {
        for (ptrdiff_t c = 0; c < part.n; c++)
            for (ptrdiff_t r = 0; r < part.rows; r += BN_BLOCK) {
                const bn_weights w = bn_weigh(r, fd_min(BN_BLOCK, part.rows - r));
                const ptrdiff_t rows = (ptrdiff_t)w.rows;
                const T *x = FD_CAT(norm_run, SFX)(g, &b->from, part.row + r, rows, part.channel + c, s.x);
                T d, dd, centre = FD_CAT(bn_run_moments, SFX)(x, rows, &d, &dd);
                bn_merge_block(&w, centre, d, dd, sum + c, square + c);
            }
        return FD_OK;
    }
    for (ptrdiff_t r = 0; r < part.rows; r += BN_BLOCK) {
        const bn_weights w = bn_weigh(r, fd_min(BN_BLOCK, part.rows - r));
        const ptrdiff_t rows = (ptrdiff_t)w.rows, row = part.row + r;
        const int direct = FD_CAT(norm_is_block, SFX)(g, &b->from, row, rows);
        for (ptrdiff_t c0 = 0, n; c0 < part.n; c0 += n) {
            ptrdiff_t pitch;
            n = fd_min(direct ? part.n : BN_WIDTH, part.n - c0);
            const T *x = FD_CAT(norm_block, SFX)(g, &b->from, row, rows, part.channel + c0, n, s.x, &pitch);
            ptrdiff_t first_pitch = pitch;
            const T *first = FD_CAT(bn_panel, SFX)(x, &first_pitch, rows, n, s.zero, s.panel);
            FD_CAT(bn_panel_centre, SFX)(first, first_pitch, (T)fd_min(rows, BN_PANEL), s.centre, n);
            memset(s.sum, 0, (size_t)n * sizeof(T));
            memset(s.other, 0, (size_t)n * sizeof(T));
            for (ptrdiff_t i = 0; i < rows; i += BN_PANEL) {
                ptrdiff_t step = pitch;
                const T *panel = FD_CAT(bn_panel, SFX)(x + i * pitch, &step, rows - i, n, s.centre, s.panel);
                FD_CAT(bn_panel_moments, SFX)(panel, step, s.centre, s.sum, s.other, n);
            }
            for (ptrdiff_t c = 0; c < n; c++)
                bn_merge_block(&w, s.centre[c], s.sum[c], s.other[c], sum + c0 + c, square + c0 + c);
        }
    }
    return FD_OK;
}

/* Sums of dout and of dout * (x - mean) of a chunk, into b->sums. */
static int FD_CAT(bn_gradients_task, SFX)(void *context, ptrdiff_t index) {
    const bn_call *b = (const bn_call *)context;
    const norm_grid *g = &b->grid;
    const bn_part part = bn_part_of(b, index, b->chunk);
    const T *mean = (const T *)b->parameter[BN_CENTRE] + part.channel;
    double *restrict sum = b->sums + part.chunk * 2 * g->channels + part.channel, *restrict product = sum + g->channels;
    FD_CAT(bn_scratch, SFX) s;
    if (FD_CAT(bn_push, SFX)(b, &part, &s)) return FD_NO_MEMORY;
    for (ptrdiff_t c = 0; c < part.n; c++) sum[c] = product[c] = 0;
    if (b->runs) {
        for (ptrdiff_t c = 0; c < part.n; c++)
            for (ptrdiff_t r = 0; r < part.rows; r += BN_BLOCK) {
                const ptrdiff_t rows = fd_min(BN_BLOCK, part.rows - r), row = part.row + r, channel = part.channel + c;
                const T *x = FD_CAT(norm_run, SFX)(g, &b->from, row, rows, channel, s.x);
                const T *dout = FD_CAT(norm_run, SFX)(g, &b->gradient, row, rows, channel, s.dout);
                T d, dd;
                FD_CAT(bn_run_gradients, SFX)(dout, x, rows, mean[c], &d, &dd);
                sum[c] += d;
                product[c] += dd;
            }
        return FD_OK;
    }
    for (ptrdiff_t r = 0; r < part.rows; r += BN_BLOCK) {
        const ptrdiff_t rows = fd_min(BN_BLOCK, part.rows - r), row = part.row + r;
        const int direct = FD_CAT(norm_is_block, SFX)(g, &b->from, row, rows)
            && FD_CAT(norm_is_block, SFX)(g, &b->gradient, row, rows);
        for (ptrdiff_t c0 = 0, n; c0 < part.n; c0 += n) {
            ptrdiff_t pitch, dout_pitch;
            n = fd_min(direct ? part.n : BN_WIDTH, part.n - c0);
            const ptrdiff_t channel = part.channel + c0;
            const T *x = FD_CAT(norm_block, SFX)(g, &b->from, row, rows, channel, n, s.x, &pitch);
            const T *dout = FD_CAT(norm_block, SFX)(g, &b->gradient, row, rows, channel, n, s.dout, &dout_pitch);
            memset(s.sum, 0, (size_t)n * sizeof(T));
            memset(s.other, 0, (size_t)n * sizeof(T));
            for (ptrdiff_t i = 0; i < rows; i += BN_PANEL) {
                ptrdiff_t step = pitch, dout_step = dout_pitch;
                const T *panel = FD_CAT(bn_panel, SFX)(x + i * pitch, &step, rows - i, n, mean + c0, s.panel);
                const T *dout_panel = FD_CAT(bn_panel, SFX)(dout + i * dout_pitch, &dout_step, rows - i, n, s.zero,
                                                            s.dout_panel);
                FD_CAT(bn_panel_gradients, SFX)(dout_panel, dout_step, panel, step, mean + c0, s.sum, s.other, n);
            }
            for (ptrdiff_t c = 0; c < n; c++) {
                sum[c0 + c] += s.sum[c];
                product[c0 + c] += s.other[c];
            }
        }
    }
    return FD_OK;
}

/* The map of a chunk, channel by channel. */
static void FD_CAT(bn_map_runs, SFX)(const bn_call *b, const bn_part *part, const T *const *parameter, T *x_buffer,
                                     T *dout_buffer, T *out_buffer) {
    const norm_grid *g = &b->grid;
    for (ptrdiff_t c = 0; c < part->n; c++) {
        const T centre = parameter[BN_CENTRE][c], scale = parameter[BN_SCALE][c];
        const T shift = parameter[BN_SHIFT][c], slope = parameter[BN_SLOPE][c];
        for (ptrdiff_t r = 0, rows; r < part->rows; r += rows) {
            const ptrdiff_t row = part->row + r, channel = part->channel + c;
            rows = norm_reach(g, row, fd_min(BN_BLOCK, part->rows - r)); /* no sum: a run may end with its plane */
            const int direct = FD_CAT(norm_is_run, SFX)(g, &b->to, row, rows);
            const T *restrict x = FD_CAT(norm_run, SFX)(g, &b->from, row, rows, channel, x_buffer);
            T *restrict out = direct ? (T *)norm_at(g, &b->to, row, channel) : out_buffer;
            if (b->backward) {
                const T *restrict dout = FD_CAT(norm_run, SFX)(g, &b->gradient, row, rows, channel, dout_buffer);
                for (ptrdiff_t i = 0; i < rows; i++) out[i] = scale * (dout[i] - shift - (x[i] - centre) * slope);
            } else {
                for (ptrdiff_t i = 0; i < rows; i++) out[i] = (x[i] - centre) * scale + shift;
            }
            if (!direct) FD_CAT(norm_copy_run, SFX)(g, &b->to, row, rows, channel, out, 1);
        }
    }
}

/* out = (x - mean) * scale + shift, or dx = scale * (dout - shift - (x - mean) * slope). */
static int FD_CAT(bn_map_task, SFX)(void *context, ptrdiff_t index) {
    const bn_call *b = (const bn_call *)context;
    const norm_grid *g = &b->grid;
    const bn_part part = bn_part_of(b, b->maps - 1 - index, b->map);
    const ptrdiff_t width = b->runs ? 1 : fd_min(part.n, BN_WIDTH), most = FD_CAT(bn_span, SFX)(part.n);
    const T *parameter[BN_PARAMETERS];
    T *x_buffer = (T *)rt->push((size_t)(BN_BLOCK * width) * sizeof(T));
    T *dout_buffer = (T *)rt->push((size_t)(BN_BLOCK * width) * sizeof(T));
    T *out_buffer = (T *)rt->push((size_t)(BN_BLOCK * width) * sizeof(T));
    T *repeated = (T *)rt->push((size_t)(BN_PARAMETERS * most * part.n) * sizeof(T));
    if (!x_buffer || !dout_buffer || !out_buffer || !repeated) return FD_NO_MEMORY;
    for (int p = 0; p < BN_PARAMETERS; p++) parameter[p] = (const T *)b->parameter[p] + part.channel;
    if (b->runs) {
        FD_CAT(bn_map_runs, SFX)(b, &part, parameter, x_buffer, dout_buffer, out_buffer);
        return FD_OK;
    }
    for (int p = 0; most > 1 && p < BN_PARAMETERS; p++) {
        FD_CAT(bn_repeat, SFX)(repeated + p * most * part.n, parameter[p], part.n, most);
        parameter[p] = repeated + p * most * part.n;
    }
    for (ptrdiff_t r = 0; r < part.rows; r += BN_BLOCK) {
        const ptrdiff_t rows = fd_min(BN_BLOCK, part.rows - r), row = part.row + r;
        const int direct = FD_CAT(norm_is_block, SFX)(g, &b->to, row, rows);
        const int all = direct && FD_CAT(norm_is_block, SFX)(g, &b->from, row, rows)
            && (!b->backward || FD_CAT(norm_is_block, SFX)(g, &b->gradient, row, rows));
        for (ptrdiff_t c0 = 0, n; c0 < part.n; c0 += n) {
            n = fd_min(all ? part.n : BN_WIDTH, part.n - c0);
            const ptrdiff_t channel = part.channel + c0;
            ptrdiff_t x_pitch, out_pitch = n, dout_pitch = n;
            const T *x = FD_CAT(norm_block, SFX)(g, &b->from, row, rows, channel, n, x_buffer, &x_pitch), *dout = x;
            if (b->backward)
                dout = FD_CAT(norm_block, SFX)(g, &b->gradient, row, rows, channel, n, dout_buffer, &dout_pitch);
            T *out = direct ? (T *)norm_at(g, &b->to, row, channel) : out_buffer;
            if (direct && rows > 1) out_pitch = b->to.stride[2] / (ptrdiff_t)sizeof(T);
            const ptrdiff_t span = x_pitch == n && out_pitch == n && dout_pitch == n ? most : 1;
            const T *centre = parameter[BN_CENTRE] + c0, *scale = parameter[BN_SCALE] + c0;
            const T *shift = parameter[BN_SHIFT] + c0, *slope = parameter[BN_SLOPE] + c0;
            for (ptrdiff_t i = 0; i < rows; i += span) {
                const ptrdiff_t count = fd_min(span, rows - i) * n;
                if (b->backward)
                    FD_CAT(bn_gradient, SFX)(dout + i * dout_pitch, x + i * x_pitch, centre, scale, shift, slope,
                                             out + i * out_pitch, count, direct && b->streams);
                else
                    FD_CAT(bn_apply, SFX)(x + i * x_pitch, centre, scale, shift, out + i * out_pitch, count,
                                          direct && b->streams);
            }
            if (!direct) FD_CAT(norm_copy_block, SFX)(g, &b->to, row, rows, channel, n, out, 1);
        }
    }
    if (b->streams) fd_stream_end();
    return FD_OK;
}
