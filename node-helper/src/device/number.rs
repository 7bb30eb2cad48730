//! Device numbers as sysfs, mountinfo and stat(2) give them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Number of a block device. It names the device only while that exists: the kernel gives it again to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceNumber {
    /// Major number (the driver).
    pub major: u32,
    /// Minor number (the device).
    pub minor: u32,
}

impl DeviceNumber {
    /// Stands for a plain file in the place of a device: tests without privilege use it. The kernel never gives it
    /// to a block device (major 0 is the unnamed one), and sysfs parsing refuses it.
    pub const FILE: Self = Self { major: 0, minor: 0 };

    /// From `st_rdev` of stat(2).
    #[must_use]
    pub fn from_rdev(rdev: u64) -> Self {
        Self { major: rustix::fs::major(rdev), minor: rustix::fs::minor(rdev) }
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Text that is no device number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no block device number (major:minor)")]
pub struct NotANumber(String);

impl FromStr for DeviceNumber {
    type Err = NotANumber;

    /// Parses `major:minor` in decimal, as in sysfs `dev` and in mountinfo.
    fn from_str(text: &str) -> Result<Self, NotANumber> {
        let wrong = || NotANumber(text.chars().take(40).collect());
        let part = |digits: &str| {
            let decimal = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            decimal.then(|| digits.parse().ok()).flatten().ok_or_else(wrong)
        };
        let (major, minor) = text.split_once(':').ok_or_else(wrong)?;
        let number = Self { major: part(major)?, minor: part(minor)? };
        if number.major == 0 { Err(wrong()) } else { Ok(number) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_printed_parses_again(major in 1_u32.., minor: u32) {
            let number = DeviceNumber { major, minor };
            prop_assert_eq!(number.to_string().parse(), Ok(number));
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            ":",
            "259",
            "259:",
            ":3",
            "0:0",
            "0:42",
            "259:+3",
            "259:3:1",
            "259:-1",
            "4294967296:1",
            "0x1:2",
        ] {
            assert!(text.parse::<DeviceNumber>().is_err(), "{text}");
        }
    }
}
