//! Slots for calls in flight: a fence must not wait behind hundreds of creates.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Calls in flight altogether: as many as the appliance runs at once per connection (it queues the 11th and refuses the
/// 21st).
const ALL: usize = 10;
/// How many of them may be of the ordinary lane.
const ORDINARY: usize = 8;

/// Which slots a call may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Everything that can wait: eight slots.
    Ordinary,
    /// Publish and unpublish: all slots, and ahead of ordinary calls that wait.
    Fence,
}

/// The slots of one appliance.
///
/// The queue for a slot is in order of arrival, but only one ordinary call stands in it at a time; the others wait for
/// its place. So a fence waits for other fences and one ordinary call, and ordinary calls still get every slot that comes
/// free after the fences that were there first.
#[derive(Debug)]
pub(crate) struct Lanes {
    all: Arc<Semaphore>,
    ordinary: Arc<Semaphore>,
    /// The place of ordinary calls in the queue for `all`.
    place: Semaphore,
}

/// A call's slot; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Slot {
    _one: OwnedSemaphorePermit,
    _ordinary: Option<OwnedSemaphorePermit>,
}

impl Lanes {
    pub(crate) fn new() -> Self {
        Self {
            all: Arc::new(Semaphore::new(ALL)),
            ordinary: Arc::new(Semaphore::new(ORDINARY)),
            place: Semaphore::new(1),
        }
    }

    /// Waits for a slot. `None` never happens while the slots exist.
    pub(crate) async fn slot(&self, lane: Lane) -> Option<Slot> {
        let one = || Arc::clone(&self.all).acquire_owned();
        match lane {
            Lane::Fence => Some(Slot { _one: one().await.ok()?, _ordinary: None }),
            Lane::Ordinary => {
                let _place = self.place.acquire().await.ok()?;
                let ordinary = Arc::clone(&self.ordinary).acquire_owned().await.ok()?;
                Some(Slot { _one: one().await.ok()?, _ordinary: Some(ordinary) })
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

    #[tokio::test]
    async fn fences_pass_ordinary_calls_that_wait_and_do_not_starve_them() {
        let lanes = Lanes::new();
        let mut held: Vec<_> = (0..ALL).map(|_| lanes.slot(Lane::Fence).now_or_never().unwrap()).collect();
        let (first, second) = (lanes.slot(Lane::Ordinary), lanes.slot(Lane::Ordinary));
        let (fence, later) = (lanes.slot(Lane::Fence), lanes.slot(Lane::Fence));
        let (mut first, mut second) = (Box::pin(first), Box::pin(second));
        let (mut fence, mut later) = (Box::pin(fence), Box::pin(later));
        // They arrive in this order.
        for waiting in [&mut first, &mut second] {
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        assert!(fence.as_mut().now_or_never().is_none());
        held.pop();
        let got = first.as_mut().now_or_never();
        assert!(got.is_some(), "the first ordinary call had its place in the queue");
        assert!(second.as_mut().now_or_never().is_none(), "the second takes its place behind the fence");
        assert!(later.as_mut().now_or_never().is_none());
        held.pop();
        assert!(second.as_mut().now_or_never().is_none());
        let passed = fence.as_mut().now_or_never();
        assert!(passed.is_some(), "the fence passed it");
        held.pop();
        assert!(later.as_mut().now_or_never().is_none(), "a fence that came later does not");
        assert!(second.as_mut().now_or_never().is_some());
    }
}
