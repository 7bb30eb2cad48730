//! Sizes: what a capacity range asks for, and what the appliance can make of it.
//!
//! The rule it keeps: a volume is never smaller than asked and never larger than allowed; where no size is both, the
//! answer is OUT_OF_RANGE and not a compromise. Sizes are rounded only when they must be.

use crate::volume::failure::{Failure, Kind};

/// One gibibyte in bytes.
pub const GIB: u64 = 1 << 30;
/// Size of a volume for which none was asked, in bytes.
pub const DEFAULT: u64 = GIB;
/// Smallest refquota that TrueNAS takes, in bytes (`pool.dataset.create`: 0, null or at least 1 GiB).
pub const MIN_REFQUOTA: u64 = GIB;
/// Block size of a zvol for which none was asked, in bytes (TrueNAS and ZFS default, 16 KiB).
pub const VOLBLOCKSIZE: u64 = 16 << 10;

/// A capacity range, checked. Zero means "not said" in CSI, which is `None` here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// At least this many bytes.
    pub required: Option<u64>,
    /// At most this many bytes.
    pub limit: Option<u64>,
}

impl Range {
    /// Reads the two numbers of a CSI `CapacityRange`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a negative number, OUT_OF_RANGE when the limit is below what is required.
    pub fn new(required_bytes: i64, limit_bytes: i64) -> Result<Self, Failure> {
        let read = |field: &str, bytes: i64| match u64::try_from(bytes) {
            Ok(0) => Ok(None),
            Ok(bytes) => Ok(Some(bytes)),
            Err(_) => {
                Err(Failure::invalid(format!("capacity_range.{field} is {bytes}, a size is not negative")))
            }
        };
        let range = Range {
            required: read("required_bytes", required_bytes)?,
            limit: read("limit_bytes", limit_bytes)?,
        };
        match (range.required, range.limit) {
            (Some(required), Some(limit)) if limit < required => Err(Failure::new(
                Kind::OutOfRange,
                format!("capacity_range.limit_bytes {limit} is below required_bytes {required}"),
            )),
            _ => Ok(range),
        }
    }

    /// Whether a volume of `bytes` satisfies the range.
    #[must_use]
    pub fn admits(&self, bytes: u64) -> bool {
        self.required.is_none_or(|r| bytes >= r) && self.limit.is_none_or(|l| bytes <= l)
    }
}

/// What the appliance's sizes must obey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granularity {
    /// Smallest size in bytes.
    pub minimum: u64,
    /// Sizes are multiples of this, in bytes; at least 1.
    pub step: u64,
}

impl Granularity {
    /// Of a dataset's refquota.
    pub const REFQUOTA: Granularity = Granularity { minimum: MIN_REFQUOTA, step: 1 };

    /// Of a zvol with blocks of `volblocksize` bytes.
    #[must_use]
    pub fn zvol(volblocksize: u64) -> Self {
        Granularity { minimum: volblocksize.max(1), step: volblocksize.max(1) }
    }
}

/// The size in bytes for a request: what is required (or [`DEFAULT`]), rounded up as the appliance needs it.
///
/// # Errors
/// OUT_OF_RANGE when no such size lies inside the limit, or when it is beyond what a signed 64-bit number holds.
pub fn choose(range: Range, granularity: Granularity) -> Result<u64, Failure> {
    let Granularity { minimum, step } = granularity;
    let wanted = range.required.unwrap_or_else(|| range.limit.map_or(DEFAULT, |limit| limit.min(DEFAULT)));
    let out_of_range = |why: String| Failure::new(Kind::OutOfRange, why);
    let size = wanted
        .max(minimum)
        .checked_next_multiple_of(step.max(1))
        .filter(|size| i64::try_from(*size).is_ok())
        .ok_or_else(|| out_of_range(format!("{wanted} bytes are more than the appliance can count")))?;
    match range.limit {
        // A limit alone leaves the choice: the largest multiple below it will do.
        Some(limit) if size > limit && range.required.is_none() && limit - limit % step >= minimum => {
            Ok(limit - limit % step)
        }
        Some(limit) if size > limit => Err(out_of_range(format!(
            "the smallest possible size is {size} bytes (at least {minimum}, in steps of {step}), \
             capacity_range.limit_bytes is {limit}"
        ))),
        _ => Ok(size),
    }
}

/// The size as CSI's answers carry it.
#[must_use]
pub fn to_csi(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(required: i64, limit: i64) -> Range {
        Range::new(required, limit).unwrap()
    }

    #[test]
    fn nothing_asked_gives_the_default() {
        assert_eq!(choose(Range::default(), Granularity::REFQUOTA), Ok(GIB));
        assert_eq!(choose(Range::default(), Granularity::zvol(VOLBLOCKSIZE)), Ok(GIB));
    }

    #[test]
    fn a_dataset_has_at_least_the_smallest_refquota() {
        assert_eq!(choose(range(1, 0), Granularity::REFQUOTA), Ok(GIB));
        assert_eq!(choose(range(GIB as i64 + 1, 0), Granularity::REFQUOTA), Ok(GIB + 1));
        let refused = choose(range(1, 1 << 20), Granularity::REFQUOTA).unwrap_err();
        assert_eq!(refused.kind, Kind::OutOfRange);
        assert!(refused.message.contains("1048576"), "{refused}");
    }

    #[test]
    fn a_zvol_is_rounded_up_to_whole_blocks_inside_the_limit() {
        let zvol = Granularity::zvol(VOLBLOCKSIZE);
        assert_eq!(choose(range(1, 0), zvol), Ok(16384));
        assert_eq!(choose(range(16385, 40000), zvol), Ok(32768));
        assert_eq!(choose(range(16385, 20000), zvol).unwrap_err().kind, Kind::OutOfRange);
        assert_eq!(choose(range(0, 20000), zvol), Ok(16384), "a limit alone is rounded down");
        assert_eq!(choose(range(0, 100), zvol).unwrap_err().kind, Kind::OutOfRange);
    }

    #[test]
    fn numbers_that_are_no_range_are_refused() {
        assert_eq!(Range::new(-1, 0).unwrap_err().kind, Kind::InvalidRequest);
        assert_eq!(Range::new(0, -1).unwrap_err().kind, Kind::InvalidRequest);
        assert_eq!(Range::new(2, 1).unwrap_err().kind, Kind::OutOfRange);
        assert_eq!(
            choose(range(i64::MAX, 0), Granularity::zvol(VOLBLOCKSIZE)).unwrap_err().kind,
            Kind::OutOfRange
        );
    }

    proptest! {
        #[test]
        fn a_chosen_size_satisfies_everything(required in 0_i64.., limit in 0_i64.., block in 9_u32..18) {
            let granularity = Granularity::zvol(1 << block);
            if let Ok(range) = Range::new(required, limit)
                && let Ok(size) = choose(range, granularity)
            {
                prop_assert!(range.admits(size) && size % granularity.step == 0 && size >= granularity.minimum);
            }
        }
    }
}
