// Kernels for the tests of the stand-in driver itself, written straight to its interface: they loop over the elements.
#include "abi.h"

namespace {

template <class T>
T value(void **parameters, int index) {
    return *static_cast<T *>(parameters[index]);
}

const char *scale(CuemuDim3, CuemuDim3, uint32_t, void **parameters) {
    auto *data = value<float *>(parameters, 0);
    for (int index = 0; index < value<int>(parameters, 1); ++index) data[index] *= value<float>(parameters, 2);
    return nullptr;
}

const char *add(CuemuDim3, CuemuDim3, uint32_t, void **parameters) {
    auto *data = value<float *>(parameters, 0);
    for (int index = 0; index < value<int>(parameters, 1); ++index) data[index] += value<float>(parameters, 2);
    return nullptr;
}

const char *diverge(CuemuDim3, CuemuDim3, uint32_t, void **) { return "a barrier in divergent code"; }

const CuemuParameter ARRAY[] = {{8, 8, 1}, {4, 4, 0}, {4, 4, 0}};
const CuemuKernel KERNELS[] = {
    {"scale", 3, ARRAY, 0, 256, scale},
    {"add", 3, ARRAY, 1024, 1024, add},
    {"diverge", 0, nullptr, 0, 1024, diverge},
};

}  // namespace

extern "C" const CuemuKernel *cuemu_kernels(int *count) {
    *count = sizeof KERNELS / sizeof *KERNELS;
    return KERNELS;
}
