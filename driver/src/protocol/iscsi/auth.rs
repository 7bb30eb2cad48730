//! The CHAP credentials of a volume's target.
//!
//! The rule it keeps: one row for each volume, under a tag that derives from the volume, so that two processes or two
//! volumes do not race for "the next free one"; what was written is read back; and credentials of others are not changed.
//! Credentials carry no comment: ours have a tag of the range that nobody numbers by hand, at the volume's own place.

use sha2::{Digest as _, Sha256};
use truenas::Calls;
use truenas::calls::{Filter, IscsiAuth, IscsiAuthMethod, IscsiAuthWrite};

use crate::protocol::Volume;
use crate::protocol::call::{Answer as _, gone};
use crate::volume::chap::Chap;
use crate::volume::failure::{Failure, Kind};
use crate::volume::parameter::iscsi::AuthMethod;

/// First tag of ours; administrators count from 1.
const FIRST_TAG: i64 = 1 << 30;
/// How many tags one volume tries.
const TRIES: i64 = 16;

/// The tags of a volume, in the order in which they are tried.
fn tags(volume: &Volume) -> std::ops::Range<i64> {
    let digest = Sha256::digest(volume.global.as_bytes());
    let bits = digest.iter().take(4).fold(0_i64, |bits, byte| (bits << 8) | i64::from(*byte));
    let first = FIRST_TAG + bits % (FIRST_TAG - TRIES);
    first..first + TRIES
}

/// How the target shall ask for proof, from what the class says and the secret holds.
///
/// # Errors
/// FAILED_PRECONDITION: the class asks for what the secret does not hold, by key.
pub(super) fn method(asked: Option<AuthMethod>, chap: Option<&Chap>) -> Result<IscsiAuthMethod, Failure> {
    let missing = |keys: &str| {
        Failure::precondition(format!(
            "the class asks for CHAP, but the controller-publish secret has no {keys}: name a Secret with these keys \
             under csi.storage.k8s.io/controller-publish-secret-name, and the same one as node-stage secret"
        ))
    };
    match (asked, chap) {
        (Some(AuthMethod::None), _) | (None, None) => Ok(IscsiAuthMethod::None),
        (Some(AuthMethod::Chap | AuthMethod::Mutual), None) => Err(missing("chapUser and chapSecret")),
        (Some(AuthMethod::Mutual), Some(Chap { target: None, .. })) => {
            Err(missing("chapPeerUser and chapPeerSecret"))
        }
        // A node that presents itself and asks for the target's proof has to get it.
        (_, Some(Chap { target: Some(_), .. })) => Ok(IscsiAuthMethod::ChapMutual),
        (_, Some(Chap { target: None, .. })) => Ok(IscsiAuthMethod::Chap),
    }
}

/// Stores the credentials; gives their tag. `current` is the tag to which the target refers.
pub(super) async fn ensure(
    calls: &Calls,
    volume: &Volume,
    chap: &Chap,
    current: Option<i64>,
) -> Result<i64, Failure> {
    let doing = format!("storing the CHAP credentials of {}", volume.id);
    for tag in tags(volume) {
        let rows = of_tag(calls, tag, &doing).await?;
        let own = |row: &IscsiAuth| row.user == chap.node.user || current == Some(tag);
        if let Some(row) = rows.iter().filter(|row| own(row)).min_by_key(|row| row.id) {
            calls.iscsi_auth_update(row.id, &write(chap, tag)).await.or_failed(&doing)?;
            return Ok(tag);
        }
        if !rows.is_empty() {
            // Somebody's.
            continue;
        }
        let made = calls.iscsi_auth_create(&write(chap, tag)).await.definite(&doing)?;
        // Another process may have stored the same at the same time, another volume its own.
        let rows = of_tag(calls, tag, &doing).await?;
        let id = made.as_ref().ok().map(|row| row.id);
        let foreign = rows.iter().any(|row| row.user != chap.node.user);
        match made {
            Ok(row) if foreign => remove(calls, row.id, &doing).await?,
            Ok(_) => {
                let first = rows.iter().map(|row| row.id).min();
                if let Some(id) = id.filter(|id| first.is_some_and(|first| first < *id)) {
                    remove(calls, id, &doing).await?;
                }
                return Ok(tag);
            }
            Err(refused) if rows.is_empty() => return Err(refused),
            Err(_) if foreign => {}
            Err(_) => return Ok(tag),
        }
    }
    Err(Failure::new(Kind::Busy, format!("{doing}: all of its tags are taken by others")))
}

fn write(chap: &Chap, tag: i64) -> IscsiAuthWrite {
    let (peeruser, peersecret) =
        chap.target.clone().map_or_else(|| (String::new(), "".into()), |t| (t.user, t.secret));
    IscsiAuthWrite {
        tag,
        user: chap.node.user.clone(),
        secret: chap.node.secret.clone(),
        peeruser,
        peersecret,
    }
}

async fn of_tag(calls: &Calls, tag: i64, doing: &str) -> Result<Vec<IscsiAuth>, Failure> {
    let found = calls.iscsi_auth_query(&[Filter::eq("tag", tag)]).await.or_failed(doing)?;
    Ok(found.into_iter().filter(|row| row.tag == tag).collect())
}

/// Ids of the credentials under the volume's tags.
pub(super) async fn of_volume(calls: &Calls, volume: &Volume) -> Result<Vec<i64>, Failure> {
    let tags = tags(volume);
    let found = calls.iscsi_auth_query(&[Filter::one_of("tag", tags.clone())]).await;
    let found = found.or_failed(&format!("reading the CHAP credentials of {}", volume.id))?;
    Ok(found.into_iter().filter(|row| tags.contains(&row.tag)).map(|row| row.id).collect())
}

/// Removes the credentials under a tag of the volume to which its target no longer refers.
pub(super) async fn forget(calls: &Calls, volume: &Volume, tag: i64) -> Result<(), Failure> {
    if !tags(volume).contains(&tag) {
        return Ok(());
    }
    let doing = format!("removing the CHAP credentials of {}", volume.id);
    for row in of_tag(calls, tag, &doing).await? {
        remove(calls, row.id, &doing).await?;
    }
    Ok(())
}

/// Removes credentials, unless a target refers to them: then they are another volume's.
pub(super) async fn remove(calls: &Calls, id: i64, doing: &str) -> Result<(), Failure> {
    match calls.iscsi_auth_delete(id).await {
        Err(error) if error.refused().is_some_and(|e| e.reason.contains("used by")) => Ok(()),
        other => gone(other, doing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::id::VolumeId;

    fn volume(name: &str) -> Volume {
        let id = VolumeId::parse(name).unwrap();
        Volume::new(&id, name, None)
    }

    #[test]
    fn o5_tags_derive_from_the_volume() {
        let (a, b) = (tags(&volume("tank/a")), tags(&volume("tank/b")));
        assert_eq!(a, tags(&volume("tank/a")));
        assert_ne!(a, b);
        assert!(a.start >= FIRST_TAG && a.end <= i64::from(i32::MAX));
    }

    #[test]
    fn the_class_and_the_secret_have_to_agree() {
        let credentials = |user: &str| crate::volume::chap::Credentials {
            user: user.to_owned(),
            secret: "geheim-geheim".into(),
        };
        let one = Chap { node: credentials("k8s"), target: None };
        let both = Chap { node: credentials("k8s"), target: Some(credentials("nas")) };
        assert_eq!(method(None, None), Ok(IscsiAuthMethod::None));
        assert_eq!(method(None, Some(&one)), Ok(IscsiAuthMethod::Chap));
        assert_eq!(method(Some(AuthMethod::Chap), Some(&one)), Ok(IscsiAuthMethod::Chap));
        assert_eq!(method(Some(AuthMethod::Mutual), Some(&both)), Ok(IscsiAuthMethod::ChapMutual));
        assert_eq!(method(Some(AuthMethod::None), Some(&both)), Ok(IscsiAuthMethod::None));
        assert!(method(Some(AuthMethod::Chap), None).unwrap_err().message.contains("chapUser"));
        assert!(method(Some(AuthMethod::Mutual), Some(&one)).unwrap_err().message.contains("chapPeerUser"));
    }
}
