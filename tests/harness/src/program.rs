//! What to start: a program with its arguments, its user and its variables.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// User of the driver, as in the chart.
pub const DRIVER_UID: u32 = 65532;

/// As whom a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunAs {
    /// As this program does.
    Caller,
    /// As this program's user without any capability, also when that is root.
    Powerless,
    /// As another user and group, without any capability. Needs root.
    User(u32),
}

/// A program to start.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its name in messages; its log is `<name>.log`.
    pub name: String,
    /// Path and arguments.
    pub command: Vec<OsString>,
    /// As whom it runs.
    pub run_as: RunAs,
    /// Variables added to its environment.
    pub environment: Vec<(OsString, OsString)>,
}

impl Program {
    /// The program at `path`, without arguments, as the caller.
    #[must_use]
    pub fn new(name: &str, path: &Path) -> Self {
        Self {
            name: name.to_owned(),
            command: vec![path.as_os_str().to_owned()],
            run_as: RunAs::Caller,
            environment: Vec::new(),
        }
    }

    /// With further arguments.
    #[must_use]
    pub fn words<W: AsRef<OsStr>>(mut self, words: &[W]) -> Self {
        self.command.extend(words.iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// With a flag and its value.
    #[must_use]
    pub fn flag(self, flag: &str, value: impl AsRef<OsStr>) -> Self {
        self.words(&[OsStr::new(flag), value.as_ref()])
    }

    /// With a variable in its environment. What the caller has of the driver's own variables is not handed on.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// As somebody else.
    #[must_use]
    pub fn run_as(mut self, run_as: RunAs) -> Self {
        self.run_as = run_as;
        self
    }

    /// The whole command line. setpriv(1), which gives privilege away, replaces itself, so the pid is the program's.
    pub(crate) fn command_line(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> =
            prefix(self.run_as, nix::unistd::geteuid().is_root()).into_iter().map(OsString::from).collect();
        words.extend(self.command.iter().cloned());
        words
    }
}

fn prefix(run_as: RunAs, root: bool) -> Vec<String> {
    let user = match run_as {
        RunAs::Caller => return Vec::new(),
        RunAs::Powerless if !root => return Vec::new(),
        RunAs::Powerless => Vec::new(),
        RunAs::User(uid) => {
            vec![format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".to_owned()]
        }
    };
    let less = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--"].map(str::to_owned);
    ["setpriv".to_owned()].into_iter().chain(user).chain(less).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privilege_is_given_away_only_where_there_is_some() {
        assert!(prefix(RunAs::Caller, true).is_empty());
        assert!(prefix(RunAs::Powerless, false).is_empty());
        let powerless = prefix(RunAs::Powerless, true);
        assert_eq!(powerless.first().unwrap(), "setpriv");
        assert!(powerless.contains(&"--bounding-set=-all".to_owned()));
        assert!(!powerless.iter().any(|word| word.starts_with("--reuid")));
        let driver = prefix(RunAs::User(DRIVER_UID), true);
        assert!(
            driver.contains(&"--reuid=65532".to_owned()) && driver.contains(&"--clear-groups".to_owned())
        );
        assert_eq!(driver.last().unwrap(), "--");
    }

    #[test]
    fn words_and_flags_keep_their_order() {
        let program = Program::new("x", Path::new("/bin/x")).words(&["node"]).flag("--state-dir", "/s");
        assert_eq!(program.command, ["/bin/x", "node", "--state-dir", "/s"]);
    }
}
