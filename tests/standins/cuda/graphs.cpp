// Capture of streams into graphs, and their replay: in a shuffled order that honours the dependencies.
#include "driver.h"

namespace standin {
namespace {

std::map<void *, Graph *> graphs, executables;

Graph *graph_of(std::map<void *, Graph *> &known, void *handle, const char *kind) {
    auto found = known.find(handle);
    if (found == known.end()) throw Refusal{CUDA_ERROR_INVALID_HANDLE, std::string("no ") + kind + " has this handle"};
    if (!found->second->alive) throw Refusal{CUDA_ERROR_INVALID_HANDLE, std::string("the ") + kind + " was destroyed"};
    return found->second;
}

Graph *keep(std::map<void *, Graph *> &known, std::vector<Node> nodes) {
    auto *graph = new Graph;
    graph->nodes = std::move(nodes);
    known[graph] = graph;
    return graph;
}

uint64_t next_random(uint64_t &seed) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}

void replay(const std::vector<Node> &nodes, const std::vector<std::shared_ptr<Mark>> &marks, uint64_t seed) {
    std::set<int> done;
    while (done.size() < nodes.size()) {
        std::vector<int> ready;
        for (int index = 0; index < static_cast<int>(nodes.size()); ++index) {
            bool free = done.count(index) == 0;
            for (int earlier : nodes[index].after) free = free && done.count(earlier) != 0;
            if (free) ready.push_back(index);
        }
        int chosen = ready[next_random(seed) % ready.size()];
        if (nodes[chosen].operation.run) nodes[chosen].operation.run();
        if (marks[chosen]) marks[chosen]->time_ms = now_ms();
        done.insert(chosen);
    }
}

// Whether every path from the origin's last nodes backwards meets these nodes.
bool joined(const Capture &capture, const std::set<int> &nodes) {
    std::set<int> reached;
    auto origin = capture.frontier.find(capture.origin);
    std::vector<int> open;
    if (origin != capture.frontier.end()) open.assign(origin->second.begin(), origin->second.end());
    while (!open.empty()) {
        int node = open.back();
        open.pop_back();
        if (reached.insert(node).second)
            open.insert(open.end(), capture.nodes[node].after.begin(), capture.nodes[node].after.end());
    }
    for (int node : nodes)
        if (reached.count(node) == 0) return false;
    return true;
}

void end(const std::shared_ptr<Capture> &capture) {
    for (auto &[handle, stream] : state().streams)
        if (stream->capture == capture) stream->capture.reset();
    state().captures.erase(capture);
}

}  // namespace

int captured(Capture &capture, Stream *stream, Operation operation) {
    if (capture.broken) throw Refusal{CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "the capture was broken earlier"};
    int index = static_cast<int>(capture.nodes.size());
    std::set<int> &last = capture.frontier[stream];
    capture.nodes.push_back({std::move(operation), last});
    last = {index};
    return index;
}

void refuse_capture(Stream *stream, const std::string &words) {
    if (!stream->capture) return;
    stream->capture->broken = true;
    throw Refusal{CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, words};
}

void end_graphs() {
    for (auto *known : {&graphs, &executables})
        for (auto &[handle, graph] : *known) graph->alive = false;
}

int64_t live_graphs(bool executable) {
    int64_t found = 0;
    for (auto &[handle, graph] : executable ? executables : graphs) found += graph->alive;
    return found;
}

}  // namespace standin

using namespace standin;

CUresult CUDAAPI cuStreamBeginCapture(CUstream handle, CUstreamCaptureMode mode) {
    return call("cuStreamBeginCapture", CONTEXT, [&](Lock &) {
        Stream *stream = stream_of(handle);
        if (stream->capture) throw Refusal{CUDA_ERROR_ILLEGAL_STATE, "the stream captures already"};
        stream->capture = std::make_shared<Capture>();
        stream->capture->origin = stream;
        stream->capture->mode = mode;
        stream->capture->thread = std::this_thread::get_id();
        state().captures.insert(stream->capture);
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuStreamEndCapture(CUstream handle, CUgraph *result) {
    return call("cuStreamEndCapture", CONTEXT | CLEANUP, [&](Lock &) -> CUresult {
        *result = nullptr;
        Stream *stream = stream_of(handle);
        std::shared_ptr<Capture> capture = stream->capture;
        if (!capture) throw Refusal{CUDA_ERROR_ILLEGAL_STATE, "the stream does not capture"};
        if (capture->origin != stream) {
            capture->broken = true;
            throw Refusal{CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "the capture began on another stream"};
        }
        if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && capture->thread != std::this_thread::get_id())
            throw Refusal{CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "the capture began in another thread"};
        end(capture);
        if (capture->broken) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        for (auto &[other, nodes] : capture->frontier)
            if (!joined(*capture, nodes))
                throw Refusal{CUDA_ERROR_STREAM_CAPTURE_UNJOINED,
                              "a stream that took part was not joined to the first"};
        *result = reinterpret_cast<CUgraph>(keep(graphs, capture->nodes));
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus *status) {
    return call("cuStreamIsCapturing", CONTEXT, [&](Lock &) {
        Stream *stream = stream_of(handle);
        *status = !stream->capture          ? CU_STREAM_CAPTURE_STATUS_NONE
                  : stream->capture->broken ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                            : CU_STREAM_CAPTURE_STATUS_ACTIVE;
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuGraphInstantiateWithFlags(CUgraphExec *result, CUgraph handle, unsigned long long) {
    return call("cuGraphInstantiateWithFlags", CONTEXT, [&](Lock &) {
        Graph *graph = graph_of(graphs, handle, "graph");
        *result = reinterpret_cast<CUgraphExec>(keep(executables, graph->nodes));
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuGraphLaunch(CUgraphExec handle, CUstream stream_handle) {
    return call("cuGraphLaunch", CONTEXT, [&](Lock &) {
        Graph *graph = graph_of(executables, handle, "executable graph");
        Stream *stream = stream_of(stream_handle);
        refuse_capture(stream, "the stand-in captures no graph within a graph");
        std::vector<std::shared_ptr<Mark>> marks;
        uint64_t position = stream->enqueued + 1;
        for (const Node &node : graph->nodes) {
            marks.push_back(nullptr);
            if (node.operation.records == nullptr) continue;
            marks.back() = node.operation.records->mark = std::make_shared<Mark>(Mark{stream, position});
            node.operation.records->capture.reset();
        }
        // Marks count as done once the whole graph is: `run` sets them all at its end.
        uint64_t seed = static_cast<uint64_t>(setting("seed")) * 0x9E3779B97F4A7C15u + position;
        enqueue(stream, {"a graph", [graph, marks, seed] {
                             replay(graph->nodes, marks, seed | 1);
                             Lock lock(state().mutex);
                             for (const auto &mark : marks)
                                 if (mark) mark->done = true;
                             count("graph_launches");
                         }});
        for (const Node &node : graph->nodes)
            if (node.operation.undefined != nullptr) poison(node.operation.undefined, node.operation.undefined_bytes);
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuGraphDestroy(CUgraph handle) {
    return call("cuGraphDestroy", CONTEXT | CLEANUP, [&](Lock &) {
        graph_of(graphs, handle, "graph")->alive = false;
        return CUDA_SUCCESS;
    });
}

CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec handle) {
    return call("cuGraphExecDestroy", CONTEXT | CLEANUP, [&](Lock &) {
        graph_of(executables, handle, "executable graph")->alive = false;
        return CUDA_SUCCESS;
    });
}
