//! `nvmet.host`

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Call, Kind, linked, taken, unserved};
use crate::failure::{EBUSY, Failure, Item};
use crate::state::{Row, Table};

pub(super) struct Host;

impl Kind for Host {
    const TABLE: Table = Table::Host;
    const NAME: &'static str = "NVMe-oF Host";

    fn check(call: &Call, prefix: &str, row: &mut Row, own: Option<i64>) -> Result<Vec<Item>, Failure> {
        let mut findings = Vec::new();
        if taken(&call.shared, Table::Host, "hostnqn", row.get("hostnqn"), own) {
            findings.push(Item::new(format!("{prefix}.hostnqn"), "Object with this hostnqn already exists"));
        }
        Ok(findings)
    }

    fn entry(_call: &Call, row: &Row) -> Value {
        Value::Object(row.clone())
    }

    fn removal(call: &Call, id: i64) -> Result<Vec<(Table, i64)>, Failure> {
        let links = linked(&call.shared, Table::HostSubsys, "host_id", id);
        if !links.is_empty() && !call.flag(1, "force") {
            return Err(Failure::call(EBUSY, format!("Host {id} is used by {} subsystem(s)", links.len())));
        }
        Ok(links.into_iter().map(|l| (Table::HostSubsys, l)).chain([(Table::Host, id)]).collect())
    }
}

/// The CRC-32 (IEEE, reflected) that ends a `DHHC-1` secret.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 },
        )
    })
}

pub(super) fn call(verb: &str, call: &Call) -> Result<Value, Failure> {
    match verb {
        "dhchap_hash_choices" => Ok(json!(["SHA-256", "SHA-384", "SHA-512"])),
        "dhchap_dhgroup_choices" => Ok(json!(["2048-BIT", "3072-BIT", "4096-BIT", "6144-BIT", "8192-BIT"])),
        "generate_key" => {
            let (mark, length) = match call.text(0) {
                "SHA-384" => ("02", 48),
                "SHA-512" => ("03", 64),
                _ => ("01", 32),
            };
            let mut secret: Vec<u8> = (0..length).map(|_| rand::random::<u8>()).collect();
            secret.extend(crc32(&secret).to_le_bytes());
            Ok(json!(format!("DHHC-1:{mark}:{}:", STANDARD.encode(secret))))
        }
        _ => Err(unserved(&format!("nvmet.host.{verb}"))),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checksum_is_the_one_of_ieee_802_3() {
        assert_eq!(super::crc32(b"123456789"), 0xCBF4_3926);
    }
}
