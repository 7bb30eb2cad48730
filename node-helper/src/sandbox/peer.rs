//! Who may call: the user id that the kernel reports for the socket's peer (`SO_PEERCRED`).
//!
//! Who can reach the socket is the boundary (its directory); this is the second check, before a byte is read.

use tokio::net::UnixStream;

/// The user ids that may call.
#[derive(Debug, Clone)]
pub struct AllowedPeers(Vec<u32>);

impl AllowedPeers {
    /// Admits exactly these user ids.
    #[must_use]
    pub fn new(uids: Vec<u32>) -> Self {
        Self(uids)
    }

    /// Whether the peer of `connection` may call.
    ///
    /// # Errors
    /// In words, for the log.
    pub fn admit(&self, connection: &UnixStream) -> Result<(), String> {
        let credentials =
            connection.peer_cred().map_err(|error| format!("the kernel names no peer: {error}"))?;
        if self.0.contains(&credentials.uid()) {
            Ok(())
        } else {
            Err(format!(
                "user id {} (process {:?}) is not among --allow-uid",
                credentials.uid(),
                credentials.pid()
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_listed_users_are_admitted() {
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let uid = ours.peer_cred().expect("credentials").uid();
        assert!(AllowedPeers::new(vec![uid]).admit(&ours).is_ok());
        let refusal = AllowedPeers::new(vec![uid + 1]).admit(&ours).expect_err("another user");
        assert!(refusal.contains(&uid.to_string()), "{refusal}");
    }
}
