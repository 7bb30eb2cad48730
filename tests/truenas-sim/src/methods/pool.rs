//! `pool.*`: the imported pools.

use serde_json::{Value, json};

use super::{Call, unserved};
use crate::backend::Pool;
use crate::failure::Failure;

fn entry(call: &Call, index: usize, pool: &Pool) -> Value {
    let full = call.shared.faults.pool_full();
    let (allocated, free) = if full { (pool.size, 0) } else { (pool.allocated, pool.free) };
    json!({
        "id": index + 1,
        "name": pool.name,
        "guid": pool.guid.to_string(),
        "status": pool.status,
        "path": format!("/mnt/{}", pool.name),
        "scan": null,
        "expand": null,
        "is_upgraded": true,
        "healthy": pool.status == "ONLINE",
        "warning": false,
        "status_code": "OK",
        "status_detail": null,
        "size": pool.size,
        "allocated": allocated,
        "free": free,
        "freeing": 0,
        "dedup_table_size": 0,
        "dedup_table_quota": "auto",
        "fragmentation": "0",
        "size_str": pool.size.to_string(),
        "allocated_str": allocated.to_string(),
        "free_str": free.to_string(),
        "freeing_str": "0",
        "autotrim": {"value": "off", "rawvalue": "off", "parsed": "off", "source": "DEFAULT", "source_info": null},
        "topology": {"data": [], "log": [], "cache": [], "spare": [], "special": [], "dedup": []},
    })
}

pub(super) fn call(verb: &str, call: &Call) -> Result<Value, Failure> {
    let pools = || -> Result<Vec<Value>, Failure> {
        let pools = call.shared.backend.pools()?;
        Ok(pools.iter().enumerate().map(|(index, pool)| entry(call, index, pool)).collect())
    };
    match verb {
        "query" => call.query().run(pools()?),
        "get_instance" => {
            let id = call.number(0);
            let found = pools()?.into_iter().find(|pool| pool.get("id") == Some(&json!(id)));
            found.ok_or_else(|| Failure::not_found("Pool", id))
        }
        _ => Err(unserved(&format!("pool.{verb}"))),
    }
}
