//! The appliance connection's counters as Prometheus metrics, read from the client at every scrape.

use std::collections::HashMap;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use truenas::{BUCKETS, Client, ConnectionState, Durations};

const CONNECTED: (&str, &str) = ("tns_websocket_connected", "1 while logged in to the appliance, else 0.");
const RECONNECTS: (&str, &str) =
    ("tns_websocket_reconnects_total", "Logins to the appliance after the first.");
const MESSAGES: (&str, &str) = ("tns_websocket_messages_total", "Messages over the connection by direction.");
const CALL_SECONDS: (&str, &str) =
    ("tns_websocket_message_duration_seconds", "Duration of the appliance's API calls by method.");
const AGE: (&str, &str) =
    ("tns_websocket_connection_duration_seconds", "Age of the present connection in seconds.");

/// Collects one client's counters.
#[derive(Debug)]
pub(super) struct WebSocket {
    client: Client,
    descs: Vec<Desc>,
}

impl WebSocket {
    pub(super) fn new(client: Client) -> Result<Self, prometheus::Error> {
        let descs = [
            (CONNECTED, None),
            (RECONNECTS, None),
            (MESSAGES, Some("direction")),
            (CALL_SECONDS, Some("method")),
            (AGE, None),
        ]
        .into_iter()
        .map(|((name, help), label)| {
            let labels = label.into_iter().map(str::to_owned).collect();
            Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())
        })
        .collect::<Result<_, _>>()?;
        Ok(WebSocket { client, descs })
    }
}

impl Collector for WebSocket {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (state, counters) = (self.client.state(), self.client.counters());
        let age = match &state {
            ConnectionState::Connected(session) => session.since.elapsed().as_secs_f64(),
            _ => 0.0,
        };
        let calls: Vec<Metric> = counters.methods.iter().map(|m| histogram(m.method, &m.durations)).collect();
        let mut families = vec![
            family(CONNECTED, MetricType::GAUGE, vec![gauge(f64::from(u8::from(state.is_connected())))]),
            family(RECONNECTS, MetricType::COUNTER, vec![counter(None, counters.reconnects)]),
            family(
                MESSAGES,
                MetricType::COUNTER,
                vec![
                    counter(Some(("direction", "sent")), counters.messages_sent),
                    counter(Some(("direction", "received")), counters.messages_received),
                ],
            ),
            family(AGE, MetricType::GAUGE, vec![gauge(age)]),
        ];
        // A family without a metric cannot be written.
        if !calls.is_empty() {
            families.push(family(CALL_SECONDS, MetricType::HISTOGRAM, calls));
        }
        families
    }
}

fn family((name, help): (&str, &str), kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn labelled(label: Option<(&str, &str)>) -> Metric {
    let mut metric = Metric::default();
    if let Some((name, value)) = label {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        metric.set_label(vec![pair]);
    }
    metric
}

fn gauge(value: f64) -> Metric {
    let (mut metric, mut gauge) = (labelled(None), Gauge::default());
    gauge.set_value(value);
    metric.set_gauge(gauge);
    metric
}

#[expect(clippy::cast_precision_loss, reason = "counters beyond 2^53 do not come about")]
fn counter(label: Option<(&str, &str)>, value: u64) -> Metric {
    let (mut metric, mut counter) = (labelled(label), Counter::default());
    counter.set_value(value as f64);
    metric.set_counter(counter);
    metric
}

fn histogram(method: &str, durations: &Durations) -> Metric {
    let (mut metric, mut histogram) = (labelled(Some(("method", method))), Histogram::default());
    let mut cumulative = 0;
    let buckets = BUCKETS
        .iter()
        .zip(durations.buckets)
        .map(|(bound, count)| {
            cumulative += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(cumulative);
            bucket
        })
        .collect();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(durations.count);
    histogram.set_sample_sum(durations.sum);
    metric.set_histogram(histogram);
    metric
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Metrics;

    #[tokio::test]
    async fn an_appliance_that_is_away_is_a_zero_and_no_gap() {
        let key = truenas::ApiKey::new("1-secret").unwrap();
        // Port 9 (discard) of loopback: nobody answers.
        let mut options = truenas::Options::new("ws://127.0.0.1:9/api/current".parse().unwrap(), key);
        options.allow_plaintext_loopback = true;
        let metrics = Metrics::new().unwrap();
        metrics.watch_appliance(Client::new(options).unwrap()).unwrap();
        let text = metrics.text().unwrap();
        for line in [
            "tns_websocket_connected 0",
            "tns_websocket_reconnects_total 0",
            r#"tns_websocket_messages_total{direction="sent"} 0"#,
            "tns_websocket_connection_duration_seconds 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn buckets_are_cumulated() {
        let mut durations = Durations { sum: 40.0, count: 3, ..Durations::default() };
        durations.buckets[0] = 1;
        durations.buckets[1] = 1;
        durations.buckets[BUCKETS.len()] = 1;
        let metric = histogram("core.ping", &durations);
        let last = metric.get_histogram().get_bucket().last().unwrap().clone();
        assert_eq!(last.cumulative_count(), 2, "what is over the last bound is only in the count");
        assert_eq!(metric.get_histogram().get_sample_count(), 3);
    }
}
