//! `system.*` and other read-only facts about the machine.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Call, unserved};
use crate::exports::Stage;
use crate::failure::Failure;
use crate::state::Table;

pub(super) fn call(method: &str, call: &Call) -> Result<Value, Failure> {
    let shared = &call.shared;
    let product = shared.config.version.product();
    let config = |key: &str| {
        shared.rows().get(Table::Config, 1).and_then(|row| row.get(key).cloned()).unwrap_or(Value::Null)
    };
    let ready = shared.stage() == Stage::Complete;
    Ok(match method {
        "system.version" => json!(format!("TrueNAS-{product}")),
        "system.version_short" => json!(product),
        "system.ready" => json!(ready),
        "system.state" => json!(if ready { "READY" } else { "BOOTING" }),
        "system.boot_id" => json!(shared.boot_id()),
        "system.host_id" => config("host_id"),
        "system.global.id" => config("global_id"),
        "system.product_type" => json!("COMMUNITY_EDITION"),
        "system.info" => info(call),
        "failover.status" => json!(shared.ha().status),
        "failover.licensed" => json!(shared.ha().licensed),
        "interface.query" => return call.query().run(interfaces(call)),
        _ => return Err(unserved(method)),
    })
}

fn info(call: &Call) -> Value {
    let shared = &call.shared;
    let boot = shared.boot_time();
    let now = jiff::Timestamp::now();
    let uptime = now.as_second() - boot.as_second();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    json!({
        "version": shared.config.version.product(),
        "buildtime": {"$date": 1_754_000_000_000_i64},
        "hostname": "truenas-sim",
        "physmem": 8_i64 << 30,
        "model": "truenas-sim",
        "cores": cores,
        "physical_cores": cores,
        "loadavg": [0.0, 0.0, 0.0],
        "uptime": format!("{uptime} seconds"),
        "uptime_seconds": uptime,
        "system_serial": null,
        "system_product": "truenas-sim",
        "system_product_version": null,
        "license": null,
        "boottime": {"$date": boot.as_millisecond()},
        "datetime": {"$date": now.as_millisecond()},
        "timezone": "Etc/UTC",
        "system_manufacturer": null,
        "ecc_memory": false,
    })
}

/// One interface that carries every address at which the appliance can be reached.
fn interfaces(call: &Call) -> Vec<Value> {
    let alias = |address: &IpAddr| {
        let (kind, netmask) = if address.is_ipv4() { ("INET", 24) } else { ("INET6", 64) };
        json!({"type": kind, "address": address.to_string(), "netmask": netmask})
    };
    let aliases: Vec<Value> = call.shared.backend.addresses().iter().map(alias).collect();
    vec![json!({
        "id": "eth0", "name": "eth0", "fake": false, "type": "PHYSICAL",
        "state": {
            "name": "eth0", "orig_name": "eth0", "description": "", "mtu": 1500, "cloned": false,
            "flags": ["UP", "RUNNING"], "nd6_flags": [], "capabilities": [], "link_state": "LINK_STATE_UP",
            "media_type": "", "media_subtype": "", "active_media_type": "Ethernet", "active_media_subtype": "",
            "supported_media": [], "media_options": null, "link_address": "02:00:00:00:00:01",
            "permanent_link_address": null, "hardware_link_address": "02:00:00:00:00:01", "aliases": aliases,
        },
        "aliases": aliases, "ipv4_dhcp": true, "ipv6_auto": false, "description": "", "mtu": null,
    })]
}
