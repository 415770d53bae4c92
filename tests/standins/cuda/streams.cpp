// Streams, which are queues of deferred work, and events.
#include <chrono>
#include <optional>

#include "driver.h"

namespace standin {
namespace {

constexpr auto PATIENCE = std::chrono::seconds(120);  // for work that another thread runs

Event *event_of(CUevent handle) {
    auto found = state().events.find(handle);
    if (found == state().events.end()) throw Refusal{CUDA_ERROR_INVALID_HANDLE, "no event has this handle"};
    if (!found->second->alive) throw Refusal{CUDA_ERROR_INVALID_HANDLE, "the event was destroyed"};
    return found->second;
}

void execute(Queued &item) {
    if (item.operation.run) item.operation.run();
    if (item.mark) item.mark->time_ms = now_ms();
}

// Runs the operation at the front, or what it waits for, or waits for the thread that does.
void step(Lock &lock, Stream *stream) {
    if (stream->busy) {
        if (state().changed.wait_for(lock, PATIENCE) == std::cv_status::timeout)
            throw Refusal{CUDA_ERROR_LAUNCH_TIMEOUT, "work that another thread runs does not end"};
        return;
    }
    if (auto awaited = stream->queue.front().awaits; awaited && !awaited->done) {
        advance(lock, awaited->stream, awaited->position);
        return;
    }
    Queued item = std::move(stream->queue.front());
    stream->queue.pop_front();
    stream->busy = true;
    std::optional<Refusal> refusal;
    if (deferred_failure() == CUDA_SUCCESS) {  // after a failure nothing runs any more
        lock.unlock();
        try {
            execute(item);
        } catch (const Refusal &thrown) {
            refusal = thrown;
        }
        lock.lock();
    }
    if (refusal) {
        bool kernels =
            refusal->code == CUDA_ERROR_LAUNCH_FAILED;  // all else that deferred work does wrong is an access
        fail_deferred(kernels ? refusal->code : CUDA_ERROR_ILLEGAL_ADDRESS,
                      item.operation.what + ": " + refusal->words);
    }
    if (item.mark) item.mark->done = true;
    stream->busy = false;
    ++stream->done;
    state().changed.notify_all();
}

// Runs one operation that the stream's progress needs, unless another thread is at it: never waits, since its callers
// may hold Python's lock. So that a loop that asks comes to an end.
void nudge(Lock &lock, Stream *stream) {
    while (!stream->busy && !stream->queue.empty()) {
        auto awaited = stream->queue.front().awaits;
        if (!awaited || awaited->done) {
            step(lock, stream);
            return;
        }
        stream = awaited->stream;
    }
}

void record(Event *event, Stream *stream) {
    event->capture.reset();
    Queued item{{"an event's record", nullptr}, nullptr, nullptr};
    item.mark = event->mark = std::make_shared<Mark>(Mark{stream, ++stream->enqueued});
    stream->queue.push_back(std::move(item));
}

}  // namespace

double now_ms() {
    using namespace std::chrono;
    return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

Stream *stream_of(CUstream handle) {
    if (reinterpret_cast<uintptr_t>(handle) <= 2)
        throw Refusal{CUDA_ERROR_INVALID_HANDLE,
                      "work on the default stream, which would wait for the streams of others"};
    auto found = state().streams.find(handle);
    if (found == state().streams.end()) throw Refusal{CUDA_ERROR_INVALID_HANDLE, "no stream has this handle"};
    if (!found->second->alive) throw Refusal{CUDA_ERROR_INVALID_HANDLE, "the stream was destroyed"};
    return found->second;
}

void enqueue(Stream *stream, Operation operation) {
    if (stream->capture) {
        captured(*stream->capture, stream, std::move(operation));
        return;
    }
    if (operation.undefined != nullptr) poison(operation.undefined, operation.undefined_bytes);
    ++stream->enqueued;
    stream->queue.push_back({std::move(operation), nullptr, nullptr});
}

void advance(Lock &lock, Stream *stream, uint64_t position) {
    while (stream->done < position) step(lock, stream);
}

void advance_all(Lock &lock) {
    std::vector<Stream *> all;
    for (auto &[handle, stream] : state().streams) all.push_back(stream);
    for (Stream *stream : all) advance(lock, stream, stream->enqueued);
}

}  // namespace standin

using namespace standin;

CUresult CUDAAPI cuStreamCreate(CUstream *handle, unsigned flags) {
    return call("cuStreamCreate", CONTEXT, [&](Lock &) {
        if (flags != CU_STREAM_NON_BLOCKING)
            throw Refusal{CUDA_ERROR_INVALID_VALUE, "a blocking stream, which would wait for the default stream"};
        auto *stream = new Stream;
        state().streams[stream] = stream;
        *handle = reinterpret_cast<CUstream>(stream);
        count("streams_created");
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuStreamDestroy(CUstream handle) {
    return call("cuStreamDestroy", CONTEXT | CLEANUP, [&](Lock &) {
        Stream *stream = stream_of(handle);
        if (stream->capture) throw Refusal{CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the stream captures"};
        stream->alive = false;
        if (stream->done != stream->enqueued && deferred_failure() == CUDA_SUCCESS)
            complain("cuStreamDestroy: " + std::to_string(stream->enqueued - stream->done) + " operations are pending");
        for (Queued &item : stream->queue)
            if (item.mark) item.mark->done = true;
        stream->queue.clear();
        stream->done = stream->enqueued;
        state().changed.notify_all();
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuStreamSynchronize(CUstream handle) {
    return call("cuStreamSynchronize", CONTEXT | BREAKS_CAPTURE, [&](Lock &lock) {
        Stream *stream = stream_of(handle);
        refuse_capture(stream, "the stream captures");
        advance(lock, stream, stream->enqueued);
        return deferred_failure();
    });
}

CUresult CUDAAPI cuStreamQuery(CUstream handle) {
    return call("cuStreamQuery", CONTEXT | BREAKS_CAPTURE, [&](Lock &lock) {
        Stream *stream = stream_of(handle);
        refuse_capture(stream, "the stream captures");
        if (stream->done == stream->enqueued) return CUDA_SUCCESS;
        nudge(lock, stream);
        return CUDA_ERROR_NOT_READY;
    });
}

CUresult CUDAAPI cuStreamWaitEvent(CUstream handle, CUevent event_handle, unsigned flags) {
    return call("cuStreamWaitEvent", CONTEXT, [&](Lock &) {
        Stream *stream = stream_of(handle);
        Event *event = event_of(event_handle);
        if (event->capture) {
            Capture &capture = *event->capture;
            if (state().captures.count(event->capture) == 0)
                throw Refusal{CUDA_ERROR_INVALID_VALUE, "the event was recorded in a capture that has ended"};
            if (stream->capture && stream->capture != event->capture) {
                stream->capture->broken = capture.broken = true;
                throw Refusal{CUDA_ERROR_STREAM_CAPTURE_MERGE, "the event belongs to another capture"};
            }
            stream->capture = event->capture;  // the stream joins
            capture.frontier[stream].insert(event->nodes.begin(), event->nodes.end());
            return CUDA_SUCCESS;
        }
        if (stream->capture) {
            stream->capture->broken = true;
            throw Refusal{CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
                          "a capturing stream waits for an event outside its capture"};
        }
        if (flags != 0) throw Refusal{CUDA_ERROR_INVALID_VALUE, "flags outside a capture"};
        if (!event->mark) return CUDA_SUCCESS;  // never recorded: nothing to wait for
        ++stream->enqueued;
        stream->queue.push_back({{"a wait for an event", nullptr}, nullptr, event->mark});
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuEventCreate(CUevent *handle, unsigned flags) {
    return call("cuEventCreate", CONTEXT, [&](Lock &) {
        auto *event = new Event;
        event->timed = (flags & CU_EVENT_DISABLE_TIMING) == 0;
        state().events[event] = event;
        *handle = reinterpret_cast<CUevent>(event);
        count("events_created");
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuEventDestroy(CUevent handle) {
    return call("cuEventDestroy", CONTEXT | CLEANUP, [&](Lock &) {
        event_of(handle)->alive = false;
        return CUDA_SUCCESS;
    });
}

static CUresult record_event(const char *name, CUevent event_handle, CUstream handle, unsigned flags) {
    return call(name, CONTEXT, [&](Lock &) {
        Event *event = event_of(event_handle);
        Stream *stream = stream_of(handle);
        if (flags == CU_EVENT_RECORD_EXTERNAL) {
            if (!stream->capture) throw Refusal{CUDA_ERROR_INVALID_VALUE, "an external record outside a capture"};
            Operation operation{"an event's record", nullptr};
            operation.records = event;
            captured(*stream->capture, stream, operation);
        } else if (stream->capture) {
            event->capture = stream->capture;
            event->nodes = stream->capture->frontier[stream];
        } else {
            record(event, stream);
        }
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuEventRecord(CUevent event, CUstream stream) {
    return record_event("cuEventRecord", event, stream, 0);
}

CUresult CUDAAPI cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned flags) {
    return record_event("cuEventRecordWithFlags", event, stream, flags);
}

static Mark *recorded(Event *event) {
    if (event->capture) throw Refusal{CUDA_ERROR_CAPTURED_EVENT, "the event was recorded in a capture"};
    return event->mark.get();
}

CUresult CUDAAPI cuEventSynchronize(CUevent handle) {
    return call("cuEventSynchronize", CONTEXT | BREAKS_CAPTURE, [&](Lock &lock) {
        Event *event = event_of(handle);
        recorded(event);
        std::shared_ptr<Mark> mark = event->mark;
        if (mark && !mark->done) advance(lock, mark->stream, mark->position);
        return deferred_failure();
    });
}

CUresult CUDAAPI cuEventQuery(CUevent handle) {
    return call("cuEventQuery", CONTEXT | BREAKS_CAPTURE, [&](Lock &lock) {
        Event *event = event_of(handle);
        recorded(event);
        std::shared_ptr<Mark> mark = event->mark;
        if (!mark || mark->done) return CUDA_SUCCESS;
        nudge(lock, mark->stream);
        return CUDA_ERROR_NOT_READY;
    });
}

CUresult CUDAAPI cuEventElapsedTime(float *milliseconds, CUevent from, CUevent to) {
    return call("cuEventElapsedTime", CONTEXT, [&](Lock &) {
        Event *first = event_of(from), *last = event_of(to);
        if (!first->timed || !last->timed) throw Refusal{CUDA_ERROR_INVALID_HANDLE, "an event made without timing"};
        Mark *start = recorded(first), *end = recorded(last);
        if (start == nullptr || end == nullptr)
            throw Refusal{CUDA_ERROR_INVALID_HANDLE, "an event that was never recorded"};
        if (!start->done || !end->done) return CUDA_ERROR_NOT_READY;
        *milliseconds = static_cast<float>(end->time_ms - start->time_ms);
        return CUDA_SUCCESS;
    });
}

// The name that a pycuda built for CUDA 13 asks for.
STANDIN_CONTROL CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent from, CUevent to) {
    return cuEventElapsedTime(milliseconds, from, to);
}
