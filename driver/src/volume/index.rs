//! The volumes of one appliance as the last listing and our own calls know them.
//!
//! The rule it keeps: it only saves questions. A page is answered from it, a listing that begins anew asks the
//! appliance, and nothing is created, changed or deleted on its word.

use std::collections::BTreeMap;
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

    /// Takes in a whole listing.
    pub fn replace(&self, entries: BTreeMap<String, Listed>) {
        *self.lock() = State { entries, complete: true };
    }

    /// Notes a volume that was seen, made or changed.
    pub fn note(&self, id: &str, entry: Entry) {
        let mut state = self.lock();
        match state.entries.get_mut(id) {
            Some(known) => known.entry = entry,
            None => drop(state.entries.insert(id.to_owned(), Listed { entry, health: None })),
        }
    }

    /// Forgets a volume that is gone.
    pub fn forget(&self, id: &str) {
        self.lock().entries.remove(id);
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
        index.replace(ids.iter().map(|id| ((*id).to_owned(), listed.clone())).collect());
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
