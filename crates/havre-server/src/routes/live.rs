//! Living containers: processes, statistics, changed limits; and those that have ended: pruning.

use std::collections::BTreeMap;

use bytes::Bytes;
use havre_api::Filters;
use havre_api::container::{PruneResponse, TopResponse, UpdateResponse};
use havre_api::stats::{
    BlkioStatEntry, BlkioStats, CpuStats, CpuUsage, MemoryStats, NEVER, NetworkStats, PidsStats,
    StatsResponse, ThrottlingData,
};
use havre_base::{Clock as _, SystemClock, Timestamp};
use havre_engine::{DeviceFigure, Reading, Sample, View};
use hyper::StatusCode;

use crate::Server;
use crate::body::{self, Answer};
use crate::convert;
use crate::error::Refusal;
use crate::router::Call;

type Handled = Result<Answer, Refusal>;

pub(crate) async fn top(server: &Server, call: &Call, id: &str) -> Handled {
    let table = server.engine.containers.top(id, call.query.get("ps_args").unwrap_or("")).await?;
    Ok(body::json(&TopResponse { titles: table.titles, processes: table.rows }))
}

pub(crate) async fn stats(server: &Server, call: &Call, id: &str) -> Handled {
    let containers = &server.engine.containers;
    let (stream, one_shot) = (call.query.flag_or("stream", true), call.query.flag("one-shot"));
    let view = containers.view(id)?;
    if stream && one_shot {
        return Err(Refusal::invalid("cannot have stream=true and one-shot=true"));
    }
    if !stream {
        let (before, now) =
            if one_shot { (None, containers.sample(id).await?) } else { containers.samples(id).await? };
        return Ok(body::json(&response(&view, &before, &now)));
    }
    let mut readings = containers.watch_use(id)?;
    let (sink, answer) = body::stream("application/json");
    tokio::spawn(async move {
        let mut before: Reading = None;
        // Somebody else may watch already: then there is something to say at once.
        readings.mark_changed();
        loop {
            let changed = tokio::select! {
                changed = readings.changed() => changed,
                () = sink.closed() => return,
            };
            if changed.is_err() {
                return;
            }
            let Some(now) = readings.borrow_and_update().clone() else { continue };
            let piece = body::go_json(&response(&view, &before, &now));
            if sink.send(Bytes::from(piece)).await.is_err() {
                return;
            }
            before = now;
        }
    });
    Ok(answer)
}

fn response(view: &View, before: &Reading, now: &Reading) -> StatsResponse {
    let time = |at: Option<Timestamp>| at.map_or_else(|| NEVER.to_owned(), |at| at.to_string());
    let mut shown = StatsResponse {
        id: view.id().to_string(),
        name: format!("/{}", view.now.name),
        os_type: "linux".into(),
        read: time(now.as_ref().map(|now| now.at)),
        preread: time(before.as_ref().map(|before| before.at)),
        precpu_stats: before.as_ref().map(|before| cpu(before)).unwrap_or_default(),
        ..StatsResponse::default()
    };
    let Some(now) = now else { return shown };
    let usage = &now.usage;
    shown.cpu_stats = cpu(now);
    shown.memory_stats = MemoryStats {
        usage: usage.memory.usage,
        max_usage: usage.memory.max,
        stats: Some(usage.memory.stats.clone()),
        failcnt: usage.memory.failures,
        limit: usage.memory.limit,
    };
    shown.pids_stats = PidsStats { current: usage.pids.current, limit: usage.pids.limit.unwrap_or_default() };
    // Where the controllers are on v2, there is one list and the others are absent.
    let list = |figures: &[DeviceFigure]| (!usage.unified).then(|| entries(figures));
    let io = &usage.block_io;
    shown.blkio_stats = BlkioStats {
        io_service_bytes_recursive: Some(entries(&io.bytes)),
        io_serviced_recursive: list(&io.operations),
        io_queue_recursive: list(&io.queued),
        io_service_time_recursive: list(&io.service_time),
        io_wait_time_recursive: list(&io.wait_time),
        io_merged_recursive: list(&io.merged),
        io_time_recursive: list(&io.time),
        sectors_recursive: list(&io.sectors),
    };
    let networks: BTreeMap<String, NetworkStats> = now
        .networks
        .iter()
        .map(|(name, traffic)| {
            let (
                [rx_bytes, rx_packets, rx_errors, rx_dropped],
                [tx_bytes, tx_packets, tx_errors, tx_dropped],
            ) = (traffic.received, traffic.sent);
            let shown = NetworkStats {
                rx_bytes,
                rx_packets,
                rx_errors,
                rx_dropped,
                tx_bytes,
                tx_packets,
                tx_errors,
                tx_dropped,
            };
            (name.clone(), shown)
        })
        .collect();
    shown.networks = (!networks.is_empty()).then_some(networks);
    shown
}

fn cpu(sample: &Sample) -> CpuStats {
    let cpu = &sample.usage.cpu;
    CpuStats {
        cpu_usage: CpuUsage {
            total_usage: cpu.total,
            percpu_usage: cpu.per_cpu.clone(),
            usage_in_kernelmode: cpu.kernel,
            usage_in_usermode: cpu.user,
        },
        system_cpu_usage: sample.system,
        online_cpus: sample.processors,
        throttling_data: ThrottlingData {
            periods: cpu.periods,
            throttled_periods: cpu.throttled_periods,
            throttled_time: cpu.throttled_time,
        },
    }
}

fn entries(figures: &[DeviceFigure]) -> Vec<BlkioStatEntry> {
    let entry = |one: &DeviceFigure| BlkioStatEntry {
        major: one.major,
        minor: one.minor,
        op: one.operation.clone(),
        value: one.value,
    };
    figures.iter().map(entry).collect()
}

pub(crate) async fn update(server: &Server, call: Call, id: &str) -> Handled {
    let (wanted, ports) = body::read_update(call.request.into_body()).await?;
    server.engine.containers.view(id)?;
    let warnings = server.engine.containers.update(id, convert::revision(wanted, ports)?).await?;
    Ok(body::json(&UpdateResponse { warnings: (!warnings.is_empty()).then_some(warnings) }))
}

pub(crate) async fn prune(server: &Server, call: &Call) -> Handled {
    let filters = Filters::parse(call.query.get("filters").unwrap_or(""))
        .map_err(|error| Refusal::invalid(error.to_string()))?;
    if let Some(name) = filters.names().find(|name| !matches!(*name, "until" | "label" | "label!")) {
        return Err(Refusal::invalid(format!("invalid filter '{name}'")));
    }
    let until = match filters.values("until").collect::<Vec<_>>().as_slice() {
        [] => None,
        [one] => Some(havre_image::point_in_time(one, SystemClock.now()).ok_or_else(|| {
            Refusal::invalid(format!("failed to parse value as time or duration: \"{one}\""))
        })?),
        _ => return Err(Refusal::invalid("more than one until filter specified")),
    };
    let labelled = |view: &View, wanted: &str| crate::routes::filter::label_matches(view, wanted);
    let pruned = server.engine.containers.prune(|view| {
        until.is_none_or(|until| view.fixed.created < until)
            && filters.values("label").all(|wanted| labelled(view, wanted))
            && !filters.values("label!").any(|wanted| labelled(view, wanted))
    });
    let pruned = pruned.await?;
    let ids: Vec<String> = pruned.ids.iter().map(ToString::to_string).collect();
    Ok(body::json(&PruneResponse {
        containers_deleted: (!ids.is_empty()).then_some(ids),
        space_reclaimed: pruned.bytes,
    }))
}

/// What Docker says of checkpoints unless its daemon runs in experimental mode.
pub(crate) fn checkpoints(server: &Server, id: &str) -> Handled {
    if server.info().experimental {
        server.engine.containers.view(id)?;
        return Err(Refusal::not_yet("checkpoints"));
    }
    Err(Refusal {
        status: StatusCode::NOT_IMPLEMENTED,
        message: "This experimental feature is disabled by default. Start the Docker daemon in experimental mode in order to enable it.".into(),
    })
}

/// Refuses a start from a checkpoint.
pub(crate) fn no_checkpoint(server: &Server, call: &Call) -> Result<(), Refusal> {
    let asked = |name: &str| call.query.get(name).is_some_and(|text| !text.is_empty());
    if !asked("checkpoint") && !asked("checkpoint-dir") {
        return Ok(());
    }
    if server.info().experimental {
        return Err(Refusal::not_yet("starting from a checkpoint"));
    }
    Err(Refusal::invalid("checkpoint is only supported in experimental mode"))
}

/// Kinds of objects that wait to be built: there is none to remove, and saying so is true. `docker system
/// prune` asks for each of them.
pub(crate) fn prune_nothing(call: &Call, kind: &str) -> Handled {
    Filters::parse(call.query.get("filters").unwrap_or(""))
        .map_err(|error| Refusal::invalid(error.to_string()))?;
    Ok(body::json(&match kind {
        "volumes" => serde_json::json!({ "VolumesDeleted": [], "SpaceReclaimed": 0 }),
        _ => serde_json::json!({ "CachesDeleted": null, "SpaceReclaimed": 0 }),
    }))
}
