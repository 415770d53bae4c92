// What a library of emulated kernels exports to the stand-in driver, and what the driver offers to it in return.
//
// A module image is the text "CUEMU:<absolute path of such a library>". The library is built from the unchanged .cu
// sources by g++ against cuemu.h; the driver opens it with dlopen and calls cuemu_kernels once.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    unsigned x, y, z;
} CuemuDim3;

typedef struct {
    uint32_t bytes;       // sizeof the parameter; values are packed at their natural alignment, as in a CUDA launch
    uint32_t alignment;   // alignof the parameter
    uint32_t is_pointer;  // 1: the driver checks that a value other than null lies in a live allocation
} CuemuParameter;

// Runs the whole grid and returns null, or a message that stays valid until the next launch ("barrier in divergent code
// at ..."). The driver turns a message into CUDA_ERROR_LAUNCH_FAILED and keeps its words. parameters[i] points at the
// value of parameter i. The driver runs one launch at a time, whatever the number of threads.
typedef const char *(*CuemuLaunch)(CuemuDim3 grid, CuemuDim3 block, uint32_t shared_bytes, void **parameters);

typedef struct {
    const char *name;  // as written after __global__ (kernels are extern "C")
    uint32_t parameter_count;
    const CuemuParameter *parameters;
    uint32_t static_shared_bytes;  // 0 where unknown; with shared_bytes at most 48 KiB a block
    uint32_t max_threads;          // from __launch_bounds__, else 1024
    CuemuLaunch launch;
} CuemuKernel;

// The one symbol every library exports: its kernels, valid as long as the library is open.
const CuemuKernel *cuemu_kernels(int *count);

#ifdef __cplusplus
}
#endif
