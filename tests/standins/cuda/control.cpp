// What tests see of the stand-in and how they steer it. No function here is one of the driver's.
#include <cstring>

#include "driver.h"

namespace standin {

int64_t live_graphs(bool executable);
int64_t live_modules();

namespace {

const std::map<std::string, int64_t> DEFAULTS = {
    {"devices", 1}, {"integrated", 0}, {"total_bytes", int64_t{8} << 30}, {"driver_version", 12060}, {"seed", 1}};

struct Fault {
    std::string name;  // empty: any call
    int64_t after;     // so many matching calls still succeed
    int64_t times;     // so many then fail; negative: all
    CUresult code;
};
std::vector<Fault> faults;
std::string last_failed;

int64_t copy_out(const std::string &text, char *buffer, int64_t capacity) {
    if (capacity > 0) {
        size_t length = std::min<size_t>(text.size(), capacity - 1);
        memcpy(buffer, text.data(), length);
        buffer[length] = 0;
    }
    return static_cast<int64_t>(text.size());
}

const char *const MEASURED[] = {"live_allocations", "live_pinned",      "live_bytes",   "live_pinned_bytes",
                                "live_graphs",      "live_executables", "live_modules", "retained_contexts",
                                "complaints",       "live_streams",     "live_events",  "pending"};

}  // namespace

int64_t measured(const std::string &name) {
    size_t bytes = 0;
    int64_t found = 0;
    if (name == "live_allocations") return live_allocations(false, &bytes);
    if (name == "live_pinned") return live_allocations(true, &bytes);
    if (name == "live_bytes") return live_allocations(false, &bytes), bytes;
    if (name == "live_pinned_bytes") return live_allocations(true, &bytes), bytes;
    if (name == "live_graphs") return live_graphs(false);
    if (name == "live_executables") return live_graphs(true);
    if (name == "live_modules") return live_modules();
    if (name == "retained_contexts") return state().retained;
    if (name == "complaints") return static_cast<int64_t>(state().complaints.size());
    if (name == "live_streams")
        for (auto &[handle, stream] : state().streams) found += stream->alive;
    if (name == "live_events")
        for (auto &[handle, event] : state().events) found += event->alive;
    if (name == "pending")
        for (auto &[handle, stream] : state().streams) found += stream->enqueued - stream->done;
    return found;
}

void complain(const std::string &words) { state().complaints.push_back(words); }

void count(const char *counter, int64_t amount) { state().counters[counter] += amount; }

int64_t setting(const char *name) {
    auto found = state().settings.find(name);
    return found != state().settings.end() ? found->second : DEFAULTS.at(name);
}

CUresult begin_call(const char *name) {
    ++state().calls[name];
    for (Fault &fault : faults) {
        if (!fault.name.empty() && fault.name != name) continue;
        if (fault.after-- > 0 || fault.times == 0) continue;
        if (fault.times > 0) --fault.times;
        last_failed = name;
        return fault.code;
    }
    return CUDA_SUCCESS;
}

}  // namespace standin

using namespace standin;

int standin_unsupported(const char *name) {
    return call(name, ANYTIME, [](Lock &) -> CUresult {
        throw Refusal{CUDA_ERROR_NOT_SUPPORTED, "the stand-in does not have this call"};
    });
}

// Forget counts, faults, complaints and settings; what is alive stays.
STANDIN_CONTROL void standin_reset() {
    Lock lock(state().mutex);
    int64_t current = state().counters["current_contexts"];
    state().counters.clear();
    state().counters["current_contexts"] = current;
    state().calls.clear();
    state().complaints.clear();
    state().settings.clear();
    faults.clear();
    last_failed.clear();
}

// 0, or -1 for an unknown name: devices, integrated, total_bytes, driver_version, seed.
STANDIN_CONTROL int standin_set(const char *name, int64_t value) {
    Lock lock(state().mutex);
    if (DEFAULTS.count(name) == 0) return -1;
    state().settings[name] = value;
    return 0;
}

// From now on `after` calls of that name (null: any) succeed and the next `times` (-1: all) fail with `code`. What
// frees or ends something takes effect all the same.
STANDIN_CONTROL void standin_fail(const char *name, int64_t after, int64_t times, int code) {
    Lock lock(state().mutex);
    last_failed.clear();
    faults.push_back({name != nullptr ? name : "", after, times, static_cast<CUresult>(code)});
}

STANDIN_CONTROL void standin_clear_faults() {
    Lock lock(state().mutex);
    faults.clear();
}

// Texts are copied into the buffer, cut to its capacity; the full length is returned.
STANDIN_CONTROL int64_t standin_last_failed(char *buffer, int64_t capacity) {
    Lock lock(state().mutex);
    return copy_out(last_failed, buffer, capacity);
}

// Lines "name value": every counter, and what is alive.
STANDIN_CONTROL int64_t standin_counters(char *buffer, int64_t capacity) {
    Lock lock(state().mutex);
    std::string text;
    for (auto &[name, value] : state().counters) text += name + " " + std::to_string(value) + "\n";
    for (const char *name : MEASURED) text += std::string(name) + " " + std::to_string(measured(name)) + "\n";
    return copy_out(text, buffer, capacity);
}

// Lines "name count": every driver call made since the reset.
STANDIN_CONTROL int64_t standin_calls(char *buffer, int64_t capacity) {
    Lock lock(state().mutex);
    std::string text;
    for (auto &[name, value] : state().calls) text += name + " " + std::to_string(value) + "\n";
    return copy_out(text, buffer, capacity);
}

STANDIN_CONTROL int64_t standin_complaints(char *buffer, int64_t capacity) {
    Lock lock(state().mutex);
    std::string text;
    for (const std::string &words : state().complaints) text += words + "\n";
    return copy_out(text, buffer, capacity);
}

STANDIN_CONTROL void standin_clear_complaints() {
    Lock lock(state().mutex);
    state().complaints.clear();
}

// 1 where the device may touch the whole range: live device memory, or mapped page-locked memory.
STANDIN_CONTROL int standin_check_range(uint64_t address, uint64_t bytes) {
    try {
        device_range(address, bytes, "");
        return 1;
    } catch (const Refusal &) {
        return 0;
    }
}

// For what runs in a host function: the work failed. The context fails with this code, and the words are kept.
STANDIN_CONTROL void standin_report(int code, const char *words) {
    Lock lock(state().mutex);
    fail_deferred(static_cast<CUresult>(code), words);
}
