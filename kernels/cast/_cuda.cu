// cast: see __init__.py. FD_SOURCE is the type of x.
#include "elementwise.cuh"

struct Cast {
    Extent extent;
    View views[2];
};

struct Given {
    FD_SOURCE v;
};
// A NaN keeps its sign, which a conversion drops.
DEVICE Wider<S, Compute<FD_SOURCE>::type>::type widen(Given x) {
    return with_sign(Wider<S, Compute<FD_SOURCE>::type>::type(widen(x.v)), negative(x.v));
}

KERNEL(cast_forward, 256, 4, Cast) {
    map<1, Given>(a.extent, a.views, [](const auto &v) { return v[0]; });
}
