use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::time::Instant;

/// The media type of [`Metrics::text`].
pub(super) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is counted for Prometheus.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<RouteAndStatus, Counter>,
    seconds: Family<Route, Histogram>,
    prompt: Family<OfModel, Counter>,
    generated: Family<OfModel, Counter>,
    waiting: Family<OfModel, Gauge>,
    active: Family<OfModel, Gauge>,
}

/// What is counted of one model.
#[derive(Debug, Clone)]
pub(super) struct ModelMetrics {
    pub(super) prompt: Counter,
    pub(super) generated: Counter,
    pub(super) waiting: Gauge,
    pub(super) active: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteAndStatus {
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfModel {
    model: String,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("emberlm");
        let (requests, prompt, generated) =
            (Family::default(), Family::default(), Family::default());
        let (waiting, active) = (Family::default(), Family::default());
        let seconds = Family::new_with_constructor(histogram as fn() -> Histogram);
        registry.register("http_requests", "Requests by route and status", requests.clone());
        let help = "Seconds from a request's head to the end of its answer";
        registry.register("http_request_seconds", help, Family::clone(&seconds));
        registry.register("prompt_tokens", "Tokens of prompts", Family::clone(&prompt));
        let help = "Tokens that were generated";
        registry.register("generated_tokens", help, Family::clone(&generated));
        registry.register("queued_texts", "Texts that wait", Family::clone(&waiting));
        registry.register("active_texts", "Texts that are being written", Family::clone(&active));
        Self { registry, requests, seconds, prompt, generated, waiting, active }
    }

    /// Of a model, from zero on.
    pub(super) fn of_model(&self, model: &str) -> ModelMetrics {
        let label = OfModel { model: model.into() };
        ModelMetrics {
            prompt: self.prompt.get_or_create_owned(&label),
            generated: self.generated.get_or_create_owned(&label),
            waiting: self.waiting.get_or_create_owned(&label),
            active: self.active.get_or_create_owned(&label),
        }
    }

    pub(super) fn count(&self, route: &str, status: u16) {
        self.requests.get_or_create(&RouteAndStatus { route: route.into(), status }).inc();
    }

    /// Measures from now on.
    pub(super) fn timer(&self, route: &str) -> Timer {
        let seconds = self.seconds.get_or_create_owned(&Route { route: route.into() });
        Timer { seconds, started: Instant::now() }
    }

    /// What Prometheus reads.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        // A string takes whatever is written.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

/// From a millisecond to half a minute, and what takes longer.
fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

/// Measures how long it lives.
#[derive(Debug)]
pub(super) struct Timer {
    seconds: Histogram,
    started: Instant,
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.seconds.observe(self.started.elapsed().as_secs_f64());
    }
}

/// One of those that a gauge counts, for as long as it lives.
#[derive(Debug)]
pub(super) struct Counted(Gauge);

impl Counted {
    pub(super) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
