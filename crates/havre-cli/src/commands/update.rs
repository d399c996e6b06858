//! `update`.

use havre_api::host::Resources;
use havre_api::network::PortMap;

use crate::App;
use crate::container::flags::LIMITS;
use crate::container::ports::publish;
use crate::container::{nano_cpus, rate, restart};
use crate::failure::{Failure, describe};
use crate::format::table::harmless;
use crate::output;
use crate::spec::{Args, Arity, Command, Flag, bytes, list, text};

pub(super) const UPDATE: Command = Command {
    names: &["container update", "update"],
    arguments: "CONTAINER [CONTAINER...]",
    about: "Update configuration of one or more containers",
    flags: &[LIMITS, OWN],
    arity: Arity::AtLeast(1),
    trailing: false,
    examples: &["update --memory 256m --memory-swap 512m web", "update --restart always web db"],
    run: update,
};

const OWN: &[Flag] = &[
    bytes("kernel-memory", "Limit of kernel memory (no effect since long)").hidden(),
    list("publish-add", "Publish one more port of a container, also of a running one (Havre)"),
    list("publish-rm", "Publish a port no more: PORT[/PROTOCOL] or HOSTPORT:PORT (Havre)"),
    text("restart", "When to start again after an exit (no|on-failure[:n]|always|unless-stopped)"),
];

/// What the flags ask for.
fn resources(args: &Args) -> Result<Resources, Failure> {
    let number = |flag: &str| args.number(flag).unwrap_or(0);
    let weight = u16::try_from(number("blkio-weight")).map_err(|_| {
        Failure::usage(format!(
            "invalid argument \"{}\" for \"--blkio-weight\" flag: value out of range",
            args.text("blkio-weight")
        ))
    })?;
    let limited = |flag: &str| rate(flag, args.text(flag)).map_err(Failure::usage);
    let policy = if args.text("restart").is_empty() {
        None
    } else {
        Some(restart(args.text("restart")).map_err(Failure::plain)?)
    };
    Ok(Resources {
        blkio_weight: weight,
        cpu_period: number("cpu-period"),
        cpu_quota: number("cpu-quota"),
        cpu_realtime_period: number("cpu-rt-period"),
        cpu_realtime_runtime: number("cpu-rt-runtime"),
        cpu_shares: number("cpu-shares"),
        nano_cpus: nano_cpus(args.text("cpus")).map_err(Failure::usage)?,
        cpuset_cpus: args.text("cpuset-cpus").into(),
        cpuset_mems: args.text("cpuset-mems").into(),
        kernel_memory: args.bytes("kernel-memory"),
        memory: args.bytes("memory"),
        memory_reservation: args.bytes("memory-reservation"),
        memory_swap: args.bytes("memory-swap"),
        pids_limit: args.number("pids-limit"),
        network_rate_in: limited("network-rate-in")?,
        network_rate_out: limited("network-rate-out")?,
        restart_policy: policy,
        publish_add: ports(args, "publish-add")?,
        publish_remove: ports(args, "publish-rm")?,
        ..Resources::default()
    })
}

fn ports(args: &Args, flag: &str) -> Result<Option<PortMap>, Failure> {
    let mut map = PortMap::new();
    for text in args.list(flag) {
        publish(text, &mut map).map_err(Failure::usage)?;
    }
    Ok((!map.is_empty()).then_some(map))
}

fn update(app: &App, args: &Args) -> Result<u8, Failure> {
    if UPDATE.flags().all(|flag| !args.given(flag.long)) {
        return Err(Failure::plain("you must provide one or more flags when using this command"));
    }
    let resources = resources(args)?;
    app.block(async {
        let client = app.client().await?;
        let (mut warnings, mut errors) = (Vec::new(), Vec::new());
        for name in &args.rest {
            match client.update(name, &resources).await {
                Ok(answer) => {
                    output::line(name)?;
                    warnings.extend(answer.warnings.into_iter().flatten());
                }
                Err(error) => errors.push(describe(&error)),
            }
        }
        if !warnings.is_empty() {
            output::line(&harmless(&warnings.join(" ")))?;
        }
        if errors.is_empty() { Ok(0) } else { Err(Failure::plain(errors.join("\n"))) }
    })
}
