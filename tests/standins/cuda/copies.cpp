// Copies, memory sets and host functions: what streams do beside kernels.
#include <algorithm>
#include <cstring>
#include <optional>

#include "driver.h"

namespace standin {
namespace {

// An async copy touches host memory at once where it is pageable, and when it runs where it is page-locked.
CUresult upload(const char *what, CUdeviceptr to, const void *from, size_t bytes, Stream *stream) {
    device_range(to, bytes, "writes");
    host_range(from, bytes, "reads");
    std::shared_ptr<std::vector<char>> snapshot;
    if (!is_pinned(from)) {
        refuse_capture(stream, "a copy from pageable memory cannot be captured");
        count("pageable_copies");
        const auto *start = static_cast<const char *>(from);
        snapshot = std::make_shared<std::vector<char>>(start, start + bytes);
    }
    enqueue(stream, {what, [=] {
                         device_range(to, bytes, "writes");
                         if (!snapshot) host_range(from, bytes, "reads");
                         memcpy(reinterpret_cast<void *>(to), snapshot ? snapshot->data() : from, bytes);
                         Lock lock(state().mutex);
                         count("uploads");
                         count("upload_bytes", static_cast<int64_t>(bytes));
                     }});
    return CUDA_SUCCESS;
}

CUresult download(Lock &lock, const char *what, void *to, CUdeviceptr from, size_t bytes, Stream *stream) {
    device_range(from, bytes, "reads");
    host_range(to, bytes, "writes");
    bool pinned = is_pinned(to);
    if (!pinned) {
        refuse_capture(stream, "a copy to pageable memory cannot be captured");
        count("pageable_copies");
    }
    enqueue(stream, {what,
                     [=] {
                         device_range(from, bytes, "reads");
                         host_range(to, bytes, "writes");
                         memcpy(to, reinterpret_cast<void *>(from), bytes);
                         Lock inner(state().mutex);
                         count("downloads");
                         count("download_bytes", static_cast<int64_t>(bytes));
                     },
                     to, bytes});
    if (!pinned) advance(lock, stream, stream->enqueued);
    return deferred_failure();
}

template <class Word>
Operation filling(const char *what, CUdeviceptr to, Word value, size_t words) {
    size_t bytes = words * sizeof(Word);
    device_range(to, bytes, "writes");
    if (to % sizeof(Word) != 0) throw Refusal{CUDA_ERROR_INVALID_VALUE, hex(to) + " is not aligned to its words"};
    return {what, [=] {
                device_range(to, bytes, "writes");
                std::fill_n(reinterpret_cast<Word *>(to), words, value);
                Lock lock(state().mutex);
                count("memsets");
            }};
}

Operation copying(const char *what, CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    device_range(to, bytes, "writes");
    device_range(from, bytes, "reads");
    return {what, [=] {
                device_range(to, bytes, "writes");
                device_range(from, bytes, "reads");
                memmove(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), bytes);
                Lock lock(state().mutex);
                count("device_copies");
            }};
}

// What a blocking call does: at once, and without waiting for non-blocking streams, as on a GPU.
void run_now(Lock &lock, Operation operation) {
    lock.unlock();
    std::optional<Refusal> refusal;
    try {
        operation.run();
    } catch (const Refusal &thrown) {
        refusal = thrown;
    }
    lock.lock();
    count("blocking_calls");
    if (refusal) throw Refusal(*refusal);
}

}  // namespace
}  // namespace standin

using namespace standin;

CUresult CUDAAPI cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    return call("cuMemcpyHtoDAsync", CONTEXT,
                [&](Lock &) { return upload("cuMemcpyHtoDAsync", to, from, bytes, stream_of(stream)); });
}

CUresult CUDAAPI cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return call("cuMemcpyDtoHAsync", CONTEXT,
                [&](Lock &lock) { return download(lock, "cuMemcpyDtoHAsync", to, from, bytes, stream_of(stream)); });
}

CUresult CUDAAPI cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return call("cuMemcpyDtoDAsync", CONTEXT, [&](Lock &) {
        enqueue(stream_of(stream), copying("cuMemcpyDtoDAsync", to, from, bytes));
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t bytes) {
    return call("cuMemcpyHtoD", CONTEXT | BREAKS_CAPTURE, [&](Lock &) {
        device_range(to, bytes, "writes");
        host_range(from, bytes, "reads");
        memcpy(reinterpret_cast<void *>(to), from, bytes);
        count("blocking_calls");
        count("uploads");
        count("upload_bytes", static_cast<int64_t>(bytes));
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuMemcpyDtoH(void *to, CUdeviceptr from, size_t bytes) {
    return call("cuMemcpyDtoH", CONTEXT | BREAKS_CAPTURE, [&](Lock &) {
        device_range(from, bytes, "reads");
        host_range(to, bytes, "writes");
        memcpy(to, reinterpret_cast<void *>(from), bytes);
        count("blocking_calls");
        count("downloads");
        count("download_bytes", static_cast<int64_t>(bytes));
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return call("cuMemcpyDtoD", CONTEXT | BREAKS_CAPTURE, [&](Lock &lock) {
        run_now(lock, copying("cuMemcpyDtoD", to, from, bytes));
        return CUDA_SUCCESS;
    });
}

#define FILL(NAME, WORD)                                                                      \
    CUresult CUDAAPI NAME(CUdeviceptr to, WORD value, size_t words) {                         \
        return call(#NAME, CONTEXT | BREAKS_CAPTURE, [&](Lock &lock) {                        \
            run_now(lock, filling(#NAME, to, value, words));                                  \
            return CUDA_SUCCESS;                                                              \
        });                                                                                   \
    }                                                                                         \
    CUresult CUDAAPI NAME##Async(CUdeviceptr to, WORD value, size_t words, CUstream stream) { \
        return call(#NAME "Async", CONTEXT, [&](Lock &) {                                     \
            enqueue(stream_of(stream), filling(#NAME "Async", to, value, words));             \
            return CUDA_SUCCESS;                                                              \
        });                                                                                   \
    }
FILL(cuMemsetD8, unsigned char)
FILL(cuMemsetD16, unsigned short)
FILL(cuMemsetD32, unsigned int)

CUresult CUDAAPI cuLaunchHostFunc(CUstream handle, CUhostFn function, void *data) {
    return call("cuLaunchHostFunc", CONTEXT, [&](Lock &) {
        if (function == nullptr) throw Refusal{CUDA_ERROR_INVALID_VALUE, "no function"};
        enqueue(stream_of(handle), {"a host function", [=] {
                                        HostFunctionScope inside;
                                        function(data);
                                        check_guard_zones("a host function");
                                        Lock lock(state().mutex);
                                        count("host_functions");
                                    }});
        return CUDA_SUCCESS;
    });
}
