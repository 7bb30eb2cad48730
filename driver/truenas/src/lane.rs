//! Slots for calls in flight: a fence must not wait behind hundreds of creates.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Calls in flight of the ordinary lane. With [`RESERVED`] it stays below the 10 that the appliance runs at once per
/// connection (it queues the 11th and refuses the 21st).
const ORDINARY: usize = 6;
/// Further slots that only [`Lane::Fence`] uses.
const RESERVED: usize = 2;

/// Which slots a call may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Everything that can wait: six slots.
    Ordinary,
    /// Publish and unpublish: the six and two of its own.
    Fence,
}

/// The slots of one appliance.
#[derive(Debug)]
pub(crate) struct Lanes {
    ordinary: Arc<Semaphore>,
    reserved: Arc<Semaphore>,
}

impl Lanes {
    pub(crate) fn new() -> Self {
        Self { ordinary: Arc::new(Semaphore::new(ORDINARY)), reserved: Arc::new(Semaphore::new(RESERVED)) }
    }

    /// Waits for a slot, in order of arrival within the lane. `None` never happens while the slots exist.
    pub(crate) async fn slot(&self, lane: Lane) -> Option<OwnedSemaphorePermit> {
        let ordinary = Arc::clone(&self.ordinary).acquire_owned();
        match lane {
            Lane::Ordinary => ordinary.await.ok(),
            Lane::Fence => {
                let reserved = Arc::clone(&self.reserved).acquire_owned();
                tokio::select! {
                    biased;
                    slot = reserved => slot.ok(),
                    slot = ordinary => slot.ok(),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn a_fence_goes_ahead_of_a_full_ordinary_lane() {
        let lanes = Lanes::new();
        let mut held = Vec::new();
        for _ in 0..ORDINARY {
            held.push(lanes.slot(Lane::Ordinary).await);
        }
        assert!(lanes.slot(Lane::Ordinary).now_or_never().is_none());
        held.push(lanes.slot(Lane::Fence).now_or_never().unwrap());
        held.push(lanes.slot(Lane::Fence).now_or_never().unwrap());
        assert!(lanes.slot(Lane::Fence).now_or_never().is_none());
        held.remove(0);
        assert!(lanes.slot(Lane::Fence).now_or_never().is_some());
    }
}
