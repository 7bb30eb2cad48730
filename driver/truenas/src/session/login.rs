//! From an open socket to a logged-in session.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::dial::Socket;
use super::pump::{close_words, socket_words};
use crate::calls::NO_PARAMS;
use crate::client::Shared;
use crate::counters::count;
use crate::dialect::{self, DEFAULT_USER};
use crate::error::ApiError;
use crate::frame::{self, Incoming, JsonPlace, MAX_REQUEST_BEFORE_LOGIN};
use crate::key::ApiKey;
use crate::state::{JobReplies, LoginRefusal, SystemVersion};

/// For each message of the login. The appliance delays a failed login by up to 5 s and a rate-limited one by 10 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// errno of a mechanism that the security level forbids.
const EOPNOTSUPP: i32 = 95;

/// Facts learnt at login.
pub(super) struct Welcome {
    pub(super) version: SystemVersion,
    pub(super) jobs: JobReplies,
}

/// Why there is no session.
pub(super) enum LoginError {
    Refused(LoginRefusal),
    RateLimited,
    /// The standby controller of an HA pair, with the addresses of the active one.
    Redirected(Vec<String>),
    Failed(String),
}

/// How the key is presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mechanism {
    /// `auth.login_ex` with user and key.
    UserAndKey,
    /// `auth.login_with_api_key`.
    KeyAlone,
}

/// The login of one appliance, over all its connections.
pub(super) struct Login {
    user: Option<String>,
    /// What worked last.
    worked: Option<Mechanism>,
    attempts: u32,
}

/// What one mechanism came to.
enum Verdict {
    Accepted,
    Refused(LoginRefusal),
    NoSuchMethod,
}

/// A question without an answer.
enum AskError {
    Api(ApiError),
    Failed(String),
}

impl From<AskError> for LoginError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Failed(why) => Self::Failed(why),
            AskError::Api(e) if e.is_rate_limited() => Self::RateLimited,
            // The words of an error could repeat the key.
            AskError::Api(e) => {
                Self::Failed(format!("{}: JSON-RPC error {}, errno {}", e.method, e.code, e.errno))
            }
        }
    }
}

impl Login {
    pub(super) fn new(user: Option<String>) -> Self {
        Self { user, worked: None, attempts: 0 }
    }

    /// Another key may have another owner: what worked with the one before says nothing.
    pub(super) fn forget(&mut self) {
        self.worked = None;
    }

    /// Logins sent since the last time this was asked.
    pub(super) fn take_attempts(&mut self) -> u32 {
        std::mem::take(&mut self.attempts)
    }

    pub(super) async fn log_in(
        &mut self,
        shared: &Shared,
        socket: &mut Socket,
        key: &ApiKey,
    ) -> Result<Welcome, LoginError> {
        let jobs = job_replies(shared, socket).await?;
        let mechanism = self.authenticate(shared, socket, key).await?;
        self.worked = Some(mechanism);
        let text: String = ask(shared, socket, "system.version", &NO_PARAMS).await?;
        let version = SystemVersion::parse(&text);
        if dialect::is_too_old(&version) {
            return Err(LoginError::Refused(LoginRefusal::TooOld(version)));
        }
        active_controller(shared, socket).await?;
        Ok(Welcome { version, jobs })
    }

    async fn authenticate(
        &mut self,
        shared: &Shared,
        socket: &mut Socket,
        key: &ApiKey,
    ) -> Result<Mechanism, LoginError> {
        if self.worked != Some(Mechanism::KeyAlone) {
            match self.user_and_key(shared, socket, key).await? {
                Verdict::Accepted => return Ok(Mechanism::UserAndKey),
                Verdict::Refused(LoginRefusal::WrongKey { .. }) if self.may_try_key_alone() => {}
                Verdict::Refused(why) => return Err(LoginError::Refused(why)),
                Verdict::NoSuchMethod => {}
            }
        }
        match self.key_alone(shared, socket, key).await? {
            Verdict::Accepted => Ok(Mechanism::KeyAlone),
            Verdict::Refused(why) => Err(LoginError::Refused(why)),
            Verdict::NoSuchMethod => Err(LoginError::Refused(LoginRefusal::WrongKeyOrUser)),
        }
    }

    /// Only when the user was a guess, and the guess never worked.
    fn may_try_key_alone(&self) -> bool {
        self.user.is_none() && self.worked.is_none()
    }

    async fn user_and_key(
        &mut self,
        shared: &Shared,
        socket: &mut Socket,
        key: &ApiKey,
    ) -> Result<Verdict, LoginError> {
        #[derive(Serialize)]
        struct Request<'a> {
            mechanism: &'static str,
            username: &'a str,
            api_key: &'a str,
            login_options: Options,
        }
        #[derive(Serialize)]
        struct Options {
            user_info: bool,
        }
        #[derive(serde::Deserialize)]
        struct Answer {
            response_type: String,
            #[serde(default)]
            urls: Vec<String>,
        }
        self.attempts += 1;
        let user = self.user.as_deref().unwrap_or(DEFAULT_USER);
        let request = Request {
            mechanism: "API_KEY_PLAIN",
            username: user,
            api_key: key.expose(),
            login_options: Options { user_info: false },
        };
        let answer: Answer = match ask(shared, socket, "auth.login_ex", &(request,)).await {
            Ok(answer) => answer,
            Err(error) => return no_answer(error),
        };
        let refused = |why| Ok(Verdict::Refused(why));
        match answer.response_type.as_str() {
            "SUCCESS" => Ok(Verdict::Accepted),
            "AUTH_ERR" => refused(LoginRefusal::WrongKey { user: user.to_owned() }),
            "EXPIRED" => refused(LoginRefusal::Expired),
            "OTP_REQUIRED" => refused(LoginRefusal::OneTimePassword),
            "DENIED" => refused(LoginRefusal::Denied),
            "REDIRECT" => Err(LoginError::Redirected(answer.urls)),
            // Nothing that could be part of what was sent is repeated.
            other if is_word(other) => refused(LoginRefusal::Unexpected(other.to_owned())),
            _ => refused(LoginRefusal::Unexpected("an unknown verdict".to_owned())),
        }
    }

    async fn key_alone(
        &mut self,
        shared: &Shared,
        socket: &mut Socket,
        key: &ApiKey,
    ) -> Result<Verdict, LoginError> {
        self.attempts += 1;
        match ask::<_, bool>(shared, socket, "auth.login_with_api_key", &(key.expose(),)).await {
            Ok(true) => Ok(Verdict::Accepted),
            Ok(false) => Ok(Verdict::Refused(match &self.user {
                Some(user) => LoginRefusal::WrongKey { user: user.clone() },
                None => LoginRefusal::WrongKeyOrUser,
            })),
            Err(error) => no_answer(error),
        }
    }
}

/// A login that the appliance answered with an error instead of a verdict.
fn no_answer(error: AskError) -> Result<Verdict, LoginError> {
    match error {
        AskError::Api(e) if e.is_method_missing() => Ok(Verdict::NoSuchMethod),
        AskError::Api(e) if e.errno == EOPNOTSUPP => Ok(Verdict::Refused(LoginRefusal::NotAllowed)),
        // The text of a validation error could repeat what was sent.
        AskError::Api(e) if e.code == -32602 => {
            Ok(Verdict::Refused(LoginRefusal::Unexpected("a validation error".to_owned())))
        }
        other => Err(other.into()),
    }
}

/// Whether a text is a name of the API and nothing else.
fn is_word(text: &str) -> bool {
    (1..=40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
}

/// Checks that this is not the passive controller of an HA pair: a login may succeed there when its peer does not answer
/// it, although it has no pools and what is written to its database is lost.
async fn active_controller(shared: &Shared, socket: &mut Socket) -> Result<(), LoginError> {
    let failed = |why: String| Err(LoginError::Failed(why));
    match ask::<_, String>(shared, socket, "failover.status", &NO_PARAMS).await {
        Ok(status) if matches!(status.as_str(), "SINGLE" | "MASTER") => Ok(()),
        Ok(status) => {
            let status = if is_word(&status) { status.as_str() } else { "unknown" };
            failed(format!("this controller of the HA pair is not the active one (failover status {status})"))
        }
        Err(AskError::Api(e)) if e.is_method_missing() => Ok(()),
        // Whether there is a pair at all may be asked without a role.
        Err(AskError::Api(e)) if e.is_not_authorized() => {
            match ask::<_, bool>(shared, socket, "failover.licensed", &NO_PARAMS).await {
                Ok(false) => Ok(()),
                Ok(true) => failed(
                    "this is an HA pair, and the API key's owner may not see which controller is active: give it the \
                     role FAILOVER_READ"
                        .to_owned(),
                ),
                Err(error) => Err(error.into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Asks for job ids as answers of job methods. Versions that ignore the option always give ids.
async fn job_replies(shared: &Shared, socket: &mut Socket) -> Result<JobReplies, LoginError> {
    #[derive(serde::Deserialize)]
    struct Effective {
        #[serde(default)]
        legacy_jobs: Option<bool>,
    }
    let options = (json!({"legacy_jobs": true}),);
    match ask::<_, Option<Effective>>(shared, socket, "core.set_options", &options).await {
        Ok(Some(Effective { legacy_jobs: Some(false) })) => Ok(JobReplies::AtEnd),
        Ok(_) => Ok(JobReplies::Id),
        Err(AskError::Api(e)) if e.is_method_missing() => Ok(JobReplies::Id),
        Err(error) => Err(error.into()),
    }
}

/// One question before other traffic; events in between are skipped.
async fn ask<P, R>(
    shared: &Shared,
    socket: &mut Socket,
    method: &'static str,
    params: &P,
) -> Result<R, AskError>
where
    P: Serialize + ?Sized,
    R: DeserializeOwned,
{
    let failed = |why: String| AskError::Failed(format!("{method}: {why}"));
    let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
    let text = frame::encode(id, method, params, MAX_REQUEST_BEFORE_LOGIN)
        .map_err(|_| failed("the request is larger than the appliance accepts before a login".to_owned()))?;
    let exchange = async {
        shared.counters.sent(text.len());
        socket.send(Message::Text(text)).await.map_err(|e| socket_words(&e))?;
        loop {
            let message = match socket.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => return Err(socket_words(&error)),
                None => return Err("the appliance closed the connection".to_owned()),
            };
            let text = match message {
                Message::Text(text) => text,
                Message::Close(frame) => return Err(close_words(frame.as_ref())),
                Message::Ping(_) | Message::Pong(_) => continue,
                Message::Binary(_) | Message::Frame(_) => {
                    count(&shared.counters.bad_messages);
                    return Err("a binary message, which no TrueNAS sends".to_owned());
                }
            };
            shared.counters.received(text.len());
            match frame::parse(&text) {
                Ok(Incoming::Answer { id: got, outcome }) if got == id => return Ok(outcome),
                Ok(_) => {}
                Err(garbage) => {
                    count(&shared.counters.bad_messages);
                    return Err(format!("an unreadable message ({})", garbage.0));
                }
            }
        }
    };
    let outcome = match timeout(ANSWER_TIMEOUT, exchange).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(why)) => return Err(failed(why)),
        Err(_) => return Err(failed(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))),
    };
    let raw = outcome.map_err(|error| AskError::Api(error.into_api_error(method)))?;
    serde_json::from_str(raw.as_str()).map_err(|e| failed(format!("unreadable answer ({})", JsonPlace(&e))))
}
