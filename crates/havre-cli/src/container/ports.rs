//! `--publish` and `--expose`.

use havre_api::network::{PortBinding, PortMap};

/// First and last port.
type Range = (u16, u16);

fn range(text: &str) -> Option<Range> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |digits: &str| {
        if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse::<u16>().ok() } else { None }
    };
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some((first, last))
}

fn protocol(text: &str) -> Result<(&str, String), String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_lowercase() };
    match protocol.as_str() {
        "tcp" | "udp" | "sctp" => Ok((ports, protocol)),
        _ => Err(format!("invalid proto: {protocol}")),
    }
}

/// The container's ports that `--expose` names, as `80/tcp`.
pub(super) fn expose(text: &str) -> Result<Vec<String>, String> {
    if text.contains(':') {
        return Err(format!("invalid port format for --expose: {text}"));
    }
    let (ports, protocol) = protocol(text)?;
    let number = |port: &str| port.parse::<u16>().err().map(|error| (port.to_owned(), error));
    let (first, last) = range(ports).ok_or_else(|| {
        let (low, high) = ports.split_once('-').unwrap_or((ports, ports));
        let reason = match number(low).or_else(|| number(high)) {
            _ if ports.is_empty() => "empty string specified for ports".to_owned(),
            Some((port, error)) => {
                format!("strconv.ParseUint: parsing \"{port}\": {}", crate::spec::range(&error))
            }
            None => format!("invalid range specified for port: {ports}"),
        };
        format!("invalid range format for --expose: {text}, error: {reason}")
    })?;
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// Adds what one `--publish` means.
pub(crate) fn publish(text: &str, map: &mut PortMap) -> Result<(), String> {
    if text.contains('=') {
        return publish_long(text, map);
    }
    let (address, protocol) = protocol(text)?;
    let (rest, container) = address.rsplit_once(':').map_or(("", address), |(rest, port)| (rest, port));
    let (ip, host) = match rest.rsplit_once(':') {
        Some((ip, host)) => (ip, host),
        // `[::1]::80` and `1.2.3.4:80` (an address without a port is not one).
        None => ("", rest),
    };
    let ip = match (ip.strip_prefix('['), ip.ends_with(']')) {
        (Some(_), false) => {
            return Err(format!("invalid IP address {ip}: address {ip}:: missing ']' in address"));
        }
        (Some(inner), true) => inner.trim_end_matches(']'),
        (None, _) => ip,
    };
    if container.is_empty() {
        return Err(format!("no port specified: {text}<empty>"));
    }
    if !ip.is_empty() && ip.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("invalid IP address: {ip}"));
    }
    let (first, last) = range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    let hosts = match host {
        "" => None,
        host => Some(range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?),
    };
    add(map, ip, hosts, (first, last), &protocol).map_err(|()| {
        format!("invalid ranges specified for container and host Ports: {container} and {host}")
    })
}

/// `target=80,published=8080,protocol=tcp,mode=host`: the same as `8080:80/tcp`.
fn publish_long(text: &str, map: &mut PortMap) -> Result<(), String> {
    let (mut target, mut published, mut protocol) = ("", "", "tcp");
    for field in text.split(',') {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| format!("invalid publish opts format (should be name=value but got '{field}')"))?;
        match key {
            "target" => target = value,
            "published" => published = value,
            "protocol" => protocol = value,
            "mode" if matches!(value, "ingress" | "host") => {}
            _ => return Err(format!("invalid field: {field}")),
        }
    }
    publish(&format!("{published}:{target}/{protocol}"), map)
}

/// A single container port may be given a range of the host to choose from; else the ranges correspond.
fn add(
    map: &mut PortMap,
    ip: &str,
    hosts: Option<Range>,
    (first, last): Range,
    protocol: &str,
) -> Result<(), ()> {
    let count = last - first;
    for offset in 0..=count {
        let host_port = match hosts {
            None => String::new(),
            Some((low, high)) if high - low == count => (low + offset).to_string(),
            Some((low, high)) if count == 0 => format!("{low}-{high}"),
            Some(_) => return Err(()),
        };
        let binding = PortBinding { host_ip: ip.into(), host_port };
        map.entry(format!("{}/{protocol}", first + offset))
            .or_default()
            .get_or_insert_default()
            .push(binding);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_read_as_docker_reads_them() {
        for (text, want) in [
            ("80", "80/tcp="),
            ("8080:80", "80/tcp=8080"),
            ("127.0.0.1:53:53/udp", "53/udp=127.0.0.1,53"),
            ("[::1]:1:2", "2/tcp=::1,1"),
            ("127.0.0.1::80", "80/tcp=127.0.0.1,"),
            ("80/", "80/tcp="),
            ("target=80,protocol=udp", "80/udp="),
            ("8000-8001:80-81", "80/tcp=8000 81/tcp=8001"),
            ("8000-8010:80", "80/tcp=8000-8010"),
            ("target=80,published=8080", "80/tcp=8080"),
        ] {
            let mut map = PortMap::new();
            publish(text, &mut map).unwrap();
            let got: Vec<String> = map
                .iter()
                .flat_map(|(port, bindings)| bindings.iter().flatten().map(move |b| (port, b)))
                .map(|(port, b)| match b.host_ip.as_str() {
                    "" => format!("{port}={}", b.host_port),
                    ip => format!("{port}={ip},{}", b.host_port),
                })
                .collect();
            assert_eq!(got.join(" "), want, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["abc", "1:99999", "80/icmp", "x:1:2", "1-3:1-2", "", "1:", "target=x"] {
            assert!(publish(bad, &mut PortMap::new()).is_err(), "{bad}");
        }
        assert_eq!(expose("80-81/udp").unwrap(), ["80/udp", "81/udp"]);
        assert!(expose("x").is_err());
    }
}
