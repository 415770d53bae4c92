// Modules: libraries of emulated kernels, and their launches.
#include <cstring>
#include <dlfcn.h>

#include "abi.h"
#include "driver.h"

namespace standin {
namespace {

constexpr uint32_t SHARED_BYTES = 48 << 10;  // a block's, where a kernel has not asked for more

struct Module : Handle {
    const CuemuKernel *kernels;
    int count;
};

struct Function {
    Module *module;
    const CuemuKernel *kernel;
};

std::map<void *, Module *> modules;
std::map<void *, Function *> functions;
std::mutex running;  // one launch at a time; no Python runs inside one, so waiting here cannot lock up

Module *module_of(CUmodule handle) {
    auto found = modules.find(handle);
    if (found == modules.end()) throw Refusal{CUDA_ERROR_INVALID_HANDLE, "no module has this handle"};
    if (!found->second->alive) throw Refusal{CUDA_ERROR_INVALID_HANDLE, "the module was unloaded"};
    return found->second;
}

Function *function_of(CUfunction handle) {
    auto found = functions.find(handle);
    if (found == functions.end()) throw Refusal{CUDA_ERROR_INVALID_HANDLE, "no kernel has this handle"};
    if (!found->second->module->alive) throw Refusal{CUDA_ERROR_INVALID_HANDLE, "the kernel's module was unloaded"};
    return found->second;
}

Module *load(const char *image) {
    if (strncmp(image, "CUEMU:", 6) != 0)
        throw Refusal{CUDA_ERROR_INVALID_IMAGE, "the image is no library of emulated kernels (CUEMU:<path>)"};
    std::string path(image + 6, strcspn(image + 6, "\r\n"));
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) throw Refusal{CUDA_ERROR_INVALID_IMAGE, dlerror()};
    auto *kernels = reinterpret_cast<decltype(&cuemu_kernels)>(dlsym(library, "cuemu_kernels"));
    if (kernels == nullptr) throw Refusal{CUDA_ERROR_INVALID_IMAGE, path + " does not export cuemu_kernels"};
    auto *module = new Module;
    module->kernels = kernels(&module->count);
    modules[module] = module;  // the library stays open: work that was deferred may still run from it
    return module;
}

// The parameters of a launch, copied out of the buffer at the offsets that the kernel declares.
std::vector<std::vector<char>> unpack(const CuemuKernel &kernel, void **parameters, void **extra) {
    std::vector<std::vector<char>> values;
    const char *buffer = nullptr;
    size_t given = 0, offset = 0;
    for (int at = 0; extra != nullptr && extra[at] != CU_LAUNCH_PARAM_END; at += 2) {
        if (extra[at] == CU_LAUNCH_PARAM_BUFFER_POINTER) buffer = static_cast<const char *>(extra[at + 1]);
        if (extra[at] == CU_LAUNCH_PARAM_BUFFER_SIZE) given = *static_cast<size_t *>(extra[at + 1]);
    }
    for (uint32_t index = 0; index < kernel.parameter_count; ++index) {
        const CuemuParameter &parameter = kernel.parameters[index];
        offset = (offset + parameter.alignment - 1) / parameter.alignment * parameter.alignment;
        if (parameters == nullptr && offset + parameter.bytes > given) break;
        const char *from = parameters != nullptr ? static_cast<const char *>(parameters[index]) : buffer + offset;
        values.emplace_back(from, from + parameter.bytes);
        offset += parameter.bytes;
    }
    if (parameters == nullptr && (values.size() != kernel.parameter_count || given != offset))
        throw Refusal{CUDA_ERROR_INVALID_VALUE,
                      std::string(kernel.name) + " takes " + std::to_string(kernel.parameter_count) +
                          " parameters, but " + std::to_string(given) + " bytes of them were given that end elsewhere"};
    return values;
}

void check_shape(const CuemuKernel &kernel, CuemuDim3 grid, CuemuDim3 block, uint32_t shared_bytes) {
    auto refuse = [&](const char *words) {
        throw Refusal{CUDA_ERROR_INVALID_VALUE, std::string(kernel.name) + ": " + words};
    };
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) refuse("an empty grid");
    if (grid.x > 0x7FFFFFFFu || grid.y > 65535 || grid.z > 65535) refuse("a grid beyond the device's limits");
    if (block.x == 0 || block.y == 0 || block.z == 0) refuse("an empty block");
    if (block.x > 1024 || block.y > 1024 || block.z > 64) refuse("a block beyond the device's limits");
    if (static_cast<uint64_t>(block.x) * block.y * block.z > 1024) refuse("a block of more than 1024 threads");
    if (kernel.max_threads != 0 && block.x * block.y * block.z > kernel.max_threads)
        refuse("a block of more threads than the kernel's launch bounds");
    if (shared_bytes + kernel.static_shared_bytes > SHARED_BYTES) refuse("more shared memory than a block has");
}

void run(const CuemuKernel &kernel, CuemuDim3 grid, CuemuDim3 block, uint32_t shared_bytes,
         std::vector<std::vector<char>> values) {
    std::vector<void *> parameters;
    for (uint32_t index = 0; index < kernel.parameter_count; ++index) {
        parameters.push_back(values[index].data());
        uint64_t address = 0;
        if (!kernel.parameters[index].is_pointer) continue;
        memcpy(&address, values[index].data(), sizeof address);
        if (address != 0)
            device_range(address, 1, std::string(kernel.name) + ", parameter " + std::to_string(index) + ", points to");
    }
    std::lock_guard<std::mutex> one(running);
    const char *words = kernel.launch(grid, block, shared_bytes, parameters.data());
    if (words != nullptr) throw Refusal{CUDA_ERROR_LAUNCH_FAILED, std::string(kernel.name) + ": " + words};
    check_guard_zones(kernel.name);
}

}  // namespace

void end_modules() {
    for (auto &[handle, module] : modules) module->alive = false;
}

int64_t live_modules() {
    int64_t found = 0;
    for (auto &[handle, module] : modules) found += module->alive;
    return found;
}

}  // namespace standin

using namespace standin;

CUresult CUDAAPI cuModuleLoadDataEx(CUmodule *handle, const void *image, unsigned options, CUjit_option *names,
                                    void **values) {
    for (unsigned index = 0; index < options; ++index)  // the logs stay empty, whatever happens: callers read the sizes
        if (names[index] == CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES || names[index] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES)
            values[index] = nullptr;
    return call("cuModuleLoadDataEx", CONTEXT | BREAKS_CAPTURE, [&](Lock &) {
        *handle = reinterpret_cast<CUmodule>(load(static_cast<const char *>(image)));
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuModuleLoadData(CUmodule *handle, const void *image) {
    return cuModuleLoadDataEx(handle, image, 0, nullptr, nullptr);
}

CUresult CUDAAPI cuModuleUnload(CUmodule handle) {
    return call("cuModuleUnload", CONTEXT | BREAKS_CAPTURE | CLEANUP, [&](Lock &) {
        module_of(handle)->alive = false;
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuModuleGetFunction(CUfunction *handle, CUmodule module_handle, const char *name) {
    return call("cuModuleGetFunction", CONTEXT, [&](Lock &) {
        Module *module = module_of(module_handle);
        for (int index = 0; index < module->count; ++index)
            if (strcmp(module->kernels[index].name, name) == 0) {
                auto *function = new Function{module, &module->kernels[index]};
                functions[function] = function;
                *handle = reinterpret_cast<CUfunction>(function);
                return CUDA_SUCCESS;
            }
        throw Refusal{CUDA_ERROR_NOT_FOUND, std::string("the module has no kernel ") + name};
    });
}

CUresult CUDAAPI cuFuncGetAttribute(int *value, CUfunction_attribute which, CUfunction handle) {
    return call("cuFuncGetAttribute", CONTEXT, [&](Lock &) {
        const CuemuKernel *kernel = function_of(handle)->kernel;
        *value = which == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? static_cast<int>(kernel->max_threads)
                 : which == CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES   ? static_cast<int>(kernel->static_shared_bytes)
                                                                  : 0;
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuFuncSetBlockShape(CUfunction handle, int, int, int) {
    return call("cuFuncSetBlockShape", CONTEXT, [&](Lock &) {
        function_of(handle);
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuLaunchKernel(CUfunction handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                                unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream,
                                void **parameters, void **extra) {
    return call("cuLaunchKernel", CONTEXT, [&](Lock &) {
        Function *function = function_of(handle);
        const CuemuKernel *kernel = function->kernel;
        CuemuDim3 grid{grid_x, grid_y, grid_z}, block{block_x, block_y, block_z};
        check_shape(*kernel, grid, block, shared_bytes);
        enqueue(stream_of(stream), {kernel->name, [=, values = unpack(*kernel, parameters, extra)] {
                                        {
                                            Lock lock(state().mutex);
                                            if (!function->module->alive)
                                                throw Refusal{CUDA_ERROR_ILLEGAL_ADDRESS,
                                                              "the module was unloaded before the kernel ran"};
                                            count("launches");
                                        }
                                        run(*kernel, grid, block, shared_bytes, values);
                                    }});
        return CUDA_SUCCESS;
    });
}
