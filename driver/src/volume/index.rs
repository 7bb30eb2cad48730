//! The volumes of one appliance as the last listing and our own calls know them.
//!
//! The rule it keeps: it only saves questions. A page is answered from it, a listing that begins anew asks the
//! appliance, and nothing is created, changed or deleted on its word.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::volume::failure::{Failure, Kind};
use crate::volume::health;
use crate::volume::protocol::Protocol;

/// Prefix of page tokens, so that a foreign one is recognised.
const TOKEN_PREFIX: &str = "after:";

/// What is known of one volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Size in bytes.
    pub capacity_bytes: u64,
    /// How it is served; none when it says nothing this driver knows.
    pub protocol: Option<Protocol>,
}

/// A volume as a listing gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What is known of it.
    pub entry: Entry,
    /// What was wrong with it, and what to know of it, when the listing was made; none for a volume seen since.
    pub health: Option<Box<[health::Entry]>>,
}

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Ids and what is known of them, by id.
    pub entries: Vec<(String, Listed)>,
    /// Token of the next page; none on the last.
    pub next: Option<String>,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<String, Listed>,
    complete: bool,
    /// Listings that are being read from the appliance.
    listings: usize,
    /// Volumes that our own calls noted or forgot meanwhile: what a listing says of them may be older.
    changed: BTreeSet<String>,
}

impl State {
    fn change(&mut self, id: &str) {
        if self.listings > 0 {
            self.changed.insert(id.to_owned());
        }
    }

    fn put(&mut self, id: &str, entry: Entry) {
        match self.entries.get_mut(id) {
            Some(known) => known.entry = entry,
            None => drop(self.entries.insert(id.to_owned(), Listed { entry, health: None })),
        }
    }
}

/// The index of one appliance. Volume ids are its keys.
#[derive(Default)]
pub struct Index {
    state: Mutex<State>,
}

impl Index {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a whole listing has been taken in since the start.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.lock().complete
    }

    /// Begins a listing, before the appliance is asked.
    pub fn begin(&self) -> Listing<'_> {
        self.lock().listings += 1;
        Listing { index: self }
    }

    /// Notes a volume that we made or changed.
    pub fn note(&self, id: &str, entry: Entry) {
        let mut state = self.lock();
        state.change(id);
        state.put(id, entry);
    }

    /// Notes a volume that was read; a listing that is being read counts for more.
    pub fn seen(&self, id: &str, entry: Entry) {
        self.lock().put(id, entry);
    }

    /// Forgets a volume that is gone.
    pub fn forget(&self, id: &str) {
        let mut state = self.lock();
        state.change(id);
        state.entries.remove(id);
    }

    /// How the volume is served, as far as remembered: a hint for what to read first.
    #[must_use]
    pub fn protocol_hint(&self, id: &str) -> Option<Protocol> {
        self.lock().entries.get(id)?.entry.protocol
    }

    /// The page after `after` (an id that need not exist any more), of at most `max` entries; 0 means all.
    #[must_use]
    pub fn page(&self, after: Option<&str>, max: usize) -> Page {
        let state = self.lock();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = state.entries.range::<str, _>((from, Bound::Unbounded));
        let max = if max == 0 { usize::MAX } else { max };
        let entries: Vec<_> =
            rest.by_ref().take(max).map(|(id, listed)| (id.clone(), listed.clone())).collect();
        let next = match (rest.next(), entries.last()) {
            (Some(_), Some((last, _))) => Some(format!("{TOKEN_PREFIX}{last}")),
            _ => None,
        };
        Page { entries, next }
    }
}

/// A listing that is being read from the appliance. Dropped without a result it leaves the index as it is.
pub struct Listing<'a> {
    index: &'a Index,
}

impl Listing<'_> {
    /// Takes in the whole listing. Of volumes that our own calls made, changed or deleted since it began, these know
    /// better.
    pub fn replace(self, mut entries: BTreeMap<String, Listed>) {
        let mut state = self.index.lock();
        for id in &state.changed {
            match (state.entries.get(id), entries.get_mut(id)) {
                (Some(known), Some(listed)) => listed.entry = known.entry,
                (Some(known), None) => drop(entries.insert(id.clone(), known.clone())),
                (None, _) => drop(entries.remove(id)),
            }
        }
        state.entries = entries;
        state.complete = true;
    }
}

impl Drop for Listing<'_> {
    fn drop(&mut self) {
        let mut state = self.index.lock();
        state.listings -= 1;
        if state.listings == 0 {
            state.changed.clear();
        }
    }
}

/// The id after which a page begins; none for an empty token.
///
/// # Errors
/// ABORTED (CSI 1.12, ListVolumes: invalid `starting_token`) for a token that no page gave.
pub fn read_token(token: &str) -> Result<Option<&str>, Failure> {
    match (token, token.strip_prefix(TOKEN_PREFIX)) {
        ("", _) => Ok(None),
        (_, Some(id)) if crate::volume::id::VolumeId::parse(id).is_some() => Ok(Some(id)),
        _ => Err(Failure::new(
            Kind::BadToken,
            "starting_token was not given by this driver; list from the start",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: Entry = Entry { capacity_bytes: 1, protocol: Some(Protocol::Nfs) };

    fn index(ids: &[&str]) -> Index {
        let index = Index::default();
        let listed = Listed { entry: ENTRY, health: Some(Box::default()) };
        index.begin().replace(ids.iter().map(|id| ((*id).to_owned(), listed.clone())).collect());
        index
    }

    fn ids(page: &Page) -> Vec<&str> {
        page.entries.iter().map(|(id, _)| id.as_str()).collect()
    }

    #[test]
    fn pages_go_by_the_last_id_and_survive_deletes() {
        let index = index(&["t/a", "t/b", "t/c", "t/d"]);
        let first = index.page(None, 2);
        assert_eq!(ids(&first), ["t/a", "t/b"]);
        index.forget("t/b");
        index.forget("t/c");
        let token = first.next.unwrap();
        let second = index.page(read_token(&token).unwrap(), 2);
        assert_eq!((ids(&second), second.next.as_deref()), (vec!["t/d"], None));
    }

    #[test]
    fn a_change_keeps_what_the_listing_found_and_a_new_volume_was_not_looked_at() {
        let index = index(&["t/a"]);
        let grown = Entry { capacity_bytes: 2, ..ENTRY };
        index.note("t/a", grown);
        index.note("t/b", ENTRY);
        let known: Vec<_> = index.page(None, 0).entries.into_iter().map(|(_, listed)| listed).collect();
        assert_eq!(
            known,
            [Listed { entry: grown, health: Some(Box::default()) }, Listed { entry: ENTRY, health: None }]
        );
    }

    #[test]
    fn what_our_own_calls_did_during_a_listing_counts_for_more_than_the_listing() {
        let index = index(&["t/deleted", "t/grown", "t/plain"]);
        let listing = index.begin();
        let listed = Listed { entry: ENTRY, health: Some(Box::default()) };
        let of = |ids: &[&str]| ids.iter().map(|id| ((*id).to_owned(), listed.clone())).collect();
        let grown = Entry { capacity_bytes: 2, ..ENTRY };
        index.forget("t/deleted");
        index.note("t/grown", grown);
        index.note("t/new", ENTRY);
        index.seen("t/gone", ENTRY);
        index.seen("t/plain", grown);
        listing.replace(of(&["t/deleted", "t/grown", "t/plain"]));
        let page = index.page(None, 0);
        assert_eq!(ids(&page), ["t/grown", "t/new", "t/plain"]);
        assert_eq!(page.entries[0].1, Listed { entry: grown, health: Some(Box::default()) });
        assert_eq!(page.entries[1].1.health, None, "nobody looked at the new one");
        assert_eq!(page.entries[2].1.entry, ENTRY, "a read is no change of ours");
        index.begin().replace(of(&["t/deleted"]));
        assert_eq!(
            ids(&index.page(None, 0)),
            ["t/deleted"],
            "made again by somebody else: the next listing says so"
        );
    }

    #[test]
    fn zero_means_everything() {
        assert_eq!(index(&["t/a", "t/b"]).page(None, 0).entries.len(), 2);
        assert_eq!(index(&[]).page(None, 0), Page { entries: vec![], next: None });
        assert_eq!(index(&["t/a", "t/b"]).page(None, 2).next, None, "a full last page has no successor");
    }

    #[test]
    fn a_token_that_no_page_gave_is_aborted() {
        for token in ["invalid-token", "after:", "after:@", "after:a/../b", "1"] {
            assert_eq!(read_token(token).unwrap_err().kind, Kind::BadToken, "{token}");
        }
        assert_eq!(read_token(""), Ok(None));
    }
}
