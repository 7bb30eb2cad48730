//! `auth.*`: logins by API key.

use serde_json::{Value, json};

use super::{Call, unserved};
use crate::config::Version;
use crate::failure::Failure;
use crate::login::same_secret;
use crate::state::Table;

/// What a login came to.
enum Verdict {
    Success,
    Refused(&'static str),
    /// Refused by a fault, with this `response_type`.
    Fault(String),
}

fn revoked(call: &Call, id: &str) -> bool {
    let rows = call.shared.rows();
    rows.find(Table::ApiKey, "key_id", &json!(id))
        .is_some_and(|(_, row)| row.get("revoked") == Some(&json!(true)))
}

fn revoke(call: &Call, id: &str) -> Result<(), Failure> {
    tracing::warn!(key_id = id, "an API key came over a connection without TLS: revoked");
    let Value::Object(row) = json!({"key_id": id, "revoked": true}) else { return Ok(()) };
    call.shared.rows().insert(Table::ApiKey, row)?;
    Ok(())
}

/// Judges a key. A good one that travelled in clear from another host is revoked on the spot.
async fn judge(call: &Call, user: Option<&str>, key: &str) -> Result<Verdict, Failure> {
    let shared = &call.shared;
    let id = key.split_once('-').map(|(id, _)| id).unwrap_or_default();
    let owner = user.is_none_or(|user| user == shared.config.api_key_user);
    let verdict = if let Some(with) = shared.faults.login_refusal() {
        Verdict::Fault(with)
    } else if !same_secret(key, &shared.api_key) || !owner || revoked(call, id) {
        Verdict::Refused("AUTH_ERR")
    } else if !call.session.tls && (shared.config.plain_is_remote || !call.session.peer.is_loopback()) {
        revoke(call, id)?;
        Verdict::Refused("EXPIRED")
    } else {
        call.session.set_user(Some(shared.config.api_key_user.clone()));
        return Ok(Verdict::Success);
    };
    if !shared.config.failed_login_delay.is_zero() {
        tokio::time::sleep(shared.config.failed_login_delay).await;
    }
    Ok(verdict)
}

/// `auth.login_ex`: a bad login is a successful answer that says so.
pub(super) async fn login_ex(call: &Call) -> Result<Value, Failure> {
    let data = call.object(0);
    let text = |key: &str| data.get(key).and_then(Value::as_str).unwrap_or_default();
    if text("mechanism") != "API_KEY_PLAIN" {
        // No passwords, tokens or one-time passwords exist here.
        return Ok(json!({"response_type": "AUTH_ERR"}));
    }
    let redirect = call.shared.ha().redirect;
    if !redirect.is_empty() {
        return Ok(json!({"response_type": "REDIRECT", "urls": redirect}));
    }
    let (user, key) = (text("username"), text("api_key"));
    Ok(match judge(call, Some(user), key).await? {
        Verdict::Refused(with) => json!({"response_type": with}),
        Verdict::Fault(with) => match with.as_str() {
            "OTP_REQUIRED" => json!({"response_type": with, "username": user}),
            "REDIRECT" => json!({"response_type": with, "urls": ["wss://192.0.2.2/api/current"]}),
            _ => json!({"response_type": with}),
        },
        Verdict::Success => {
            let wants_info = data.get("login_options").and_then(|o| o.get("user_info")) == Some(&json!(true));
            let user_info = if wants_info { me(call) } else { Value::Null };
            let mut answer =
                json!({"response_type": "SUCCESS", "user_info": user_info, "authenticator": "LEVEL_1"});
            if let (true, Some(fields)) = (call.shared.config.version >= Version::V26, answer.as_object_mut())
            {
                fields.insert("reconnect_token".into(), Value::Null);
            }
            answer
        }
    })
}

/// `auth.login_with_api_key`: only true or false.
pub(super) async fn login_with_api_key(call: &Call) -> Result<Value, Failure> {
    if !call.shared.ha().redirect.is_empty() {
        return Ok(Value::Bool(false));
    }
    Ok(Value::Bool(matches!(judge(call, None, call.text(0)).await?, Verdict::Success)))
}

fn me(call: &Call) -> Value {
    json!({
        "pw_name": call.shared.config.api_key_user, "pw_gecos": "", "pw_dir": "/home/truenas_admin",
        "pw_shell": "/usr/bin/zsh", "pw_uid": 950, "pw_gid": 950, "grouplist": [544, 950], "sid": null,
        "source": "LOCAL", "local": true, "attributes": {},
        "two_factor_config": {"provisioning_uri": null, "secret_configured": false},
        "privilege": {"roles": {"$set": ["FULL_ADMIN"]}, "web_shell": true, "webui_access": true},
        "account_attributes": ["LOCAL", "API_KEY", "SYS_ADMIN"],
    })
}

pub(super) fn call(verb: &str, call: &Call) -> Result<Value, Failure> {
    match verb {
        "me" => Ok(me(call)),
        "logout" => {
            call.session.set_user(None);
            Ok(Value::Bool(true))
        }
        "mechanism_choices" => Ok(json!(["API_KEY_PLAIN"])),
        // No passwords and no tokens exist: every such login fails as a wrong one does.
        "login" | "login_with_token" => Ok(Value::Bool(false)),
        _ => Err(unserved(&format!("auth.{verb}"))),
    }
}
