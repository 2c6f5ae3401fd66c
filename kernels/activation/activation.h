/* Which row functions an activation has, and what they cost. */
#ifndef FASTDL_ACTIVATION_H
#define FASTDL_ACTIVATION_H
#include "elementwise.h"
#include "vmath.h"

#define T float
#define SFX f32
#include "activation_rows.h"
#undef T
#undef SFX
#define T double
#define SFX f64
#include "activation_rows.h"
#undef T
#undef SFX

typedef struct {
    fd_row_f32 row32;
    fd_row_f64 row64;
    double ns; /* of one float32 on one thread */
} activation;

static const activation RELU_FORWARD = {relu_forward_f32, relu_forward_f64, 0.2};
static const activation RELU_BACKWARD = {relu_backward_f32, relu_backward_f64, 0.3};
static const activation RELU6_FORWARD = {relu6_forward_f32, relu6_forward_f64, 0.2};
static const activation RELU6_BACKWARD = {relu6_backward_f32, relu6_backward_f64, 0.3};
static const activation SIGMOID_FORWARD = {sigmoid_forward_f32, sigmoid_forward_f64, 1.0};
static const activation SIGMOID_BACKWARD = {sigmoid_backward_f32, sigmoid_backward_f64, 0.3};
static const activation TANH_FORWARD = {tanh_forward_f32, tanh_forward_f64, 1.0};
static const activation TANH_BACKWARD = {tanh_backward_f32, tanh_backward_f64, 0.3};
static const activation EXP = {exp_forward_f32, exp_forward_f64, 1.0};
static const activation LOG = {log_forward_f32, log_forward_f64, 1.0};

/* One or two inputs, then the output. */
static int activation_run(const activation *a, const fd_tensor *const *t, int operands, int threads) {
    fd_elementwise e;
    fd_elementwise_init(&e, t, operands);
    e.row32 = a->row32;
    e.row64 = a->row64;
    e.parameters = NULL;
    return fd_elementwise_run(&e, threads, a->ns);
}
#endif
