"""A running pipeline's figures in Prometheus' text format.

Source: https://prometheus.io/docs/practices/naming/ (base units, `_total` for counters).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgevision.optional import require
from edgevision.sources.base import BACKOFF, DEAD, ENDED, LIVE, OPENING, STALLED

_STATES = (OPENING, LIVE, STALLED, BACKOFF, DEAD, ENDED)
_QUANTILES = {"p50": "0.5", "p90": "0.9", "p99": "0.99", "p999": "0.999", "max": "1"}


def to_prometheus(status: Mapping[str, Any]) -> tuple[str, bytes]:
    """The content type and the text of a pipeline's figures, given as `RunReport.to_json` does.

    Raises:
        MissingPackageError: prometheus_client is not installed.
    """
    client, core = require("prometheus_client", "metrics"), require("prometheus_client.core", "metrics")
    registry = client.CollectorRegistry()
    registry.register(_Figures(core, status))
    return client.CONTENT_TYPE_LATEST, client.generate_latest(registry)


class _Figures:
    """One scrape."""

    def __init__(self, core: Any, status: Mapping[str, Any]) -> None:
        self._core, self._status = core, status

    def collect(self) -> Iterator[Any]:
        """All metrics, the same ones at every scrape."""
        core, status = self._core, self._status
        captured = core.CounterMetricFamily("edgevision_frames_captured", "Frames that reached us", labels=["source"])
        processed = core.CounterMetricFamily(
            "edgevision_frames_processed", "Frames whose results were delivered", labels=["source"]
        )
        dropped = core.CounterMetricFamily(
            "edgevision_frames_dropped", "Frames not processed, by cause", labels=["source", "cause"]
        )
        reconnects = core.CounterMetricFamily(
            "edgevision_source_reconnects", "Times a source was opened again", labels=["source"]
        )
        state = core.GaugeMetricFamily(
            "edgevision_source_state", "1 for the state that a source is in", labels=["source", "state"]
        )
        for source in status.get("sources", ()):
            name = source["source_id"]
            captured.add_metric([name], source["captured"])
            processed.add_metric([name], source["processed"])
            reconnects.add_metric([name], source["reconnects"])
            for cause, count in source["dropped"].items():
                dropped.add_metric([name, cause], count)
            for each in _STATES:
                state.add_metric([name, each], float(source["state"] == each))
        yield from (captured, processed, dropped, reconnects, state)
        yield self._quantiles(
            "edgevision_latency_seconds", "Duration of a stage", "stage", status.get("latency_ms", {})
        )
        ages = {source["source_id"]: source["age_ms"] for source in status.get("sources", ())}
        yield self._quantiles("edgevision_result_age_seconds", "Age of a result, from its capture", "source", ages)
        written = core.CounterMetricFamily(
            "edgevision_results_written", "Results that a sink has written", labels=["sink"]
        )
        lost = core.CounterMetricFamily(
            "edgevision_results_dropped", "Results that a sink has not written, by cause", labels=["sink", "cause"]
        )
        for sink in status.get("sinks", ()):
            written.add_metric([sink["sink"]], sink["written"])
            for cause, count in sink["dropped"].items():
                lost.add_metric([sink["sink"], cause], count)
        yield from (written, lost)

    def _quantiles(self, name: str, what: str, label: str, series: Mapping[str, Mapping[str, float]]) -> Any:
        family = self._core.GaugeMetricFamily(name, f"{what}, by quantile since the start", labels=[label, "quantile"])
        for key, summary in series.items():
            for percentile, quantile in _QUANTILES.items():
                if percentile in summary:
                    family.add_metric([key, quantile], summary[percentile] / 1e3)
        return family
