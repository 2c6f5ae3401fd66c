/* Arguments of one batch normalisation, what happens once for each channel, and both instantiations of the loops. */
#ifndef FASTDL_BATCH_NORM_CALL_H
#define FASTDL_BATCH_NORM_CALL_H
#include "layout.h"
#include "stream.h"

#define BN_BLOCK 128 /* rows whose sums stay in the compute dtype */
#define BN_PANEL 8   /* rows that are read side by side */
#define BN_PANELS (BN_BLOCK / BN_PANEL)
#define BN_WIDTH 256 /* channels of a block that has to be copied */
#define BN_SPAN 256  /* elements, at most, to which a row of parameters is repeated */
#define BN_MAP 32768 /* elements of a task of the map, where the channels are beside each other */

enum { BN_FORWARD, BN_INFERENCE, BN_BACKWARD };
enum { BN_CENTRE, BN_SCALE, BN_SHIFT, BN_SLOPE, BN_PARAMETERS };

typedef struct {
    /* arguments; out is dx in backward */
    fd_tensor x, dout, out, gamma, beta, mean, var, dgamma, dbeta;
    double eps;
    ptrdiff_t tile, chunk, chunks;
    /* set by bn_start */
    norm_grid grid;
    norm_operand from, gradient, to; /* x, dout, out */
    int backward, runs;              /* runs: the rows of a channel are beside each other, not the channels of a row */
    int streams;                     /* whether out is stored around the caches */
    ptrdiff_t tiles, map, maps;      /* map: rows of a task of the map; maps: such tasks */
    void *parameter[BN_PARAMETERS];  /* compute dtype, [channels] each */
    double *sums;                    /* [chunks][2][channels] */
} bn_call;

/* What a task owns. */
typedef struct {
    ptrdiff_t chunk, row, rows, channel, n;
} bn_part;

static inline bn_part bn_part_of(const bn_call *b, ptrdiff_t index, ptrdiff_t chunk) {
    bn_part p;
    p.chunk = index / b->tiles;
    p.row = p.chunk * chunk;
    p.rows = fd_min(chunk, b->grid.rows - p.row);
    p.channel = index % b->tiles * b->tile;
    p.n = fd_min(b->tile, b->grid.channels - p.channel);
    return p;
}

/* Two sets of rows meet: (sum, square) of `before` rows, square being the sum of centred squares, and those of `rows`
 * more. With delta the difference of the two means, squares add up to square + square' + delta^2 before rows / (before
 * + rows) (Chan, Golub, LeVeque 1979). */
typedef struct {
    double rows, per_row, ratio, weight; /* ratio: rows / before */
} bn_weights;

static inline bn_weights bn_weigh(ptrdiff_t before, ptrdiff_t rows) {
    bn_weights w = {(double)rows, 1 / (double)rows, 0, 0};
    if (before > 0) {
        w.ratio = (double)rows / (double)before;
        w.weight = (double)before * (double)rows / (double)(before + rows);
    }
    return w;
}

static inline void bn_merge(const bn_weights *w, double more_sum, double more_square, double *sum, double *square) {
    /* No delta for the first rows: weight 0 would not help where its square overflows. With one product in the
     * difference there is one way to contract it, in scalar code (runs) and in vectors (blocks). */
    const double delta = w->weight > 0 ? (more_sum - *sum * w->ratio) * w->per_row : 0;
    *square += more_square + delta * delta * w->weight;
    *sum += more_sum;
}

/* The same with a block's moments about `centre`: d and dd are the sums of x - centre and of its square. The centre is
 * the mean of the block's first 8 rows. How far it is from the mean of all, square d / rows, costs digits of dd; but 8
 * rows cannot be far off and leave the block's own squares small: dd is at most 1 + 128 / 8 times them for any x. */
static inline void bn_merge_block(const bn_weights *w, double centre, double d, double dd, double *sum,
                                  double *square) {
    const double rest = dd - d * d * w->per_row;
    bn_merge(w, centre * w->rows + d, rest < 0 ? 0 : rest, sum, square);
}

#define T float
#define SFX f32
#define TYPE FD_F32
#include "access.h"
#include "batch_norm.h"
#undef T
#undef SFX
#undef TYPE
#define T double
#define SFX f64
#define TYPE FD_F64
#include "access.h"
#include "batch_norm.h"
#undef T
#undef SFX
#undef TYPE

/* n parameters of the map, from doubles. */
static void bn_set(const bn_call *b, int which, ptrdiff_t first, ptrdiff_t n, const double *from) {
    if (b->x.type == FD_F64) memcpy((double *)b->parameter[which] + first, from, (size_t)n * sizeof(double));
    else
        for (ptrdiff_t i = 0; i < n; i++) ((float *)b->parameter[which])[first + i] = (float)from[i];
}

/* mean and var of the batch from the sums of its chunks. */
static void bn_finish_moments(const bn_call *b, ptrdiff_t first, ptrdiff_t n) {
    const ptrdiff_t channels = b->grid.channels;
    const double rows = (double)b->grid.rows;
    double sum[NORM_PIECE] = {0}, square[NORM_PIECE] = {0};
    for (ptrdiff_t k = 0; k < b->chunks; k++) {
        const bn_weights w = bn_weigh(k * b->chunk, fd_min(b->chunk, b->grid.rows - k * b->chunk));
        const double *more = b->sums + k * 2 * channels + first;
        for (ptrdiff_t c = 0; c < n; c++) bn_merge(&w, more[c], more[c + channels], sum + c, square + c);
    }
    for (ptrdiff_t c = 0; c < n; c++) {
        sum[c] /= rows;
        square[c] /= rows;
    }
    norm_store_parameter(&b->mean, first, n, sum);
    norm_store_parameter(&b->var, first, n, square);
}

/* dgamma and dbeta from the sums of the chunks, and from these the parameters of
 *     dx = scale (dout - dbeta / rows - (x - mean) slope),    slope = dgamma / sqrt(var + eps) / rows. */
static void bn_finish_gradients(const bn_call *b, ptrdiff_t first, ptrdiff_t n) {
    const ptrdiff_t channels = b->grid.channels;
    const double rows = (double)b->grid.rows;
    double sum[NORM_PIECE] = {0}, product[NORM_PIECE] = {0}, var[NORM_PIECE];
    for (ptrdiff_t k = 0; k < b->chunks; k++) {
        const double *more = b->sums + k * 2 * channels + first;
        for (ptrdiff_t c = 0; c < n; c++) {
            sum[c] += more[c];
            product[c] += more[c + channels];
        }
    }
    norm_load_parameter(&b->var, first, n, var);
    norm_store_parameter(&b->dbeta, first, n, sum);
    for (ptrdiff_t c = 0; c < n; c++) {
        sum[c] /= rows;
        product[c] /= sqrt(var[c] + b->eps);
    }
    norm_store_parameter(&b->dgamma, first, n, product);
    for (ptrdiff_t c = 0; c < n; c++) product[c] /= rows * sqrt(var[c] + b->eps);
    bn_set(b, BN_SHIFT, first, n, sum);
    bn_set(b, BN_SLOPE, first, n, product);
}

static void bn_set_centre(const bn_call *b, ptrdiff_t first, ptrdiff_t n) {
    double mean[NORM_PIECE];
    norm_load_parameter(&b->mean, first, n, mean);
    bn_set(b, BN_CENTRE, first, n, mean);
}

static void bn_set_scale(const bn_call *b, ptrdiff_t first, ptrdiff_t n) {
    double gamma[NORM_PIECE], var[NORM_PIECE];
    norm_load_parameter(&b->gamma, first, n, gamma);
    norm_load_parameter(&b->var, first, n, var);
    for (ptrdiff_t c = 0; c < n; c++) gamma[c] /= sqrt(var[c] + b->eps);
    bn_set(b, BN_SCALE, first, n, gamma);
}

static void bn_set_shift(const bn_call *b, ptrdiff_t first, ptrdiff_t n) {
    double beta[NORM_PIECE];
    norm_load_parameter(&b->beta, first, n, beta);
    bn_set(b, BN_SHIFT, first, n, beta);
}

static void bn_each_piece(const bn_call *b, void (*f)(const bn_call *, ptrdiff_t, ptrdiff_t)) {
    for (ptrdiff_t c = 0; c < b->grid.channels; c += NORM_PIECE) f(b, c, fd_min(NORM_PIECE, b->grid.channels - c));
}

static int bn_run(bn_call *b, int direction, int threads) {
    const norm_grid *g = &b->grid;
    const int wide = b->x.type == FD_F64;
    const ptrdiff_t tasks = b->chunks * b->tiles;
    const double elements = (double)g->rows * (double)g->channels * (wide ? 2 : 1);
    const int x_runs = norm_prefers_runs(g, &b->from);
    int status = FD_OK;
    for (int p = 0; p < BN_PARAMETERS; p++) {
        /* only the gradient has a slope */
        b->parameter[p] = p == BN_SLOPE && !b->backward ? b->parameter[BN_CENTRE]
                                                        : rt->push((size_t)g->channels * (wide ? 8 : 4));
        if (!b->parameter[p]) return FD_NO_MEMORY;
    }
    if (direction != BN_INFERENCE) {
        b->sums = (double *)rt->push((size_t)(b->chunks * 2 * g->channels) * sizeof(double));
        if (!b->sums) return FD_NO_MEMORY;
    }
    if (direction == BN_FORWARD) {
        b->runs = x_runs;
        status = rt->parallel_for(wide ? bn_moments_task_f64 : bn_moments_task_f32, b, tasks, threads, 0.2 * elements);
        if (status) return status;
        bn_each_piece(b, bn_finish_moments);
    }
    bn_each_piece(b, bn_set_centre);
    bn_each_piece(b, bn_set_scale);
    if (direction == BN_BACKWARD) {
        b->runs = x_runs && norm_prefers_runs(g, &b->gradient);
        status = rt->parallel_for(wide ? bn_gradients_task_f64 : bn_gradients_task_f32, b, tasks, threads,
                                  0.2 * elements);
        if (status) return status;
        bn_each_piece(b, bn_finish_gradients);
    } else {
        bn_each_piece(b, bn_set_shift);
    }
    b->runs = x_runs && norm_prefers_runs(g, &b->to) && (!b->backward || norm_prefers_runs(g, &b->gradient));
    b->map = b->runs ? b->chunk : fd_max(1, BN_MAP / fd_min(b->tile, g->channels));
    b->maps = fd_ceil_div(g->rows, b->map) * b->tiles;
    return rt->parallel_for(wide ? bn_map_task_f64 : bn_map_task_f32, b, b->maps, threads, 0.2 * elements);
}

static int bn_start(bn_call *b, int direction, int threads) {
    const fd_tensor *tensors[] = {&b->x, &b->out, &b->dout};
    norm_operand *operands[] = {&b->from, &b->to, &b->gradient};
    b->backward = direction == BN_BACKWARD;
    norm_view(&b->grid, tensors, operands, b->backward ? 3 : 2);
    if (b->grid.channels == 0) return FD_OK;
    b->tiles = fd_ceil_div(b->grid.channels, b->tile);
    b->streams = fd_streams(&b->out);
    const size_t mark = rt->mark();
    const int status = bn_run(b, direction, threads);
    rt->release(mark);
    return status;
}

#endif
