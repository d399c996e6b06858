//! A request for a network becomes what is asked of it, or a refusal that names the field.

use havre_api::network::{Ipam, NetworkCreateRequest};
use havre_base::ErrorKind;
use havre_net::spec::{BlockText, Driver, NetworkSpec, blocks};

use super::Defaults;
use crate::error::Refusal;

const ENABLE_IPV4: &str = "com.docker.network.enable_ipv4";
const ENABLE_IPV6: &str = "com.docker.network.enable_ipv6";

/// `02:42:ac:11:00:02`; nothing where it is the parent's of the network.
pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    if mac == [0; 6] {
        return String::new();
    }
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Converts a request.
pub(crate) fn network_spec(
    defaults: &Defaults,
    request: NetworkCreateRequest,
) -> Result<NetworkSpec, Refusal> {
    let name = request.name;
    if havre_net::spec::PREDEFINED.contains(&name.as_str()) {
        return Err(Refusal::new(
            ErrorKind::Forbidden,
            format!("operation is not permitted on predefined {name} network"),
        ));
    }
    if matches!(request.scope.as_str(), "swarm" | "global") {
        return Err(Refusal::new(ErrorKind::Unavailable, havre_net::spec::NO_SWARM));
    }
    if !matches!(request.scope.as_str(), "" | "local") {
        return Err(Refusal::invalid(format!("invalid network scope: {}", request.scope)));
    }
    let driver = Driver::parse(&request.driver)?;
    if request.ingress {
        return Err(Refusal::new(ErrorKind::Forbidden, "Ingress network can only be global scope network"));
    }
    let config_from = request.config_from.map(|from| from.network).unwrap_or_default();
    let forbidden = |why: &str| Err(Refusal::new(ErrorKind::Forbidden, why));
    if request.config_only
        && (request.ingress || request.internal || request.attachable || !request.scope.is_empty())
    {
        return forbidden(
            "configuration network can only contain network specific fields. Network operator fields like [ ingress | internal | attachable | scope ] are not supported.",
        );
    }
    let mut options = request.options.unwrap_or_default();
    let labels = request.labels.unwrap_or_default();
    let ipam = request.ipam.unwrap_or_default();
    if !config_from.is_empty() {
        let own_addresses = !matches!(ipam.driver.as_str(), "" | "default")
            || ipam.options.as_ref().is_some_and(|options| !options.is_empty())
            || ipam.config.as_ref().is_some_and(|blocks| !blocks.is_empty());
        if request.config_only {
            return forbidden("a configuration network cannot depend on another configuration network");
        }
        let own_families = request.enable_ipv4 == Some(false) || request.enable_ipv6 == Some(true);
        if own_addresses || own_families || !labels.is_empty() {
            return forbidden(
                "user specified configurations are not supported if the network depends on a configuration network",
            );
        }
        if !options.is_empty() {
            return forbidden(
                "network driver options are not supported if the network depends on a configuration network",
            );
        }
    } else if !request.config_only {
        for (key, value) in defaults.network_options.get(driver.name()).into_iter().flatten() {
            options.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    let family = |asked: Option<bool>, key: &str, default: bool| match (asked, options.get(key)) {
        (Some(asked), _) => Ok(asked),
        (None, Some(text)) => super::truth(text)
            .ok_or_else(|| Refusal::invalid(format!("driver-opt {key:?} is not a valid bool"))),
        (None, None) => Ok(default),
    };
    let ipv4 = family(request.enable_ipv4, ENABLE_IPV4, true)?;
    let ipv6 = family(request.enable_ipv6, ENABLE_IPV6, false)?;
    let Ipam { driver: manager, options: ipam_options, config } = ipam;
    let texts: Vec<BlockText> = config
        .unwrap_or_default()
        .into_iter()
        .map(|block| BlockText {
            subnet: block.subnet,
            range: block.ip_range,
            gateway: block.gateway,
            auxiliary: block.auxiliary_addresses.unwrap_or_default(),
        })
        .collect();
    Ok(NetworkSpec {
        name,
        // What is only a configuration has no driver, as with Docker.
        driver: if request.config_only { Driver::Null } else { driver },
        ipv4,
        ipv6,
        internal: request.internal,
        attachable: request.attachable,
        blocks: blocks(&texts)?,
        options,
        ipam_options: ipam_options.unwrap_or_default(),
        labels,
        ipam: havre_net::spec::Ipam::parse(&manager),
        config_only: request.config_only,
        config_from,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(json: &str) -> Result<NetworkSpec, (u16, String)> {
        let mut defaults = Defaults::default();
        let mtu = BTreeMap::from([("com.docker.network.driver.mtu".to_owned(), "1400".to_owned())]);
        defaults.network_options.insert("bridge".into(), mtu);
        network_spec(&defaults, serde_json::from_str(json).unwrap())
            .map_err(|refusal| (refusal.status.as_u16(), refusal.message))
    }

    #[test]
    fn requests_are_read_with_the_defaults_of_the_daemon() {
        let spec = read(
            r#"{"Name":"n","Driver":"bridge","IPAM":{"Driver":"default","Options":{},"Config":[{"Subnet":"10.9.0.0/24","Gateway":"10.9.0.9"}]},"Labels":{"a":"b"}}"#,
        )
        .unwrap();
        assert_eq!((spec.ipv4, spec.ipv6, spec.blocks.len()), (true, false, 1));
        assert_eq!(spec.options["com.docker.network.driver.mtu"], "1400");
        let spec = read(
            r#"{"Name":"n","EnableIPv6":true,"Options":{"com.docker.network.driver.mtu":"9000","com.docker.network.enable_ipv6":"false"}}"#,
        )
        .unwrap();
        assert!(spec.ipv6 && spec.options["com.docker.network.driver.mtu"] == "9000");
        assert!(read(r#"{"Name":"n","Options":{"com.docker.network.enable_ipv6":"1"}}"#).unwrap().ipv6);
        assert!(
            !read(r#"{"Name":"n","Driver":"macvlan"}"#)
                .unwrap()
                .options
                .contains_key("com.docker.network.driver.mtu")
        );
    }

    #[test]
    fn what_cannot_be_is_refused_with_dockers_status() {
        for (json, status, text) in [
            (r#"{"Name":"host"}"#, 403, "operation is not permitted on predefined host network"),
            (r#"{"Name":"n","Driver":"overlay"}"#, 403, "This node is not a swarm manager"),
            (r#"{"Name":"n","Driver":"host"}"#, 403, "only one instance of \"host\" network is allowed"),
            (r#"{"Name":"n","Scope":"swarm"}"#, 503, "This node is not a swarm manager"),
            (r#"{"Name":"n","Ingress":true}"#, 403, "Ingress network can only be global scope network"),
            (r#"{"Name":"n","ConfigOnly":true,"Internal":true}"#, 403, "can only contain network specific"),
            (
                r#"{"Name":"n","ConfigOnly":true,"ConfigFrom":{"Network":"c"}}"#,
                403,
                "cannot depend on another configuration network",
            ),
            (
                r#"{"Name":"n","ConfigFrom":{"Network":"c"},"IPAM":{"Config":[{"Subnet":"10.0.0.0/8"}]}}"#,
                403,
                "user specified configurations are not supported",
            ),
            (
                r#"{"Name":"n","ConfigFrom":{"Network":"c"},"Options":{"a":"b"}}"#,
                403,
                "network driver options are not supported",
            ),
            (
                r#"{"Name":"n","IPAM":{"Config":[{"Subnet":"x"}]}}"#,
                400,
                "invalid subnet x: invalid CIDR block notation",
            ),
            (r#"{"Name":"n","Options":{"com.docker.network.enable_ipv4":"x"}}"#, 400, "is not a valid bool"),
        ] {
            let (got, message) = read(json).unwrap_err();
            assert!(got == status && message.contains(text), "{json}: {got} {message}");
        }
    }
}
