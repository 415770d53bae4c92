// Device and page-locked memory.
#include <cstring>

#include "driver.h"

namespace standin {
namespace {

constexpr size_t GUARD = 512;                   // bytes looked after before and after every allocation
constexpr size_t QUARANTINE_BYTES = 64u << 20;  // freed blocks kept, so that late writes are found, not crashed on
constexpr unsigned char GUARD_BYTE = 0xB5;
// A NaN as float32 and as float16, a large number as an integer, no plausible pixel.
constexpr uint32_t POISON = 0x7FA57FA5;

std::mutex table;  // guards what follows; taken after the driver's lock, never before
std::map<uintptr_t, Allocation> live;
std::deque<Allocation> quarantine;
size_t quarantine_bytes = 0;
size_t device_bytes = 0;

const Allocation *containing(uintptr_t address) {
    auto next = live.upper_bound(address);
    if (next == live.begin()) return nullptr;
    const Allocation &candidate = std::prev(next)->second;
    return address < candidate.base + candidate.bytes ? &candidate : nullptr;
}

std::string place(uintptr_t address) {
    for (const Allocation &freed : quarantine)
        if (address >= freed.base && address < freed.base + freed.bytes)
            return hex(address) + " in memory that was freed (" + std::to_string(freed.bytes) + " bytes)";
    return hex(address) + " outside every allocation";
}

bool guard_intact(const char *zone) {
    static const std::string intact(GUARD, static_cast<char>(GUARD_BYTE));
    return memcmp(zone, intact.data(), GUARD) == 0;
}

bool still_poisoned(const Allocation &freed) {
    size_t whole = freed.bytes / sizeof POISON * sizeof POISON;
    const auto *start = reinterpret_cast<const char *>(freed.base);
    for (size_t at = 0; at < whole; at += sizeof POISON)
        if (memcmp(start + at, &POISON, sizeof POISON) != 0) return false;
    return true;
}

const char *zone_touched(const Allocation &allocation) {
    const auto *payload = reinterpret_cast<const char *>(allocation.base);
    if (!guard_intact(payload - GUARD)) return "before the start";
    if (!guard_intact(payload + allocation.bytes)) return "past the end";
    return nullptr;
}

void lay_guards(const Allocation &allocation) {
    auto *payload = reinterpret_cast<char *>(allocation.base);
    memset(payload - GUARD, GUARD_BYTE, GUARD);
    memset(payload + allocation.bytes, GUARD_BYTE, GUARD);
}

std::string described(const Allocation &allocation) {
    return std::string(allocation.pinned ? "page-locked" : "device") + " allocation of " +
           std::to_string(allocation.bytes) + " bytes at " + hex(allocation.base);
}

uintptr_t allocate(size_t bytes, bool pinned, bool mapped) {
    size_t alignment = pinned ? 4096 : GUARD;
    size_t block_bytes = alignment + (bytes + alignment - 1) / alignment * alignment + alignment;
    auto *block = static_cast<char *>(aligned_alloc(alignment, block_bytes));
    if (block == nullptr) return 0;
    auto base = reinterpret_cast<uintptr_t>(block + alignment);
    Allocation made{base, bytes, pinned, mapped, {block, free}, block_bytes};
    lay_guards(made);
    poison(block + alignment, bytes);
    std::lock_guard<std::mutex> guard(table);
    live.emplace(base, std::move(made));
    if (!pinned) device_bytes += bytes;
    return base;
}

// Poison it and keep it for a while. Complains about what was written outside, and about late writes to older ones.
void retire(std::map<uintptr_t, Allocation>::iterator position) {
    Allocation freed = std::move(position->second);
    live.erase(position);
    if (!freed.pinned) device_bytes -= freed.bytes;
    if (const char *where = zone_touched(freed))
        complain(std::string("something wrote ") + where + " of a " + described(freed));
    poison(reinterpret_cast<void *>(freed.base), freed.bytes);
    quarantine_bytes += freed.block_bytes;
    quarantine.push_back(std::move(freed));
    while (quarantine_bytes > QUARANTINE_BYTES || quarantine.size() > 256) {
        const Allocation &oldest = quarantine.front();
        if (!still_poisoned(oldest)) complain("something wrote to a freed " + described(oldest));
        quarantine_bytes -= oldest.block_bytes;
        quarantine.pop_front();
    }
}

CUresult release(uintptr_t address, bool pinned) {
    std::lock_guard<std::mutex> guard(table);
    auto found = live.find(address);
    if (found == live.end()) throw Refusal{CUDA_ERROR_INVALID_VALUE, "frees " + place(address)};
    if (found->second.pinned != pinned) throw Refusal{CUDA_ERROR_INVALID_VALUE, "frees a " + described(found->second)};
    retire(found);
    return CUDA_SUCCESS;
}

}  // namespace

void poison(void *start, size_t bytes) {
    auto *at = static_cast<char *>(start);
    for (; bytes >= sizeof POISON; bytes -= sizeof POISON, at += sizeof POISON) memcpy(at, &POISON, sizeof POISON);
    memcpy(at, &POISON, bytes);
}

void device_range(CUdeviceptr address, size_t bytes, const std::string &purpose) {
    std::lock_guard<std::mutex> guard(table);
    const Allocation *found = containing(address);
    if (found == nullptr) throw Refusal{CUDA_ERROR_ILLEGAL_ADDRESS, purpose + " " + place(address)};
    if (found->pinned && !found->mapped)
        throw Refusal{CUDA_ERROR_ILLEGAL_ADDRESS,
                      purpose + " host memory that the device does not map, at " + hex(address)};
    if (bytes > found->base + found->bytes - address)
        throw Refusal{CUDA_ERROR_ILLEGAL_ADDRESS, purpose + " " + std::to_string(bytes) + " bytes from " +
                                                      hex(address) + ", past the end of a " + described(*found)};
}

void host_range(const void *start, size_t bytes, const std::string &purpose) {
    std::lock_guard<std::mutex> guard(table);
    auto address = reinterpret_cast<uintptr_t>(start);
    for (const Allocation &freed : quarantine)
        if (address >= freed.base && address < freed.base + freed.bytes)
            throw Refusal{CUDA_ERROR_INVALID_VALUE, purpose + " " + place(address)};
    const Allocation *found = containing(address);
    if (found == nullptr) return;
    if (!found->pinned)
        throw Refusal{CUDA_ERROR_INVALID_VALUE, purpose + " host memory, but is given a " + described(*found)};
    if (bytes > found->base + found->bytes - address)
        throw Refusal{CUDA_ERROR_INVALID_VALUE, purpose + " past the end of a " + described(*found)};
}

bool is_pinned(const void *address) {
    std::lock_guard<std::mutex> guard(table);
    return containing(reinterpret_cast<uintptr_t>(address)) != nullptr;
}

void check_guard_zones(const std::string &after) {
    std::lock_guard<std::mutex> guard(table);
    for (auto &[base, allocation] : live)
        if (const char *where = zone_touched(allocation)) {
            lay_guards(allocation);
            throw Refusal{CUDA_ERROR_ILLEGAL_ADDRESS, after + " wrote " + where + " of a " + described(allocation)};
        }
}

size_t live_allocations(bool pinned, size_t *bytes) {
    std::lock_guard<std::mutex> guard(table);
    size_t found = 0;
    *bytes = 0;
    for (const auto &[base, allocation] : live)
        if (allocation.pinned == pinned) {
            ++found;
            *bytes += allocation.bytes;
        }
    return found;
}

void free_all_memory() {
    std::lock_guard<std::mutex> guard(table);
    while (!live.empty()) retire(live.begin());
}

}  // namespace standin

using namespace standin;

CUresult CUDAAPI cuMemAlloc(CUdeviceptr *address, size_t bytes) {
    return call("cuMemAlloc", CONTEXT | BREAKS_CAPTURE, [&](Lock &) -> CUresult {
        if (bytes == 0) throw Refusal{CUDA_ERROR_INVALID_VALUE, "allocates nothing"};
        {
            std::lock_guard<std::mutex> guard(table);
            if (bytes > static_cast<size_t>(setting("total_bytes")) - device_bytes) return CUDA_ERROR_OUT_OF_MEMORY;
        }
        *address = allocate(bytes, false, false);
        if (*address == 0) return CUDA_ERROR_OUT_OF_MEMORY;
        count("allocations");
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuMemFree(CUdeviceptr address) {
    return call("cuMemFree", CONTEXT | BREAKS_CAPTURE | CLEANUP, [&](Lock &) {
        release(address, false);
        count("frees");
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuMemGetInfo(size_t *free_bytes, size_t *total) {
    return call("cuMemGetInfo", CONTEXT, [&](Lock &) {
        std::lock_guard<std::mutex> guard(table);
        *total = setting("total_bytes");
        *free_bytes = *total - device_bytes;
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuMemHostAlloc(void **address, size_t bytes, unsigned flags) {
    return call("cuMemHostAlloc", CONTEXT | BREAKS_CAPTURE, [&](Lock &) -> CUresult {
        if (bytes == 0) throw Refusal{CUDA_ERROR_INVALID_VALUE, "allocates nothing"};
        *address = reinterpret_cast<void *>(allocate(bytes, true, (flags & CU_MEMHOSTALLOC_DEVICEMAP) != 0));
        if (*address == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
        count("pinned_allocations");
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuMemFreeHost(void *address) {
    return call("cuMemFreeHost", CONTEXT | BREAKS_CAPTURE | CLEANUP, [&](Lock &) {
        release(reinterpret_cast<uintptr_t>(address), true);
        count("pinned_frees");
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuMemHostGetDevicePointer(CUdeviceptr *device, void *host, unsigned) {
    return call("cuMemHostGetDevicePointer", CONTEXT, [&](Lock &) {
        std::lock_guard<std::mutex> guard(table);
        const Allocation *found = containing(reinterpret_cast<uintptr_t>(host));
        if (found == nullptr || !found->mapped)
            throw Refusal{CUDA_ERROR_INVALID_VALUE,
                          hex(reinterpret_cast<uintptr_t>(host)) + " is not mapped page-locked memory"};
        *device = reinterpret_cast<CUdeviceptr>(host);
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuMemHostGetFlags(unsigned *flags, void *host) {
    return call("cuMemHostGetFlags", CONTEXT, [&](Lock &) {
        std::lock_guard<std::mutex> guard(table);
        const Allocation *found = containing(reinterpret_cast<uintptr_t>(host));
        if (found == nullptr || !found->pinned) throw Refusal{CUDA_ERROR_INVALID_VALUE, "not page-locked memory"};
        *flags = found->mapped ? CU_MEMHOSTALLOC_DEVICEMAP : 0;
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuMemGetAddressRange(CUdeviceptr *base, size_t *bytes, CUdeviceptr address) {
    return call("cuMemGetAddressRange", CONTEXT, [&](Lock &) {
        std::lock_guard<std::mutex> guard(table);
        const Allocation *found = containing(address);
        if (found == nullptr) throw Refusal{CUDA_ERROR_NOT_FOUND, place(address)};
        if (base != nullptr) *base = found->base;
        if (bytes != nullptr) *bytes = found->bytes;
        return CUDA_SUCCESS;
    });
}
