//! Logging in: which portals, in which order, and what one login takes.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{AcquireError, SemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::super::Connected;
use super::super::error::{AttachError, Portals, Reason};
use super::super::running::{Attempt, Outcome, Wanted};
use super::records::{Behaviour, IFACE, TAG};
use super::session::ours;
use super::{Iscsi, IscsiTarget, Session, SessionState, exit, named, refused, said};
use crate::device::Iqn;
use crate::tool::{Output, Tool};

/// How long a portal may take to accept a connection before it comes last.
const REACH: Duration = Duration::from_secs(3);
/// How long a portal may take to accept a connection at all. iscsid would ask one that does not for a whole
/// `login_timeout`, however clearly it is refused (seen with 2.1.11).
const ACCEPT: Duration = Duration::from_secs(10);
/// How long one login may take in all: iscsid ends it by itself long before, and is not left alone with it.
const LOGIN: Duration = Duration::from_secs(120);

/// How a session behaves when its path breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Seconds after which I/O of a broken path fails (`replacement_timeout`) on a host without multipathd; `None` is
    /// never: an appliance's update takes longer than any guess, and a failed write turns a file system read-only for
    /// good.
    pub replacement_seconds: Option<u16>,
    /// The same where multipathd has other paths to try.
    pub multipath_replacement_seconds: u16,
    /// Seconds for one attempt to log in (`login_timeout`).
    pub login_seconds: u32,
    /// How many times that long the first login may go on (`initial_login_retry_max`): a target that is not there
    /// closes the connection, and iscsid tries again until this time is over.
    pub login_attempts: u32,
    /// Pauses before a path is tried again beside one that works: an appliance under load lets a login time out, and
    /// nobody comes back for a path that a volume can do without.
    pub path_pauses: [Duration; 3],
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            replacement_seconds: None,
            multipath_replacement_seconds: 15,
            login_seconds: 15,
            login_attempts: 1,
            path_pauses: [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(16)],
        }
    }
}

impl Tuning {
    fn behaviour(self, multipath: bool) -> Behaviour {
        let replacement =
            if multipath { Some(self.multipath_replacement_seconds) } else { self.replacement_seconds };
        Behaviour {
            replacement_seconds: replacement.map_or(-1, i32::from),
            login_seconds: self.login_seconds,
            login_attempts: self.login_attempts,
        }
    }
}

impl Iscsi {
    /// Makes sure that at least one session works. Where multipathd runs, all portals are tried side by side and those
    /// that take longer go on by themselves; elsewhere each further session would be a disk of its own, so portals are
    /// tried one after the other until one lets us in, those that accept a connection first.
    ///
    /// # Errors
    /// [`AttachError::NoPath`] with each portal's failure once all have failed, [`AttachError::Deadline`] while some
    /// are still trying.
    pub async fn connect(&self, target: &IscsiTarget, deadline: Instant) -> Result<Connected, AttachError> {
        let name = &target.identity.target;
        if target.portals.is_empty() {
            return Err(AttachError::NoPortal { target: named(name) });
        }
        let there = self.sessions(name).await?;
        if self.multipath() {
            self.connect_all(target, &there, deadline).await
        } else {
            self.connect_one(target, &there, deadline).await
        }
    }

    async fn connect_all(
        &self,
        target: &IscsiTarget,
        there: &[Session],
        deadline: Instant,
    ) -> Result<Connected, AttachError> {
        let name = &target.identity.target;
        let missing =
            target.portals.iter().filter(|&portal| !there.iter().any(|one| one.portal == Some(*portal)));
        let mut attempts = JoinSet::new();
        for portal in missing.copied() {
            let mut attempt = self.path(target, portal);
            attempts.spawn(async move { (portal, attempt.wait().await) });
        }
        if attempts.is_empty() || there.iter().any(|one| one.state == SessionState::LoggedIn) {
            // Sessions that exist are iscsid's to keep; whether one of them works is for the device's wait to see.
            attempts.detach_all();
            return Ok(Connected::Already);
        }
        let mut failed = Vec::new();
        loop {
            match timeout_at(deadline, attempts.join_next()).await {
                Err(_elapsed) => {
                    attempts.detach_all();
                    return Err(AttachError::Deadline { what: "logging in", target: named(name) });
                }
                Ok(None) => {
                    return Err(AttachError::NoPath { target: named(name), portals: Portals(failed) });
                }
                Ok(Some(attempt)) => match attempt? {
                    (_, Ok(connected)) => {
                        attempts.detach_all();
                        return Ok(connected);
                    }
                    (portal, Err((reason, words))) => failed.push((portal, reason, words)),
                },
            }
        }
    }

    async fn connect_one(
        &self,
        target: &IscsiTarget,
        there: &[Session],
        deadline: Instant,
    ) -> Result<Connected, AttachError> {
        let name = &target.identity.target;
        let late = |_| AttachError::Deadline { what: "logging in", target: named(name) };
        // A login that an earlier call began comes first: beside it there must be no second one.
        while let Some((_, mut attempt)) = self.running.any(name.as_str()) {
            if let Ok(connected) = timeout_at(deadline, attempt.wait()).await.map_err(late)? {
                return Ok(connected);
            }
        }
        if !there.is_empty() || !self.sessions(name).await?.is_empty() {
            return Ok(Connected::Already);
        }
        let mut failed = Vec::new();
        for portal in self.quickest_first(&target.portals).await? {
            match timeout_at(deadline, self.path(target, portal).wait()).await.map_err(late)? {
                Ok(connected) => return Ok(connected),
                Err((reason, words)) => failed.push((portal, reason, words)),
            }
        }
        Err(AttachError::NoPath { target: named(name), portals: Portals(failed) })
    }

    /// The portals in the order in which they accept a connection; those that do not accept one come last.
    async fn quickest_first(&self, portals: &[SocketAddr]) -> Result<Vec<SocketAddr>, AttachError> {
        if portals.len() < 2 {
            return Ok(portals.to_vec());
        }
        let mut attempts: JoinSet<(SocketAddr, bool)> = JoinSet::new();
        for portal in portals.iter().copied() {
            let reach = self.host.reach(portal);
            attempts.spawn(async move { (portal, matches!(timeout(REACH, reach).await, Ok(Ok(())))) });
        }
        let mut order = Vec::new();
        while let Some(attempt) = attempts.join_next().await {
            if let (portal, true) = attempt? {
                order.push(portal);
                // The rest is asked only when this one lets nobody in.
                break;
            }
        }
        attempts.abort_all();
        order.extend(portals.iter().filter(|portal| !order.contains(portal)).copied().collect::<Vec<_>>());
        Ok(order)
    }

    /// Starts one login, or joins the attempt that runs; one that pauses goes on at once.
    fn path(&self, target: &IscsiTarget, portal: SocketAddr) -> Attempt {
        let (own, target) = (self.clone(), target.clone());
        let name = target.identity.target.clone();
        self.running.join_or_start(name.as_str(), portal, move |wanted| async move {
            let Ok(slot) = Arc::clone(&own.slots).acquire_owned().await else {
                return Err((Reason::Other, "the helper is ending".to_owned()));
            };
            // Between queueing and now the volume may have been detached.
            if !wanted.is_wanted() {
                return Err(called_off());
            }
            let outcome = own.log_in_and_tell(&target, portal, &wanted).await;
            drop(slot);
            own.repeat(outcome, &target, portal, &wanted).await
        })
    }

    /// Tries a login that failed again, if that is worth it.
    async fn repeat(
        &self,
        mut outcome: Outcome,
        target: &IscsiTarget,
        portal: SocketAddr,
        wanted: &Wanted,
    ) -> Outcome {
        for pause in self.tuning.path_pauses {
            let Err((reason, _)) = &outcome else { break };
            if !self.is_worth_repeating(target, *reason).await {
                break;
            }
            let turn = async {
                tokio::select! {
                    // Who needs this path now waits for no pause and no other volume's.
                    () = wanted.asked_again() => (true, self.slots.acquire().await),
                    slot = self.turn_after(pause) => (false, slot),
                }
            };
            let Some((asked, Ok(_slot))) = wanted.as_long_as_wanted(turn).await else { break };
            // The pause was long: multipathd may be gone, and beside another session this would be a second disk.
            if !asked && !self.is_worth_repeating(target, *reason).await {
                break;
            }
            outcome = self.log_in_and_tell(target, portal, wanted).await;
        }
        outcome
    }

    async fn turn_after(&self, pause: Duration) -> Result<SemaphorePermit<'_>, AcquireError> {
        // Back-off of a retry: the portal tells nobody when it can be reached.
        tokio::time::sleep(pause).await;
        self.slots_again.acquire().await
    }

    async fn log_in_and_tell(&self, target: &IscsiTarget, portal: SocketAddr, wanted: &Wanted) -> Outcome {
        let outcome = self.log_in(target, portal, wanted).await;
        match &outcome {
            Ok(_) => tracing::info!(%portal, "iSCSI session made"),
            Err((reason, words)) => tracing::warn!(%portal, ?reason, "no iSCSI session made: {words}"),
        }
        outcome
    }

    /// Whether a login that failed shall be tried again by itself: it is one path of several, another works, and the
    /// reason may pass. Without another path whoever asked for it is told at once, and decides.
    async fn is_worth_repeating(&self, target: &IscsiTarget, reason: Reason) -> bool {
        let may_pass = matches!(reason, Reason::Unreachable | Reason::NotListening | Reason::NoSession);
        let works = |session: &Session| session.state == SessionState::LoggedIn;
        may_pass
            && self.multipath()
            && self.sessions(&target.identity.target).await.is_ok_and(|there| there.iter().any(works))
    }

    async fn log_in(&self, target: &IscsiTarget, portal: SocketAddr, wanted: &Wanted) -> Outcome {
        let now = Instant::now();
        let deadline = now.checked_add(LOGIN).unwrap_or(now);
        let name = &target.identity.target;
        // Before anything is written for it.
        let reach = timeout(ACCEPT, self.host.reach(portal));
        let Some(reached) = wanted.as_long_as_wanted(reach).await else { return Err(called_off()) };
        match reached {
            Ok(Ok(())) if !wanted.is_wanted() => return Err(called_off()),
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
                return Err((Reason::NotListening, error.to_string()));
            }
            Ok(Err(error)) => return Err((Reason::Unreachable, error.to_string())),
            Err(_elapsed) => {
                return Err((Reason::Unreachable, format!("no connection in {} s", ACCEPT.as_secs())));
            }
        }
        let outcome = match self.record(target, portal, deadline).await {
            Ok(()) => self.log_in_by_record(target, portal, deadline).await,
            Err(error) => Err((reason_of(&error), error.to_string())),
        };
        if outcome.is_err()
            && let Ok(sessions) = self.sessions(name).await
            && !sessions.iter().any(|session| session.portal == Some(portal))
            // Only its own: beside it another portal's login may be under way.
            && let Err(error) = self.delete_records(name, Some(portal), deadline).await
        {
            tracing::warn!(%error, "a node record stays until the volume is unstaged");
        }
        outcome
    }

    /// Makes the records that one login needs.
    async fn record(
        &self,
        target: &IscsiTarget,
        portal: SocketAddr,
        deadline: Instant,
    ) -> Result<(), AttachError> {
        let name = &target.identity.target;
        self.settle_iface(name, deadline).await?;
        let (records, own) = (self.records.clone(), name.clone());
        tokio::task::spawn_blocking(move || records.refuse_old_form(&own, portal)).await??;
        let output = self.iscsiadm_node(name, portal, &["-o", "new"], deadline).await?;
        if output.code != exit::DONE {
            return Err(refused("making a node record", name, &output));
        }
        let (records, own) = (self.records.clone(), name.clone());
        let (chap, behaviour) = (target.chap.clone(), self.tuning.behaviour(self.multipath()));
        tokio::task::spawn_blocking(move || records.settle_node(&own, portal, chap.as_ref(), behaviour))
            .await?
    }

    /// Makes our iface record when it is missing, and makes it say what it has to.
    async fn settle_iface(&self, target: &Iqn, deadline: Instant) -> Result<(), AttachError> {
        let _one_at_a_time = self.iface.lock().await;
        let records = self.records.clone();
        let lacks = tokio::task::spawn_blocking(move || {
            records.open_directories()?;
            Ok::<_, AttachError>(records.lacks_iface())
        });
        if lacks.await?? {
            let arguments = ["-m", "iface", "-I", IFACE, "-o", "new"].map(str::to_owned).to_vec();
            let output = self.host.run(Tool::Iscsiadm, arguments, deadline).await?;
            if output.code != exit::DONE {
                return Err(refused("making the iface record", target, &output));
            }
        }
        let (records, initiator) = (self.records.clone(), self.name.clone());
        tokio::task::spawn_blocking(move || {
            records.settle_iface(&initiator)?;
            // What iscsiadm has just made.
            records.open_directories()
        })
        .await?
    }

    async fn log_in_by_record(&self, target: &IscsiTarget, portal: SocketAddr, deadline: Instant) -> Outcome {
        let name = &target.identity.target;
        let other = |error: &AttachError| (reason_of(error), error.to_string());
        let output =
            self.iscsiadm_node(name, portal, &["--login"], deadline).await.map_err(|error| other(&error))?;
        let connected = match output.code {
            exit::DONE => Connected::New,
            exit::SESSION_EXISTS => Connected::Already,
            code => return Err((exit::reason(code), said(&output))),
        };
        let (root, own, initiator) = (self.devices.host().clone(), name.clone(), self.name.clone());
        let there = tokio::task::spawn_blocking(move || ours(&root, &own, &initiator, IFACE)).await;
        let there = there.map_err(|error| (Reason::Other, error.to_string()))?;
        let there = there.map_err(|error| (Reason::Other, error.to_string()))?;
        let Some(session) = there.into_iter().find(|session| session.portal == Some(portal)) else {
            return Err((Reason::NoSession, said(&output)));
        };
        // The record says that nothing is scanned by itself: other units of the target are none of this host's business.
        self.scan(target.identity.lun, session).await.map_err(|error| other(&error))?;
        Ok(connected)
    }

    async fn iscsiadm_node(
        &self,
        target: &Iqn,
        portal: SocketAddr,
        what: &[&str],
        deadline: Instant,
    ) -> Result<Output, AttachError> {
        let portal = format!("{portal},{TAG}");
        let which = ["-m", "node", "-T", target.as_str(), "-p", &portal, "-I", IFACE];
        let arguments = which.iter().chain(what).map(|&argument| argument.to_owned()).collect();
        Ok(self.host.run(Tool::Iscsiadm, arguments, deadline).await?)
    }
}

/// The volume was detached meanwhile.
fn called_off() -> (Reason, String) {
    (Reason::Other, "the login was called off before it began".to_owned())
}

/// The reason behind an error that is no answer of a target.
fn reason_of(error: &AttachError) -> Reason {
    match error {
        AttachError::Iscsiadm { reason, .. } => *reason,
        AttachError::Tool(crate::tool::ToolError::Missing { .. }) => Reason::NoDaemon,
        AttachError::Tool(crate::tool::ToolError::Deadline { .. }) => Reason::Unreachable,
        _ => Reason::Other,
    }
}
