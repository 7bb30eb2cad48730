//! Parameters about the root directory of a volume that is a file system.
//!
//! The rule it keeps: they are about a new volume. What its users make of the directory afterwards is theirs.

use std::collections::BTreeMap;

use truenas::calls::{Account, Permissions};

use crate::volume::parameter::Definition;
use crate::volume::parameter::nfs::is_account;
use crate::volume::protocol::Protocol;

const FILE: &[Protocol] = &[Protocol::Nfs, Protocol::Smb];

const MODE: &str = "datasetPermissionsMode";
const USER: &str = "datasetPermissionsUser";
const GROUP: &str = "datasetPermissionsGroup";
const ACCOUNT: &str = "a number, 0 to 2147483647, or a name that the appliance knows, 1 to 32 characters";

/// This group's part of the table.
pub(super) const TABLE: &[Definition] = &[
    Definition {
        name: MODE,
        protocols: FILE,
        values: "permission bits in octal, 000 to 777 such as 770 or 0770 (TrueNAS takes no setuid, setgid or sticky bit); on SMB they take the place of TrueNAS's access list",
        check: |v| mode(v).is_some(),
    },
    Definition { name: USER, protocols: FILE, values: ACCOUNT, check: |v| account(v).is_some() },
    Definition { name: GROUP, protocols: FILE, values: ACCOUNT, check: |v| account(v).is_some() },
];

fn mode(text: &str) -> Option<u32> {
    let octal = text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let fits = text.len() == 3 || (text.len() == 4 && text.starts_with('0'));
    (fits && octal).then(|| u32::from_str_radix(text, 8).ok())?
}

fn account(text: &str) -> Option<Account> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        let number: u32 = text.parse().ok().filter(|n| *n <= i32::MAX.unsigned_abs())?;
        return (number.to_string() == text).then_some(Account::Id(number));
    }
    is_account(text).then(|| Account::Name(text.to_owned()))
}

/// Reads the group from a class's own keys, whose values the table has checked one by one.
pub(super) fn read(given: &BTreeMap<String, String>) -> Permissions {
    let value = |key: &str| given.get(key).map(String::as_str);
    Permissions {
        mode: value(MODE).and_then(mode),
        user: value(USER).and_then(account),
        group: value(GROUP).and_then(account),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_and_accounts_are_numbers_or_names() {
        assert_eq!((mode("0770"), mode("770")), (Some(0o770), Some(0o770)));
        for bad in ["", "77", "2775", "07770", "0o77", "789", "u+rwx", "+77"] {
            assert_eq!(mode(bad), None, "{bad}");
        }
        assert_eq!(account("568"), Some(Account::Id(568)));
        assert_eq!(account("apps"), Some(Account::Name("apps".to_owned())));
        for bad in ["", "-1", "0568", "2147483648", "a b", "99999999999"] {
            assert_eq!(account(bad), None, "{bad}");
        }
    }
}
