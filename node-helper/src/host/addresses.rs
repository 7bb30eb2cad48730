//! From which addresses this host reaches the storage: those the appliance grants access to.

use std::net::IpAddr;

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// One address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Assigned {
    interface: String,
    address: IpAddr,
}

/// The addresses inside `networks`, in the order of the networks; without networks those of the default route's
/// interface. At least one.
///
/// # Errors
/// In words, when there is none.
pub fn storage(networks: &[IpNet]) -> Result<Vec<IpAddr>, String> {
    let assigned = assigned()?;
    if networks.is_empty() {
        let interface = default_interface(
            &std::fs::read_to_string("/proc/net/route").unwrap_or_default(),
            &std::fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default(),
        )
        .ok_or("this host has no default route; name the storage network with --storage-cidr")?;
        let found = of_interface(&assigned, &interface);
        if found.is_empty() {
            return Err(format!(
                "interface {interface} of the default route has no address; name the storage network with \
                 --storage-cidr"
            ));
        }
        return Ok(found);
    }
    let found = inside(&assigned, networks);
    if found.is_empty() {
        let networks = networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(format!("no address of this host is inside --storage-cidr {networks}"));
    }
    Ok(found)
}

fn assigned() -> Result<Vec<Assigned>, String> {
    let interfaces = getifaddrs().map_err(|errno| format!("the host's addresses cannot be read: {errno}"))?;
    Ok(interfaces
        .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP))
        .filter_map(|interface| {
            let address = interface.address?;
            let address = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => IpAddr::V4(v4.ip()),
                (_, Some(v6)) => IpAddr::V6(v6.ip()),
                _ => return None,
            };
            Some(Assigned { interface: interface.interface_name, address })
        })
        .collect())
}

fn inside(assigned: &[Assigned], networks: &[IpNet]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for network in networks {
        for candidate in assigned {
            if network.contains(&candidate.address) && !found.contains(&candidate.address) {
                found.push(candidate.address);
            }
        }
    }
    found
}

/// Addresses that reach further than their own link, IPv4 first.
fn of_interface(assigned: &[Assigned], interface: &str) -> Vec<IpAddr> {
    let far = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    };
    let mut found: Vec<IpAddr> = assigned
        .iter()
        .filter(|candidate| candidate.interface == interface)
        .map(|candidate| candidate.address)
        .filter(far)
        .collect();
    found.sort_by_key(IpAddr::is_ipv6);
    found
}

/// The interface of the default route with the smallest metric: IPv4 (`/proc/net/route`: interface, destination,
/// gateway, flags, references, use, metric, mask) before IPv6 (`/proc/net/ipv6_route`: destination, length, …, metric
/// as sixth, flags as ninth, interface as tenth field; numbers in hexadecimal).
fn default_interface(route: &str, ipv6_route: &str) -> Option<String> {
    const UP: u32 = 0x1;
    const REJECT: u32 = 0x200;
    let usable = |flags: u32| flags & UP != 0 && flags & REJECT == 0;
    let v4 = route.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [interface, "00000000", _, flags, _, _, metric, "00000000", ..] = fields.as_slice() else {
            return None;
        };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        usable(flags).then_some((metric.parse::<u32>().ok()?, (*interface).to_owned()))
    });
    let v6 = ipv6_route.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [destination, "00", _, _, _, metric, _, _, flags, interface] = fields.as_slice() else {
            return None;
        };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let everything = destination.bytes().all(|byte| byte == b'0') && *interface != "lo";
        (everything && usable(flags))
            .then_some((u32::from_str_radix(metric, 16).ok()?, (*interface).to_owned()))
    });
    let first = |routes: Vec<(u32, String)>| routes.into_iter().min_by_key(|(metric, _)| *metric);
    first(v4.collect()).or_else(|| first(v6.collect())).map(|(_, interface)| interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t0100A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0000A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
";
    const ROUTE6: &str = "\
20010db8000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001 eth1
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth1
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200 lo
";

    fn assigned(interface: &str, address: &str) -> Assigned {
        Assigned { interface: interface.to_owned(), address: address.parse().expect("an address") }
    }

    #[test]
    fn the_default_route_with_the_smallest_metric_decides() {
        assert_eq!(default_interface(ROUTE, ROUTE6).as_deref(), Some("eth0"));
        assert_eq!(default_interface("", ROUTE6).as_deref(), Some("eth1"));
        assert_eq!(default_interface("", ""), None);
        assert_eq!(default_interface("garbage\nmore garbage here\n", "x y z\n"), None);
    }

    #[test]
    fn addresses_of_the_link_alone_do_not_count() {
        let all = [
            assigned("eth0", "fe80::1"),
            assigned("eth0", "2001:db8::5"),
            assigned("eth0", "192.0.2.5"),
            assigned("eth1", "198.51.100.5"),
        ];
        let found: Vec<String> = of_interface(&all, "eth0").iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.5", "2001:db8::5"]);
    }

    #[test]
    fn a_named_network_may_be_any_also_loopback() {
        let all = [assigned("lo", "127.0.0.1"), assigned("eth0", "192.0.2.5")];
        let networks =
            ["192.0.2.0/24".parse().expect("a network"), "127.0.0.0/8".parse().expect("a network")];
        let found: Vec<String> = inside(&all, &networks).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.5", "127.0.0.1"]);
    }
}
