"""The figures of a process as a registry of prometheus_client, which reads them when scraped."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.scrape.exported import EXPORTED, Exported

Readings = Mapping[str, float | Mapping[str, float]]  # by name: a value, or some by the label


def registry_of(read: Callable[[], Readings], labels: Mapping[str, str]) -> CollectorRegistry:
    """A registry of its own with a process's figures, and those of the process itself.

    Args:
        read: current figures by their names in `EXPORTED`; other names are left out.
        labels: that every figure gets.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Labelled(_Figures(read), labels))
    registry.register(_Labelled(ProcessCollector(registry=None), labels))
    return registry


class _Figures(Collector):
    def __init__(self, read: Callable[[], Readings]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        for name, value in self._read().items():
            if (family := EXPORTED.get(name)) is not None:
                yield _metric(family, value)


class _Labelled(Collector):
    """Another collector's figures with further labels."""

    def __init__(self, inner: Collector, labels: Mapping[str, str]) -> None:
        self._inner = inner
        self._labels = labels

    def collect(self) -> Iterable[Metric]:
        for metric in self._inner.collect():
            samples = metric.samples
            metric.samples = [s._replace(labels={**self._labels, **s.labels}) for s in samples]
            yield metric


def _metric(family: Exported, value: float | Mapping[str, float]) -> Metric:
    kind = CounterMetricFamily if family.is_counter else GaugeMetricFamily
    if not isinstance(value, Mapping):
        return kind(family.series, family.meaning, value=value)
    metric = kind(family.series, family.meaning, labels=[family.label])
    for label, number in value.items():
        metric.add_metric([label], number)
    return metric
