//! How long CreateVolume takes, beside what the appliance itself needs for its sequential calls.

use std::time::{Duration, Instant};

use anyhow::Context;
use harness::orchestrator::GIB;

use crate::chain::Chain;
use crate::protocol::Protocol;
use crate::table::Table;

/// Most that a call's own overhead may add: driver, gRPC, TLS, WebSocket.
const OVERHEAD: f64 = 1.15;

/// Adds the row of one protocol.
pub async fn measure(chain: &Chain, protocol: &Protocol, runs: u32, table: &mut Table) {
    let name = format!("CreateVolume, p50 of {runs}");
    match creates(chain, protocol, runs).await {
        Ok((p50, latency)) => {
            let hops = u32::try_from(protocol.create.hops).unwrap_or(u32::MAX);
            let floor = latency * hops;
            let bound = floor.mul_f64(OVERHEAD);
            let ratio = p50.as_secs_f64() / floor.as_secs_f64().max(f64::EPSILON);
            table.row(
                &name,
                format!("{} = {ratio:.2} × hops × latency", milliseconds(p50)),
                format!("{} = {OVERHEAD} × {hops} × {}", milliseconds(bound), milliseconds(latency)),
                p50 <= bound,
                None,
            );
        }
        Err(error) => table.missing(&name, format!("{OVERHEAD} × hops × latency"), &error),
    }
}

/// Median of `runs` creates one after the other, and the mean latency of their calls as the appliance saw it.
async fn creates(chain: &Chain, protocol: &Protocol, runs: u32) -> anyhow::Result<(Duration, Duration)> {
    let class = protocol.class();
    let mut took = Vec::new();
    let mut volumes = Vec::new();
    chain.control.reset_figures().await?;
    for run in 0..runs {
        let name = format!("bench-time-{}-{run}", protocol.name);
        let begun = Instant::now();
        let volume = chain.orchestrator.create(&name, &class, GIB).await.context("CreateVolume")?;
        took.push(begun.elapsed());
        volumes.push(volume);
    }
    let latency = chain.control.figures().await?.latency().context("the appliance was not called")?;
    for volume in &volumes {
        chain.orchestrator.delete(volume).await.context("DeleteVolume")?;
    }
    Ok((median(&mut took).context("nothing was timed")?, latency))
}

/// The middle value; the larger of two.
pub fn median(durations: &mut [Duration]) -> Option<Duration> {
    durations.sort_unstable();
    durations.get(durations.len() / 2).copied()
}

/// A duration for people.
pub fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_value() {
        let mut values = [3, 1, 2].map(Duration::from_millis);
        assert_eq!(median(&mut values), Some(Duration::from_millis(2)));
        assert_eq!(median(&mut [4, 1].map(Duration::from_millis)), Some(Duration::from_millis(4)));
        assert_eq!(median(&mut []), None);
        assert_eq!(milliseconds(Duration::from_micros(1250)), "1.2 ms");
    }
}
