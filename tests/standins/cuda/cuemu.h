// CUDA on a CPU: with this header in front, g++ compiles a kernel's unchanged source, and every thread of a block is a
// fiber. It is made to find mistakes that one GPU may forgive:
//
// - blocks run one after another in shuffled order, threads start and resume in shuffled order or one warp runs ahead
//   of all others, and a thread may be put aside at any atomic operation; `cuemu_seed` chooses (0: natural order);
// - shared memory is poisoned at the start of every block;
// - __syncthreads that not every thread reaches, or not at the same line, fails the launch with a message, as do warp
//   functions that not every living lane of their mask reaches, and reads of lanes that do not take part.
//
// Limits: shared memory is static; races that no shuffle of whole stretches between barriers and atomics shows stay
// hidden; instructions round as IEEE says (on a GPU too where it is compiled with --fmad=false), but expf and its kin
// are the C library's.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "abi.h"

// Bounds of the section that every __shared__ variable lies in; the linker defines them where it exists.
extern "C" __attribute__((weak, visibility("hidden"))) unsigned char __start_cuemu_shared[], __stop_cuemu_shared[];

namespace cuemu {

constexpr unsigned WARP = 32, STACK_BYTES = 64 * 1024;

enum class State { unstarted, running, ready, at_barrier, in_warp, exited };

struct Fiber {
    ucontext_t first;  // where a fresh fiber begins; afterwards `resume` holds its place
    jmp_buf resume;
    bool fresh = true;
    std::unique_ptr<char[]> stack{new char[STACK_BYTES]};
    CuemuDim3 index{};
    unsigned thread = 0;
    uint64_t given = 0, lanes[WARP];  // a warp function's argument, and those of all lanes
    unsigned mask = 0, present = 0;   // lanes that should take part, and those that do
};

struct Thread {
    State state;
    Fiber* fiber;
    int line;  // where it waits
};

static Fiber* current;
static CuemuDim3 block_index, block_size, grid_size;
static jmp_buf scheduler;
static std::vector<std::unique_ptr<Fiber>> fibers;
static std::vector<Fiber*> idle;
static std::vector<Thread> threads;
static std::vector<unsigned> order, ready;
static unsigned started;
static void (*run_kernel)(void** parameters);
static void** kernel_parameters;
static uint64_t seed = 1, random_state;
static std::string failure;

static inline uint64_t random_bits() {  // splitmix64
    uint64_t z = random_state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static inline void shuffle(std::vector<unsigned>& items, unsigned count) {
    items.resize(count);
    for (unsigned i = 0; i < count; i++) items[i] = i;
    for (unsigned i = count; seed && i > 1; i--) std::swap(items[i - 1], items[random_bits() % i]);
}

static inline CuemuDim3 unravel(uint64_t i, CuemuDim3 size) {
    return {unsigned(i % size.x), unsigned(i / size.x % size.y), unsigned(i / size.x / size.y)};
}

static inline void fail(const std::string& what) {
    char where[96];
    snprintf(where, sizeof where, " (block %u,%u,%u)", block_index.x, block_index.y, block_index.z);
    if (failure.empty()) failure = what + where;
}

// ---- fibers: ucontext starts one, setjmp and longjmp (no system calls) switch

static void release_warp(unsigned thread);

[[noreturn]] static void body() {
    for (;;) {  // a fiber runs one thread after another until one of them has to wait
        while (started < order.size() && failure.empty()) {
            unsigned const number = order[started++];
            Fiber* const self = current;
            self->thread = number;
            self->index = unravel(number, block_size);
            threads[number] = {State::running, self, 0};
            run_kernel(kernel_parameters);
            threads[self->thread].state = State::exited;
            release_warp(self->thread);
        }
        idle.push_back(current);
        if (!_setjmp(current->resume)) _longjmp(scheduler, 1);
    }
}

static inline void run(Fiber* fiber) {
    current = fiber;
    if (_setjmp(scheduler)) return;
    if (!fiber->fresh) _longjmp(fiber->resume, 1);
    fiber->fresh = false;
    setcontext(&fiber->first);
}

static inline void wait(State state, int line) {
    Thread& self = threads[current->thread];
    self.state = state, self.line = line;
    if (!_setjmp(current->resume)) _longjmp(scheduler, 1);
}

static inline void pause() {
    if (!seed || random_bits() % 16) return;
    ready.push_back(current->thread);
    wait(State::ready, 0);
}

static inline void add_fiber() {
    fibers.push_back(std::make_unique<Fiber>());
    idle.push_back(fibers.back().get());
}

static inline void start_anew(Fiber* fiber) {
    getcontext(&fiber->first);
    fiber->first.uc_stack.ss_sp = fiber->stack.get();
    fiber->first.uc_stack.ss_size = STACK_BYTES;
    makecontext(&fiber->first, body, 0);
    fiber->fresh = true;
}

// ---- what waiting threads wait for

static inline std::string lines_of(State state) {
    std::string lines;
    for (const Thread& thread : threads) {
        std::string const line = std::to_string(thread.line);
        if (thread.state == state && (" " + lines + ",").find(" " + line + ",") == std::string::npos)
            lines += (lines.empty() ? "" : ", ") + line;
    }
    return lines;
}

// Lets a thread's warp functions go whose living lanes have all arrived.
static void release_warp(unsigned thread) {
    unsigned const first = thread / WARP * WARP, lanes = std::min(WARP, unsigned(threads.size()) - first);
    for (unsigned lane = 0; lane < lanes; lane++) {
        Thread& asking = threads[first + lane];
        if (asking.state != State::in_warp) continue;
        unsigned const mask = asking.fiber->mask;
        unsigned present = 0;
        bool complete = true;
        for (unsigned i = 0; i < lanes && complete; i++) {
            Thread& other = threads[first + i];
            if (!(mask >> i & 1) || other.state == State::exited) continue;
            complete = other.state == State::in_warp && other.fiber->mask == mask && other.line == asking.line;
            present |= 1u << i;
        }
        if (!complete) continue;
        uint64_t given[WARP] = {};
        for (unsigned i = 0; i < lanes; i++)
            if (present >> i & 1) given[i] = threads[first + i].fiber->given;
        for (unsigned i = 0; i < lanes; i++) {
            if (!(present >> i & 1)) continue;
            Fiber* const fiber = threads[first + i].fiber;
            memcpy(fiber->lanes, given, sizeof given);
            fiber->present = present;
            threads[first + i].state = State::ready;
            ready.push_back(first + i);
        }
    }
}

// Lets the barrier go that every thread has reached; false where all threads are done.
static bool release_barrier() {
    unsigned waiting = 0, stuck = 0;
    for (const Thread& thread : threads) {
        waiting += thread.state == State::at_barrier;
        stuck += thread.state == State::in_warp;
    }
    if (stuck) {
        std::string message = "a warp function at line " + lines_of(State::in_warp) + " waits for lanes of its mask that";
        fail(message + (waiting ? " wait in __syncthreads at line " + lines_of(State::at_barrier)
                                : std::string(" wait elsewhere")));
        return false;
    }
    if (!waiting) return false;
    std::string const lines = lines_of(State::at_barrier);
    if (waiting < threads.size())
        fail("__syncthreads at line " + lines + " reached by " + std::to_string(waiting) + " of " +
             std::to_string(threads.size()) + " threads, the others have exited");
    else if (lines.find(',') != std::string::npos)
        fail("__syncthreads in divergent code: threads of one block wait at lines " + lines);
    std::vector<unsigned> warps;
    shuffle(warps, (unsigned(threads.size()) + WARP - 1) / WARP);
    for (unsigned warp : warps)
        for (unsigned i = warp * WARP; i < threads.size() && i < (warp + 1) * WARP; i++)
            threads[i].state = State::ready, ready.push_back(i);
    return true;
}

static void run_block() {
    unsigned const count = block_size.x * block_size.y * block_size.z;
    if (__start_cuemu_shared != nullptr)
        memset(__start_cuemu_shared, seed % 2 ? 0xFF : 0xA5, size_t(__stop_cuemu_shared - __start_cuemu_shared));
    shuffle(order, count);
    threads.assign(count, {State::unstarted, nullptr, 0});
    ready.clear();
    started = 0;
    bool const warp_ahead = seed && random_bits() % 2;  // the last to become ready is the next to run
    while (failure.empty()) {
        if (started < count && !(warp_ahead && !ready.empty())) {
            if (idle.empty()) add_fiber(), start_anew(idle.back());
            Fiber* const fiber = idle.back();
            idle.pop_back();
            run(fiber);
        } else if (!ready.empty()) {
            if (!warp_ahead) std::swap(ready[seed ? random_bits() % ready.size() : 0], ready.back());
            Thread& thread = threads[ready.back()];
            ready.pop_back();
            thread.state = State::running;
            run(thread.fiber);
        } else if (!release_barrier()) {
            break;
        }
    }
}

static const char* launch(CuemuDim3 grid, CuemuDim3 block, uint32_t shared_bytes, void** parameters,
                          void (*kernel)(void**)) {
    failure.clear();
    grid_size = grid, block_size = block;
    random_state = seed;
    run_kernel = kernel, kernel_parameters = parameters;
    if (shared_bytes) fail("dynamic shared memory: the kernels use static shared memory only");
    std::vector<unsigned> blocks;
    shuffle(blocks, grid.x * grid.y * grid.z);
    for (unsigned i = 0; i < blocks.size() && failure.empty(); i++) {
        block_index = unravel(blocks[i], grid);
        run_block();
    }
    if (failure.empty()) return nullptr;
    idle.clear();  // threads were left where they stood
    for (auto& fiber : fibers) start_anew(fiber.get()), idle.push_back(fiber.get());
    return failure.c_str();
}

// ---- kernels as the driver sees them

template <class... A>
struct Signature {
    static inline const CuemuParameter parameters[sizeof...(A) + 1] = {
        {sizeof(A), alignof(A), std::is_pointer<A>::value}..., {0, 0, 0}};
    template <void (*K)(A...), size_t... I>
    static void unpack(void** given, std::index_sequence<I...>) {
        K(*static_cast<std::remove_const_t<A>*>(given[I])...);
    }
    template <void (*K)(A...)>
    static void call(void** given) {
        unpack<K>(given, std::index_sequence_for<A...>());
    }
    template <void (*K)(A...)>
    static const char* start(CuemuDim3 grid, CuemuDim3 block, uint32_t shared_bytes, void** given) {
        return launch(grid, block, shared_bytes, given, call<K>);
    }
};

template <auto K>
struct Describe;
template <class... A, void (*K)(A...)>
struct Describe<K> {
    static constexpr CuemuKernel as(const char* name, uint32_t max_threads) {
        return {name, sizeof...(A), Signature<A...>::parameters, 0, max_threads, Signature<A...>::template start<K>};
    }
};

// ---- warp functions

template <class T>
static inline uint64_t pack(T value) {
    static_assert(sizeof value <= 8, "values of up to 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return bits;
}

static inline unsigned lane() { return current->thread % WARP; }

static inline void exchange(unsigned mask, uint64_t value, int line) {
    if (!(mask >> lane() & 1)) fail("a lane outside the mask calls a warp function at line " + std::to_string(line));
    current->mask = mask, current->given = value;
    threads[current->thread].state = State::in_warp, threads[current->thread].line = line;
    release_warp(current->thread);
    if (!_setjmp(current->resume)) _longjmp(scheduler, 1);
}

template <class T>
static inline T take(unsigned from, int line) {
    if (!(current->present >> from & 1))
        fail("a shuffle at line " + std::to_string(line) + " reads lane " + std::to_string(from) +
             ", which does not take part");
    T value;
    memcpy(&value, &current->lanes[from], sizeof value);
    return value;
}

static inline unsigned votes() {
    unsigned bits = 0;
    for (unsigned i = 0; i < WARP; i++) bits |= unsigned((current->present >> i & 1) && current->lanes[i]) << i;
    return bits;
}

template <class T>
struct Plain {
    using type = T;
};

}  // namespace cuemu

extern "C" __attribute__((visibility("default"))) void cuemu_seed(uint64_t seed) { cuemu::seed = seed; }

#include "cuemu_language.h"
