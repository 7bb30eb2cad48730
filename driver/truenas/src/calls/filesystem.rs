//! Owner and mode of a directory: `filesystem.stat`, `filesystem.setperm` and `filesystem.chown`.
//!
//! The last two are jobs. `setperm` on a path with an access list needs `stripacl`, also where only the owner is to
//! change; there `chown` leaves the list alone.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Calls;
use crate::error::CallError;

/// A user or group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// By number.
    Id(u32),
    /// By the name that the appliance knows.
    Name(String),
}

/// What a directory shall be; what is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissions {
    /// The permission bits, at most `0o7777`.
    pub mode: Option<u32>,
    /// Owner.
    pub user: Option<Account>,
    /// Group.
    pub group: Option<Account>,
}

impl Permissions {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn body(&self, path: &str) -> Value {
        let mut body = Map::from_iter([("path".to_owned(), Value::from(path))]);
        for (account, id, name) in [(&self.user, "uid", "user"), (&self.group, "gid", "group")] {
            match account {
                Some(Account::Id(number)) => body.insert(id.to_owned(), (*number).into()),
                Some(Account::Name(text)) => body.insert(name.to_owned(), text.as_str().into()),
                None => None,
            };
        }
        if let Some(mode) = self.mode {
            body.insert("mode".to_owned(), format!("{mode:o}").into());
            body.insert("options".to_owned(), json!({"stripacl": true}));
        }
        body.into()
    }
}

/// A directory as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner's number.
    pub uid: i64,
    /// Group's number.
    pub gid: i64,
    /// Owner's name, when the appliance knows one.
    #[serde(default)]
    pub user: Option<String>,
    /// Group's name, when the appliance knows one.
    #[serde(default)]
    pub group: Option<String>,
    /// Whether an access list says more than the mode does.
    #[serde(default)]
    pub acl: bool,
}

impl Stat {
    /// Whether the directory is as asked for.
    #[must_use]
    pub fn satisfies(&self, asked: &Permissions) -> bool {
        let is = |account: &Option<Account>, id: i64, name: &Option<String>| match account {
            None => true,
            Some(Account::Id(number)) => i64::from(*number) == id,
            Some(Account::Name(text)) => name.as_deref() == Some(text.as_str()),
        };
        asked.mode.is_none_or(|mode| self.mode & 0o7777 == mode && !self.acl)
            && is(&asked.user, self.uid, &self.user)
            && is(&asked.group, self.gid, &self.group)
    }
}

impl Calls {
    /// Owner and mode of a path (`/mnt/...`).
    ///
    /// # Errors
    /// [`CallError`]; a missing one is [`CallError::is_not_found`].
    pub async fn filesystem_stat(&self, path: &str) -> Result<Stat, CallError> {
        self.call("filesystem.stat", &(path,)).await
    }

    /// Sets owner and mode of one path, nothing below it. An access list goes when a mode is asked for.
    ///
    /// # Errors
    /// [`CallError`]; after an unknown outcome the path tells.
    pub async fn filesystem_set_permissions(&self, path: &str, asked: &Permissions) -> Result<(), CallError> {
        let method = if asked.mode.is_some() { "filesystem.setperm" } else { "filesystem.chown" };
        self.job::<_, Option<Value>>(method, &(asked.body(path),)).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_what_is_asked_for_and_nothing_else() {
        let all = Permissions {
            mode: Some(0o2770),
            user: Some(Account::Id(568)),
            group: Some(Account::Name("apps".to_owned())),
        };
        assert_eq!(
            all.body("/mnt/tank/a"),
            json!({"path": "/mnt/tank/a", "uid": 568, "group": "apps", "mode": "2770", "options": {"stripacl": true}})
        );
        let owner = Permissions { user: Some(Account::Name("apps".to_owned())), ..Permissions::default() };
        assert_eq!(owner.body("/mnt/tank/a"), json!({"path": "/mnt/tank/a", "user": "apps"}));
    }

    #[test]
    fn a_directory_is_as_asked_when_every_part_is() {
        let stat: Stat =
            serde_json::from_value(json!({"mode": 0o40770, "uid": 568, "gid": 0, "user": "apps",
            "group": "root", "acl": false, "realpath": "/mnt/tank/a"}))
            .unwrap();
        let asked = |mode, user, group| Permissions { mode, user, group };
        assert!(stat.satisfies(&Permissions::default()));
        assert!(stat.satisfies(&asked(
            Some(0o770),
            Some(Account::Id(568)),
            Some(Account::Name("root".to_owned()))
        )));
        assert!(!stat.satisfies(&asked(Some(0o777), None, None)));
        assert!(!stat.satisfies(&asked(None, Some(Account::Id(0)), None)));
        let listed = Stat { acl: true, ..stat };
        assert!(!listed.satisfies(&asked(Some(0o770), None, None)), "the access list says something else");
    }
}
