// A strict stand-in for NVIDIA's driver: what its parts share.
//
//   device.cpp       initialisation, the one device, its primary context, the stack of contexts of each thread, errors
//   memory.cpp       device and page-locked memory: ranges, poison, guard zones, quarantine
//   streams.cpp      queues of deferred work, events
//   copies.cpp       copies, memory sets, host functions
//   graphs.cpp       capture and replay
//   modules.cpp      libraries of emulated kernels (abi.h) and their launches
//   control.cpp      what tests see and steer: counters, faults, complaints
//   unsupported.cpp  the rest of the symbols that pycuda links to
//
// Device memory is host memory. Work on a stream is deferred: it runs in the thread that first waits for it. A misuse
// is refused with the code the real driver would give (or should give: it is stricter) and leaves a complaint in words.
// One lock guards everything but memory's table; it is never held while a kernel or a host function runs.
#pragma once

#pragma GCC visibility push(default)
#include <cuda.h>
#pragma GCC visibility pop

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#define STANDIN_CONTROL extern "C" __attribute__((visibility("default")))

namespace standin {

using Lock = std::unique_lock<std::mutex>;

// What a caller did wrong, thrown by checks: becomes the returned code and a complaint.
struct Refusal {
    CUresult code;
    std::string words;
};

std::string hex(uint64_t address);
double now_ms();

// -- memory ------------------------------------------------------------------------------------------------------------

struct Allocation {
    uintptr_t base;
    size_t bytes;
    bool pinned;                                    // page-locked host memory, else device memory
    bool mapped;                                    // pinned, and the device sees it
    std::unique_ptr<char, void (*)(void *)> block;  // with a guard zone before and after the payload
    size_t block_bytes;
};

void poison(void *start, size_t bytes);
void device_range(CUdeviceptr address, size_t bytes, const std::string &purpose);  // throws Refusal
void host_range(const void *address, size_t bytes, const std::string &purpose);    // not device, not past a pinned end
bool is_pinned(const void *address);
void check_guard_zones(const std::string &after);
size_t live_allocations(bool pinned, size_t *bytes);
void free_all_memory();

// -- streams, events, captures -----------------------------------------------------------------------------------------

struct Event;
struct Stream;
struct Capture;

// One thing that a stream or a node of a graph does. Copied into every replay.
struct Operation {
    std::string what;
    std::function<void()> run;  // without the lock held; throws Refusal
    void *undefined = nullptr;  // host memory without meaning until this has run: poisoned when enqueued
    size_t undefined_bytes = 0;
    Event *records = nullptr;  // instead of `run`
};

// What an event recorded: a position in a stream. Shared with whoever waits for it.
struct Mark {
    Stream *stream;
    uint64_t position;
    bool done = false;
    double time_ms = 0;
};

struct Queued {
    Operation operation;
    std::shared_ptr<Mark> mark;    // completed by this
    std::shared_ptr<Mark> awaits;  // run nothing before this is done
};

// Handles are never deleted, so that the use of a destroyed one is recognised.
struct Handle {
    bool alive = true;
};

struct Stream : Handle {
    std::deque<Queued> queue;
    uint64_t enqueued = 0, done = 0;
    bool busy = false;  // some thread runs the operation taken from the front
    std::shared_ptr<Capture> capture;
};

struct Event : Handle {
    bool timed = true;
    std::shared_ptr<Mark> mark;
    std::shared_ptr<Capture> capture;  // recorded in a capture: means something there only
    std::set<int> nodes;
};

struct Node {
    Operation operation;
    std::set<int> after;
};

struct Graph : Handle {
    std::vector<Node> nodes;
};

struct Capture {
    Stream *origin;
    CUstreamCaptureMode mode;
    std::thread::id thread;
    std::vector<Node> nodes;
    std::map<Stream *, std::set<int>> frontier;  // the last nodes of each stream that takes part
    bool broken = false;
};

Stream *stream_of(CUstream handle);  // throws Refusal for the default stream and destroyed ones
void enqueue(Stream *stream, Operation operation);
void advance(Lock &lock, Stream *stream, uint64_t position);  // run until that many operations are done
void advance_all(Lock &lock);
int captured(Capture &capture, Stream *stream, Operation operation);
void refuse_capture(Stream *stream, const std::string &words);  // where it captures: breaks the capture and throws

// -- the whole ---------------------------------------------------------------------------------------------------------

enum Rule : unsigned {
    PLAIN = 0,
    ANYTIME = 1,         // also before cuInit
    CONTEXT = 2,         // needs a current context
    BREAKS_CAPTURE = 4,  // allocates, frees or waits: not while capturing
    CLEANUP = 8,         // takes effect even where it reports a failure
};

struct State {
    std::mutex mutex;
    std::condition_variable changed;
    bool initialised = false;
    unsigned retained = 0;           // of the primary context
    uint64_t generation = 0;         // of the primary context: handles of an earlier one are dead
    CUresult failed = CUDA_SUCCESS;  // an error in deferred work: returned by every later call
    std::map<void *, Stream *> streams;
    std::map<void *, Event *> events;
    std::set<std::shared_ptr<Capture>> captures;
    std::map<std::string, int64_t> settings, counters, calls;
    std::vector<std::string> complaints;
};

State &state();
void complain(const std::string &words);
void count(const char *counter, int64_t amount = 1);
int64_t setting(const char *name);
int64_t measured(const std::string &name);  // what is alive
CUresult begin_call(const char *name);      // counts it; the failure injected for it
void check_call(unsigned rules);            // throws Refusal
CUresult deferred_failure();
void fail_deferred(CUresult code, const std::string &words);  // work failed after its call had returned
bool in_host_function();
struct HostFunctionScope {
    HostFunctionScope();
    ~HostFunctionScope();
};
void end_context();  // the last release: streams, events, modules, graphs and memory die

// Every entry point: count, inject, check, do, and turn refusals into codes.
template <class Body>
CUresult call(const char *name, unsigned rules, Body body) {
    Lock lock(state().mutex);
    try {
        CUresult injected = begin_call(name);
        if (injected != CUDA_SUCCESS && !(rules & CLEANUP)) return injected;
        check_call(rules);
        CUresult failed = rules & CONTEXT ? deferred_failure() : CUDA_SUCCESS;
        if (failed != CUDA_SUCCESS && !(rules & CLEANUP)) return failed;
        CUresult result = body(lock);
        if (injected != CUDA_SUCCESS) return injected;
        return failed != CUDA_SUCCESS ? failed : result;
    } catch (const Refusal &refusal) {
        complain(std::string(name) + ": " + refusal.words);
        return refusal.code;
    }
}

}  // namespace standin
