// relu, relu6, sigmoid, tanh: see __init__.py.
#include "elementwise.cuh"

struct Map1 {
    Extent extent;
    View views[2];
};
struct Map2 {
    Extent extent;
    View views[3];
};

KERNEL(relu_forward, 256, 4, Map1) {
    map<1>(a.extent, a.views, [](const S (&v)[1]) { return v[0] <= 0 ? S(0) : v[0]; });
}
KERNEL(relu_backward, 256, 4, Map2) { // dout, y
    map<2>(a.extent, a.views, [](const S (&v)[2]) { return v[1] <= 0 ? S(0) : v[0]; });
}

KERNEL(relu6_forward, 256, 4, Map1) {
    map<1>(a.extent, a.views, [](const S (&v)[1]) { return v[0] <= 0 ? S(0) : v[0] >= 6 ? S(6) : v[0]; });
}
KERNEL(relu6_backward, 256, 4, Map2) {
    map<2>(a.extent, a.views, [](const S (&v)[2]) { return v[1] <= 0 || v[1] >= 6 ? S(0) : v[0]; });
}

KERNEL(sigmoid_forward, 256, 4, Map1) {
    map<1>(a.extent, a.views, [](const S (&v)[1]) {
        // exp(-|x|) does not overflow, and a small result keeps its relative precision.
        S e = exp_of(-fabs_of(v[0]));
        return v[0] < 0 ? e / (1 + e) : 1 / (1 + e);
    });
}
KERNEL(sigmoid_backward, 256, 4, Map2) {
    map<2>(a.extent, a.views, [](const S (&v)[2]) { return v[0] * v[1] * (1 - v[1]); });
}

KERNEL(tanh_forward, 256, 4, Map1) {
    map<1>(a.extent, a.views, [](const S (&v)[1]) { return tanh_of(v[0]); });
}
KERNEL(tanh_backward, 256, 4, Map2) {
    map<2>(a.extent, a.views, [](const S (&v)[2]) { return v[0] * (1 - v[1] * v[1]); });
}
