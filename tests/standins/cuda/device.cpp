// Initialisation, the one device, its primary context, and what the names of errors are.
#include <cstdio>
#include <cstring>

#include "driver.h"

namespace standin {

void end_graphs();
void end_modules();

namespace {

struct PrimaryContext {
    uint64_t generation;
};
std::map<uint64_t, PrimaryContext> contexts;  // every one there was; only the newest can be alive

// The contexts pushed on this thread. A thread that ends with one still there leaked it.
struct ContextStack {
    std::vector<PrimaryContext *> pushed;
    ~ContextStack() {
        if (pushed.empty() || std::this_thread::get_id() == main_thread) return;
        Lock lock(state().mutex);
        complain("a thread ended with " + std::to_string(pushed.size()) + " contexts on its stack");
        count("current_contexts", -static_cast<int64_t>(pushed.size()));
    }
    static const std::thread::id main_thread;
};
const std::thread::id ContextStack::main_thread = std::this_thread::get_id();
thread_local ContextStack stack;
thread_local int host_function_depth = 0;

void check_device(CUdevice device) {
    if (device != 0 || setting("devices") == 0)
        throw Refusal{CUDA_ERROR_INVALID_DEVICE, "no device " + std::to_string(device)};
}

bool alive(const PrimaryContext *context) { return state().retained > 0 && context->generation == state().generation; }

int attribute(CUdevice_attribute which) {
    switch (which) {
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
            return 8;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
            return 7;
        case CU_DEVICE_ATTRIBUTE_INTEGRATED:
            return static_cast<int>(setting("integrated"));
        case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
        case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
        case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT:
        case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
            return 1;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y:
            return 1024;
        case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z:
            return 64;
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X:
            return 0x7FFFFFFF;
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z:
            return 65535;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK:
            return 48 << 10;
        case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
            return 32;
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
            return 8;
        case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
            return 918000;
        case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
            return 3199000;
        case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
            return 128;
        default:
            throw Refusal{CUDA_ERROR_INVALID_VALUE, "the stand-in knows no attribute " + std::to_string(which)};
    }
}

struct Error {
    CUresult code;
    const char *name, *words;
};
#define E(NAME, WORDS) {CUDA_ERROR_##NAME, "CUDA_ERROR_" #NAME, WORDS}
const Error ERRORS[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    E(INVALID_VALUE, "invalid argument"),
    E(OUT_OF_MEMORY, "out of memory"),
    E(NOT_INITIALIZED, "initialization error"),
    E(NO_DEVICE, "no CUDA-capable device is detected"),
    E(INVALID_DEVICE, "invalid device ordinal"),
    E(INVALID_IMAGE, "device kernel image is invalid"),
    E(INVALID_CONTEXT, "invalid device context"),
    E(NO_BINARY_FOR_GPU, "no kernel image is available for execution on the device"),
    E(INVALID_HANDLE, "invalid resource handle"),
    E(ILLEGAL_STATE, "the operation cannot be performed in the present state"),
    E(NOT_FOUND, "named symbol not found"),
    E(NOT_READY, "device not ready"),
    E(ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
    E(LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch"),
    E(LAUNCH_TIMEOUT, "the launch timed out and was terminated"),
    E(LAUNCH_FAILED, "unspecified launch failure"),
    E(NOT_PERMITTED, "operation not permitted"),
    E(NOT_SUPPORTED, "operation not supported"),
    E(SYSTEM_DRIVER_MISMATCH, "system has unsupported display driver / cuda driver combination"),
    E(STREAM_CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing"),
    E(STREAM_CAPTURE_INVALIDATED, "operation failed due to a previous error during capture"),
    E(STREAM_CAPTURE_MERGE, "operation would result in a merge of separate capture sequences"),
    E(STREAM_CAPTURE_UNMATCHED, "capture was not ended in the same stream as it began"),
    E(STREAM_CAPTURE_UNJOINED, "capturing stream has unjoined work"),
    E(STREAM_CAPTURE_ISOLATION, "dependency created on uncaptured work in another stream"),
    E(CAPTURED_EVENT, "operation not permitted on an event last recorded in a capturing stream"),
    E(STREAM_CAPTURE_WRONG_THREAD, "attempt to terminate a thread-local capture sequence from another thread"),
    E(UNKNOWN, "unknown error"),
};

const Error *error_of(CUresult code) {
    for (const Error &error : ERRORS)
        if (error.code == code) return &error;
    return nullptr;
}

}  // namespace

std::string hex(uint64_t address) {
    char text[24];
    snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(address));
    return text;
}

State &state() {
    static State *only = new State;  // never destroyed: pycuda frees its handles at exit
    return *only;
}

bool in_host_function() { return host_function_depth > 0; }
HostFunctionScope::HostFunctionScope() { ++host_function_depth; }
HostFunctionScope::~HostFunctionScope() { --host_function_depth; }

void check_call(unsigned rules) {
    if (rules & ANYTIME) return;
    if (!state().initialised) throw Refusal{CUDA_ERROR_NOT_INITIALIZED, "called before cuInit"};
    if (in_host_function()) throw Refusal{CUDA_ERROR_NOT_PERMITTED, "called from a host function"};
    if (rules & CONTEXT) {
        if (stack.pushed.empty()) throw Refusal{CUDA_ERROR_INVALID_CONTEXT, "no context is current in this thread"};
        if (!alive(stack.pushed.back())) throw Refusal{CUDA_ERROR_INVALID_CONTEXT, "the current context was released"};
    }
    if (rules & BREAKS_CAPTURE)
        for (const auto &capture : state().captures) {
            bool own = capture->thread == std::this_thread::get_id();
            if (capture->mode == CU_STREAM_CAPTURE_MODE_RELAXED) continue;
            if (capture->mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL && !own) continue;
            capture->broken = true;
            throw Refusal{CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "called during a capture"};
        }
}

CUresult deferred_failure() { return state().failed; }

void fail_deferred(CUresult code, const std::string &words) {
    complain(words);
    if (state().failed == CUDA_SUCCESS) state().failed = code;
}

void end_context() {
    // Not modules: a kernel that something still refers to keeps its module, and is no leak.
    std::string left;
    for (const char *kind :
         {"live_allocations", "live_pinned", "live_streams", "live_events", "live_graphs", "live_executables"})
        if (int64_t found = measured(kind)) left += " " + std::to_string(found) + " " + kind;
    if (!left.empty()) complain("the context ended with" + left);
    for (auto &[handle, stream] : state().streams) {
        stream->alive = false;
        stream->queue.clear();
        stream->done = stream->enqueued;
        stream->capture.reset();
    }
    for (auto &[handle, event] : state().events) event->alive = false;
    state().captures.clear();
    end_graphs();
    end_modules();
    free_all_memory();
    state().failed = CUDA_SUCCESS;
    state().changed.notify_all();
}

}  // namespace standin

using namespace standin;

CUresult CUDAAPI cuInit(unsigned) {
    return call("cuInit", ANYTIME, [&](Lock &) {
        if (setting("devices") == 0) return CUDA_ERROR_NO_DEVICE;
        state().initialised = true;
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuDriverGetVersion(int *version) {
    return call("cuDriverGetVersion", ANYTIME, [&](Lock &) {
        *version = static_cast<int>(setting("driver_version"));
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuDeviceGetCount(int *devices) {
    return call("cuDeviceGetCount", PLAIN, [&](Lock &) {
        *devices = static_cast<int>(setting("devices"));
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuDeviceGet(CUdevice *device, int ordinal) {
    return call("cuDeviceGet", PLAIN, [&](Lock &) {
        check_device(ordinal);
        *device = ordinal;
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuDeviceGetName(char *name, int length, CUdevice device) {
    return call("cuDeviceGetName", PLAIN, [&](Lock &) {
        check_device(device);
        snprintf(name, length, "stand-in GPU");
        return CUDA_SUCCESS;
    });
}

static CUresult device_uuid(CUuuid *uuid, CUdevice device) {
    return call("cuDeviceGetUuid", PLAIN, [&](Lock &) {
        check_device(device);
        for (int index = 0; index < 16; ++index) uuid->bytes[index] = static_cast<char>(index * 17);
        return CUDA_SUCCESS;
    });
}

#undef cuDeviceGetUuid
extern "C" __attribute__((visibility("default"))) CUresult CUDAAPI cuDeviceGetUuid(CUuuid *uuid, CUdevice device) {
    return device_uuid(uuid, device);
}
CUresult CUDAAPI cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) { return device_uuid(uuid, device); }

CUresult CUDAAPI cuDeviceTotalMem(size_t *bytes, CUdevice device) {
    return call("cuDeviceTotalMem", PLAIN, [&](Lock &) {
        check_device(device);
        *bytes = setting("total_bytes");
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice device) {
    return call("cuDeviceGetAttribute", PLAIN, [&](Lock &) {
        check_device(device);
        *value = attribute(which);
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuDeviceComputeCapability(int *major, int *minor, CUdevice device) {
    return call("cuDeviceComputeCapability", PLAIN, [&](Lock &) {
        check_device(device);
        *major = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
        *minor = attribute(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuDeviceGetPCIBusId(char *text, int length, CUdevice device) {
    return call("cuDeviceGetPCIBusId", PLAIN, [&](Lock &) {
        check_device(device);
        snprintf(text, length, "0000:00:00.0");
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    return call("cuDevicePrimaryCtxRetain", PLAIN, [&](Lock &) {
        check_device(device);
        if (state().retained++ == 0) contexts[++state().generation] = {state().generation};
        *context = reinterpret_cast<CUcontext>(&contexts[state().generation]);
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuDevicePrimaryCtxRelease(CUdevice device) {
    return call("cuDevicePrimaryCtxRelease", CLEANUP, [&](Lock &) {
        check_device(device);
        if (state().retained == 0) throw Refusal{CUDA_ERROR_INVALID_CONTEXT, "the primary context was not retained"};
        if (state().retained == 1) end_context();
        --state().retained;
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
    return call("cuDevicePrimaryCtxGetState", PLAIN, [&](Lock &) {
        check_device(device);
        *flags = 0;
        *active = state().retained > 0;
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuCtxPushCurrent(CUcontext handle) {
    return call("cuCtxPushCurrent", PLAIN, [&](Lock &) {
        auto *context = reinterpret_cast<PrimaryContext *>(handle);
        bool known = false;
        for (auto &[generation, one] : contexts) known = known || &one == context;
        if (!known) throw Refusal{CUDA_ERROR_INVALID_CONTEXT, "not a context"};
        if (!alive(context)) throw Refusal{CUDA_ERROR_INVALID_CONTEXT, "the context was released"};
        stack.pushed.push_back(context);
        count("current_contexts");
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuCtxPopCurrent(CUcontext *handle) {
    return call("cuCtxPopCurrent", PLAIN, [&](Lock &) {
        if (stack.pushed.empty()) throw Refusal{CUDA_ERROR_INVALID_CONTEXT, "no context is current in this thread"};
        if (handle != nullptr) *handle = reinterpret_cast<CUcontext>(stack.pushed.back());
        stack.pushed.pop_back();
        count("current_contexts", -1);
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuCtxGetCurrent(CUcontext *handle) {
    return call("cuCtxGetCurrent", PLAIN, [&](Lock &) {
        *handle = stack.pushed.empty() ? nullptr : reinterpret_cast<CUcontext>(stack.pushed.back());
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuCtxGetDevice(CUdevice *device) {
    return call("cuCtxGetDevice", CONTEXT, [&](Lock &) {
        *device = 0;
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuCtxSynchronize(void) {
    return call("cuCtxSynchronize", CONTEXT | BREAKS_CAPTURE, [&](Lock &lock) {
        advance_all(lock);
        return deferred_failure();
    });
}

CUresult CUDAAPI cuGetErrorString(CUresult code, const char **words) {
    const Error *error = error_of(code);
    *words = error != nullptr ? error->words : nullptr;
    return error != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuGetErrorName(CUresult code, const char **name) {
    const Error *error = error_of(code);
    *name = error != nullptr ? error->name : nullptr;
    return error != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
